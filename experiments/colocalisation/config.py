"""The settings of a co-localisation: frozen records; the command line is made from them."""

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.classification.config import DataSpec
from experiments.colocalisation.model import TargetsName
from experiments.colocalisation.scenes import SetName
from experiments.engine.options import (
    Launch,
    OutputFolder,
    TrainingOptions,
    check_at_least,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Colocalisation(TrainingOptions):
    """All settings that a result depends on."""

    data: DataSpec = "digits"
    validation: float = 0.1
    """Share of the training images to hold out, for early stopping or for measuring."""
    on: Literal["test", "validation"] = "test"
    """The digits on the canvases to measure. Choose settings by the held-out digits."""
    sets: tuple[SetName, ...] = ("T", "TC")
    """T: digits at a random place | TC: with clutter cut from other digits."""
    digits: tuple[int, ...] | None = None
    """Classes to co-localise, one training for each; by default all."""
    steps: int = 150
    """Training steps for each set, class and seed."""
    batch_size: int = 32
    """Canvases in a step. Each is paired with all others; with --accumulate only with those of its
    part, with --parallel pmap only with those of its device."""
    learning_rate: float = 3e-3
    """Adam's learning rate at the start; it falls to zero along a cosine."""
    random_crops: int = 6
    """Random crops of each canvas."""
    margin: float = 3000.0
    """How much nearer than a random crop, in squared distance of encodings, the crops of two
    canvases should be."""
    guidance: float = 2000.0
    """Weight of the squared distance, in normalised coordinates, of each crop from the random crop
    of its canvas that is most unlike the others."""
    targets: TargetsName = "constant"
    """Whether the second crop of a pair is constant in the gradient of the loss."""
    encoder_steps: int = 2500
    """Training steps of the encoder."""
    steps_per_dispatch: int = 20
    """Steps in one compiled call. Each call writes a line of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, steps=1, batch_size=2, random_crops=1, encoder_steps=1)
        check_at_least(self, steps_per_dispatch=1)
        self.check_accumulate(self.batch_size)
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}.")
        if self.margin <= 0 or self.guidance < 0:
            raise ValueError(
                "margin must be positive, and guidance not negative; "
                f"got {self.margin} and {self.guidance}."
            )
        for name in ("sets", "digits"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} must be one or more different ones; got {values}.")
        if self.on == "validation" and self.validation == 0:
            raise ValueError("--on validation needs images to be held out; got --validation 0.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Colocalisation, Launch, OutputFolder):
    """Find the digits of one class on canvases, without labels of their places.

    Writes config.json, metrics.jsonl, result.json, checkpoints, pictures and report.html to the
    output folder.
    """

    FIRST = (
        *("data", "sets", "digits", "steps", "seeds", "out"),
        *("resume", "overwrite", "config"),
    )

    out: Path = Path("runs/colocalisation")
    """Output folder."""
