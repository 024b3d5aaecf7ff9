"""One run: a model trained for each seed, one by one or several at once, and the folder it leaves.

Everything in the folder follows from ``config.json``. A run that is stopped, by Ctrl-C or a kill,
goes on from its last checkpoint and ends with the same numbers as one that never was.
"""

import dataclasses
import functools
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tqdm import tqdm

from experiments import models, statistics, train
from experiments.checkpoint import Checkpoints
from experiments.config import Recipe, Run
from experiments.data.distortions import distort_test_images, distorted_shape, hash_test_images
from experiments.data.sources import Dataset, load, split_validation
from experiments.data.tasks import TASKS, as_pictures
from experiments.files import environment, is_partial, read_json, write_atomically, write_json
from experiments.interruption import Interrupted, stop_signal
from experiments.metrics import MetricsLog
from experiments.parallel import make_parallel
from stn_jax import nn as stnn

_SECONDS_BETWEEN_CHECKPOINTS = 30
_VALIDATIONS = 20
_FOLLOWED_IMAGES = 10


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
    config_file = folder / "config.json"
    # A kill may have left no more than the beginning of a file.
    occupied = folder.exists() and (
        not folder.is_dir() or not all(is_partial(path) for path in folder.iterdir())
    )
    if occupied and not config_file.is_file():
        raise ValueError(f"{folder} exists and is not a run; choose another --out.")
    if occupied and overwrite:
        shutil.rmtree(folder)
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
      ValueError: If the model cannot be built for these images, or the batch does not divide over
        the devices.
    """
    make_parallel(run.parallel, run.batch_size)
    abstract: Any = nnx.eval_shape(lambda: _create_model(run, dataset, nnx.Rngs(0)))
    return models.count_parameters(abstract)


def execute(run: Run, folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Trains and tests a model for each seed; returns, and writes, what ``result.json`` holds.

    Raises:
      Interrupted: If Ctrl-C or a termination signal came; the state is saved.
    """
    if (folder / "result.json").exists():
        return read_json(folder / "result.json")
    trainer, groups = make_trainer(run, dataset), seed_groups(run)
    log = MetricsLog(folder / "metrics.jsonl")
    with stop_signal() as stop:
        wrong = np.concatenate(
            [_train_seeds(run, folder, dataset, trainer, log, seeds, stop) for seeds in groups]
        )
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
        "batch_size": run.batch_size,
        "seeds": list(run.seeds),
        "test_errors": errors.tolist(),
        "validation_errors": [log.last(seed).get("validation_error") for seed in run.seeds],
        "test_images": len(dataset.test.labels),
        "test_copies": run.test_copies,
        "test_sha256": hash_test_images(
            TASKS[run.distortion].measured, dataset.test.images, copies=run.test_copies
        ),
        "mean": float(errors.mean()),
        "interval": list(statistics.interval(wrong)),
        "interval_method": statistics.INTERVAL_METHOD,
        "wall_time_s": round(sum(log.seconds(seeds[0]) for seeds in groups), 2),
        **environment(),
    }
    write_json(folder / "result.json", result)
    return result


def make_trainer(run: Run, dataset: Dataset) -> train.Trainer:
    """The functions that train and test the run's model."""
    return train.make_trainer(
        functools.partial(_create_model, run, dataset),
        make_optimizer(run),
        TASKS[run.distortion],
        run.batch_size,
        penalty=run.identity_penalty,
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
    task = TASKS[run.distortion]
    in_shape = distorted_shape(task.distortion, dataset.image_shape)
    crop = models.crop_of(run.distortion, dataset.image_shape)
    kind = run.model, run.transform, in_shape, task.num_classes(dataset.num_classes)
    width = run.width * models.width_for(models.PARAMETERS, *kind, crop=crop)
    return models.build(*kind, width=width, crop=crop, rngs=rngs)


def _train_seeds(
    run: Run,
    folder: Path,
    dataset: Dataset,
    trainer: train.Trainer,
    log: MetricsLog,
    seeds: Sequence[int],
    stop: dict[str, bool],
) -> np.ndarray:
    """Trains some seeds at once to the end; returns which test images they misread.

    Returns:
      ``[seeds, copies, images]``.
    """
    together, parallel = train.at_once(trainer), trainer.parallel
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    images, labels, keys = parallel.place((images, labels, keys))
    states = together.initial_state(seeds)
    name = f"{run.model} seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    checkpoints = Checkpoints(checkpoint_folder(folder, seeds))
    followed = _Followed(folder / "pictures.npz", dataset, run, trainer, run.seeds[0] in seeds)
    try:
        step, states = checkpoints.resume(states) or (0, states)
        log.forget_after(seeds, step)
        followed.forget_after(step)
        if step == 0:
            followed.look(states)
        resident = parallel.place(states)
        elapsed_before, started = log.seconds(seeds[0]), time.perf_counter()
        saved_at = started
        validations = max(1, run.steps // run.steps_per_dispatch // _VALIDATIONS)
        with tqdm(total=run.steps, initial=step, unit="step", desc=name) as progress:
            while step < run.steps:
                count = min(run.steps_per_dispatch, run.steps - step)
                tick = time.perf_counter()
                resident, metrics = together.run(resident, images, labels, keys, count)
                states, metrics = parallel.fetch((resident, metrics))
                if "theta" in metrics:
                    metrics |= together.monitor(metrics.pop("theta"))
                columns = {key: np.asarray(values) for key, values in metrics.items()}
                rate = count * run.batch_size * len(seeds) / (time.perf_counter() - tick)
                step += count
                due = step // run.steps_per_dispatch % validations == 0 or step == run.steps
                if dataset.validation is not None and due:
                    held_out = dataset.validation
                    misread = train.misread(together, states, held_out.images, held_out.labels)
                    columns["validation_error"] = 100 * misread.mean(axis=(1, 2))
                followed.look(states)
                seconds = elapsed_before + time.perf_counter() - started
                timing = {"images_per_second": round(rate, 1), "seconds": round(seconds, 2)}
                for k, seed in enumerate(seeds):
                    row = {key: float(values[k]) for key, values in columns.items()}
                    log.append({"seed": seed, "step": step, **row, **timing})
                progress.update(count)
                loss, error = columns["loss"].mean(), columns["train_error"].mean()
                progress.set_postfix(loss=f"{loss:.4f}", error=f"{error:.2f}%")
                stopping = stop["requested"]
                late = time.perf_counter() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS
                if stopping or late or step == run.steps:
                    followed.save()
                    checkpoints.save(step, states)
                    saved_at = time.perf_counter()
                if stopping:
                    stopped_at = name.replace(" ", ", ", 1)
                    raise Interrupted(f"{stopped_at}, step {step} of {run.steps}")
    finally:
        checkpoints.close()
    test = dataset.test
    return train.misread(together, states, test.images, test.labels, copies=run.test_copies)


class _Followed:
    """A few test digits, looked at throughout the training of the first seed."""

    def __init__(
        self, path: Path, dataset: Dataset, run: Run, trainer: train.Trainer, active: bool
    ) -> None:
        self._path, self._trainer, self._active = path, trainer, active
        labels = trainer.targets(dataset.test.labels)[: 50 * _FOLLOWED_IMAGES]
        # The first test image of each class, as far as there are that many.
        chosen = np.unique(labels, return_index=True)[1][:_FOLLOWED_IMAGES]
        self._labels = labels[chosen]
        self._task = TASKS[run.distortion]
        distort = functools.partial(distort_test_images, self._task.measured)
        self._inputs = jax.jit(distort)(jnp.asarray(dataset.test.images), jnp.asarray(chosen))
        self._looks: list[dict[str, np.ndarray]] = []

    def look(self, states: train.State) -> None:
        """Keeps theta, outputs and predictions of the first of the seeds at this step."""
        if self._active:
            state = jax.tree.map(lambda each: each[0], states)
            seen = self._trainer.follow(state, self._inputs)
            look = {name: np.asarray(value) for name, value in seen.items()}
            if "outputs" in look:
                look["outputs"] = self._shown(look["outputs"])
            self._looks.append({"steps": np.asarray(state.step)} | look)

    def save(self) -> None:
        """Writes ``pictures.npz``."""
        if self._active:
            arrays: dict[str, Any] = {
                name: np.stack([look[name] for look in self._looks]) for name in self._looks[0]
            }
            arrays |= {"inputs": self._shown(self._inputs), "labels": self._labels}
            write_atomically(self._path, lambda path: np.savez_compressed(path, **arrays))

    def forget_after(self, step: int) -> None:
        """Takes up the looks of an interrupted run, up to the step it resumes from."""
        if self._active and step:
            with np.load(self._path) as saved:
                arrays = {name: saved[name] for name in saved.files}
            names = [name for name in arrays if name not in ("inputs", "labels")]
            self._looks = [
                {name: arrays[name][k] for name in names}
                for k, at in enumerate(arrays["steps"])
                if at <= step
            ]

    def _shown(self, images: Any) -> np.ndarray:
        pictures = as_pictures(self._task, jnp.asarray(images))
        return np.asarray(jnp.clip(jnp.round(pictures * 255), 0, 255).astype(jnp.uint8))
