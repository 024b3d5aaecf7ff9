"""The metrics of a training: lines of JSON, and events for TensorBoard."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.engine.devices import is_first
from experiments.engine.files import write_atomically


class MetricsLog:
    """``metrics.jsonl``, a line of JSON for every dispatch, and the same as TensorBoard events.

    The events lie in ``tensorboard``, beside the file. Of several processes only the first writes.

    Args:
      path: The file; its existing lines are read.
      key: The entry of a line that names its training, such as ``seed``.
    """

    def __init__(self, path: Path, *, key: str = "seed") -> None:
        self.key = key
        self._path = path
        self._rows = _read_rows(path) if path.exists() else []
        self._events: dict[int | str, Any] = {}

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        self._rows.append(row)
        if not is_first():
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        which = row[self.key]
        if which not in self._events:
            self._open_events(which)
        self._add_event(row)

    def forget_after(self, trainings: Sequence[int | str], step: int) -> None:
        """Drops the lines of some trainings after the step that they resume from."""
        kept = [row for row in self._rows if row[self.key] not in trainings or row["step"] <= step]
        self._rows = kept
        # A kill loses events that were still in memory, so write all events again.
        for which in trainings if is_first() else ():
            self._open_events(which)
            for row in self.rows(which):
                self._add_event(row)
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self._path, lambda path: path.write_text(text))

    def close(self) -> None:
        """Writes the last events."""
        while self._events:
            self._events.popitem()[1].close()

    def _add_event(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name not in (self.key, "seed", "step") and isinstance(value, int | float):
                self._events[row[self.key]].add_scalar(name, value, row["step"])

    def _open_events(self, which: int | str) -> None:
        """Begins a file of events; TensorBoard drops those of earlier files."""
        # Imported here: where PyTorch is installed it takes seconds.
        from tensorboardX import SummaryWriter

        if which in self._events:
            self._events[which].close()
        folder = self._path.parent / "tensorboard" / f"{self.key}-{which}"
        self._events[which] = SummaryWriter(str(folder), purge_step=0)

    def has_only(self, trainings: Sequence[int | str]) -> bool:
        """Whether every line belongs to one of these trainings."""
        return all(row[self.key] in trainings for row in self._rows)

    def seconds(self, training: int | str) -> float:
        """The time that a training has taken so far."""
        return max((row["seconds"] for row in self.rows(training)), default=0.0)

    def at(self, training: int | str, step: int) -> dict[str, Any]:
        """The line of a training at a step."""
        return next(row for row in self.rows(training) if row["step"] == step)

    def rows(self, training: int | str) -> list[dict[str, Any]]:
        """All lines of a training."""
        return [row for row in self._rows if row[self.key] == training]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """All lines; a last line that a kill cut short is left out."""
    rows = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is not valid JSON: {error}.") from error
    return rows
