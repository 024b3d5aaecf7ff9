"""What a run is: frozen, keyword-only records; the command lines are made from them."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from experiments.data.tasks import TASKS, Task, TaskName
from experiments.engine.devices import ParallelName
from experiments.models import ModelName, PrecisionName, TransformName

RecipeName = Literal["adam", "paper"]
# Images in a step, and the rate at the start.
_RECIPES: dict[str, dict[str, Any]] = {
    "adam": {"batch_size": 128, "learning_rate": 1e-3},
    "paper": {"batch_size": 256, "learning_rate": 1e-2},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """What determines a result, whichever the distortion and the model."""

    data: str = "digits"
    """digits (embedded) | idx:FOLDER | npz:FILE | gtsrb:FOLDER | tfds | tfds:DATA_DIR"""
    validation: float = 0.1
    """Share of the training images held out for the validation curve."""
    on: Literal["test", "validation"] = "test"
    """What is measured at the end. To choose a recipe, measure the held-out images: they then stand
    in place of the test set, which is not looked at."""
    recipe: RecipeName = "adam"
    """adam, its rate falling to zero along a cosine | paper: SGD, its rate divided by ten after
    each third of the steps"""
    steps: int = 3000
    """Training steps; the paper's are 150000."""
    batch_size: int | None = None
    """Images in a training step; those of the recipe unless given, adam 128, paper 256."""
    learning_rate: float | None = None
    """Rate at the start; that of the recipe unless given, adam 0.001, paper 0.01."""
    localization_rate: float = 1.0
    """Factor on the learning rate of the localization network."""
    localization_frozen_steps: int = 0
    """First steps in which the localization network does not move."""
    identity_penalty: float = 0.0
    """Weight in the loss of the mean squared distance of the maps from the identity."""
    width: float = 1.0
    """Factor on the filters and units of the classifier; at 1 a model has 400,000 parameters."""
    test_copies: int = 1
    """Distorted copies of each test image."""
    seeds: tuple[int, ...] = (0,)
    """One training for each seed."""
    seeds_at_once: int = 1
    """Seeds that are trained together in one compiled program."""
    steps_per_dispatch: int = 50
    """Steps in one compiled call, and between two lines of metrics."""
    parallel: ParallelName = "jit"
    """How a step is spread over all devices: jit, one program over a mesh | pmap, the classic form.
    Both end alike up to rounding."""
    accumulate: int = 1
    """Parts in which a step works through its batch, one after the other: the same gradient up to
    rounding, for less memory."""
    precision: PrecisionName = "float32"
    """What the networks compute in; parameters, theta, coordinates and logits are float32."""
    early_stopping: int | None = None
    """A training ends when the error on the held-out images has not fallen for so many of its
    measurements, of which there are about twenty; the state with the least is what is tested."""

    def __post_init__(self) -> None:
        for name in ("steps", "steps_per_dispatch", "test_copies", "seeds_at_once"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {self.batch_size}.")
        if self.early_stopping is not None and self.early_stopping < 1:
            raise ValueError(f"early_stopping must be at least 1; got {self.early_stopping}.")
        if self.accumulate < 1 or (self.batch_size or self.accumulate) % self.accumulate:
            raise ValueError(
                f"accumulate must divide the batch size, {self.batch_size}; got {self.accumulate}."
            )
        for name in ("learning_rate", "width"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive; got {value}.")
        for name in ("localization_rate", "localization_frozen_steps", "identity_penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be one or more different integers; got {self.seeds}.")
        if self.on == "validation" and self.validation == 0:
            raise ValueError("--on validation needs images to be held out; got --validation 0.")

    def settled(self, kind: type["Recipe"]) -> dict[str, Any]:
        """The fields of one of the kinds of recipe, what was not given settled by its name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(kind)}
        usual = _RECIPES[self.recipe]
        return {
            name: usual[name] if value is None and name in usual else value
            for name, value in values.items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Launch:
    """How trainings are run, which changes nothing in what comes of them."""

    profile: bool = False
    """Write a trace of the second dispatch of each run to profile/ in its folder, for TensorBoard
    or Perfetto."""
    coordinator: str | None = None
    """HOST:PORT at which process 0 is reached, where several processes train together. Each is
    started with the same options but --process, and sees the same output folder."""
    num_processes: int = 1
    """How many processes train together."""
    process: int = 0
    """Which of them this is."""

    def __post_init__(self) -> None:
        if not 0 <= self.process < self.num_processes:
            raise ValueError(
                f"process must be from 0 to {self.num_processes - 1}, one less than num_processes; "
                f"got {self.process}."
            )
        if (self.coordinator is None) != (self.num_processes == 1):
            raise ValueError(
                "coordinator and num_processes go together; got coordinator "
                f"{self.coordinator} and num_processes {self.num_processes}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Recipe):
    """What determines a result, whichever the model."""

    distortion: TaskName = "R"
    """Distortion of the digits, drawn afresh for every training image."""
    transform: TransformName = "affine"
    """Transform of the models that hold a spatial transformer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Training):
    """One model and how it is trained."""

    model: ModelName
    batch_size: int = _RECIPES["adam"]["batch_size"]
    learning_rate: float = _RECIPES["adam"]["learning_rate"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distortion in ("TC", "addition") and self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2 for {self.distortion}, which takes more than one "
                f"image of a batch for each of its own; got {self.batch_size}."
            )

    @property
    def task(self) -> Task:
        """What its models learn."""
        return TASKS[self.distortion]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Training, Launch):
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
        Launch.__post_init__(self)
        _check_different("model", self.model)
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other.")

    def runs(self) -> list[tuple[Run, Path]]:
        """The run of each model and its folder."""
        shared = self.settled(Training)
        return [
            (
                Run(**shared, model=model),
                self.out / model if len(self.model) > 1 else self.out,
            )
            for model in self.model
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableArguments(Recipe, Launch):
    """Train models on distortions, and hold their errors against the paper's.

    What is done is skipped, and what was killed goes on, by the same command again. Leaves a run's
    folder for each cell of the table, and the table itself as table.txt, table.md, table.json and
    report.html.
    """

    models: tuple[ModelName, ...] = ("fcn", "cnn", "st-fcn", "st-cnn")
    """One or more models."""
    distortions: tuple[TaskName, ...] = ("R", "RTS", "P", "E", "TC")
    """One or more distortions."""
    transforms: tuple[TransformName, ...] = ("affine", "projective", "thin_plate_spline")
    """One or more transforms of the models that hold a spatial transformer."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each seed and cell."""
    seeds_at_once: int = 3
    """Seeds that are trained together in one compiled program."""
    out: Path = Path("runs/table")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        Launch.__post_init__(self)
        for name in ("models", "distortions", "transforms"):
            _check_different(name, getattr(self, name))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PicturesArguments:
    """Draw some test digits under each distortion, as distortions.png."""

    data: str = "digits"
    """digits (embedded) | idx:FOLDER | npz:FILE | gtsrb:FOLDER | tfds | tfds:DATA_DIR"""
    distortions: tuple[TaskName, ...] = ("none", "R", "RTS", "P", "E", "TC")
    """One or more distortions."""
    images: int = 10
    """Number of digits."""
    out: Path = Path("runs/pictures")
    """Output folder."""

    def __post_init__(self) -> None:
        _check_different("distortions", self.distortions)
        if self.images < 1:
            raise ValueError(f"images must be at least 1; got {self.images}.")


def _check_different(name: str, names: tuple[str, ...]) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{name} must be one or more different names; got {names}.")
