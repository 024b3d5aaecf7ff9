"""Surrogates of the slope along a coordinate."""

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
    """The slope of a local linear fit, for images that start far from where they belong.

    The exact slope of a sample knows only the pixels under the kernel; far from the solution it is
    noise. This one is the slope of the plane that fits best, by least squares, the samples at
    points around the coordinate: on the axes at one distance, on the diagonals at twice that. The
    sample itself, and its derivatives with respect to the image, stay as they are.

    Attributes:
      spread: How far the points lie from the coordinate, in pixels of the image: the root mean
        square along an axis. The wider, the larger the misalignment that can be overcome and the
        coarser the end; shrink it as the alignment improves. It may be traced: a new number
        compiles nothing anew.

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
      As in the original the points are sampled from the image itself. They are the same for every
      pixel and every call, where the original draws them at random.

    Reference:
      Jiang et al., Linearized Multi-Sampling for Differentiable Image Transformation,
      arXiv:1901.07124.
    """

    spread: Any = 2.0

    def __post_init__(self) -> None:
        if isinstance(self.spread, int | float | np.number) and not self.spread > 0:
            raise ValueError(f"spread must be a positive number of pixels; got {self.spread!r}.")

    @property
    def reach(self) -> int | None:
        """How many pixels from a coordinate the points lie, at most; ``None`` if that is traced."""
        if isinstance(self.spread, jax.core.Tracer):
            return None
        return math.ceil(max(np.max(_directions(ndim)) for ndim in (1, 2, 3)) * float(self.spread))

    def offsets(self, ndim: int, dtype: Any = float) -> Array:
        """The points around a coordinate, ``[points, ndim]``, x first; their mean is 0."""
        return jnp.asarray(_directions(ndim), dtype) * jnp.asarray(self.spread).astype(dtype)


def _directions(ndim: int) -> np.ndarray:
    """The points around a coordinate for a spread of 1."""
    axes = np.concatenate([np.eye(ndim), -np.eye(ndim)])
    diagonals = np.array(list(itertools.product((-1, 1), repeat=ndim))) * 2 / np.sqrt(ndim)
    points = np.concatenate([axes, diagonals])
    return points / np.sqrt(np.mean(points[:, 0] ** 2))


GradientName = Literal["exact", "linearized"]

GRADIENTS: dict[str, Linearized | None] = {"exact": None, "linearized": Linearized()}


def resolve(gradient: GradientName | Linearized) -> Linearized | None:
    """The rule of a name, or the rule itself."""
    if isinstance(gradient, Linearized):
        return gradient
    return _checks.option("gradient", gradient, GRADIENTS)
