"""Tables of models × distortions × seeds, beside published numbers.

Each cell is a folder, such as ``R/st-cnn-affine``, with a run for the seeds that one command
trained, such as ``seeds-0-1-2``. A finished run is skipped and an unfinished one resumes from its
last checkpoint. So after a kill the same command completes the table, with the numbers of an
uninterrupted one. Seeds that are added later get a run of their own.
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
from experiments.classification.run import check_model, execute, load_dataset
from experiments.classification.snapshots import as_pictures
from experiments.data.benchmarks import BenchmarkName
from experiments.data.datasets import Dataset
from experiments.data.distortions import distort_test_images
from experiments.data.sources import load
from experiments.data.tasks import TASKS, TaskName
from experiments.engine import command_of, intervals, run_command
from experiments.engine.files import write_atomically, write_json
from experiments.engine.run_folder import check_settings, prepare_folders
from experiments.models import ModelName, TransformName
from experiments.report import (
    build_comparison,
    comparison_markdown,
    comparison_text,
    figures,
    verdict,
)
from experiments.report.records import RunResult, TableCell, TableEntry
from experiments.report.runs import RunFolder, read_run

# The runs of one cell may differ in these settings.
_FREE = ("seeds", "seeds_at_once")


class Published(NamedTuple):
    """Published errors in percent.

    Attributes:
      benchmark: The benchmark that they were measured on.
      errors: By distortion and model; the model's key names its transform if the paper tells them
        apart.
    """

    benchmark: BenchmarkName | None
    errors: Mapping[str, Mapping[str, float]]

    def error(self, cell: "Cell") -> float | None:
        """The published error of a cell, if there is one."""
        column = self.errors.get(cell.distortion, {})
        return column.get(f"{cell.model} {cell.transform}", column.get(cell.model))


UNPUBLISHED = Published(None, {})


class Cell(NamedTuple):
    """A model on a distortion."""

    distortion: TaskName
    model: ModelName
    transform: TransformName | None

    @property
    def name(self) -> str:
        """The model with its transform."""
        return " ".join(filter(None, (self.model, self.transform)))

    @property
    def folder(self) -> Path:
        """Its folder, in that of the table."""
        return Path(self.distortion) / "-".join(filter(None, (self.model, self.transform)))

    def run(self, arguments: TableArguments, seeds: tuple[int, ...]) -> Run:
        """The settings of the run of some seeds."""
        shared = arguments.resolved(Recipe) | {"seeds": seeds}
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
    title: str,
    published: Published = UNPUBLISHED,
    *,
    closing: Callable[[Dataset, Mapping[str, Sequence[Path]]], Sequence[str]] | None = None,
    command: str = "",
) -> str:
    """Trains all runs that are not finished; writes the table, and returns it as text.

    Args:
      arguments: What to train.
      title: Heading of the report.
      published: Errors to compare with.
      closing: Makes the report's last sections, in HTML, from the data and the run folders of each
        model.
      command: The command, for the report.

    Raises:
      ValueError: If the output folder holds runs with other settings, or a model cannot be built.
      Interrupted: If the user asked to stop; the state is saved.
    """
    dataset = load_dataset(arguments)
    cells = cells_of(arguments)
    _train_missing(arguments, dataset, cells, published)
    entries = _entries(arguments, dataset, cells, published)
    _write(arguments, entries)
    folders = {cell: list(dict.fromkeys(_folders(arguments, cell).values())) for cell in cells}
    runs: dict[str, list[RunFolder]] = {
        name: [read_run(f) for cell in cells if cell.distortion == name for f in folders[cell]]
        for name in arguments.distortions
    }
    samples = distortion_samples(dataset, arguments.distortions)
    last: Sequence[str] = ()
    if closing is not None:
        last = closing(dataset, {cell.name: own for cell, own in folders.items()})
    build_comparison(arguments.out, entries, runs, samples, title, closing=last, command=command)
    return comparison_text(entries)


def _train_missing(
    arguments: TableArguments, dataset: Dataset, cells: Sequence[Cell], published: Published
) -> None:
    """Trains the seeds that no finished run holds; writes the table after every run."""
    jobs = []
    for cell in cells:
        run = cell.run(arguments, arguments.seeds)
        check_model(run, dataset)
        missing = tuple(s for s in run.seeds if s not in finished(arguments.out / cell.folder, run))
        if missing:
            folder = arguments.out / cell.folder / f"seeds-{'-'.join(map(str, missing))}"
            jobs.append((cell, cell.run(arguments, missing), folder))
    prepare_folders(
        arguments,
        arguments.out,
        [(run, folder) for _, run, folder in jobs],
        resume=True,
        overwrite=False,
        extends=True,
    )
    for number, (cell, run, folder) in enumerate(jobs, start=1):
        print(f"{number} of {len(jobs)}: {cell.folder}", flush=True)
        execute(run, folder, dataset, **arguments.watching)
        _write(arguments, _entries(arguments, dataset, cells, published))


def _entries(
    arguments: TableArguments, dataset: Dataset, cells: Sequence[Cell], published: Published
) -> list[TableCell]:
    # Published errors are comparable only with errors on the same benchmark.
    judged = dataset.benchmark is not None and dataset.benchmark == published.benchmark
    return [entry_of(arguments, cell, published.error(cell), judged=judged) for cell in cells]


def table_command(
    name: str,
    arguments_type: type[TableArguments],
    words: Sequence[str] | None,
    title: str,
    published: Published,
    *,
    closing: Callable[[Any, Dataset, Mapping[str, Sequence[Path]]], Sequence[str]] | None = None,
) -> int:
    """Runs the command of an experiment whose result is a table; returns the exit status.

    Args:
      name: Name of the experiment's package.
      arguments_type: Its options.
      words: The command line, ``sys.argv`` if ``None``.
      title: Heading of the report.
      published: Errors to compare with.
      closing: As in :func:`make_table`, but its first argument is the options.
    """

    def body(arguments: TableArguments) -> None:
        last = None if closing is None else functools.partial(closing, arguments)
        command = command_of(program, arguments)
        print(make_table(arguments, title, published, closing=last, command=command))
        print(f"report: {arguments.out / 'report.html'}")

    program = f"python -m experiments.{name}"
    return run_command(program, arguments_type, body, words, goes_on="goes on")


def make_pictures(arguments: PicturesArguments) -> Path:
    """Writes distortions.png; returns its path."""
    dataset = load(arguments.data)
    picture = distortion_samples(dataset, arguments.distortions, arguments.images).light
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "distortions.png"
    write_atomically(path, lambda partial: partial.write_bytes(picture))
    return path


def distortion_samples(
    dataset: Dataset, distortions: Sequence[TaskName], number: int = 10
) -> figures.Picture:
    """The first images of each distorted test set, a row for each.

    Volumes are flattened.
    """
    images = jnp.asarray(dataset.test.images)
    numbers = jnp.arange(min(number, len(images)))
    rows: dict[str, np.ndarray] = {}
    for name in distortions:
        distort = jax.jit(functools.partial(distort_test_images, TASKS[name].measured))
        pictures = np.asarray(as_pictures(TASKS[name], distort(images, numbers)))
        rows[name] = np.rint(255 * pictures.clip(0, 1)).astype(np.uint8)
    draw = functools.partial(figures.samples, rows)
    return figures.picture(draw, functools.partial(draw, columns=5))


def finished(folder: Path, run: Run) -> dict[int, Path]:
    """The run folder of each finished seed of a cell.

    Raises:
      ValueError: If a run of the cell has other settings than this one.
    """
    done: dict[int, Path] = {}
    for path in sorted(folder.glob("seeds-*/result.json")):
        check_settings(run, path.parent, but=_FREE)
        done |= dict.fromkeys(RunResult.read(path).seeds, path.parent)
    return done


def entry_of(
    arguments: TableArguments, cell: Cell, paper: float | None, *, judged: bool
) -> TableCell:
    """The entry of a cell, from its runs; it has no errors while a seed is missing.

    Args:
      arguments: Of the table.
      cell: The cell.
      paper: Its published error.
      judged: Whether errors on these data may be compared with it.
    """
    place: dict[str, Any] = {
        "distortion": cell.distortion,
        "model": cell.model,
        "transform": cell.transform,
    }
    folders = _folders(arguments, cell)
    if len(folders) < len(arguments.seeds):
        return TableCell(**place, paper=paper)
    each = [_of_seed(folders[seed], seed) for seed in arguments.seeds]
    wrong = np.stack([seed.wrong for seed in each])
    errors, interval = 100 * wrong.mean(axis=(1, 2)), intervals.interval(wrong)
    mean, result = float(errors.mean()), each[0].result
    return TableEntry(
        **place,
        paper=paper,
        verdict=verdict(mean, interval, paper) if judged and paper is not None else None,
        mean=mean,
        interval=interval,
        interval_method=intervals.INTERVAL_METHOD,
        seeds=arguments.seeds,
        test_errors=tuple(errors.tolist()),
        validation_errors=tuple(seed.validation_error for seed in each),
        settings=cell.run(arguments, arguments.seeds).settings,
        num_parameters=result.num_parameters,
        dataset=result.dataset,
        test_images=result.test_images,
        steps=result.steps,
        batch_size=result.batch_size,
        versions=result.versions,
        device=result.device,
        test_sha256=result.test_sha256,
    )


class _Seed(NamedTuple):
    """The result of a seed's run, and its error mask, ``[copies, images]``."""

    result: RunResult
    validation_error: float | None
    wrong: np.ndarray


def _of_seed(folder: Path, seed: int) -> _Seed:
    result = RunResult.read(folder / "result.json")
    place = result.seeds.index(seed)
    with np.load(folder / "misread.npz") as archive:
        return _Seed(result, result.validation_errors[place], archive["wrong"][place])


def _folders(arguments: TableArguments, cell: Cell) -> dict[int, Path]:
    """The run folder of each of the table's finished seeds."""
    done = finished(arguments.out / cell.folder, cell.run(arguments, arguments.seeds))
    return {seed: done[seed] for seed in arguments.seeds if seed in done}


def _write(arguments: TableArguments, entries: Sequence[TableCell]) -> None:
    """Writes the table as JSON, text and Markdown."""
    text, markdown = comparison_text(entries), comparison_markdown(entries)
    write_json(arguments.out / "table.json", [entry.to_json() for entry in entries])
    write_atomically(arguments.out / "table.txt", lambda path: path.write_text(f"{text}\n"))
    write_atomically(arguments.out / "table.md", lambda path: path.write_text(f"{markdown}\n"))
