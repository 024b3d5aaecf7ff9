"""The metrics of a training: lines of JSON, events for TensorBoard, and writers of your own.

A writer for Weights & Biases, in ``tracking.py`` beside your data, is chosen by
``--metrics-writer tracking:Wandb``::

    import wandb

    class Wandb:
        def __init__(self, folder, training):
            self.run = wandb.init(project="stn", name=f"{folder.name}-{training}")

        def write(self, step, metrics):
            self.run.log(dict(metrics), step=step)

        def close(self):
            self.run.finish()
"""

import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from experiments.engine.devices import is_first
from experiments.engine.files import write_atomically


class MetricsWriter(Protocol):
    """Takes the metrics of one training, such as that of one seed."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Takes the metrics of a step, by name."""

    def close(self) -> None:
        """Called once, at the end, also of a training that is stopped."""


# Makes the writer of a training: called with the folder of the run, in which config.json has its
# settings, and with the name of the training, such as ``seed-0``. A training that is resumed gets a
# new writer, which takes all metrics from the first step on.
WriterMaker = Callable[[Path, str], MetricsWriter]


class TensorBoard:
    """Writes TensorBoard's events, into ``tensorboard`` in the folder of the run."""

    def __init__(self, folder: Path, training: str) -> None:
        # Imported here: where PyTorch is installed it takes seconds.
        from tensorboardX import SummaryWriter

        # TensorBoard drops the events of earlier files.
        self._events = SummaryWriter(str(folder / "tensorboard" / training), purge_step=0)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds an event for each metric."""
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes the last events."""
        self._events.close()


def load_writer(specification: str) -> WriterMaker:
    """The maker of writers that ``MODULE:OBJECT`` names.

    Raises:
      ValueError: If it cannot be imported or called.
    """
    expected = (
        "metrics_writer must be MODULE:OBJECT, an importable class or function that is called with "
        "a folder and the name of a training"
    )
    remedy = "Run the command in the folder of MODULE.py, or install it."
    try:
        if ":" not in specification:
            raise ValueError("there is no colon")
        found = pkgutil.resolve_name(specification)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{expected}; got {specification!r}: {error}. {remedy}") from error
    if not callable(found):
        raise ValueError(f"{expected}; got {specification!r}, a {type(found).__name__}. {remedy}")
    return found


class MetricsLog:
    """``metrics.jsonl``, a line of JSON for every dispatch, and the same for writers.

    Of several processes only the first writes.

    Args:
      path: The file; its existing lines are read.
      key: The entry of a line that names its training, such as ``seed``.
      writers: Make the writers of a training.
    """

    def __init__(
        self, path: Path, *, key: str = "seed", writers: Sequence[WriterMaker] = (TensorBoard,)
    ) -> None:
        self.key = key
        self._path, self._makers = path, writers
        self._rows = _read_rows(path) if path.exists() else []
        self._writers: dict[int | str, list[MetricsWriter]] = {}

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        self._rows.append(row)
        if not is_first():
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        which = row[self.key]
        if which not in self._writers:
            self._open(which)
        self._write(row)

    def forget_after(self, trainings: Sequence[int | str], step: int) -> None:
        """Drops the lines of some trainings after the step that they resume from."""
        kept = [row for row in self._rows if row[self.key] not in trainings or row["step"] <= step]
        self._rows = kept
        # A kill loses metrics that a writer still had in memory, so hand all of them over again.
        for which in trainings if is_first() else ():
            self._open(which)
            for row in self.rows(which):
                self._write(row)
        text = "".join(json.dumps(row) + "\n" for row in kept)
        write_atomically(self._path, lambda path: path.write_text(text))

    def close(self) -> None:
        """Closes all writers."""
        while self._writers:
            for writer in self._writers.popitem()[1]:
                writer.close()

    def _write(self, row: dict[str, Any]) -> None:
        metrics = {
            name: float(value)
            for name, value in row.items()
            if name not in (self.key, "seed", "step") and isinstance(value, int | float)
        }
        for writer in self._writers[row[self.key]]:
            writer.write(row["step"], metrics)

    def _open(self, which: int | str) -> None:
        """Makes the writers of a training, in place of those that it had."""
        for writer in self._writers.pop(which, []):
            writer.close()
        training = f"{self.key}-{which}"
        self._writers[which] = [make(self._path.parent, training) for make in self._makers]

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
