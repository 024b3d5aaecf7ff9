"""Tables of measurements, printed row by row, each with a verdict computed from its numbers."""

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
_WIDTH = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table: its cases and its measurement.

    Attributes:
      title: The heading.
      cases: Labels of each row, by column.
      columns: Names of the measured numbers.
      measure: Takes a row's labels as keywords; gives its numbers by column, ``None`` for a missing
        one. It may give more than the columns.
      verdict: Sums up the rows in one line.
      number: Formats a number.
    """

    title: str
    cases: Sequence[dict[str, str]]
    columns: Sequence[str]
    measure: Callable[..., Row]
    verdict: Callable[[list[Row]], str]
    number: str = ".1e"

    def show(self) -> dict[str, Any]:
        """Measures and prints row by row; returns title, rows and verdict."""
        print(self.title)
        self._print_cells(
            {name: None for name in self.cases[0]}, {name: name for name in self.columns}
        )
        rows = []
        # Threads help, since XLA releases Python's lock while it compiles, which takes most of the
        # time.
        pool = concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1))
        try:
            measured = pool.map(lambda case: self.measure(**case), self.cases)
            for case, row in zip(self.cases, measured, strict=True):
                rows.append(case | row)
                self._print_cells(case, {name: self._format(row[name]) for name in self.columns})
        finally:
            pool.shutdown(cancel_futures=True)
        verdict = self.verdict(rows)
        print(f"→ {verdict}\n", flush=True)
        return {"title": self.title, "rows": rows, "verdict": verdict}

    def _print_cells(self, labels: Mapping[str, str | None], cells: dict[str, str]) -> None:
        """A line: labels on the left, a column's name for a missing label, numbers on the right."""
        line = "  "
        for name, label in labels.items():
            width = max(len(name), *(len(case[name]) for case in self.cases))
            line += f"{name if label is None else label:{width + 2}}"
        for name, cell in cells.items():
            line += f"{cell:>{max(_WIDTH, len(name) + 2)}}"
        print(line, flush=True)

    def _format(self, value: float | None) -> str:
        if value is None:
            return "–"
        return f"{value:g}" if isinstance(value, int) or value == 0 else f"{value:{self.number}}"


def combinations(**axes: Sequence[str]) -> list[dict[str, str]]:
    """The labels of every combination; the last axis varies fastest."""
    return [dict(zip(axes, labels, strict=True)) for labels in itertools.product(*axes.values())]


def largest_difference(found: Any, expected: Any) -> float:
    """The largest absolute difference; NaN if any entry is NaN."""
    found, expected = (np.asarray(each, np.float64) for each in (found, expected))
    if found.shape != expected.shape:
        raise ValueError(f"found has shape {found.shape}, expected has {expected.shape}.")
    return float(np.max(np.abs(found - expected)))


def largest_by_column(trials: Sequence[Row]) -> Row:
    """The largest number of each column over trials. NaN stays, which ``max`` may lose."""
    columns = {name: [trial[name] for trial in trials] for name in trials[0]}
    return {
        name: None if None in numbers else float(np.max(numbers))
        for name, numbers in columns.items()
    }


def largest_by_dtype(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """``float32 1.2e-06, float64 …``: the largest number of each dtype in some columns."""
    found = []
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        chosen = [[row[name] for name in columns] for row in rows if row["dtype"] == dtype]
        found.append(f"{dtype} {np.max(chosen):.1e}")
    return ", ".join(found)
