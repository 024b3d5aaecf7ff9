"""What is said of each result in a sentence or two: in the index, and on top of its page."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from experiments.birds.records import BirdsResult
from experiments.classification.recipe_comparison import RecipesResult, images_needed
from experiments.colocalisation.records import ColocalisationResult
from experiments.invariance.report import InvarianceResult
from experiments.report import comparison
from experiments.report.records import TableCell, TableEntry
from experiments.stability.obvious import ObviousResult
from experiments.stability.report import StabilityResult

_Rows = Sequence[dict[str, Any]]


def cells(entries: Sequence[TableCell]) -> list[str]:
    """How many errors are at or below the paper's, and whether its order of models stands."""
    done = [entry for entry in entries if isinstance(entry, TableEntry)]
    pending = len(entries) - len(done)
    said = [f"{pending} of {len(entries)} cells are to be trained."] if pending else []
    counts = Counter(entry.verdict for entry in done if entry.verdict)
    if not counts:
        return [*said, "The paper has no numbers.", *comparison.in_words(done)]
    below, near, above = (counts[each] for each in ("at or below", "within the interval", "above"))
    within = f", {near} within our interval" if near else ""
    said.append(
        f"Errors: {below} of {counts.total()} at or below the paper's{within}, {above} above."
    )
    pairs, swapped = comparison.order(entries)
    if pairs:
        said.append(
            f"{pairs - len(swapped)} of {pairs} pairs of models stand in the paper's order."
        )
    return said


def invariance(record: InvarianceResult) -> str:
    """The mean errors over all angles."""
    means = np.array(record.errors).mean(axis=(1, 2))
    each = (f"{m.name} {mean:.2f} %" for m, mean in zip(record.models, means, strict=True))
    return f"Mean test error over all angles up to {max(record.angles):g}°: {', '.join(each)}."


def stability(record: StabilityResult) -> str:
    """How many seeds fail, by recipe."""
    names = {"plain": "one optimizer for all", "kit": "the training kit"}
    each = (
        f"{row.failed} of {row.seeds} with {names.get(row.recipe, row.recipe)} (mean error "
        f"{row.mean:.2f} %, worst {row.worst:.2f} %)"
        for row in record.rows
    )
    return f"Seeds that end with faulty maps: {'; '.join(each)}."


def obvious(record: ObviousResult) -> str:
    """How many seeds fail, by head."""
    failed: dict[str, list[tuple[int, int]]] = {}
    for row in record.rows:
        if row.head != "–":
            failed.setdefault(row.head, []).append((row.failed, row.seeds))
    each = (
        "{} of {} with the {} head".format(*map(sum, zip(*found, strict=True)), head)
        for head, found in failed.items()
    )
    return f"Seeds that fail: {', '.join(each)}."


def recipes(record: RecipesResult) -> str:
    """How many times fewer images the default needs."""
    headings, rows = images_needed(record.rows, record.settings["recipes"])
    best = headings[-1]
    each = ", ".join(f"{row[1]} on {row[0]} {row[-1]}" for row in rows)
    return (
        f"Times fewer images that {best} needs for the error of {headings[2].removesuffix(' %')}'s "
        f"longest training: {each}."
    )


def colocalisation(record: ColocalisationResult) -> str:
    """The share of canvases found, by set."""
    each = []
    for row in record.sets:
        paper = ""
        if row.paper is not None:
            paper = f" (paper {' to '.join(f'{e:g}' for e in dict.fromkeys(row.paper))})"
        each.append(f"{row.mean:.1f} % of {row.set}{paper}")
    return f"Found: {', '.join(each)}."


def birds(record: BirdsResult) -> str:
    """The accuracies."""
    each = (
        f"{row.model} {row.accuracy:.1f} % ({row.interval[0]:.1f} to {row.interval[1]:.1f})"
        for row in record.rows
    )
    return f"Right: {', '.join(each)}."


def beside_peers(rows: _Rows) -> str:
    """In how many rows a peer is faster, and the range of the fastest peer's time over ours."""
    best = [
        min(ratio["median"] for ratio in row["ratios"].values()) for row in rows if row["ratios"]
    ]
    slower = sum(ratio < 1 for ratio in best)
    return (
        f"Slower than some peer in {slower} of {len(best)} rows. The fastest peer takes "
        f"{_span(best)} times as long as ours, {np.median(best):.2f} in the median."
    )


def multiples(rows: _Rows) -> str:
    """The range of every family's time over that of the affine warp."""
    found: dict[str, list[float]] = {}
    for row in rows:
        for name, spread in row.get("multiples", {}).items():
            found.setdefault(name, []).append(spread["median"])
    each = (f"{name} {_span(values)}" for name, values in found.items() if name != "affine")
    return f"Times as long as the affine warp: {'; '.join(each)}."


def costs(rows: _Rows) -> str:
    """How much longer models take with a transformer."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["what"], []).append(row["ratios"][row["with a transformer"]]["median"])
    each = (f"a {what} {_span(values)}" for what, values in found.items())
    return f"Times as long with a spatial transformer: {', '.join(each)}.".replace(
        "a predictions", "predictions"
    )


def compilations(rows: _Rows) -> str:
    """The range of compile times, and the import."""
    own = {
        f"{row['what']}, {row['pass']}": row["seconds"]["trace and compile"]["median"]
        for row in rows
        if row["pass"] != "import"
    }
    low, high = min(own, key=own.__getitem__), max(own, key=own.__getitem__)
    return f"To trace and compile takes {own[low]:.2f} s ({low}) to {own[high]:.2f} s ({high})."


def slopes(rows: _Rows) -> str:
    """The range of slopes over each quantity."""
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["quantity"], []).append(row["slope"])
    each = (f"{quantity} {_span(values)}" for quantity, values in found.items())
    return f"Slopes, where 1 is proportional: {', '.join(each)}."


def rates(rows: _Rows) -> str:
    """Images a second of what each row compares."""
    each = []
    for row in rows:
        found = row["images_per_second"].items()
        own = ", ".join(f"{name} {rate:,.0f}" for name, rate in found)
        each.append(f"{row.get('images', row.get('what'))}: {own}")
    return f"Images a second of {'; of '.join(each)}."


def registrations(rows: _Rows) -> str:
    """How often each contender finds the map."""
    found: dict[str, list[tuple[float, int]]] = {}
    for row in rows:
        for name, share in row["found"].items():
            found.setdefault(name, []).append((share * row["number"], row["number"]))
    each = (
        "{} {:.0f} of {}".format(name, *map(sum, zip(*own, strict=True)))
        for name, own in found.items()
    )
    return f"Pairs registered to a pixel: {', '.join(each)}."


def _span(values: Iterable[float]) -> str:
    own = list(values)
    return f"{min(own):.2f}" if len(own) == 1 else f"{min(own):.2f} to {max(own):.2f}"
