"""Snapshots of a few test images, and pictures of distorted images."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.classification.step import Classifier
from experiments.data.datasets import Dataset
from experiments.data.distortions import distort_test_images
from experiments.data.tasks import Task
from experiments.engine.snapshots import Snapshots
from experiments.models.volumes import flatten

_IMAGES = 10


def follow_test_images(
    path: Path, dataset: Dataset, classifier: Classifier, *, seed: int
) -> Snapshots:
    """Records the outputs for the first test image of each class during the training of a seed.

    Args:
      path: The file, ``pictures.npz``.
      dataset: Its test images are followed.
      classifier: The model.
      seed: The seed whose training is followed.
    """
    task = classifier.task
    labels = task.targets(dataset.test.labels)[: 50 * _IMAGES]
    chosen = np.unique(labels, return_index=True)[1][:_IMAGES]
    distort = jax.jit(functools.partial(distort_test_images, task.measured))
    inputs = distort(jnp.asarray(dataset.test.images), jnp.asarray(chosen))

    def take(params: Any, constants: Any) -> dict[str, Any]:
        del constants
        seen = classifier.forward(params, inputs)
        return seen | ({"outputs": _pixels(task, seen["outputs"])} if "outputs" in seen else {})

    fixed = {"inputs": np.asarray(_pixels(task, inputs)), "labels": labels[chosen]}
    return Snapshots(path, take, fixed, seed=seed)


def as_pictures(
    task: Task, images: Float[Array, "batch *space c"]
) -> Float[Array, "batch *parallel h w c"]:
    """Distorted images, or outputs of a spatial transformer; volumes are flattened."""
    return flatten(images) if task.ndim == 3 else images


def _pixels(task: Task, images: Array) -> Array:
    return jnp.clip(jnp.round(as_pictures(task, images) * 255), 0, 255).astype(jnp.uint8)
