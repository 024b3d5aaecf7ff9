"""What a finished run has trained, from its checkpoints."""

from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.classification import step as train
from experiments.classification.config import Run
from experiments.classification.loop import Progress, initial_progress
from experiments.classification.run import check_settings, checkpoint_folder, seed_groups
from experiments.engine.checkpoint import Checkpoints
from experiments.engine.devices import is_first, of_first
from experiments.engine.files import read_json


def run_of(folder: Path) -> Run:
    """The run that a folder holds, from its ``config.json``."""
    config: dict[str, Any] = read_json(folder / "config.json")
    config["seeds"] = tuple(config["seeds"])
    return Run(**config)


def trained_states(run: Run, folder: Path, trainer: train.Trainer) -> train.State:
    """The state of each seed that the run is measured by, mostly that after the last step.

    Args:
      run: What the folder holds.
      folder: That of the finished run.
      trainer: The run's, as :func:`experiments.classification.run.make_trainer` gives it.

    Returns:
      The state that is tested, with a leading axis, the seeds in the order of ``run.seeds``.

    Raises:
      ValueError: If the folder is not of this run, the run is not finished, or a checkpoint of its
        last step is missing or cannot be read; names it.
    """
    if not (folder / "result.json").is_file():
        raise ValueError(f"{folder} must hold a finished run; got no result.json. Finish it first.")
    check_settings(run, folder)
    groups = [
        _last(checkpoint_folder(folder, seeds), run, initial_progress(run, trainer, seeds)).tested
        for seeds in seed_groups(run)
    ]
    return jax.tree.map(lambda *each: jnp.concatenate(each), *groups)


def _last(folder: Path, run: Run, like: Progress) -> Progress:
    """What the first process reads; every process gets it."""
    return of_first(_read_last(folder, run, like) if is_first() else like)


def _read_last(folder: Path, run: Run, like: Progress) -> Progress:
    # Orbax would make the folder.
    step = None
    if folder.is_dir():
        with closing(Checkpoints(folder)) as checkpoints:
            step = checkpoints.latest()
            if step is not None:
                progress = checkpoints.restore(step, like)
                if progress.is_done(run, step):
                    return progress
    raise ValueError(
        f"{folder} must hold a checkpoint of step {run.steps}; the last is of {step}. Delete the "
        "run and train it again."
    )
