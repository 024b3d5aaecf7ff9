"""A table of errors beside those of the paper: as text, as Markdown, and as a page."""

import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from experiments.report import figures, tables
from experiments.report.page import (
    BEFORE_AFTER,
    CURVES,
    explanation,
    html_figure,
    html_page,
    section,
    write_file,
)
from experiments.report.runs import Run

Verdict = Literal["at or below", "within the interval", "above"]

# Between an error and the paper's, in a table of models × sets.
_SIGNS: dict[str, str] = {"at or below": "≤", "within the interval": "≈", "above": ">"}
# The paper's numbers have one decimal and a binomial standard error of 0.1 points; twice that of a
# difference sets two models apart.
_APART = 0.3
_PENDING = "…"
_NONE = "–"
_LEGEND = (
    "Test error in percent, the mean over seeds, and its 95 % interval; then how it stands to the "
    "paper's: ≤ at or below it, ≈ above it by less than the interval is wide, > above it."
)
_SAMPLES = "Test images of each set; none shows them undistorted."


def verdict(mean: float, interval: Sequence[float], paper: float) -> Verdict:
    """How an error stands to the paper's."""
    if mean <= paper:
        return "at or below"
    return "within the interval" if interval[0] <= paper else "above"


def order(entries: Sequence[Mapping[str, Any]]) -> tuple[int, list[str]]:
    """Whether models stand as the paper's do.

    Args:
      entries: As of :func:`comparison_text`; those without a verdict are left out.

    Returns:
      How many pairs of models of one set the paper's numbers set apart by 0.3 points or more, and
      those of them that stand the other way here, in words.
    """
    judged = [entry for entry in entries if entry.get("verdict")]
    pairs = [
        sorted(pair, key=lambda entry: entry["paper"])
        for pair in itertools.combinations(judged, 2)
        if len({entry["distortion"] for entry in pair}) == 1
        and abs(pair[0]["paper"] - pair[1]["paper"]) > _APART - 0.01
    ]

    def name(entry: Mapping[str, Any]) -> str:
        return " ".join(filter(None, (entry["model"], entry["transform"])))

    swapped = [
        f"{low['distortion']}: {name(low)} {low['mean']:.2f} (paper {low['paper']:.1f}), "
        f"{name(high)} {high['mean']:.2f} ({high['paper']:.1f})"
        for low, high in pairs
        if low["mean"] >= high["mean"]
    ]
    return len(pairs), swapped


def comparison_text(entries: Sequence[Mapping[str, Any]]) -> str:
    """A row for each entry, and what is common to all below.

    Args:
      entries: For each cell ``distortion``, ``model``, ``transform``, ``paper`` and, unless it is
        pending, ``mean``, ``interval``, ``verdict``, ``test_errors``, ``validation_errors``,
        ``num_parameters`` and how it was made.
    """
    return "\n".join([tables.text_table(*_rows(entries)), "", *_protocol(entries)])


def comparison_markdown(entries: Sequence[Mapping[str, Any]]) -> str:
    """Models × sets, for a README."""
    headings, rows = _matrix(entries)
    lines = [headings, ["---"] * len(headings), *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, _LEGEND, *_protocol(entries)])


def build_comparison(
    out: Path,
    entries: Sequence[Mapping[str, Any]],
    runs: Mapping[str, Sequence[Run]],
    samples: bytes,
    title: str = "Distorted MNIST",
    *,
    closing: Sequence[str] = (),
) -> Path:
    """Writes ``report.html`` and its pictures.

    Args:
      out: Folder to write to.
      entries: As of :func:`comparison_text`.
      runs: The runs of each distortion.
      samples: PNG of distorted images.
      title: Heading of the page.
      closing: Sections of HTML that come last.

    Returns:
      The path of ``report.html``.
    """
    headings, rows = _matrix(entries)
    protocol = "\n".join(f"<p>{html.escape(line)}</p>" for line in _protocol(entries))
    sections = [
        section(
            "Errors beside the paper's", tables.html_table(headings, rows, [""] * len(headings))
        ),
        f"<p>{_LEGEND}</p>\n{protocol}",
        section("Cell by cell", tables.text_table_html(*_rows(entries))),
        section("The sets"),
        html_figure(samples, "Images of each set", _SAMPLES),
        section("Training"),
    ]
    write_file(out / "distortions.png", samples)
    for name, of_set in runs.items():
        picture = figures.png(figures.training_curves(of_set))
        write_file(out / f"training_curves_{name}.png", picture)
        sections.append(html_figure(picture, f"Training curves, {name}", f"Set {name}. {CURVES}"))
    # Of several runs of a cell the last one's picture is shown.
    looking = {
        tuple(run.result[key] for key in ("distortion", "model", "transform")): run.pictures
        for of_set in runs.values()
        for run in of_set
        if run.pictures and run.pictures.regions
    }
    texts = dict.fromkeys(map(explanation, looking.values())) or [BEFORE_AFTER]
    paragraphs = "\n".join(f"<p>{text}</p>" for text in texts)
    sections.append(section("What the spatial transformers do", paragraphs))
    for cell, pictures in looking.items():
        picture, name = figures.png(figures.before_after(pictures)), " ".join(cell)
        write_file(out / f"before_after_{name.replace(' ', '_')}.png", picture)
        sections.append(html_figure(picture, f"What is read, {name}", name))
    report = out / "report.html"
    write_file(report, html_page(title, [*sections, *closing]).encode())
    return report


def _rows(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings, and one row of text for each cell."""
    headings = ["set", "model", "transform", "paper %", "error %", "95 % interval", "verdict"]
    rows = []
    for entry in entries:
        low, high = entry.get("interval", (None, None))
        rows.append(
            [
                entry["distortion"],
                entry["model"],
                entry["transform"] or _NONE,
                _as_published(entry["paper"]),
                _number(entry["mean"], 2) if "mean" in entry else _PENDING,
                f"{low:.2f} to {high:.2f}" if "mean" in entry else _PENDING,
                entry.get("verdict") or _NONE,
                ", ".join(_number(error, 2) for error in entry.get("test_errors", ())),
                ", ".join(_number(error, 2) for error in entry.get("validation_errors", ())),
                f"{entry['num_parameters']:,}" if "mean" in entry else _PENDING,
            ]
        )
    return [*headings, "each seed", "validation %", "parameters"], rows


def _matrix(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of models × sets."""
    sets = list(dict.fromkeys(entry["distortion"] for entry in entries))
    models = dict.fromkeys((entry["model"], entry["transform"]) for entry in entries)
    by_place = {(e["distortion"], e["model"], e["transform"]): e for e in entries}
    rows = [
        [" ".join(filter(None, model)), *(_cell(by_place[name, *model]) for name in sets)]
        for model in models
    ]
    return ["model", *sets], rows


def _cell(entry: Mapping[str, Any]) -> str:
    if "mean" not in entry:
        return _PENDING if entry["paper"] is None else f"{_PENDING} {_as_published(entry['paper'])}"
    low, high = entry["interval"]
    ours = f"{entry['mean']:.2f} ({low:.2f}–{high:.2f})"
    if entry["paper"] is None:
        return ours
    return f"{ours} {_SIGNS.get(entry['verdict'], '|')} {_as_published(entry['paper'])}"


def _as_published(error: float | None) -> str:
    """With one decimal, or two where there are two."""
    return _number(error, 1 if error is None or round(error, 1) == error else 2)


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _protocol(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """How the cells were made, a sentence each; what differs between them is listed."""
    done = [entry for entry in entries if "mean" in entry]
    if not done:
        return ["Nothing is done yet."]
    kinds = dict.fromkeys(
        f"{e['dataset']}, {e['test_images']:,} images to measure on; recipe "
        f"{e['settings']['recipe']} from a rate of {e['settings']['learning_rate']:g}, "
        f"{e['steps']:,} steps of {e['batch_size']} images; seeds {', '.join(map(str, e['seeds']))}"
        + (f"; width {e['settings']['width']:g}" if e["settings"]["width"] != 1 else "")
        for e in done
    )
    environments = dict.fromkeys(
        f"{', '.join(f'{name} {version}' for name, version in e['versions'].items())} on "
        f"{e['device']}"
        for e in done
    )
    hashes = dict.fromkeys(f"{e['distortion']} {e['test_sha256'][:16]}" for e in done)
    lines = [f"Data and training: {'; or '.join(kinds)}."]
    if any(e["verdict"] is None and e["paper"] is not None for e in done):
        lines.append("The paper's numbers are of MNIST, these are not: no verdict.")
    if all(entry["paper"] is None for entry in entries):
        lines.append("The paper gives no number for any of these.")
    pairs, swapped = order(done)
    if pairs:
        lines.append(
            f"Order: of {pairs} pairs of models of one set that the paper's numbers set apart by "
            f"{_APART} points or more, {pairs - len(swapped)} stand the same way"
            + (f"; not so {'; '.join(swapped)}." if swapped else ".")
        )
    pending = len(entries) - len(done)
    if pending:
        lines.append(f"Pending: {pending} of {len(entries)} cells.")
    return [
        *lines,
        f"Interval: {done[0]['interval_method']}.",
        f"Distorted test sets, first digits of SHA-256: {', '.join(hashes)}.",
        f"Run with {'; or '.join(environments)}.",
    ]
