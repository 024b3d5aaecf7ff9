"""The result of a co-localisation."""

import dataclasses
from typing import ClassVar

from experiments.data.benchmarks import BenchmarkName
from experiments.engine.records import Record, Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class SetResult(Record):
    """The canvases of one class of a set, or of several classes together.

    Attributes:
      set, digits: The set and the classes.
      correct: For each seed, the percentage of canvases on which the intersection over union of
        crop and box is more than 0.5.
      mean, interval: Of ``correct``, over the seeds.
      canvases: Their number.
      mean_overlap: Mean intersection over union of the crop and the digit's box.
      paper: The smallest and the largest of the paper's percentages over the ten classes; ``None``
        if the data are not its benchmark.
    """

    set: str
    digits: tuple[int, ...]
    correct: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    canvases: int
    mean_overlap: float
    paper: tuple[float, float] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColocalisationResult(Result):
    """``result.json``.

    Attributes:
      rows: Each class of each set.
      sets: All classes of each set together.
      interval_method: How intervals were computed, in words.
      benchmark: The published benchmark, if the data are one; since version 2.
      seeds: For each there is one encoder, and one training for each class of each set.
      steps: Steps of each training.
      encoder_errors: Errors in percent on plain digits, by seed.
      wall_time_s: Seconds of all trainings.
    """

    VERSION: ClassVar[int] = 2

    rows: tuple[SetResult, ...]
    sets: tuple[SetResult, ...]
    interval_method: str
    benchmark: BenchmarkName | None = None
    seeds: tuple[int, ...]
    steps: int
    encoder_errors: tuple[float, ...]
    wall_time_s: float
