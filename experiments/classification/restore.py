"""The trained parameters of a finished run, from its checkpoints."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from experiments.classification.config import Run
from experiments.classification.step import Classifier
from experiments.engine.early_stopping import initial_progress
from experiments.engine.files import read_json
from experiments.engine.problem import State
from experiments.engine.run_folder import check_settings, read_finished
from experiments.engine.session import checkpoint_folder
from experiments.engine.step import initial_states


def run_of(folder: Path) -> Run:
    """The run that a folder holds, from its ``config.json``."""
    return run_from_json(read_json(folder / "config.json"), folder / "config.json")


def run_from_json(config: Any, where: Path) -> Run:
    """The run of the settings that ``Run.to_json`` gave.

    Raises:
      ValueError: If they are not those of such a run; names the file.
    """
    try:
        return Run(**config | {"seeds": tuple(config["seeds"])})
    except (TypeError, KeyError) as error:
        raise ValueError(
            f"{where} must hold the settings of a run of a classifier, as "
            f"experiments.distorted_mnist writes them; got {type(error).__name__}: {error}."
        ) from error


def trained_states(run: Run, folder: Path, classifier: Classifier) -> State:
    """The state of each seed that the run tested: that of the last step, unless it stopped early.

    Args:
      run: The run that the folder holds.
      folder: The folder of the finished run.
      classifier: The run's, by :func:`experiments.classification.run.build_classifier`.

    Returns:
      States with a leading axis, the seeds in the order of ``run.seeds``.

    Raises:
      ValueError: If the folder is not of this run, the run is not finished, or a checkpoint of its
        last step is missing or cannot be read; names it.
    """
    if not (folder / "result.json").is_file():
        raise ValueError(f"{folder} must hold a finished run; got no result.json. Finish it first.")
    check_settings(run, folder)
    groups = []
    for seeds in run.seed_groups:
        like = initial_progress(initial_states(classifier.problem, seeds)[0], run.schedule)
        progress = read_finished(checkpoint_folder(folder, seeds), run.schedule, like)
        groups.append(progress.tested)
    return jax.tree.map(lambda *each: jnp.concatenate(each), *groups)
