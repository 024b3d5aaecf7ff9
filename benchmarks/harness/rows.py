"""One row of a table: checks the contenders, times them and prints the row."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.harness import records, timing
from benchmarks.harness.contenders import Contender, Skipped, disagreement

# A contender, or a function that makes it, as making and first running it may fail.
Candidate = Contender | Skipped | functools.partial[Contender]


def admitted(
    candidates: Iterable[Candidate], tolerance: float
) -> tuple[list[Contender], dict[str, str]]:
    """Contenders that compute the same as the first, and the reasons why others do not run."""
    contenders: list[Contender] = []
    expected: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for candidate in candidates:
        if isinstance(candidate, Skipped):
            skipped[candidate.name] = candidate.reason
            continue
        name = name_of(candidate)
        try:
            contender = candidate if isinstance(candidate, Contender) else candidate()
            found = contender.results()
        # A peer may raise anything; the row reports it.
        except Exception as error:
            if not contenders:
                raise
            skipped[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
            continue
        expected = expected or found
        held_against = contender.expected() if contender.expected else expected
        reason = disagreement(found, held_against, tolerance * contender.tolerance)
        if reason is None:
            contenders.append(contender)
        else:
            skipped[name] = reason
    return contenders, skipped


def measured_beside(
    labels: Mapping[str, Any],
    candidates: Iterable[Candidate],
    options: records.Options,
    *,
    tolerance: float,
    copy: timing.Run | None = None,
    bytes_moved: int = 0,
    copied: int = 0,
) -> dict[str, Any]:
    """Checks and times the contenders; prints the row and returns it.

    Args:
      labels: Labels of the row.
      candidates: Contenders, or functions that make them; ours comes first.
      options: The options of the measurement.
      tolerance: Largest norm of the difference from ours, divided by the norm of ours.
      copy: Copies memory; timed in turns with the contenders.
      bytes_moved: The bytes that ours must read and write at least.
      copied: The bytes that the copy reads and writes.
    """
    print_labels(labels)
    contenders, skipped = admitted(candidates, tolerance)
    runs: dict[str, timing.Run] = {each.name: each.run for each in contenders}
    if copy is not None:
        runs["copy"] = copy
    seconds = timing.measure(runs, options.budget, seed=options.seed)
    for each in contenders:
        seconds[each.name] = seconds[each.name] / each.units
    ours = contenders[0].name
    row = dict(labels) | timing.compare(seconds, ours, apart=("copy",))
    row |= {
        "ours": ours,
        "memory": {each.name: each.memory() for each in contenders},
        "skipped": skipped,
    }
    if copy is not None:
        row["bytes_moved"] = bytes_moved
        row["copy_fraction"] = timing.copy_fraction(seconds, ours, bytes_moved, "copy", copied)
    _show(row)
    return row


def _show(row: dict[str, Any]) -> None:
    for name, spread in row["seconds"].items():
        memory = row["memory"].get(name)
        held = "" if memory is None else f"{records.megabytes(memory):>10} MB"
        print(f"    {name:32}{records.milliseconds(spread):>20} ms{held}")
    for name, reason in row["skipped"].items():
        print(f"    {name:32}left out: {reason}")
    verdict = []
    if row["best_peer"] is not None:
        ratio = records.times(row["ratios"][row["best_peer"]])
        verdict.append(f"{row['best_peer']} takes {ratio} times as long")
    if "copy_fraction" in row:
        verdict.append(f"{row['copy_fraction']['median']:.0%} of a copy's bandwidth")
    if verdict:
        print(f"  → {'; '.join(verdict)}", flush=True)


def print_labels(labels: Mapping[str, Any]) -> None:
    """Prints the values that identify a row; one that is not text gets its name, ``batch 8``."""
    words = [each if isinstance(each, str) else f"{name} {each}" for name, each in labels.items()]
    print("  ".join(words), flush=True)


def name_of(candidate: Candidate) -> str:
    """The contender's name; for a function that makes one it is the first argument."""
    return candidate.args[0] if isinstance(candidate, functools.partial) else candidate.name
