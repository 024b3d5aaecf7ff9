"""What a co-localisation is: frozen, keyword-only records; the command line is made from them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.classification.config import Recipe
from experiments.colocalisation.model import SetName, TargetsName


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoLocalisation:
    """What determines a result."""

    data: str = "digits"
    """digits (embedded) | idx:FOLDER | npz:FILE | gtsrb:FOLDER | tfds | tfds:DATA_DIR"""
    validation: float = 0.1
    """Share of the training images held out."""
    on: Literal["test", "validation"] = "test"
    """Whose digits the canvases that are measured are made of; to choose settings, the held-out."""
    sets: tuple[SetName, ...] = ("T", "TC")
    """T: digits at a random place | TC: with clutter cut from other digits."""
    digits: tuple[int, ...] | None = None
    """Classes to co-localise, one training for each; all unless given."""
    steps: int = 400
    """Training steps for each set, class and seed."""
    batch_size: int = 32
    """Canvases in a step, each paired with all others."""
    learning_rate: float = 1.4e-3
    """Adam's rate at the start; it falls to zero along a cosine."""
    random_crops: int = 6
    """Random crops of each canvas."""
    targets: TargetsName = "constant"
    """Whether the second crop of a pair is held constant in the loss or moves, too."""
    encoder_steps: int = 2500
    """Training steps of the encoder, at the same rate."""
    seeds: tuple[int, ...] = (0,)
    """One encoder, and one training for each set and class, for each seed."""
    steps_per_dispatch: int = 20
    """Steps in one compiled call, and between two lines of metrics."""

    def __post_init__(self) -> None:
        least = {"batch_size": 2}
        for name in ("steps", "batch_size", "random_crops", "encoder_steps", "steps_per_dispatch"):
            if getattr(self, name) < least.get(name, 1):
                raise ValueError(
                    f"{name} must be at least {least.get(name, 1)}; got {getattr(self, name)}."
                )
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate must be positive; got {self.learning_rate}.")
        for name in ("sets", "digits", "seeds"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} must be one or more different ones; got {values}.")
        # What data and held-out images may be is checked where a recipe is.
        self.recipe()

    def recipe(self) -> Recipe:
        """The part that says which data."""
        return Recipe(data=self.data, validation=self.validation, on=self.on)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        names = [field.name for field in dataclasses.fields(CoLocalisation)]
        values = {name: getattr(self, name) for name in names}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class CoLocalisationArguments(CoLocalisation):
    """Find the digits of one class on canvases without being told where they are.

    Leaves config.json, metrics.jsonl, result.json, checkpoints, pictures and report.html in the
    output folder.
    """

    out: Path = Path("runs/colocalisation")
    """Output folder."""
    resume: bool = False
    """Go on with the run in the output folder."""
    overwrite: bool = False
    """Delete the run in the output folder first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other.")
