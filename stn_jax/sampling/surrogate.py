"""Surrogate gradients with respect to the coordinates."""

import dataclasses
import functools
import itertools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks


@functools.partial(jax.tree_util.register_dataclass, data_fields=["spread"], meta_fields=[])
@dataclasses.dataclass(frozen=True, kw_only=True)
class Linearized:
    """The slope of a local linear fit, for images that start far from alignment.

    The exact slope of a sample depends only on the pixels under the kernel; far from the solution
    it is noise. This option samples the image at points around the coordinate, fits a plane to the
    samples by least squares and takes the slope of that plane. The points lie on the axes at one
    distance and on the diagonals at twice that distance. The sampled value and its derivative with
    respect to the image do not change.

    Attributes:
      spread: Distance of the points from the coordinate in pixels of the image: the root mean
        square along an axis. A wide spread overcomes large misalignments but aligns coarsely, so
        shrink it as the alignment improves. It may be traced: a new number does not recompile.

    Raises:
      ValueError: If ``spread`` is not positive.

    Example:
      A lone bright pixel, from three pixels away: the exact slope is 0 there.

      >>> import jax
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.zeros((1, 9, 1)).at[0, 7].set(1.0)
      >>> def brightness(x, gradient):
      ...     point = stn.normalized_from_pixels(jnp.stack([x, 0.0]), (1, 9))
      ...     return stn.grid_sample(image, point, gradient=gradient)[0]
      >>> slope = jax.grad(brightness)
      >>> slope(4.0, "exact").item(), slope(4.0, stn.Linearized(spread=3.0)).item() > 0
      (0.0, True)

    Note:
      The paper draws the points at random. Here they are fixed: the same for every pixel and every
      call.

    Reference:
      Jiang et al., Linearized Multi-Sampling for Differentiable Image Transformation,
      arXiv:1901.07124.
    """

    spread: Any = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.spread, int | float | np.number) and not self.spread > 0:
            raise ValueError(f"spread must be a positive number of pixels; got {self.spread!r}.")
        object.__setattr__(self, "spread", _checks.numeric("spread", self.spread))

    @property
    def reach(self) -> int | None:
        """The largest distance of a point from the coordinate, in pixels; ``None`` if traced."""
        if isinstance(self.spread, jax.core.Tracer):
            return None
        return math.ceil(max(np.max(_directions(ndim)) for ndim in (1, 2, 3)) * float(self.spread))

    def offsets(self, ndim: int, dtype: Any = float) -> Array:
        """The points around a coordinate, ``[points, ndim]``, x first; their mean is 0."""
        return jnp.asarray(_directions(ndim), dtype) * jnp.asarray(self.spread).astype(dtype)


def _directions(ndim: int) -> np.ndarray:
    """The points around a coordinate for a spread of 1: ``[points, ndim]``."""
    axes = np.concatenate([np.eye(ndim), -np.eye(ndim)])
    diagonals = np.array(list(itertools.product((-1, 1), repeat=ndim))) * 2 / np.sqrt(ndim)
    points = np.concatenate([axes, diagonals])
    return points / np.sqrt(np.mean(points[:, 0] ** 2))


GradientName = Literal["exact", "linearized"]

GRADIENTS: dict[str, Linearized | None] = {"exact": None, "linearized": Linearized()}


def resolve(gradient: GradientName | Linearized) -> Linearized | None:
    """Looks up a rule by its name; a rule is returned as it is."""
    if isinstance(gradient, Linearized):
        return gradient
    return _checks.option("gradient", gradient, GRADIENTS)
