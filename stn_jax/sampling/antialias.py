"""Antialiasing: an output pixel that covers more than one input pixel reads a mean over them.

The map's Jacobian turns an output pixel into a parallelogram, or parallelepiped, on the input: its
footprint. Its width along an axis of the input is that of a box of the same variance. The mean over
the footprint is computed as the mean of 2ⁿ boxes, two along each of its n edges, whose means a
pyramid holds. The sides of a box are powers of 2 pixels, and may differ between axes. The boxes
are so far apart that together they have the footprint's variance along every axis. Along an axis on
which the map does not shrink the image, a box is one pixel wide, and all boxes have the same
coordinate, so nothing is averaged along this axis.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.sampling.interpolate import clipped, sample_pixels
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS, Padding
from stn_jax.sampling.pyramid import Pyramid

# A footprint up to this many pixels wide counts as one pixel, since the rounding of a rotation can
# widen a pixel by this much.
ONE_PIXEL = 1 + 1e-5
# From this width on, the result is the mean over the footprint alone. Below it, the mean is blended
# with the sample under the call's kernel, since the pyramid is read linearly under every kernel.
_BLENDED = 1.5


def sample_footprints(
    image: Array,
    pixels: Sequence[Array],
    footprints: Array,
    fill: Array | None,
    options: SampleOptions,
) -> Array:
    """Averages the image over each output point's footprint.

    A point whose footprint is at most one pixel wide along every axis is sampled as without
    antialiasing.

    Args:
      image: Floating image ``[*space, channels]``.
      pixels: Pixel coordinates of the footprints' centres, one ``[*out]`` per coordinate, x first.
      footprints: How far each pixel coordinate moves from one output pixel to the next along each
        axis of the output: ``[axes, coordinates, *out]``, x first. Axes of ``*out`` may have size
        1, for points with the same footprint; what depends on footprints alone is then computed
        once.
      fill: Value of constant padding.
      options: How to sample.
    """
    dtype, wide = image.dtype, _checks.widest(image.dtype)
    rule = PADDINGS[options.padding]
    # One call then reads the image or its box means, whichever a point needs.
    in_one_call = (
        dtype == wide
        and options.polynomial == KERNELS["linear"]
        and options.gradient is None
        and rule.keeps_weights
        and not options.clip
    )
    plain = None
    if not in_one_call:
        plain = sample_pixels(image, pixels, fill, options).astype(wide)
    image, fill = image.astype(wide), None if fill is None else fill.astype(wide)

    # The squares of widths, and what is computed from them: [coordinates, *out].
    squares = _joined(jnp.add, footprints**2)
    # False where a width is not finite, such as at points that a homography moves far out.
    largest = _joined(jnp.maximum, squares)
    minified = (largest > ONE_PIXEL**2) & (largest < jnp.inf)
    squares = jnp.where(minified[None] & (squares > ONE_PIXEL**2), squares, 1)
    if rule.renormalized:
        # Average the weights, 1 inside and 0 outside, beside the image, which is 0 outside.
        weighted = jnp.concatenate([image, jnp.ones_like(image[..., :1])], axis=-1)
        pyramid = Pyramid(weighted, None, options.replaced(padding="constant"))
    elif rule.sign is not None:
        period = _one_period(image, rule, options.align_corners)
        pyramid = Pyramid(period, None, options.replaced(padding="wrap"))
    else:
        pyramid = Pyramid(image, fill, options)
    levels = pyramid.levels_of(squares)
    edges = jnp.where(minified[None, None], footprints, 0) * _reach(squares, levels)[None]
    levels = jnp.where(minified[None], levels, -1)
    mean = pyramid.sample(pixels, levels, edges, reads_image=in_one_call)
    if plain is None:
        return mean
    if rule.renormalized:
        # Points outside the image keep the fill value.
        for pixel, size in zip(pixels, image.shape[-2::-1], strict=True):
            minified = minified & (pixel >= -0.5) & (pixel <= size - 0.5)
        mean, weight = mean[..., :-1], mean[..., -1:]
        mean = mean / jnp.where(minified[..., None], weight, 1)
    if rule.sign is not None and options.clip:
        mean = clipped(mean, image, fill, options)
    if options.polynomial != KERNELS["linear"]:
        longest = jnp.sqrt(_joined(jnp.maximum, squares))[..., None].astype(wide)
        share = (longest - 1) / (_BLENDED - 1)
        mean = jnp.where(share < 1, plain + share * (mean - plain), mean)
    return jnp.where(minified[..., None], mean, plain).astype(dtype)


def _joined(operation: Callable[[Array, Array], Array], array: Array) -> Array:
    """Reduces the first axis, row by row.

    On CPUs XLA's own reduction takes 20 to 30 times as long for two rows (JAX 0.10.2).
    """
    rows = (jax.lax.index_in_dim(array, k, keepdims=False) for k in range(array.shape[0]))
    return functools.reduce(operation, rows)


def _one_period(image: Array, rule: Padding, align_corners: bool) -> Array:
    """The image and its mirror images, with their signs, up to where they repeat."""
    assert rule.period is not None
    for axis in range(image.ndim - 1):
        index = jnp.arange(rule.period(image.shape[axis], align_corners))
        image = rule.pixels(image, index, axis, align_corners)
    return image


def _reach(squares: Array, levels: Array) -> Array:
    """How far boxes lie from the centre along each edge of a footprint, as a share of the edge.

    Two boxes at that distance have the variance of one as wide as the footprint. Up to a width of
    2 the boxes are single pixels; their distance grows linearly from 0 to 1/2.

    Args:
      squares: The squared widths of footprints, at least 1.
      levels: The levels of their boxes.
    """
    # Both distances are a root of a linear function of 1 / squares.
    near = squares < 4
    box = jnp.left_shift(1, levels).astype(squares.dtype)
    slope, constant = jnp.where(near, 1, -(box**2) / 12), jnp.where(near, 0, 1 / 12)
    root = jnp.sqrt(slope / squares + constant.astype(squares.dtype))
    return jnp.where(near, (1 - root) / 2, root)
