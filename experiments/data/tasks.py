"""What the networks are asked: how images are distorted, and which labels go with them."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.data import distortions, volumes
from experiments.data.distortions import Distortion

TaskName = Literal[distortions.DistortionName, "addition", "volumes", "signs"]
Labels = TypeVar("Labels")


class Task(NamedTuple):
    """A distortion and the labels of what it makes.

    Attributes:
      distortion: Of one image, to which others are at hand.
      targets: The label of each distorted image, from the labels ``[n]`` of a batch or a test set
        whose images are distorted with those that follow as the others.
      num_classes: How many classes there are, from how many the images have.
      ndim: Number of spatial axes of what the distortion makes.
      held_out: The distortion of images to measure on, if it is another than in training.
    """

    distortion: Distortion
    targets: Callable[[Labels], Labels] = lambda labels: labels
    num_classes: Callable[[int], int] = lambda number: number
    ndim: int = 2
    held_out: Distortion | None = None

    @property
    def measured(self) -> Distortion:
        """The distortion of images to measure on."""
        return self.distortion if self.held_out is None else self.held_out


def as_pictures(
    task: Task, images: Float[Array, "batch *space c"]
) -> Float[Array, "batch *parallel h w c"]:
    """Distorted images, or what a spatial transformer makes of them; volumes are flattened."""
    return volumes.flatten(images) if task.ndim == 3 else images


def sums(labels: Labels) -> Labels:
    """Each label plus the next one; after the last comes the first."""
    array = np if isinstance(labels, np.ndarray) else jnp
    return labels + array.roll(labels, -1)


TASKS: dict[str, Task] = {
    **{name: Task(distortion) for name, distortion in distortions.DISTORTIONS.items()},
    "addition": Task(distortions.pair, sums, lambda number: 2 * number - 1),
    "volumes": Task(volumes.extrude, ndim=3),
    "signs": Task(distortions.vary, held_out=distortions.keep),
}
