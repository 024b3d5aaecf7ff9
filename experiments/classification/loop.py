"""The loop around the compiled steps of some seeds that are trained at once.

While the device runs a dispatch, what came of the one before is written down; nothing is waited
for but held-out errors and checkpoints, when they are due.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer
from tqdm import tqdm

from experiments.classification import step as train
from experiments.classification.config import Run
from experiments.classification.snapshots import Followed
from experiments.data.sources import Dataset
from experiments.engine.checkpoint import Checkpoints
from experiments.engine.devices import in_any, is_first, wait_for_all
from experiments.engine.metrics import MetricsLog
from experiments.engine.signals import Interrupted

SECONDS_BETWEEN_CHECKPOINTS = 30
_VALIDATIONS = 20


class Best(NamedTuple):
    """Of each seed, the state with the least error on the held-out images so far.

    Attributes:
      states: With a leading axis of seeds.
      errors: Theirs, in percent.
      waited: Measurements since then, up to the number at which the seed is done.
    """

    states: train.State
    errors: Float[Array | np.ndarray, " seeds"]
    waited: Integer[Array | np.ndarray, " seeds"]


class Progress(NamedTuple):
    """What a checkpoint holds; the best only of a run that may stop early."""

    states: train.State
    best: Best | None

    @property
    def tested(self) -> train.State:
        """The states that the run is measured by."""
        return self.states if self.best is None else self.best.states

    def is_done(self, run: Run, step: int) -> bool:
        """Whether, after ``step`` steps, none is left or every seed has stopped early."""
        if self.best is None or run.early_stopping is None:
            return step >= run.steps
        return step >= run.steps or bool(np.all(self.best.waited >= run.early_stopping))


def initial_progress(run: Run, trainer: train.Trainer, seeds: Sequence[int]) -> Progress:
    """That of some seeds before the first step."""
    states = train.at_once(trainer).initial_state(seeds)
    if run.early_stopping is None:
        return Progress(states, None)
    errors, waited = np.full(len(seeds), np.inf, np.float32), np.zeros(len(seeds), np.int32)
    return Progress(states, Best(states, errors, waited))


def train_seeds(
    run: Run,
    folder: Path,
    dataset: Dataset,
    trainer: train.Trainer,
    together: train.SeedsAtOnce,
    log: MetricsLog,
    seeds: Sequence[int],
    stop: dict[str, bool],
    *,
    checkpoints_in: Path,
    profile: bool,
) -> train.State:
    """Trains some seeds at once, from their last checkpoint to the end.

    Args:
      run: What is trained.
      folder: That of the run.
      dataset: Its data.
      trainer: Its functions.
      together: The same for several seeds, made once, so that they are compiled once.
      log: Its metrics.
      seeds: Some of its seeds.
      stop: Whether it is asked to stop.
      checkpoints_in: Folder of their checkpoints.
      profile: Whether the second dispatch is traced.

    Returns:
      The states that are to be tested.

    Raises:
      Interrupted: If it was asked to stop; the state is saved.
      CheckpointError: If a checkpoint cannot be written, or none be read.
    """
    parallel = trainer.parallel
    images, labels = jnp.asarray(dataset.train.images), jnp.asarray(dataset.train.labels)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    images, labels, keys = parallel.place((images, labels, keys))
    name = f"{run.model} seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    followed = None
    if run.seeds[0] in seeds:
        followed = Followed(folder / "pictures.npz", dataset, run.task, trainer)
    validate_every = max(1, run.steps // run.steps_per_dispatch // _VALIDATIONS)
    with contextlib.closing(Checkpoints(checkpoints_in)) as checkpoints:
        progress = initial_progress(run, trainer, seeds)
        start, progress = checkpoints.resume(progress) or (0, progress)
        step, states = start, progress.states
        log.forget_after(seeds, step)
        if followed is not None:
            followed.forget_after(step)
            if step == 0:
                followed.keep(followed.look(states))
        # Their first exchange waits half a minute for all and no longer.
        wait_for_all(name)
        resident = parallel.place(states)
        before, started = log.seconds(seeds[0]), time.perf_counter()
        saved_at = started
        # Nothing is said of it in the first, so that TQDM_DISABLE is heeded.
        silent = {} if is_first() else {"disable": True}
        bar = tqdm(total=run.steps, initial=step, unit="step", desc=name, **silent)
        report = _Report(log, seeds, run.batch_size, together.monitor, followed, bar, before)
        with bar:
            while not progress.is_done(run, step):
                count = min(run.steps_per_dispatch, run.steps - step)
                traced = profile and step == start + (run.steps - start > count) * count
                trace = jax.profiler.trace(str(folder / "profile"))
                with trace if traced else contextlib.nullcontext():
                    resident, metrics = together.run(resident, images, labels, keys, count)
                    if traced:
                        jax.block_until_ready(metrics)
                states, metrics = parallel.fetch((resident, metrics))
                step += count
                progress = progress._replace(states=states)
                look = None if followed is None else followed.look(states)
                # Of the dispatch before, while this one runs.
                report.write()
                due = step // run.steps_per_dispatch % validate_every == 0 or step == run.steps
                held_out = None
                if dataset.validation is not None and due:
                    images_of, labels_of = dataset.validation.images, dataset.validation.labels
                    misread = train.misread(together, states, images_of, labels_of)
                    held_out = 100 * misread.mean(axis=(1, 2))
                    progress = _with_best(progress, held_out, run.early_stopping)
                report.take(_Dispatch(step, count, metrics, held_out, look))
                stopping = in_any(stop["requested"])
                late = time.perf_counter() - saved_at > SECONDS_BETWEEN_CHECKPOINTS
                if stopping or late or progress.is_done(run, step):
                    report.write()
                    if followed is not None:
                        followed.save()
                    checkpoints.save(step, progress)
                    saved_at = time.perf_counter()
                if stopping:
                    break
    if in_any(stop["requested"]):
        # Said once the checkpoint is on the disk.
        stopped_at = name.replace(" ", ", ", 1)
        raise Interrupted(f"{stopped_at}, step {step} of {run.steps}")
    return progress.tested


class _Dispatch(NamedTuple):
    """What some steps gave: held-out errors where they were due, and a look where one is taken."""

    step: int
    number: int
    metrics: dict[str, Array]
    held_out: Float[np.ndarray, " seeds"] | None
    look: dict[str, Any] | None


class _Report:
    """Writes what a dispatch gave: kept until the next one is under way, so that it never waits."""

    def __init__(
        self,
        log: MetricsLog,
        seeds: Sequence[int],
        batch_size: int,
        monitor: Callable[[Array], dict[str, Array]],
        followed: Followed | None,
        bar: "tqdm[Any]",
        before: float,
    ) -> None:
        self._log, self._seeds, self._monitor = log, seeds, monitor
        self._images_per_step = batch_size * len(seeds)
        self._followed, self._bar, self._before = followed, bar, before
        self._taken: _Dispatch | None = None
        self._started = self._last = time.perf_counter()

    def take(self, dispatch: _Dispatch) -> None:
        """Keeps what a dispatch gave, and has its theta judged."""
        metrics = dict(dispatch.metrics)
        if "theta" in metrics:
            metrics |= self._monitor(metrics.pop("theta"))
        self._taken = dispatch._replace(metrics=metrics)

    def write(self) -> None:
        """Writes what was kept, if anything."""
        if self._taken is None:
            return
        step, count, metrics, held_out, look = self._taken
        self._taken = None
        columns = {key: np.asarray(values) for key, values in metrics.items()}
        if held_out is not None:
            columns["validation_error"] = held_out
        if self._followed is not None and look is not None:
            self._followed.keep(look)
        now = time.perf_counter()
        rate = count * self._images_per_step / (now - self._last)
        seconds = self._before + now - self._started
        timing = {"images_per_second": round(rate, 1), "seconds": round(seconds, 2)}
        self._last = now
        for k, seed in enumerate(self._seeds):
            row = {key: float(values[k]) for key, values in columns.items()}
            self._log.append({"seed": seed, "step": step, **row, **timing})
        self._bar.update(count)
        loss, error = columns["loss"].mean(), columns["train_error"].mean()
        self._bar.set_postfix(loss=f"{loss:.4f}", error=f"{error:.2f}%")


def _with_best(
    progress: Progress, errors: Float[np.ndarray, " seeds"], patience: int | None
) -> Progress:
    """With the states of the seeds that have become better; a seed that is done stays as it is."""
    if progress.best is None or patience is None:
        return progress
    waited = np.asarray(progress.best.waited)
    active = waited < patience
    better: Bool[np.ndarray, " seeds"] = active & (errors < np.asarray(progress.best.errors))

    def chosen(new: Array | np.ndarray, old: Array | np.ndarray) -> np.ndarray:
        return np.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

    states = jax.tree.map(chosen, progress.states, progress.best.states)
    least = np.where(better, errors, progress.best.errors).astype(np.float32)
    waited = np.where(better, 0, waited + active).astype(np.int32)
    return progress._replace(best=Best(states, least, waited))
