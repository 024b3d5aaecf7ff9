"""Invariance to rotation: test error against the angle by which the test digits are turned.

``python -m experiments.invariance --help`` lists the options.

Max-pooling is said to make a network invariant to small shifts only, and a spatial transformer to
make it invariant to the transforms that it has learnt. Three models are measured: a CNN with
max-pooling trained on upright digits; the same CNN trained on digits turned by angles from U(−90°,
90°), set R of :mod:`experiments.data.distortions`; and an ST-CNN trained on the same. All have the
same schedule and about the same number of parameters: the ST-CNN's classifier is narrower by what
its localization network takes.

Every angle is measured on the same test images, all of them turned by exactly that angle around
their centre by one bilinear resampling, black outside, counter-clockwise for positive angles;
nothing is drawn. The model measured is that of the last step of each seed, and no choice is made by
what is found. The trainings are ordinary runs. What is done is skipped and what was killed goes on
by the same command again: each run from its last checkpoint, its measurement from the last angle.
"""

import dataclasses
import functools
import html
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8
from tqdm import tqdm

import stn_jax as stn
from experiments import models
from experiments.classification import step as train
from experiments.classification.config import Recipe, Run
from experiments.classification.restore import trained_states
from experiments.classification.run import (
    check_model,
    execute,
    load_dataset,
    make_trainer,
    prepare_folder,
)
from experiments.data.sources import Dataset, Split
from experiments.engine.command_line import run as run_command
from experiments.engine.files import environment, read_json, write_json
from experiments.engine.signals import Interrupted, stop_signal
from experiments.models import TransformName
from experiments.report import build_report, figures, text_table
from experiments.report.page import html_figure, section, write_file
from experiments.report.tables import text_table_html

_BATCH = 256
# How far apart numbers of parameters may lie and still be about the same.
_SIZE_TOLERANCE = 0.1
_TOLD_ANGLES = (0, 30, 60, 90)
_CURVES = (
    "A line is the mean over the seeds of a model, the band reaches from the least to the greatest "
    "of them. All test images are turned by the same angle, counter-clockwise for positive ones."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Recipe):
    """Train a CNN on upright and on turned digits and an ST-CNN on turned ones; turn the test set.

    What is done is skipped, and what was killed goes on, by the same command again. Leaves a run's
    folder for each model, invariance.json, invariance.png and report.html.
    """

    transform: TransformName = "affine"
    """Transform of the ST-CNN."""
    width: float = 1.0
    """Factor on the filters of the CNN's classifier; at 1 it has 400,000 parameters. The ST-CNN has
    as many as the CNN."""
    max_angle: float = 90.0
    """The test digits are turned from minus this angle to plus this angle, in degrees."""
    angle_step: float = 10.0
    """Degrees from one angle to the next; 0 is always one of the angles."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each seed and model."""
    seeds_at_once: int = 3
    """Seeds that are trained together in one compiled program."""
    out: Path = Path("runs/invariance")
    """Output folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.max_angle <= 180:
            raise ValueError(f"max_angle must be in (0, 180]; got {self.max_angle}.")
        steps = self.max_angle / self.angle_step if self.angle_step > 0 else 0
        if steps < 0.5 or abs(steps - round(steps)) > 1e-6:
            raise ValueError(
                f"angle_step must divide max_angle, {self.max_angle:g}; got {self.angle_step:g}."
            )

    @property
    def angles(self) -> tuple[float, ...]:
        """In degrees, rising."""
        number = round(self.max_angle / self.angle_step)
        return tuple(k * self.angle_step for k in range(-number, number + 1))


def runs_of(arguments: Arguments, dataset: Dataset) -> dict[str, Run]:
    """The run of each model, by what it is called.

    Raises:
      ValueError: If a model cannot be built, or no ST-CNN is about as large as the CNN.
    """
    shared = arguments.settled(Recipe)
    upright = Run(**shared, model="cnn", distortion="none")
    turned = dataclasses.replace(upright, distortion="R")
    size = check_model(turned, dataset)
    kind: Any = "st-cnn", arguments.transform, dataset.image_shape, dataset.num_classes
    width = models.width_for(size, *kind) / models.width_for(models.PARAMETERS, *kind)
    transformed = dataclasses.replace(
        turned,
        model="st-cnn",
        transform=arguments.transform,
        # A hair less, so that rounding up gives the filters found and not one more.
        width=width * (1 - 1e-6),
    )
    found = check_model(transformed, dataset)
    if abs(found - size) > _SIZE_TOLERANCE * size:
        raise ValueError(
            f"width must leave the ST-CNN about as many parameters as the CNN; at {arguments.width}"
            f" the CNN has {size:,} and the nearest ST-CNN {found:,}. Take a larger --width."
        )
    return {
        "CNN, upright digits": upright,
        "CNN, turned digits": turned,
        "ST-CNN, turned digits": transformed,
    }


@functools.partial(jax.jit, static_argnames="trainer")
def misread_turned(
    trainer: train.Trainer,
    states: train.State,
    images: UInt8[Array, "batch h w c"],
    labels: Integer[Array, " batch"],
    angle: Float[Array, ""] | float,
) -> Bool[Array, "seeds batch"]:
    """Whether each undistorted image, turned by an angle in radians, is misread by each seed."""
    theta = jnp.stack([jnp.asarray(angle, jnp.float32), 0.0, 0.0])
    turned = jax.vmap(lambda image: stn.warp(image, stn.rigid(), theta))(
        images.astype(jnp.float32) / 255
    )
    predictions = jax.vmap(lambda state: trainer.follow(state, turned)["predictions"])(states)
    return predictions != labels


def count_misread(
    trainer: train.Trainer, states: train.State, test: Split, angle: float
) -> Integer[np.ndarray, " seeds"]:
    """How many test images, all turned by an angle in degrees, the model of each seed misreads."""
    total = len(test.labels)
    # Always as many, so that there is one compilation; what is too much is left out.
    parts = [np.arange(first, first + _BATCH) % total for first in range(0, total, _BATCH)]
    wrong = [
        misread_turned(trainer, states, test.images[part], test.labels[part], np.deg2rad(angle))
        for part in parts
    ]
    return np.concatenate([np.asarray(each) for each in wrong], axis=1)[:, :total].sum(axis=1)


def measure(
    run: Run, folder: Path, dataset: Dataset, angles: Sequence[float], name: str
) -> Float[np.ndarray, "seeds angles"]:
    """Error in percent of the seeds of a finished run at each angle in degrees.

    What is measured is kept in the run's folder, in ``turned.json``, and not measured again.

    Raises:
      Interrupted: If Ctrl-C or a termination signal came.
      ValueError: If the run is not finished, or its states cannot be read.
    """
    file = folder / "turned.json"
    done: dict[str, list[float]] = read_json(file) if file.is_file() else {}
    missing = [angle for angle in angles if _key(angle) not in done]
    if missing:
        trainer = make_trainer(run, dataset)
        states = trained_states(run, folder, trainer)
        with stop_signal() as stop:
            for angle in tqdm(missing, unit="angle", desc=name):
                if stop["requested"]:
                    raise Interrupted(f"{name}, angle {angle:g}°")
                misread = count_misread(trainer, states, dataset.test, angle)
                done[_key(angle)] = (100 * misread / len(dataset.test.labels)).tolist()
                write_json(file, done)
    return np.array([done[_key(angle)] for angle in angles]).T


def _key(angle: float) -> str:
    return f"{angle:g}"


def table(record: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and a row for each model: mean errors where they are told, and over all angles."""
    angles, errors = record["angles"], np.array(record["errors"]).mean(axis=1)
    told = [angle for angle in _TOLD_ANGLES if angle in angles]
    headings = ["model", "parameters", *(f"{'±' * (a > 0)}{a}°" for a in told), "all angles"]
    rows = []
    for model, of_model in zip(record["models"], errors, strict=True):
        at = [of_model[[abs(angle) == each for angle in angles]].mean() for each in told]
        numbers = [f"{error:.2f}" for error in [*at, of_model.mean()]]
        rows.append([model["name"], f"{model['num_parameters']:,}", *numbers])
    return headings, rows


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command(
        "python -m experiments.invariance", Arguments, _compare, command_line, goes_on="goes on"
    )


def _compare(arguments: Arguments) -> None:
    """Trains and measures the models, prints the table, writes the report."""
    dataset = load_dataset(arguments)
    runs = runs_of(arguments, dataset)
    folders = {
        name: arguments.out / f"{run.model}-{'upright' if run.distortion == 'none' else 'turned'}"
        for name, run in runs.items()
    }
    for name, run in runs.items():
        prepare_folder(run, folders[name], resume=True, overwrite=False)
    results = {name: execute(run, folders[name], dataset) for name, run in runs.items()}
    errors = [
        measure(run, folders[name], dataset, arguments.angles, name).tolist()
        for name, run in runs.items()
    ]
    told = ("model", "transform", "distortion", "num_parameters", "test_errors")
    record = {
        "models": [
            {"name": name} | {key: result[key] for key in told} for name, result in results.items()
        ],
        "seeds": list(arguments.seeds),
        "angles": list(arguments.angles),
        "errors": errors,
        "axes": ["model", "seed", "angle"],
        "dataset": dataset.name,
        "test_images": len(dataset.test.labels),
        # Which data, not where they lie.
        "settings": {
            name: {key: value for key, value in run.to_json().items() if key != "data"}
            for name, run in runs.items()
        },
        **environment(),
    }
    write_json(arguments.out / "invariance.json", record)
    names, cells = list(runs), table(record)
    picture = figures.png(
        figures.errors_by_angle(names, arguments.angles, np.array(record["errors"]))
    )
    write_file(arguments.out / "invariance.png", picture)
    opening = [
        section("Error against angle", html_figure(picture, "Test error by angle", _CURVES)),
        section("Mean test error in percent", text_table_html(*cells)),
        section("How the angles were measured", f"<p>{html.escape(_protocol(record))}</p>"),
    ]
    report = build_report(
        arguments.out,
        list(folders.values()),
        "Invariance to rotation",
        names=names,
        opening=opening,
    )
    print("mean test error in percent")
    print(text_table(*cells))
    print(f"report: {report}")


def _protocol(record: Mapping[str, Any]) -> str:
    return (
        f"Each of {len(record['angles'])} angles is measured on the same {record['test_images']:,} "
        f"images of {record['dataset']}, all of them turned by exactly that angle around their "
        "centre with bilinear interpolation, black outside; nothing is drawn. Means are over the "
        f"seeds {', '.join(map(str, record['seeds']))} and, with ±, over both directions. The "
        "model is that of the last step. All are trained alike; turned digits are turned by "
        "angles drawn uniformly from −90° to 90°, afresh for every training image, which is also "
        "the draw of the test errors further down."
    )


if __name__ == "__main__":
    sys.exit(main())
