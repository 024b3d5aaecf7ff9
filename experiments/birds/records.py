"""The result of the experiment on birds."""

import dataclasses
from collections.abc import Mapping

from experiments.engine.records import Record, Result


@dataclasses.dataclass(frozen=True, kw_only=True)
class PartRates(Record):
    """How often parts lie in crops if they are visible, as shares; ``None`` if they never are.

    Attributes:
      head, body: Means over the parts of the head and of the body.
      parts: By name of the part.
    """

    head: float | None
    body: float | None
    parts: Mapping[str, float | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneCropRates(PartRates):
    """How well one transformer's crops fit the bird's box, and how often they hold its parts.

    Attributes:
      overlap: Mean intersection over union of the crop and the bird's box.
      contained: Mean share of the box's area that lies in the crop.
    """

    overlap: float
    contained: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class CropRates(Record):
    """The content of the crops of each transformer, and of all crops of an image together."""

    transformers: tuple[OneCropRates, ...]
    any: PartRates


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelResult(Record):
    """The trainings of one model.

    Attributes:
      model: Its name.
      num_parameters: Number of parameters.
      accuracies: In percent, by seed.
      accuracy, interval: Their mean and its interval.
      paper: The published accuracy, if the data and the sizes are the paper's.
      held: The content of the crops, by seed. This and the two baselines are ``None`` for a model
        without transformers.
      held_by_first_crops: The content of the untrained crops, which tile the image.
      held_in_the_middle: The content of a centre crop.
    """

    model: str
    num_parameters: int
    accuracies: tuple[float, ...]
    accuracy: float
    interval: tuple[float, float]
    paper: float | None
    held: tuple[CropRates, ...] | None = None
    held_by_first_crops: CropRates | None = None
    held_in_the_middle: CropRates | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class BirdsResult(Result):
    """``result.json``.

    Attributes:
      rows: The models.
      interval_method: How intervals were computed, in words.
      on: The measured images, ``test`` or ``validation``.
      num_classes, train_images, images: Numbers of classes, of training and of measured images.
      seeds: Each model was trained once for each.
      wall_time_s: Seconds of all trainings.
    """

    rows: tuple[ModelResult, ...]
    interval_method: str
    on: str
    num_classes: int
    train_images: int
    images: int
    seeds: tuple[int, ...]
    wall_time_s: float
