"""What a model makes of a few test images, throughout its training."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.classification import step as train
from experiments.data.distortions import distort_test_images
from experiments.data.sources import Dataset
from experiments.data.tasks import Task, as_pictures
from experiments.engine.files import write_atomically

_IMAGES = 10
Look = dict[str, Any]


class Followed:
    """A few test images and what is made of them, kept in ``pictures.npz``.

    Args:
      path: The file.
      dataset: Whose test images are looked at, the first of each class.
      task: How they are distorted.
      trainer: Of the model.
    """

    def __init__(self, path: Path, dataset: Dataset, task: Task, trainer: train.Trainer) -> None:
        self._path, self._trainer, self._task = path, trainer, task
        labels = trainer.targets(dataset.test.labels)[: 50 * _IMAGES]
        # The first test image of each class, as far as there are that many.
        chosen = np.unique(labels, return_index=True)[1][:_IMAGES]
        self._labels = labels[chosen]
        distort = functools.partial(distort_test_images, task.measured)
        self._inputs = jax.jit(distort)(jnp.asarray(dataset.test.images), jnp.asarray(chosen))
        self._looks: list[Look] = []

    def look(self, states: train.State) -> Look:
        """Theta, outputs and predictions of the first of some seeds; does not wait for them."""
        state = jax.tree.map(lambda each: each[0], states)
        return {"steps": state.step} | self._trainer.follow(state, self._inputs)

    def keep(self, look: Look) -> None:
        """Adds a look, once it is there."""
        seen = {name: np.asarray(value) for name, value in look.items()}
        if "outputs" in seen:
            seen["outputs"] = self._shown(seen["outputs"])
        self._looks.append(seen)

    def save(self) -> None:
        """Writes the file."""
        arrays: dict[str, Any] = {
            name: np.stack([look[name] for look in self._looks]) for name in self._looks[0]
        }
        arrays |= {"inputs": self._shown(self._inputs), "labels": self._labels}
        write_atomically(self._path, lambda path: np.savez_compressed(path, **arrays))

    def forget_after(self, step: int) -> None:
        """Takes up the looks of an interrupted run, up to the step it resumes from."""
        if step:
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
