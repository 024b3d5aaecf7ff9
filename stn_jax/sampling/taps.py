"""Taps: the pixels under a kernel along one axis, and their weights.

This file defines, for every engine, which pixels lie under the kernel, how the padding replaces
those outside, and how NaN, infinite and far coordinates are handled.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stn_jax._types import Size
from stn_jax.sampling.kernels import Kernel, stacked_weights
from stn_jax.sampling.padding import PADDINGS, Padding

# From this pixel coordinate on, float32 has no bits left for a fraction, so samples have no
# derivative with respect to it.
FAR = 2.0**23


class Tap(NamedTuple):
    """One of the pixels under the kernel along an axis.

    Attributes:
      index: Index of a pixel inside the image.
      inside: Whether the tap lies inside the image; the fill value replaces a pixel outside.
        ``None`` if the padding moves every tap inside.
      weight: Weight of the pixel; NaN at a NaN coordinate.
    """

    index: Int[Array, "*out"]  # type: ignore[assignment]
    inside: Bool[Array, "*out"] | None
    weight: Float[Array, "*out"]


def taps_along(
    pixel: Float[Array, "*out"], size: Size, kernel: Kernel, padding: str, align_corners: bool
) -> list[Tap]:
    """The pixels under the kernel at pixel coordinates along an axis of ``size`` pixels.

    At a NaN coordinate the indices lie inside the image, the weights are NaN, and their derivatives
    are 0.
    """
    return _taps(pixel, size, kernel, padding, align_corners, None)


def operands_along(
    pixel: Float[Array, "*out"],
    size: Size,
    kernel: Kernel,
    padding: str,
    align_corners: bool,
    axis: int = 0,
) -> tuple[Array, Array]:
    """The taps' indices (−1 for a tap outside) and their weights, along a new axis."""
    (tap,) = _taps(pixel, size, kernel, padding, align_corners, axis)
    index = tap.index if tap.inside is None else jnp.where(tap.inside, tap.index, -1)
    return index, tap.weight


def _taps(
    pixel: Array, size: Size, kernel: Kernel, padding: str, align_corners: bool, axis: int | None
) -> list[Tap]:
    """A record for each tap, or one of arrays with the taps along a new axis."""
    rule = PADDINGS[padding]
    near = _bring_near(smooth(pixel), size, kernel, rule, align_corners)
    nan = jnp.isnan(near)
    near = jnp.where(nan, 0, near)
    first = jax.lax.stop_gradient(kernel.first(near))
    numbers: list[Any]
    if axis is None:
        numbers, weights = list(range(kernel.taps)), kernel.weights(near - first)
    else:
        weights = [stacked_weights(kernel, near - first, axis)]
        near, nan, first = (jnp.expand_dims(each, axis) for each in (near, nan, first))
        others = [k for k in range(first.ndim) if k != axis]
        numbers = [np.expand_dims(np.arange(kernel.taps, dtype=np.int32), others)]
    taps = []
    for number, weight in zip(numbers, weights, strict=True):
        index = first.astype(jnp.int32) + number
        moved = rule.inside(index, size, align_corners)
        inside = moved == index if rule.filled else None
        if rule.sign is not None:
            weight = weight * rule.sign(index, size).astype(weight.dtype)
        taps.append(Tap(moved, inside, weight))
    if rule.renormalized:
        here = (near >= -0.5) & (near <= as_float(size, near.dtype) - 0.5)
        taps = _renormalized(taps, numbers, here, axis)
    return [tap._replace(weight=jnp.where(nan, jnp.nan, tap.weight)) for tap in taps]


def _renormalized(
    taps: Sequence[Tap], numbers: Sequence[Any], here: Bool[Array, "*out"], axis: int | None
) -> list[Tap]:
    """Divides the weights of the taps inside by their sum, and leaves out those outside.

    For a coordinate outside the image, where ``here`` is false, the first tap is all that is left,
    and lies outside.
    """
    kept = [
        tap.weight if tap.inside is None else jnp.where(tap.inside, tap.weight, 0) for tap in taps
    ]
    total = functools.reduce(jnp.add, kept)
    if axis is not None:
        total = total.sum(axis, keepdims=True)
    here &= total != 0
    total = jnp.where(here, total, 1)
    results = []
    for tap, number, weight in zip(taps, numbers, kept, strict=True):
        assert tap.inside is not None
        is_first = jnp.asarray(number == 0)
        inside = tap.inside & (here | ~is_first)
        weight = jnp.where(here, weight / total, is_first.astype(weight.dtype))
        results.append(Tap(tap.index, inside, weight))
    return results


def smooth(pixel: Float[Array, "*out"]) -> Float[Array, "*out"]:
    """The coordinate; its derivative is 0 where it is too large to have a fraction."""
    return jnp.where(jnp.abs(pixel) < FAR, pixel, jax.lax.stop_gradient(pixel))


def _bring_near(
    pixel: Array, size: Size, kernel: Kernel, rule: Padding, align_corners: bool
) -> Array:
    """Moves far coordinates near the image, where the sample is the same and indices fit int32."""
    extent = size
    if rule.period is not None:
        extent = extent_of_period(size, rule, align_corners)
        length = as_float(extent, pixel.dtype)
        infinite = jnp.isinf(pixel)
        pixel = jnp.where(infinite, 0, pixel)  # Any finite coordinate will do.
        pixel = pixel - length * jnp.floor(jax.lax.stop_gradient(pixel) / length)
    # Beyond this margin no tap touches the image, so the sample no longer changes.
    margin = math.ceil(kernel.radius) + 1
    return jnp.clip(pixel, -margin, as_float(extent - 1 + margin, pixel.dtype))


def extent_of_period(size: Size, rule: Padding, align_corners: bool) -> Size:
    """The number of pixels after which the padded image repeats, at least the image's size."""
    assert rule.period is not None
    return max(size, rule.period(size, align_corners))


def as_float(size: Size, dtype: Any) -> Any:
    """A size as a number of the given dtype; the size may be symbolic, as in ``jax.export``."""
    if isinstance(size, int):
        return np.dtype(dtype).type(size)
    return jnp.asarray(size).astype(dtype)
