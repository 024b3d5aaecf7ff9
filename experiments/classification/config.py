"""The settings of a run that predicts labels: frozen, keyword-only records.

The command lines are made from them.
"""

import dataclasses
import itertools
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from experiments.classification.recipes import RECIPES, RecipeName
from experiments.data.sources import LOADERS
from experiments.data.tasks import TASKS, Task, TaskName
from experiments.engine.files import read_json
from experiments.engine.options import (
    Launch,
    Options,
    OutputFolder,
    Resume,
    TrainingOptions,
    as_json,
    check_at_least,
)
from experiments.engine.problem import Schedule
from experiments.models import ModelName, TransformName

# The source of the data; the help lists all sources.
DataSpec = Annotated[str, tyro.conf.arg(help=" | ".join(LOADERS))]
_SETS = (
    "none, as they are | R, turned by up to 90° | RTS, turned by up to 45°, scaled, and put "
    "anywhere on a larger canvas | P, in perspective | E, bent like rubber by a thin plate spline "
    "| TC, put anywhere on a larger canvas among clutter"
)
OneDistortion = Annotated[
    TaskName,
    tyro.conf.arg(
        help=f"Distortion of the digits, drawn afresh for every training image: {_SETS} "
        "| addition, volumes and signs are the sets of the experiments of these names"
    ),
]
SeveralDistortions = Annotated[
    tuple[TaskName, ...], tyro.conf.arg(help=f"One or more distortions: {_SETS}")
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(TrainingOptions):
    """All settings that a result depends on, except the distortion and the model."""

    data: DataSpec = "digits"
    validation: float = 0.1
    """Share of the training images to hold out for the validation curve."""
    on: Literal["test", "validation"] = "test"
    """The images to measure at the end. Choose recipes by the held-out images: "validation"
    measures them in place of the test images."""
    recipe: RecipeName = "smooth"
    """smooth: Adam, its rate rises over the first twentieth of the steps and then falls to zero,
    both along a line, and a tenth of each label is spread over all classes | linear: without that |
    decay: as linear, with decoupled weight decay | muon: as linear, with Muon for the kernels |
    adam: Adam, its rate falls to zero along a cosine | paper: SGD, its rate is divided by ten after
    each third of the steps"""
    steps: int = 3000
    """Training steps; the paper's are 150000."""
    batch_size: int | None = None
    """Images in a training step; by default the recipe's: 256 for paper, 128 for the others."""
    learning_rate: float | None = None
    """The highest learning rate; by default the recipe's: 0.003 for smooth, linear and decay, 0.02
    for muon, 0.001 for adam, 0.01 for paper."""
    localization_rate: float = 1.0
    """Factor on the learning rate of the localization network."""
    localization_frozen_steps: int = 0
    """Number of steps at the start in which the localization network is not trained."""
    label_smoothing: float | None = None
    """Share of each label that is spread over all classes; by default the recipe's: 0.1 for smooth,
    0 for the others."""
    identity_penalty: float = 0.0
    """Weight of a term of the loss: the mean squared distance of the transforms from the
    identity."""
    width: float = 1.0
    """Factor on the filters and units of the classifier; at 1 a model has 400,000 parameters."""
    test_copies: int = 1
    """Distorted copies of each test image."""
    steps_per_dispatch: int = 50
    """Steps in one compiled call. Each call writes a line of metrics."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, steps=1, steps_per_dispatch=1, test_copies=1, batch_size=1)
        self.check_accumulate(self.batch_size or self.accumulate)
        for name in ("learning_rate", "width"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive; got {value}.")
        if self.label_smoothing is not None and not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1); got {self.label_smoothing}.")
        for name in ("localization_rate", "localization_frozen_steps", "identity_penalty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")
        if self.on == "validation" and self.validation == 0:
            raise ValueError("--on validation needs images to be held out; got --validation 0.")

    def resolved(self, kind: type["Recipe"]) -> dict[str, Any]:
        """The fields of a class of settings; those that are ``None`` get the recipe's defaults."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(kind)}
        usual = RECIPES[self.recipe].usual
        return {
            name: usual[name] if value is None and name in usual else value
            for name, value in values.items()
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training(Recipe):
    """All settings that a result depends on, except the model."""

    distortion: OneDistortion = "R"
    transform: TransformName = "affine"
    """Transform of the models that hold a spatial transformer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Training):
    """One model and how it is trained."""

    model: ModelName
    batch_size: int = RECIPES["smooth"].batch_size
    learning_rate: float = RECIPES["smooth"].learning_rate

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.distortion in ("TC", "addition") and self.batch_size < 2:
            raise ValueError(
                f"batch_size must be at least 2 for {self.distortion}, which takes more than one "
                f"image of a batch for each of its own; got {self.batch_size}."
            )

    @property
    def smoothing(self) -> float:
        """The share of each label that is spread over all classes."""
        usual = RECIPES[self.recipe].label_smoothing
        return usual if self.label_smoothing is None else self.label_smoothing

    @property
    def task(self) -> Task:
        """The distortion and its labels."""
        return TASKS[self.distortion]

    @property
    def schedule(self) -> Schedule:
        """The length of its trainings."""
        return self.schedule_of(self.steps, self.steps_per_dispatch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Training, Launch, OutputFolder):
    """Train classifiers on distorted digits, with and without a spatial transformer.

    Writes config.json, metrics.jsonl, result.json, checkpoints, pictures and report.html to the
    output folder. Several models get a folder each inside it, and one report.

    Two more commands have a help of their own: `table --help`, models × distortions beside the
    paper's errors; `pictures --help`, digits under each distortion.
    """

    FIRST = (
        *("model", "data", "distortion", "transform", "steps", "seeds", "out"),
        *("resume", "overwrite", "config"),
    )

    model: tuple[ModelName, ...] = ("cnn", "st-cnn")
    """One or more models."""
    out: Path = Path("runs/distorted-mnist")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_different("model", self.model)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options, from the settings of one run or of the command of several models."""
        model = config.get("model")
        return {**config, "model": [model]} if isinstance(model, str) else dict(config)

    @classmethod
    def saved_in(cls, folder: Path) -> dict[str, Any] | None:
        """The options of the run, or of the runs of several models, that a folder holds."""
        saved = super().saved_in(folder)
        if saved is not None:
            return saved
        # Earlier versions kept the settings of several models in their folders alone.
        names = typing.get_args(ModelName)
        files = [folder / name / "config.json" for name in names]
        each = [read_json(file) for file in files if file.is_file()]
        return {**each[0], "model": [one["model"] for one in each]} if each else None

    def runs(self) -> list[tuple[Run, Path]]:
        """The run of each model, with its folder."""
        shared = self.resolved(Training)
        return [
            (
                Run(**shared, model=model),
                self.out / model if len(self.model) > 1 else self.out,
            )
            for model in self.model
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableArguments(Recipe, Launch, Resume):
    """Train models on distortions, and compare their errors with the paper's.

    The same command again skips finished runs and resumes one that was killed. Writes the folder of
    a run for each cell of the table, and the table as table.txt, table.md, table.json and
    report.html.
    """

    FIRST = (
        *("models", "distortions", "transforms", "data", "steps", "seeds", "out"),
        *("resume", "config"),
    )

    models: tuple[ModelName, ...] = ("fcn", "cnn", "st-fcn", "st-cnn")
    """One or more models."""
    distortions: SeveralDistortions = ("R", "RTS", "P", "E", "TC")
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
        for name in ("models", "distortions", "transforms"):
            _check_different(name, getattr(self, name))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options, from the settings of a table or of one of its runs."""
        values = dict(config)
        for one, several in {
            "model": "models",
            "distortion": "distortions",
            "transform": "transforms",
        }.items():
            if one in values:
                value = values.pop(one)
                values[several] = [value] if isinstance(value, str) else value
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class PicturesArguments(Options):
    """Draw some test digits under each distortion, as distortions.png."""

    data: DataSpec = "digits"
    distortions: SeveralDistortions = ("none", "R", "RTS", "P", "E", "TC")
    images: int = 10
    """Number of digits."""
    out: Path = Path("runs/pictures")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_different("distortions", self.distortions)
        check_at_least(self, images=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipesArguments(Launch, Resume):
    """Compare recipes by their errors on held-out images; the test images are not read.

    The same command again skips finished runs and resumes one that was killed. Writes the folder of
    a run for each training, and the comparison as recipes.txt and recipes.json.
    """

    FIRST = (
        *("models", "distortions", "recipes", "data", "steps", "seeds", "out"),
        *("resume", "config"),
    )

    models: tuple[ModelName, ...] = ("fcn", "st-fcn")
    """One or more models."""
    distortions: SeveralDistortions = ("R", "RTS")
    recipes: tuple[RecipeName, ...] = ("adam", "linear", "decay", "smooth")
    """Recipes; the others are compared with the first."""
    steps: tuple[int, ...] = (4000, 2000, 1000)
    """Lengths of the trainings. The table says with how many images each recipe reaches the error
    of the first recipe at the greatest length."""
    data: DataSpec = "digits"
    validation: float = 0.1
    """Share of the training images to hold out."""
    test_copies: int = 2
    """Distorted copies of each held-out image."""
    seeds: tuple[int, ...] = (0,)
    """One training for each seed."""
    out: Path = Path("runs/recipes")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("models", "distortions", "recipes", "steps"):
            _check_different(name, getattr(self, name))
        for model, distortion, recipe, steps in self.trainings:
            self.run(model, distortion, recipe, steps)

    @property
    def trainings(self) -> list[tuple[ModelName, TaskName, RecipeName, int]]:
        """The model, distortion, recipe and steps of each training."""
        return list(itertools.product(self.models, self.distortions, self.recipes, self.steps))

    def run(self, model: ModelName, distortion: TaskName, recipe: RecipeName, steps: int) -> Run:
        """The settings of a training."""
        return Run(
            model=model,
            distortion=distortion,
            recipe=recipe,
            steps=steps,
            data=self.data,
            seeds=self.seeds,
            test_copies=self.test_copies,
            validation=self.validation,
            on="validation",
            **RECIPES[recipe].usual,
        )

    def to_json(self) -> dict[str, Any]:
        """The options that determine the comparison, as JSON values."""
        return as_json(self)


def _check_different(name: str, names: tuple[Any, ...]) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{name} must be one or more different values; got {names}.")
