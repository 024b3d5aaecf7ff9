"""What a training writes while it runs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.engine.devices import is_first
from experiments.engine.files import write_atomically


class MetricsLog:
    """``metrics.jsonl``, a line of JSON for every dispatch, and the same as TensorBoard's events.

    The events lie in ``tensorboard``, beside the file. Of several processes the first writes.

    Args:
      path: The file; lines that are there already are read.
      key: The entry that tells trainings apart, here called seeds whatever it is.
    """

    def __init__(self, path: Path, *, key: str = "seed") -> None:
        self._path, self._key = path, key
        self._rows = _read_rows(path) if path.exists() else []
        self._events: dict[int | str, Any] = {}

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        self._rows.append(row)
        if not is_first():
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        which = row[self._key]
        if which not in self._events:
            self._open_events(which)
        self._add_event(row)

    def forget_after(self, seeds: Sequence[int | str], step: int) -> None:
        """Drops what came after the checkpoint that a run resumes from."""
        kept = [row for row in self._rows if row[self._key] not in seeds or row["step"] <= step]
        self._rows = kept
        # A kill loses events that were not written yet, so all are written anew.
        for which in seeds if is_first() else ():
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
            if name not in (self._key, "step") and isinstance(value, int | float):
                self._events[row[self._key]].add_scalar(name, value, row["step"])

    def _open_events(self, which: int | str) -> None:
        """Begins a file of events, which takes the place of all earlier ones."""
        # Imported here: where PyTorch is installed it takes seconds.
        from tensorboardX import SummaryWriter

        if which in self._events:
            self._events[which].close()
        folder = self._path.parent / "tensorboard" / f"{self._key}-{which}"
        self._events[which] = SummaryWriter(str(folder), purge_step=0)

    def seconds(self, seed: int | str) -> float:
        """Time that the training of a seed has taken so far."""
        return max((row["seconds"] for row in self.rows(seed)), default=0.0)

    def total_seconds(self) -> float:
        """Time that all trainings have taken so far, one after the other."""
        return sum(map(self.seconds, {row[self._key] for row in self._rows}))

    def at(self, seed: int | str, step: int) -> dict[str, Any]:
        """The line of a seed after so many steps."""
        return next(row for row in self.rows(seed) if row["step"] == step)

    def rows(self, seed: int | str) -> list[dict[str, Any]]:
        """All lines of a seed."""
        return [row for row in self._rows if row[self._key] == seed]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines; a last line that a kill cut short is dropped."""
    rows = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is not valid JSON: {error}.") from error
    return rows
