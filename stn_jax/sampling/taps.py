"""Where a kernel reads along one axis, and how heavy each pixel is.

All that concerns single coordinates is decided here, once for every engine: which pixels lie under
the kernel, what the padding makes of those outside, and what happens at NaN, at infinity and far
from the image.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stn_jax.coordinates import Size
from stn_jax.sampling.kernels import Kernel
from stn_jax.sampling.padding import PADDINGS, Padding

# Pixel coordinates from which float32 has no digits left for a fraction: nothing depends smoothly
# on them.
FAR = 2.0**23


class Tap(NamedTuple):
    """One of the pixels under the kernel along an axis.

    Attributes:
      index: Index of a pixel inside the image.
      inside: Whether the tap lies inside the image; where not, the fill value stands in for the
        pixel. ``None`` where the padding puts every tap inside.
      weight: Its weight; NaN at a NaN coordinate.
    """

    index: Int[Array, "*out"]  # type: ignore[assignment]
    inside: Bool[Array, "*out"] | None
    weight: Float[Array, "*out"]


def taps_along(
    pixel: Float[Array, "*out"], size: Size, kernel: Kernel, padding: str, align_corners: bool
) -> list[Tap]:
    """The pixels under the kernel at pixel coordinates along an axis of ``size`` pixels.

    At a coordinate that is not a number the indices lie inside the image, the weights are NaN, and
    their derivatives 0.
    """
    rule = PADDINGS[padding]
    near = _bring_near(smooth(pixel), size, kernel, rule, align_corners)
    nan = jnp.isnan(near)
    near = jnp.where(nan, 0, near)
    first = jax.lax.stop_gradient(kernel.first(near))
    weights = kernel.weights(near - first)
    taps = []
    for number, weight in enumerate(weights):
        index = first.astype(jnp.int32) + number
        moved = rule.inside(index, size, align_corners)
        inside = moved == index if rule.filled else None
        taps.append(Tap(moved, inside, jnp.where(nan, jnp.nan, weight)))
    return taps


def as_operands(taps: Sequence[Tap], axis: int = 0) -> tuple[Array, Array]:
    """The indices, −1 for a tap outside, and the weights of taps, stacked along a new axis."""
    indices = [t.index if t.inside is None else jnp.where(t.inside, t.index, -1) for t in taps]
    return jnp.stack(indices, axis), jnp.stack([tap.weight for tap in taps], axis)


def smooth(pixel: Float[Array, "*out"]) -> Float[Array, "*out"]:
    """The coordinate, without a derivative where it is too large to have a fraction."""
    return jnp.where(jnp.abs(pixel) < FAR, pixel, jax.lax.stop_gradient(pixel))


def _bring_near(
    pixel: Array, size: Size, kernel: Kernel, rule: Padding, align_corners: bool
) -> Array:
    """A coordinate near the image at which the sample is the same, so that an index can hold it."""
    extent = size
    if rule.period is not None:
        extent = extent_of_period(size, rule, align_corners)
        length = as_float(extent, pixel.dtype)
        infinite = jnp.isinf(pixel)
        pixel = jnp.where(infinite, 0, pixel)  # Any finite coordinate of the period will do.
        pixel = pixel - length * jnp.floor(jax.lax.stop_gradient(pixel) / length)
    # So far outside, no tap but those that the padding repeats depends on the coordinate.
    margin = math.ceil(kernel.radius) + 1
    return jnp.clip(pixel, -margin, as_float(extent - 1 + margin, pixel.dtype))


def extent_of_period(size: Size, rule: Padding, align_corners: bool) -> Size:
    """Pixels after which there is nothing new: the image's own, or those of its period."""
    assert rule.period is not None
    return max(size, rule.period(size, align_corners))


def as_float(size: Size, dtype: Any) -> Any:
    """A size as a number of the given dtype, also while it is a symbol."""
    if isinstance(size, int):
        return np.dtype(dtype).type(size)
    return jnp.asarray(size).astype(dtype)
