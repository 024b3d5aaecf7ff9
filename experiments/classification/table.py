"""The table of distorted MNIST: models × distortions × seeds, beside the paper's numbers.

Each cell is a folder in which there is a run for the seeds that were trained together, such as
``R/st-cnn-affine/seeds-0-1-2``. Whatever is finished is skipped, and what is not goes on from its
last checkpoint, so the same command again is all it takes after a kill, and the table that it ends
with is that of a command that never was. Seeds may be added later; they are trained by themselves.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import models
from experiments.classification.config import PicturesArguments, Recipe, Run, TableArguments
from experiments.classification.run import (
    check_model,
    check_settings,
    execute,
    load_dataset,
    prepare_folder,
)
from experiments.data.distortions import distort_test_images
from experiments.data.sources import Dataset, load
from experiments.data.tasks import TASKS, TaskName, as_pictures
from experiments.engine import intervals as statistics
from experiments.engine.files import read_json, write_atomically, write_json
from experiments.models import ModelName, TransformName
from experiments.report import (
    build_comparison,
    comparison_markdown,
    comparison_text,
    figures,
    verdict,
)
from experiments.report.runs import Run as FinishedRun
from experiments.report.runs import read_run

# Jaderberg et al., arXiv:1506.02025, in percent: table 1 left; of TC the text gives one number for
# each kind of model.
PAPER: dict[str, dict[str, float]] = {
    "R": {
        "fcn": 2.1,
        "cnn": 1.2,
        "st-fcn affine": 1.2,
        "st-fcn projective": 1.3,
        "st-fcn thin_plate_spline": 1.1,
        "st-cnn affine": 0.7,
        "st-cnn projective": 0.8,
        "st-cnn thin_plate_spline": 0.7,
    },
    "RTS": {
        "fcn": 5.2,
        "cnn": 0.8,
        "st-fcn affine": 0.8,
        "st-fcn projective": 0.9,
        "st-fcn thin_plate_spline": 0.8,
        "st-cnn affine": 0.5,
        "st-cnn projective": 0.6,
        "st-cnn thin_plate_spline": 0.5,
    },
    "P": {
        "fcn": 3.1,
        "cnn": 1.5,
        "st-fcn affine": 1.5,
        "st-fcn projective": 1.4,
        "st-fcn thin_plate_spline": 1.4,
        "st-cnn affine": 0.8,
        "st-cnn projective": 0.8,
        "st-cnn thin_plate_spline": 0.8,
    },
    "E": {
        "fcn": 3.2,
        "cnn": 1.4,
        "st-fcn affine": 2.7,
        "st-fcn projective": 2.6,
        "st-fcn thin_plate_spline": 2.4,
        "st-cnn affine": 1.2,
        "st-cnn projective": 1.3,
        "st-cnn thin_plate_spline": 1.1,
    },
    "TC": {"fcn": 13.2, "cnn": 3.5, "st-fcn": 2.0, "st-cnn": 1.7},
    # Arcos-García, Álvarez-García and Soria-Morillo, Neural Networks 99, 2018, from accuracies.
    "signs": {"deep-cnn": 1.15, "st-deep-cnn affine": 0.54, "st-deep-st-cnn affine": 0.33},
    # The appendix; of the other single transformers the best is at 18.5.
    "addition": {
        "fcn": 47.7,
        "cnn": 14.7,
        "st-fcn affine": 22.6,
        "2xst-fcn affine": 9.0,
        "2xst-fcn projective": 5.9,
        "2xst-fcn thin_plate_spline": 5.8,
    },
}
# What a result says of how it was made.
_MADE = (
    "num_parameters",
    "dataset",
    "test_images",
    "steps",
    "batch_size",
    "versions",
    "device",
    "test_sha256",
)
# Settings in which the runs of one cell may differ.
_FREE = ("seeds", "seeds_at_once")


class Cell(NamedTuple):
    """A model on a distortion."""

    distortion: TaskName
    model: ModelName
    transform: TransformName | None

    @property
    def folder(self) -> Path:
        """Its folder, in that of the table."""
        return Path(self.distortion) / "-".join(filter(None, (self.model, self.transform)))

    @property
    def paper(self) -> float | None:
        """The paper's error in percent."""
        column = PAPER.get(self.distortion, {})
        return column.get(f"{self.model} {self.transform}", column.get(self.model))

    def run(self, arguments: TableArguments, seeds: tuple[int, ...]) -> Run:
        """The run of some seeds."""
        shared = arguments.settled(Recipe) | {"seeds": seeds}
        transform = self.transform or "affine"
        return Run(**shared, distortion=self.distortion, model=self.model, transform=transform)


def cells_of(arguments: TableArguments) -> list[Cell]:
    """The cells of a table, column by column."""
    return [
        Cell(distortion, model, transform)
        for distortion in arguments.distortions
        for model in arguments.models
        for transform in (arguments.transforms if models.has_transformer(model) else (None,))
    ]


def make_table(
    arguments: TableArguments,
    title: str = "Distorted MNIST",
    *,
    closing: Callable[[Dataset, Mapping[str, Sequence[Path]]], Sequence[str]] | None = None,
) -> str:
    """Trains what is not done yet; returns, and writes, the table.

    Args:
      arguments: What to train.
      title: Heading of the report.
      closing: Makes the report's last sections of HTML, from the data and the run folders of each
        model.

    Raises:
      ValueError: If the output folder holds runs with other settings, or a model cannot be built.
      Interrupted: If Ctrl-C or a termination signal came; the state is saved.
    """
    dataset = load_dataset(arguments)
    cells, jobs = cells_of(arguments), []
    for cell in cells:
        run = cell.run(arguments, arguments.seeds)
        check_model(run, dataset)
        missing = tuple(s for s in run.seeds if s not in finished(arguments.out / cell.folder, run))
        if missing:
            folder = arguments.out / cell.folder / f"seeds-{'-'.join(map(str, missing))}"
            jobs.append((cell, cell.run(arguments, missing), folder))
    for _, run, folder in jobs:
        prepare_folder(run, folder, resume=True, overwrite=False)
    for number, (cell, run, folder) in enumerate(jobs, start=1):
        print(f"{number} of {len(jobs)}: {cell.folder}", flush=True)
        execute(run, folder, dataset, profile=arguments.profile)
        _write(arguments, [entry_of(arguments, cell) for cell in cells])
    entries = [entry_of(arguments, cell) for cell in cells]
    _write(arguments, entries)
    runs: dict[str, list[FinishedRun]] = {
        name: [
            read_run(folder)
            for cell in cells
            if cell.distortion == name
            for folder in dict.fromkeys(_folders(arguments, cell).values())
        ]
        for name in arguments.distortions
    }
    samples = distortion_samples(dataset, arguments.distortions)
    folders = {
        " ".join(filter(None, (cell.model, cell.transform))): list(
            dict.fromkeys(_folders(arguments, cell).values())
        )
        for cell in cells
    }
    last = () if closing is None else closing(dataset, folders)
    build_comparison(arguments.out, entries, runs, samples, title, closing=last)
    return comparison_text(entries)


def make_pictures(arguments: PicturesArguments) -> Path:
    """Writes distortions.png; returns its path."""
    dataset = load(arguments.data)
    picture = distortion_samples(dataset, arguments.distortions, arguments.images)
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "distortions.png"
    write_atomically(path, lambda partial: partial.write_bytes(picture))
    return path


def distortion_samples(
    dataset: Dataset, distortions: Sequence[TaskName], number: int = 10
) -> bytes:
    """The first images of each distorted test set, a row for each, as a PNG file.

    Volumes are flattened.
    """
    images = jnp.asarray(dataset.test.images)
    numbers = jnp.arange(min(number, len(images)))
    rows: dict[str, np.ndarray] = {}
    for name in distortions:
        distort = jax.jit(functools.partial(distort_test_images, TASKS[name].measured))
        pictures = np.asarray(as_pictures(TASKS[name], distort(images, numbers)))
        rows[name] = np.rint(255 * pictures.clip(0, 1)).astype(np.uint8)
    return figures.png(figures.samples(rows))


def finished(folder: Path, run: Run) -> dict[int, Path]:
    """The run folder of each seed of a cell that is done.

    Raises:
      ValueError: If a run of the cell has other settings than this one.
    """
    done: dict[int, Path] = {}
    for result in sorted(folder.glob("seeds-*/result.json")):
        check_settings(run, result.parent, but=_FREE)
        done |= dict.fromkeys(read_json(result)["seeds"], result.parent)
    return done


def entry_of(arguments: TableArguments, cell: Cell) -> dict[str, Any]:
    """What the table says of a cell, from the runs of its seeds; little while one is missing."""
    entry = {
        "distortion": cell.distortion,
        "model": cell.model,
        "transform": cell.transform,
        "paper": cell.paper,
    }
    folders = _folders(arguments, cell)
    if len(folders) < len(arguments.seeds):
        return entry
    each = [_of_seed(folders[seed], seed) for seed in arguments.seeds]
    wrong = np.stack([seed.wrong for seed in each])
    errors, interval = 100 * wrong.mean(axis=(1, 2)), statistics.interval(wrong)
    mean, result = float(errors.mean()), each[0].result
    settings = cell.run(arguments, arguments.seeds).to_json()
    # Embedded digits are not MNIST, and the paper's numbers say nothing of them.
    paper = None if result["dataset"].startswith("digits") else cell.paper
    return {
        **entry,
        "verdict": None if paper is None else verdict(mean, interval, paper),
        "mean": mean,
        "interval": list(interval),
        "interval_method": statistics.INTERVAL_METHOD,
        "seeds": list(arguments.seeds),
        "test_errors": errors.tolist(),
        "validation_errors": [seed.validation_error for seed in each],
        # Which data, not where they lie.
        "settings": {name: value for name, value in settings.items() if name != "data"},
        **{name: result[name] for name in _MADE},
    }


class _Seed(NamedTuple):
    """What the run of a seed left: its result, and ``[copies, images]`` that were misread."""

    result: Mapping[str, Any]
    validation_error: float | None
    wrong: np.ndarray


def _of_seed(folder: Path, seed: int) -> _Seed:
    result = read_json(folder / "result.json")
    place = result["seeds"].index(seed)
    with np.load(folder / "misread.npz") as archive:
        return _Seed(result, result["validation_errors"][place], archive["wrong"][place])


def _folders(arguments: TableArguments, cell: Cell) -> dict[int, Path]:
    """The run folder of each of the table's seeds that is done."""
    done = finished(arguments.out / cell.folder, cell.run(arguments, arguments.seeds))
    return {seed: done[seed] for seed in arguments.seeds if seed in done}


def _write(arguments: TableArguments, entries: Sequence[Mapping[str, Any]]) -> None:
    """The table in its three plain forms."""
    text, markdown = comparison_text(entries), comparison_markdown(entries)
    write_json(arguments.out / "table.json", entries)
    write_atomically(arguments.out / "table.txt", lambda path: path.write_text(f"{text}\n"))
    write_atomically(arguments.out / "table.md", lambda path: path.write_text(f"{markdown}\n"))
