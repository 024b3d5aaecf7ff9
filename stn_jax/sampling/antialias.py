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
import itertools
from collections.abc import Sequence

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
    footprints: Sequence[Sequence[Array]],
    fill: Array | None,
    options: SampleOptions,
) -> Array:
    """Averages the image over each output point's footprint.

    A point whose footprint is at most one pixel wide along every axis is sampled as without
    antialiasing.

    Args:
      image: Floating image ``[*space, channels]``.
      pixels: Pixel coordinates of the footprints' centres, one ``[*out]`` per coordinate, x first.
      footprints: For each axis of the output, x first, how far each pixel coordinate moves from
        one output pixel to the next.
      fill: Value of constant padding.
      options: How to sample.
    """
    dtype, wide = image.dtype, _checks.widest(image.dtype)
    plain = sample_pixels(image, pixels, fill, options).astype(wide)
    image, fill = image.astype(wide), None if fill is None else fill.astype(wide)

    squares = [
        functools.reduce(jnp.add, (change**2 for change in changes))
        for changes in zip(*footprints, strict=True)
    ]
    # False where a width is not finite, such as at points that a homography moves far out.
    minified = functools.reduce(jnp.logical_or, (square > ONE_PIXEL**2 for square in squares))
    minified &= functools.reduce(jnp.logical_and, (jnp.isfinite(each) for each in squares))
    rule = PADDINGS[options.padding]
    if rule.renormalized:
        # Points outside the image keep the fill value.
        for pixel, size in zip(pixels, image.shape[-2::-1], strict=True):
            minified &= (pixel >= -0.5) & (pixel <= size - 0.5)
    # Take roots only of widths above 1, since the slope of a root at 0 is infinite.
    widths = [
        jnp.sqrt(jnp.where(minified & (square > ONE_PIXEL**2), square, 1)) for square in squares
    ]
    if rule.renormalized:
        # Average the weights, 1 inside and 0 outside, beside the image, which is 0 outside.
        weighted = jnp.concatenate([image, jnp.ones_like(image[..., :1])], axis=-1)
        pyramid = Pyramid(weighted, None, options)
    elif rule.sign is not None:
        period = _one_period(image, rule, options.align_corners)
        pyramid = Pyramid(period, None, options.replaced(padding="wrap"))
    else:
        pyramid = Pyramid(image, fill, options)
    signs = list(itertools.product((-1, 1), repeat=len(footprints)))
    levels, places = [], []
    for k, (pixel, width) in enumerate(zip(pixels, widths, strict=True)):
        level = pyramid.level(k, width)
        # How far the boxes lie from the centre, as a share of the footprint's edges.
        box = jnp.left_shift(1, level).astype(width.dtype)
        reach = jnp.where(minified, _distance(width, box) / width, 0)
        edges = [jnp.where(minified, axis[k], 0) * reach for axis in footprints]
        centre = jnp.where(minified, pixel, 0)
        levels.append(level[None])
        places.append(
            jnp.stack(
                [
                    functools.reduce(
                        jnp.add, (s * edge for s, edge in zip(sign, edges, strict=True)), centre
                    )
                    for sign in signs
                ]
            )
        )
    # All boxes are points of one sample: [boxes, *out].
    mean = pyramid.sample(levels, places).mean(axis=0)
    if rule.renormalized:
        mean, weight = mean[..., :-1], mean[..., -1:]
        mean = mean / jnp.where(minified[..., None], weight, 1)
    if rule.sign is not None and options.clip:
        mean = clipped(mean, image, fill, options)
    if options.polynomial != KERNELS["linear"]:
        longest = functools.reduce(jnp.maximum, widths)[..., None].astype(wide)
        share = (longest - 1) / (_BLENDED - 1)
        mean = jnp.where(share < 1, plain + share * (mean - plain), mean)
    return jnp.where(minified[..., None], mean, plain).astype(dtype)


def _one_period(image: Array, rule: Padding, align_corners: bool) -> Array:
    """The image and its mirror images, with their signs, up to where they repeat."""
    assert rule.period is not None
    for axis in range(image.ndim - 1):
        index = jnp.arange(rule.period(image.shape[axis], align_corners))
        image = rule.pixels(image, index, axis, align_corners)
    return image


def _distance(width: Array, box: Array) -> Array:
    """How far from the centre two boxes must be to have the variance of one of this width.

    Up to a width of 2 the boxes are single pixels; their distance grows linearly from 0 to 1/2.
    """
    spread = jnp.sqrt(jnp.maximum((width**2 - box**2) / 12, 0.25))
    return jnp.where(width < 2, (width - 1) / 2, spread)
