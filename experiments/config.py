"""What a run is: frozen, keyword-only records; the command line is made from them."""

import dataclasses
from pathlib import Path
from typing import Any

from experiments.data.distortions import DistortionName
from experiments.models import ModelName, TransformName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What determines a result, whichever the model."""

    distortion: DistortionName = "R"
    """Distortion of the digits, drawn afresh for every training image."""
    transform: TransformName = "affine"
    """Transform of the models that hold a spatial transformer."""
    data: str = "digits"
    """digits (embedded) | idx:FOLDER | npz:FILE | tfds | tfds:DATA_DIR"""
    validation: float = 0.1
    """Share of the training images held out for the validation curve."""
    steps: int = 3000
    """Training steps."""
    batch_size: int = 128
    """Images in a training step."""
    learning_rate: float = 1e-3
    """Adam's rate at the start; it falls to zero along a cosine."""
    localization_rate: float = 1.0
    """Factor on the learning rate of the localization network."""
    localization_frozen_steps: int = 0
    """First steps in which the localization network does not move."""
    identity_penalty: float = 0.0
    """Weight in the loss of the mean squared distance of the maps from the identity."""
    width: float = 1.0
    """Factor on the filters and units of the classifier."""
    test_copies: int = 1
    """Distorted copies of each test image."""
    seeds: tuple[int, ...] = (0,)
    """One training for each seed."""
    steps_per_dispatch: int = 50
    """Steps in one compiled call, and between two lines of metrics."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "steps_per_dispatch", "test_copies"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        for name in ("learning_rate", "width"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")
        for name in ("localization_rate", "localization_frozen_steps", "identity_penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different integers; got {self.seeds}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Training):
    """One model and how it is trained."""

    model: ModelName

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Training):
    """Train classifiers on distorted digits, with and without a spatial transformer.

    Leaves config.json, metrics.jsonl, result.json, checkpoints, pictures and report.html in the
    output folder; with several models, a folder for each inside it and one report for all.
    """

    model: tuple[ModelName, ...] = ("cnn", "st-cnn")
    """One or more models."""
    out: Path = Path("runs/distorted-mnist")
    """Output folder."""
    resume: bool = False
    """Go on with the run in the output folder."""
    overwrite: bool = False
    """Delete the run in the output folder first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model or len(set(self.model)) < len(self.model):
            raise ValueError(f"model must be one or more different names; got {self.model}.")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other.")

    def runs(self) -> list[tuple[Run, Path]]:
        """The run of each model and its folder."""
        shared = {f.name: getattr(self, f.name) for f in dataclasses.fields(Training)}
        return [
            (
                Run(**shared, model=model),
                self.out / model if len(self.model) > 1 else self.out,
            )
            for model in self.model
        ]
