"""The settings of a run on birds: frozen records; the command line is made from them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.birds.train import stored_side
from experiments.data.examples import Framing
from experiments.data.pictures import FitName
from experiments.engine.options import (
    Launch,
    OutputFolder,
    TrainingOptions,
    as_json,
    check_at_least,
)
from experiments.engine.problem import Schedule
from experiments.models.backbones import BackboneName

RecipeName = Literal["adam", "paper"]


class Resolved(NamedTuple):
    """The settings that have a default for each recipe."""

    steps: int
    batch_size: int
    learning_rate: float
    localization_rate: float
    localization_frozen_steps: int
    dropout: float


_RECIPES: dict[RecipeName, Resolved] = {
    "adam": Resolved(5000, 32, 2e-3, 0.1, 400, 0.0),
    # The paper does not state the batch size.
    "paper": Resolved(30_000, 32, 0.1, 1e-4, 0, 0.7),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Birds(TrainingOptions):
    """All settings that a result depends on."""

    data: str = "drawn"
    """drawn (a small set, drawn into the output folder) | cub:FOLDER | tfds | tfds:DATA_DIR"""
    fit: FitName = "crop"
    """How pictures become squares: crop, take the middle of the longer side | whole, squeeze it"""
    validation: float = 0.1
    """Share of the training images of every class to hold out for the validation curve."""
    on: Literal["test", "validation"] = "test"
    """The images to measure at the end. Choose settings by the held-out images."""
    num_transforms: tuple[int, ...] = (0, 2)
    """Number of spatial transformers of each model; 0 is the plain CNN, which sees the whole image
    reduced to a crop's size."""
    backbone: BackboneName = "small"
    """The network that computes the features of a crop."""
    weights: str | None = None
    """Safetensors file of the backbone's published weights; every backbone of a model starts with
    them."""
    side: int = 64
    """Side of the model's input images, in pixels; the paper's are 448 and 224."""
    crop_size: int | None = None
    """Side of a backbone's input, in pixels; by default half the image's side, a quarter for drawn
    birds."""
    recipe: RecipeName = "adam"
    """adam: Adam, its rate falls to zero along a cosine | paper: SGD with momentum and weight
    decay, its rate is divided by ten after 1/3, 2/3 and 5/6 of the steps"""
    steps: int | None = None
    """Training steps; by default the recipe's, adam 5000, paper 30000."""
    batch_size: int | None = None
    """Images in a step, over all processes; 32 by default."""
    learning_rate: float | None = None
    """Learning rate at the start; by default the recipe's, adam 0.002, paper 0.1."""
    localization_rate: float | None = None
    """Factor on the rate of the localization network; adam 0.1, paper 0.0001."""
    localization_frozen_steps: int | None = None
    """Number of steps at the start in which the localization network is not trained; adam 400,
    paper 0."""
    dropout: float | None = None
    """Dropout rate of the backbones' features; adam 0, paper 0.7."""
    remat: bool = False
    """Recompute activations in the backward pass, to save memory."""
    steps_per_line: int = 50
    """Steps between two lines of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, side=1, crop_size=1, steps=1, batch_size=1, steps_per_line=1)
        resolved = self.resolved
        if self.input_side < 1:
            raise ValueError(f"crop_size must be at least 1; got {self.input_side}.")
        self.check_accumulate(resolved.batch_size)
        if not 0 < resolved.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive; got {resolved.learning_rate}.")
        for name in ("localization_rate", "localization_frozen_steps"):
            value = getattr(resolved, name)
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name} must not be negative; got {value}.")
        numbers = self.num_transforms
        if not numbers or len(set(numbers)) < len(numbers):
            raise ValueError(f"num_transforms must be one or more different ones; got {numbers}.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must be a number in [0, 1); got {self.validation}.")
        if self.on == "validation" and self.validation == 0:
            raise ValueError("--on validation needs images to be held out; got --validation 0.")

    @property
    def resolved(self) -> Resolved:
        """These settings; those that are ``None`` get the recipe's defaults."""
        given = {name: getattr(self, name) for name in Resolved._fields}
        return _RECIPES[self.recipe]._replace(
            **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def schedule(self) -> Schedule:
        """The length of its trainings."""
        return self.schedule_of(self.resolved.steps, self.steps_per_line, validations=10)

    @property
    def input_side(self) -> int:
        """Side of a backbone's input."""
        if self.crop_size is not None:
            return self.crop_size
        # A quarter of the side averages crops 2×2, so that all crops are equally sharp.
        return self.side // (4 if self.data == "drawn" else 2)

    @property
    def framing(self) -> Framing:
        """How pictures become the squares that the host hands to a step."""
        return Framing(stored_side(self.side), self.fit)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        filled = self.resolved._asdict() | {"crop_size": self.input_side}
        return as_json(self, Birds) | filled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Birds, Launch, OutputFolder):
    """Classify birds by crops that spatial transformers choose; measure which parts they contain.

    Writes config.json, metrics.jsonl, result.json, checkpoints, pictures and report.html to the
    output folder.
    """

    FIRST = (
        *("data", "num_transforms", "backbone", "weights", "side", "steps", "seeds", "out"),
        *("resume", "overwrite", "config"),
    )

    workers: int = 0
    """Processes that read and decode images; with 0 the threads of this process do."""
    threads: int = 2
    """Threads that read images, in each process."""
    out: Path = Path("runs/birds")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("workers", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
