"""What a run on birds is: a frozen, keyword-only record; the command line is made from it."""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.birds.train import stored_side
from experiments.data.examples import FitName, Framing
from experiments.engine.devices import ParallelName
from experiments.models import PrecisionName
from experiments.models.backbones import BackboneName

RecipeName = Literal["adam", "paper"]


class Settled(NamedTuple):
    """What the recipe settles where it is not given."""

    steps: int
    batch_size: int
    learning_rate: float
    localization_rate: float
    localization_frozen_steps: int
    dropout: float


_RECIPES: dict[RecipeName, Settled] = {
    "adam": Settled(5000, 32, 2e-3, 0.1, 400, 0.0),
    # The size of the batch is not in the paper.
    "paper": Settled(30_000, 32, 0.1, 1e-4, 0, 0.7),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Birds:
    """What determines a result."""

    data: str = "drawn"
    """drawn (a small set, drawn into the output folder) | cub:FOLDER | tfds | tfds:DATA_DIR"""
    fit: FitName = "crop"
    """How pictures become squares: crop, the middle of the longer side | whole, squeezed"""
    validation: float = 0.1
    """Share of the training images of every class held out for the validation curve."""
    on: Literal["test", "validation"] = "test"
    """What is measured at the end. To choose settings, measure the held-out images."""
    num_transforms: tuple[int, ...] = (0, 2)
    """Spatial transformers of each model; 0 is the plain CNN, which sees the whole image reduced to
    a crop's size."""
    backbone: BackboneName = "small"
    """The network that describes a crop."""
    weights: str | None = None
    """Safetensors file of the backbone's published weights, which all its copies begin with."""
    side: int = 64
    """Side of the images that are read, in pixels; the paper's are 448 and 224."""
    crop_size: int | None = None
    """Side of what a backbone sees; unless given half of the image's, of drawn birds a quarter."""
    recipe: RecipeName = "adam"
    """adam, its rate falling to zero along a cosine | paper: SGD with momentum and weight decay,
    its rate divided by ten after 1/3, 2/3 and 5/6 of the steps"""
    steps: int | None = None
    """Training steps; those of the recipe unless given, adam 5000, paper 30000."""
    batch_size: int | None = None
    """Images in a step, over all processes; 32 unless given."""
    learning_rate: float | None = None
    """Rate at the start; that of the recipe unless given, adam 0.002, paper 0.1."""
    localization_rate: float | None = None
    """Factor on the rate of the localization network; adam 0.1, paper 0.0001."""
    localization_frozen_steps: int | None = None
    """First steps in which the localization network does not move; adam 400, paper 0."""
    dropout: float | None = None
    """Share of the descriptions left out in training; adam 0, paper 0.7."""
    precision: PrecisionName = "float32"
    """What convolutions compute in; parameters, theta, coordinates and logits are float32."""
    remat: bool = False
    """Compute activations anew in the backward pass, for memory."""
    seeds: tuple[int, ...] = (0,)
    """One training for each model and seed."""
    steps_per_line: int = 50
    """Steps between two lines of metrics."""
    parallel: ParallelName = "jit"
    """How a step is spread over all devices: jit, one program over a mesh | pmap, the classic
    form."""

    def __post_init__(self) -> None:
        values = dataclasses.asdict(self) | self.settled._asdict() | {"crop_size": self.seen_side}
        for name in ("side", "crop_size", "steps", "batch_size", "steps_per_line"):
            if values[name] < 1:
                raise ValueError(f"{name} must be at least 1; got {values[name]}.")
        if not 0 < values["learning_rate"] < float("inf"):
            raise ValueError(f"learning_rate must be positive; got {values['learning_rate']}.")
        for name in ("localization_rate", "localization_frozen_steps"):
            if not 0 <= values[name] < float("inf"):
                raise ValueError(f"{name} must not be negative; got {values[name]}.")
        for name in ("num_transforms", "seeds"):
            each = values[name]
            if not each or len(set(each)) < len(each):
                raise ValueError(f"{name} must be one or more different ones; got {each}.")
        if not 0 <= self.validation < 1:
            raise ValueError(f"validation must be a number in [0, 1); got {self.validation}.")
        if self.on == "validation" and self.validation == 0:
            raise ValueError("--on validation needs images to be held out; got --validation 0.")

    @property
    def settled(self) -> Settled:
        """The values of what the recipe settles where it is not given."""
        given = {name: getattr(self, name) for name in Settled._fields}
        return _RECIPES[self.recipe]._replace(
            **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def seen_side(self) -> int:
        """Side of what a backbone sees."""
        if self.crop_size is not None:
            return self.crop_size
        # Where a crop is read at less than its own size, it is averaged: all places are as sharp.
        return self.side // (4 if self.data == "drawn" else 2)

    @property
    def framing(self) -> Framing:
        """How pictures become the squares that come from the host."""
        return Framing(stored_side(self.side), self.fit)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        names = [field.name for field in dataclasses.fields(Birds)]
        values = {name: getattr(self, name) for name in names}
        values |= self.settled._asdict() | {"crop_size": self.seen_side}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Birds):
    """Classify birds by crops that spatial transformers find, and see which parts they find.

    Leaves config.json, metrics.jsonl, result.json, checkpoints, pictures and report.html in the
    output folder.
    """

    workers: int = 0
    """Processes that read and decode images; with 0, threads of this one do."""
    threads: int = 2
    """Threads that read, in each such process."""
    out: Path = Path("runs/birds")
    """Output folder."""
    resume: bool = False
    """Go on with the run in the output folder."""
    overwrite: bool = False
    """Delete the run in the output folder first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("workers", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other.")
