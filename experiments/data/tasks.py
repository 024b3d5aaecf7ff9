"""Tasks: a distortion of images, and the labels of the distorted images."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

from experiments.data import distortions, volumes
from experiments.data.distortions import Distortion

TaskName = Literal[distortions.DistortionName, "addition", "volumes", "signs"]
Labels = TypeVar("Labels")


class Task(NamedTuple):
    """A distortion, and the labels of the distorted images.

    Attributes:
      distortion: Distorts one image, given a few others.
      targets: Makes the labels of distorted images from the labels ``[n]`` of a batch or a test
        set, in which the other images of an image follow it.
      num_classes: Makes the number of classes from that of the undistorted images.
      ndim: Number of spatial axes of a distorted image.
      held_out: The distortion of test images, if it differs from that of training images.
    """

    distortion: Distortion
    targets: Callable[[Labels], Labels] = lambda labels: labels
    num_classes: Callable[[int], int] = lambda number: number
    ndim: int = 2
    held_out: Distortion | None = None

    @property
    def measured(self) -> Distortion:
        """The distortion of test images."""
        return self.distortion if self.held_out is None else self.held_out


def sums(labels: Labels) -> Labels:
    """The sum of each label and the next one; for the last label, the first."""
    array = np if isinstance(labels, np.ndarray) else jnp
    return labels + array.roll(labels, -1)


TASKS: dict[str, Task] = {
    **{name: Task(distortion) for name, distortion in distortions.DISTORTIONS.items()},
    "addition": Task(distortions.pair, sums, lambda number: 2 * number - 1),
    "volumes": Task(volumes.extrude, ndim=3),
    "signs": Task(distortions.vary, held_out=distortions.keep),
}
