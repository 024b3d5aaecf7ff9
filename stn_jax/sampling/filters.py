"""Antialiasing by filters with names, for maps that keep the axes apart.

Such a map scales, flips and shifts each axis by itself, as a resize or an upright crop does. Its
warp is a product with one matrix per axis: row ``i`` holds the weights that output pixel ``i``
gives to the pixels of the input. The weights are those of a filter as wide as the output pixel's
footprint: the filters that PyTorch, JAX, Pillow, OpenCV and scikit-image reduce images with.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.sampling.antialias import ONE_PIXEL
from stn_jax.sampling.interpolate import clipped, sample_pixels
from stn_jax.sampling.kernels import Kernel
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS
from stn_jax.sampling.splines import prefiltered

FilterName = Literal["area", "kernel", "gaussian"]


@dataclasses.dataclass(frozen=True)
class Filter:
    """The weights of an output pixel along an axis.

    Attributes:
      weights: Function ``(centres [out, 1], width, pixels [1, size], kernel) -> [out, size]``: the
        weight of each pixel for footprints of a width in pixels, at least 1. They need not sum to
        1, since they are divided by their sum.
      reach: Function ``kernel -> distance``: beyond this distance from the centre, in widths of the
        footprint, plus the kernel's radius in pixels, pixels have no weight.
    """

    weights: Callable[[Array, Array, Array, Kernel], Array]
    reach: Callable[[Kernel], float]


def _area(centres: Array, width: Array, pixels: Array, kernel: Kernel) -> Array:
    """The length of each pixel that the footprint covers."""
    del kernel

    def covered(edge: Array) -> Array:
        """How much of the footprint lies before an edge."""
        before = edge - (centres - width / 2)
        return jnp.where(before <= 0, 0, jnp.where(before > width, width, before))

    return covered(pixels + 0.5) - covered(pixels - 0.5)


def _stretched(centres: Array, width: Array, pixels: Array, kernel: Kernel) -> Array:
    """The kernel, stretched by the footprint's width in pixels."""
    offset = (centres - pixels) / width
    under = (offset >= -kernel.radius) & (offset < kernel.radius)
    params = [jnp.asarray(each).astype(offset.dtype) for each in kernel.params]
    return jnp.where(under, kernel.weight(jnp.where(under, offset, 0), *params), 0)


def _gaussian(centres: Array, width: Array, pixels: Array, kernel: Kernel) -> Array:
    """The kernel on an image that a Gaussian has smoothed, cut off at four standard deviations.

    The standard deviation is ``(width − 1) / 2``, as in scikit-image.
    """
    deviation = (width - 1) / 2
    # At a deviation of 0 the Gaussian has no derivative: use the one pixel.
    narrow = deviation <= 0
    deviation = jnp.where(narrow, 1, deviation)
    reach = jnp.floor(4 * deviation + 0.5)

    def smooth(distance: Array) -> Array:
        bell = jnp.exp(-((distance / deviation) ** 2) / 2)
        near = jnp.where(narrow, distance == 0, jnp.abs(distance) <= reach)
        return jnp.where(near, jnp.where(narrow, 1, bell), 0)

    first = jax.lax.stop_gradient(kernel.first(centres))
    terms = [
        weight * smooth(pixels - (first + number))
        for number, weight in enumerate(kernel.weights(centres - first))
    ]
    return functools.reduce(jnp.add, terms)


FILTERS: dict[str, Filter] = {
    "area": Filter(_area, lambda kernel: 0.5),
    "kernel": Filter(_stretched, lambda kernel: kernel.radius),
    "gaussian": Filter(_gaussian, lambda kernel: 2.0),
}


def sample_filtered(
    image: Array,
    pixels: Sequence[Array],
    footprints: Array,
    fill: Array | None,
    options: SampleOptions,
    name: FilterName,
) -> Array:
    """Samples an image through a filter as wide as the output pixels' footprints.

    The arguments are those of :func:`stn_jax.sampling.antialias.sample_footprints`, of a map that
    keeps the axes apart; ``name`` is one of :data:`FILTERS`. If the map makes no axis smaller, the
    image is sampled as without antialiasing.
    """
    dtype, wide = image.dtype, _checks.widest(image.dtype)
    plain = sample_pixels(image, pixels, fill, options)
    lines = [_along(pixel, k) for k, pixel in enumerate(pixels)]
    widths = [jnp.abs(footprints[k, k].ravel()[0]) for k in range(len(pixels))]
    minified = functools.reduce(jnp.logical_or, (width > ONE_PIXEL for width in widths))
    every = (jnp.isfinite(each).all() for each in (*widths, *lines))
    minified &= functools.reduce(jnp.logical_and, every)

    # A zero weight times a NaN pixel is NaN, also in the derivatives.
    image = jnp.where(minified, image, 0)
    image, fill = image.astype(wide), None if fill is None else fill.astype(wide)
    given, clip = image, options.clip
    if name != "area":
        image, lines, options = prefiltered(image, lines, fill, options)
    sizes = image.shape[-2::-1]
    rows = [
        _rows(
            name,
            jnp.where(minified, line, 0).astype(wide),
            jnp.where(minified & (width > ONE_PIXEL), width, 1).astype(wide),
            size,
            options,
        )
        for line, width, size in zip(lines, widths, sizes, strict=True)
    ]
    value = _contracted([weights for weights, _ in rows], image)
    if PADDINGS[options.padding].filled and fill is not None:
        inside = functools.reduce(jnp.multiply.outer, [1 - share for _, share in reversed(rows)])
        outside = 1 - inside[..., None]
        value = value + jnp.where(outside != 0, outside * jnp.broadcast_to(fill, value.shape), 0)
    if clip:
        value = clipped(value, given, fill, options)
    return jnp.where(minified, value.astype(dtype), plain)


def _along(pixel: Array, coordinate: int) -> Array:
    """The values ``[out]`` along the only axis on which a coordinate depends."""
    axis = pixel.ndim - 1 - coordinate
    return jnp.moveaxis(pixel, axis, -1)[(0,) * (pixel.ndim - 1)]


def _rows(
    name: FilterName, centres: Array, width: Array, size: int, options: SampleOptions
) -> tuple[Array, Array]:
    """The weights ``[out, size]`` along an axis, and the fill value's weight ``[out]``."""
    rule, kernel = PADDINGS[options.padding], options.kernel
    around = math.ceil(kernel.radius) + 1
    reach = FILTERS[name].reach(kernel)
    outside = rule.renormalized & ((centres < -0.5) | (centres > size - 0.5))
    if rule.period is None:
        # Farther out the weights no longer change.
        margin = reach * width + around
        centres = jnp.clip(centres, -margin, size - 1 + margin)
    else:
        period = rule.period(size, options.align_corners)
        centres = centres - period * jnp.floor(jax.lax.stop_gradient(centres) / period)
    # Include pixels outside as far as a footprint as wide as the image reaches.
    beyond = 0 if rule.renormalized else math.ceil((2 * reach + 1) * size) + 2 * around
    pixels = jnp.arange(-beyond, size + beyond)
    places = pixels[None].astype(centres.dtype)
    weights = FILTERS[name].weights(centres[:, None], width, places, kernel)
    total = weights.sum(axis=1, keepdims=True)
    outside |= total[:, 0] == 0
    weights = jnp.where(outside[:, None], 0, weights / jnp.where(total == 0, 1, total))
    moved = rule.inside(pixels, size, options.align_corners)
    if rule.sign is not None:
        weights = weights * rule.sign(pixels[None], size).astype(weights.dtype)
    if rule.filled:
        before, weights, after = jnp.split(weights, (beyond, beyond + size), axis=1)
        return weights, jnp.where(outside, 1, before.sum(axis=1) + after.sum(axis=1))
    folded = jnp.zeros((size, centres.shape[0]), weights.dtype).at[moved].add(weights.T).T
    return folded, jnp.zeros_like(centres)


def _contracted(rows: Sequence[Array], image: Array) -> Array:
    """The product with the weights along each axis, x first among the rows."""
    for axis, weights in enumerate(reversed(rows)):
        image = jnp.tensordot(weights, image, (1, axis), precision=jax.lax.Precision.HIGHEST)
        image = jnp.moveaxis(image, 0, axis)
    return image
