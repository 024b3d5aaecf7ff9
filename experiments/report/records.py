"""The JSON records of a classifier's run, and of a table of runs."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from experiments.data.benchmarks import BenchmarkName
from experiments.engine.records import Record

Verdict = Literal["at or below", "within the interval", "above"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult(Record):
    """``result.json`` of a run.

    Attributes:
      model, transform, distortion: Settings of the training. ``transform`` is ``None`` for a model
        without a transformer.
      dataset: The name of the data.
      benchmark: The published benchmark, if the data are one; since version 2.
      num_parameters: Number of trained parameters.
      steps, batch_size: Of the training.
      seeds: There was one training for each.
      test_errors: In percent, by seed.
      test_images: Number of test images.
      mean, interval: Of the test errors, in percent.
      interval_method: How the interval was computed, in words.
      wall_time_s: Seconds of all trainings.
      versions, device: The package versions and the device of the run.
      tested_steps: The step of the state that was tested, by seed.
      validation_errors: At that step, by seed; ``None`` without held-out images.
      test_copies: Distorted copies of each test image.
      test_sha256: Hash of the distorted test set.
      image_shape: Height, width and channels of the undistorted images.
      num_classes: Number of their classes.
      class_names: The names of these, if they have names.
    """

    VERSION: ClassVar[int] = 2

    model: str
    transform: str | None
    distortion: str
    dataset: str
    benchmark: BenchmarkName | None = None
    num_parameters: int
    steps: int
    batch_size: int
    seeds: tuple[int, ...]
    test_errors: tuple[float, ...]
    test_images: int
    mean: float
    interval: tuple[float, float]
    interval_method: str
    wall_time_s: float
    versions: Mapping[str, str]
    device: str
    tested_steps: tuple[int, ...] = ()
    validation_errors: tuple[float | None, ...] = ()
    test_copies: int = 1
    test_sha256: str = ""
    image_shape: tuple[int, int, int] | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableCell(Record):
    """A cell of a table: a model on a distortion.

    Attributes:
      distortion, model, transform: Settings of the trainings.
      paper: The published error in percent, if there is one.
    """

    distortion: str
    model: str
    transform: str | None
    paper: float | None

    @property
    def name(self) -> str:
        """The model with its transform."""
        return " ".join(filter(None, (self.model, self.transform)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableEntry(TableCell):
    """A cell whose runs are finished.

    Attributes:
      verdict: How the error compares with the published one; ``None`` if there is none, or if the
        data are not its benchmark.
      mean, interval, interval_method, seeds, test_errors, validation_errors: As of a run.
      settings: Settings of the runs, without the path of the data.
      num_parameters, dataset, test_images, steps, batch_size, versions, device, test_sha256: As of
        a run.
    """

    verdict: Verdict | None
    mean: float
    interval: tuple[float, float]
    interval_method: str
    seeds: tuple[int, ...]
    test_errors: tuple[float, ...]
    validation_errors: tuple[float | None, ...]
    settings: Mapping[str, Any]
    num_parameters: int
    dataset: str
    test_images: int
    steps: int
    batch_size: int
    versions: Mapping[str, str]
    device: str
    test_sha256: str


def cell_from_json(data: Mapping[str, Any], where: str = "the table") -> TableCell:
    """A cell of ``table.json``: a :class:`TableEntry` if its runs are finished."""
    return (TableEntry if "mean" in data else TableCell).from_json(data, where)
