"""One run: a model trained for each seed, one by one or several at once, and the folder it leaves.

Everything in the folder follows from ``config.json``. A run that is stopped, by Ctrl-C or a kill,
goes on from its last checkpoint and ends with the same numbers as one that never was.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import optax
from flax import nnx

from experiments import models
from experiments.classification import step as train
from experiments.classification.config import Recipe, Run
from experiments.classification.loop import train_seeds
from experiments.data.distortions import distorted_shape, hash_test_images
from experiments.data.sources import Dataset, load, split_validation
from experiments.engine import intervals as statistics
from experiments.engine.devices import is_first, make_parallel, wait_for_all
from experiments.engine.files import (
    environment,
    is_partial,
    read_json,
    write_atomically,
    write_json,
)
from experiments.engine.metrics import MetricsLog
from experiments.engine.signals import stop_signal
from stn_jax import nn as stnn


@runtime_checkable
class Settings(Protocol):
    """What determines the content of a folder."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""


def load_dataset(recipe: Recipe) -> Dataset:
    """The data of a recipe, with the held-out images in place of the test set if it says so."""
    dataset = split_validation(load(recipe.data), recipe.validation)
    if recipe.on == "test":
        return dataset
    assert dataset.validation is not None
    return dataclasses.replace(dataset, name=f"{dataset.name}, held out", test=dataset.validation)


def prepare_folder(run: Settings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Makes the run's folder, or checks that it holds this very run.

    Raises:
      ValueError: If it holds anything and neither option is given, or something other than this
        run.
    """
    if is_first():
        _prepare(run, folder, resume=resume, overwrite=overwrite)
    wait_for_all(str(folder))


def _prepare(run: Settings, folder: Path, *, resume: bool, overwrite: bool) -> None:
    config_file = folder / "config.json"
    # A kill may have left no more than the beginning of a file.
    occupied = folder.exists() and (
        not folder.is_dir() or not all(is_partial(path) for path in folder.iterdir())
    )
    if occupied and not config_file.is_file():
        raise ValueError(f"{folder} exists and is not a run; choose another --out.")
    if occupied and overwrite:
        # In two steps, so that a kill leaves a run or none, and nothing in between.
        doomed = folder.with_name(f".{folder.name}.deleted")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
    elif occupied and not resume:
        raise ValueError(
            f"{folder} holds a run already; --resume goes on with it, --overwrite deletes it, "
            "another --out leaves it alone."
        )
    elif occupied:
        check_settings(run, folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(config_file, run.to_json())


def check_settings(run: Settings, folder: Path, *, but: Collection[str] = ()) -> None:
    """Checks that a run's folder is of this run, or of one that differs in some settings alone.

    A setting that is newer than the folder was at its default.

    Raises:
      ValueError: If it is not; names what differs.
    """
    now = run.to_json()
    fields: Iterable[dataclasses.Field[Any]] = (
        dataclasses.fields(run) if dataclasses.is_dataclass(run) else ()
    )
    usual = {field.name: field.default for field in fields if field.name in now}
    before = usual | read_json(folder / "config.json")
    keys = (before.keys() | now.keys()) - set(but)
    changed = sorted(key for key in keys if before.get(key) != now.get(key))
    if changed:
        differences = (f"{k} was {before.get(k)!r}, is {now.get(k)!r}" for k in changed)
        raise ValueError(
            f"{folder} holds a run with other settings, so it cannot be resumed: "
            + "; ".join(differences)
        )


def check_model(run: Run, dataset: Dataset) -> int:
    """The number of parameters of the model; costs nothing.

    Raises:
      ValueError: If the model cannot be built for these images, the batch does not divide over the
        devices and the parts it is worked through in, or no images are held out by which to stop
        early.
    """
    if run.early_stopping is not None and dataset.validation is None:
        raise ValueError("--early-stopping needs images to be held out; got --validation 0.")
    devices = make_parallel(run.parallel, run.batch_size).devices
    if run.batch_size // devices % run.accumulate:
        raise ValueError(
            f"accumulate must divide the images that each of the {devices} devices works on, "
            f"{run.batch_size // devices}; got {run.accumulate}."
        )
    abstract: Any = nnx.eval_shape(lambda: _create_model(run, dataset, nnx.Rngs(0)))
    return models.count_parameters(abstract)


def execute(run: Run, folder: Path, dataset: Dataset, *, profile: bool = False) -> dict[str, Any]:
    """Trains and tests a model for each seed; returns, and writes, what ``result.json`` holds.

    Args:
      run: What is trained.
      folder: Where; made by :func:`prepare_folder`.
      dataset: The run's data.
      profile: Whether the second dispatch is traced, into ``profile`` in the folder.

    Raises:
      Interrupted: If Ctrl-C or a termination signal came; the state is saved.
    """
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    trainer, groups = make_trainer(run, dataset), seed_groups(run)
    log = MetricsLog(folder / "metrics.jsonl")
    test, together = dataset.test, train.at_once(trainer)
    wrong_of_groups, tested_steps = [], []
    with closing(log), stop_signal() as stop:
        for seeds in groups:
            states = train_seeds(
                run,
                folder,
                dataset,
                trainer,
                together,
                log,
                seeds,
                stop,
                checkpoints_in=checkpoint_folder(folder, seeds),
                profile=profile and seeds is groups[0],
            )
            misread = train.misread(
                together, states, test.images, test.labels, copies=run.test_copies
            )
            wrong_of_groups.append(misread)
            tested_steps += np.asarray(states.step).tolist()
    wrong = np.concatenate(wrong_of_groups)
    write_atomically(
        folder / "misread.npz", lambda path: np.savez_compressed(path, wrong=wrong, seeds=run.seeds)
    )
    errors = 100 * wrong.mean(axis=(1, 2))
    result = {
        "model": run.model,
        "transform": run.transform if models.has_transformer(run.model) else None,
        "distortion": run.distortion,
        "dataset": dataset.name,
        "num_parameters": check_model(run, dataset),
        "steps": run.steps,
        "tested_steps": tested_steps,
        "batch_size": run.batch_size,
        "seeds": list(run.seeds),
        "test_errors": errors.tolist(),
        "validation_errors": [
            log.at(seed, step).get("validation_error")
            for seed, step in zip(run.seeds, tested_steps, strict=True)
        ],
        "test_images": len(dataset.test.labels),
        "test_copies": run.test_copies,
        "test_sha256": hash_test_images(
            run.task.measured, dataset.test.images, copies=run.test_copies
        ),
        "mean": float(errors.mean()),
        "interval": list(statistics.interval(wrong)),
        "interval_method": statistics.INTERVAL_METHOD,
        "wall_time_s": round(sum(log.seconds(seeds[0]) for seeds in groups), 2),
        **environment(),
    }
    write_json(folder / "result.json", result)
    wait_for_all(str(folder / "result.json"))
    return result


def make_trainer(run: Run, dataset: Dataset) -> train.Trainer:
    """The functions that train and test the run's model."""
    return train.make_trainer(
        functools.partial(_create_model, run, dataset),
        make_optimizer(run),
        run.task,
        run.batch_size,
        penalty=run.identity_penalty,
        accumulate=run.accumulate,
        parallel=make_parallel(run.parallel, run.batch_size),
    )


def seed_groups(run: Run) -> list[tuple[int, ...]]:
    """The seeds of a run, those that are trained at once together."""
    starts = range(0, len(run.seeds), run.seeds_at_once)
    return [run.seeds[first : first + run.seeds_at_once] for first in starts]


def checkpoint_folder(folder: Path, seeds: Sequence[int]) -> Path:
    """Where in a run's folder the checkpoints of some seeds trained at once lie."""
    return folder / "checkpoints" / f"seed-{'-'.join(map(str, seeds))}"


def make_optimizer(run: Run) -> optax.GradientTransformation:
    """That of the recipe, the localization network slowed down or held still as the run says."""
    optimizer = _OPTIMIZERS[run.recipe](run.learning_rate, run.steps)
    if not models.has_transformer(run.model):
        return optimizer
    slower = stnn.localization_rate(
        multiplier=run.localization_rate, frozen_steps=run.localization_frozen_steps
    )
    return optax.chain(optimizer, slower)


def _adam_along_a_cosine(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _sgd_of_the_paper(rate: float, steps: int) -> optax.GradientTransformation:
    """Plain SGD, without weight decay, divided by 10 after each third: 50,000 of 150,000 steps."""
    # Of very few steps the two thirds may fall together.
    boundaries = [round(steps / 3), round(2 * steps / 3)]
    return optax.sgd(
        optax.join_schedules([optax.constant_schedule(rate / 10**k) for k in range(3)], boundaries)
    )


_OPTIMIZERS: dict[str, Callable[[float, int], optax.GradientTransformation]] = {
    "adam": _adam_along_a_cosine,
    "paper": _sgd_of_the_paper,
}


def _create_model(run: Run, dataset: Dataset, rngs: nnx.Rngs) -> models.Model:
    task = run.task
    in_shape = distorted_shape(task.distortion, dataset.image_shape)
    crop = models.crop_of(run.distortion, run.model, dataset.image_shape)
    kind = run.model, run.transform, in_shape, task.num_classes(dataset.num_classes)
    width = run.width * models.width_for(models.PARAMETERS, *kind, crop=crop)
    model = models.build(*kind, width=width, crop=crop, rngs=rngs)
    models.compute_in(model, run.precision)
    return model
