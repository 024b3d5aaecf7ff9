"""Antialiasing: an output pixel that covers more than one input pixel reads a mean over them.

The footprint of an output pixel is the parallelogram, or parallelepiped, that the map's Jacobian
makes of it. Along each axis of the input it is as wide as the box of the same variance. It is read
by two box means along each of its edges, whose sides are powers of 2 pixels, from a pyramid that
has boxes of another width along each axis. They are so far apart that together they have the
footprint's variance along every axis. Along an axis that is not made smaller a box is a pixel and
all lie at one place, so nothing is averaged along it, whatever the other axes are.
"""

import functools
import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.sampling.interpolate import sample_pixels
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.pyramid import Pyramid

# Footprints up to this many pixels are a pixel: what a rotation's rounding adds to one is no
# reason to average.
ONE_PIXEL = 1 + 1e-5
# Footprints from this many pixels on are means alone. Between a pixel and this, means are blended
# with the sample under the kernel of the call, since means are read linearly under every kernel.
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
    # False for what is not a number, as for points that a homography throws far out.
    minified = functools.reduce(jnp.logical_or, (square > ONE_PIXEL**2 for square in squares))
    minified &= functools.reduce(jnp.logical_and, (jnp.isfinite(each) for each in squares))
    # Wider than 1 alone: a root has no slope at 0.
    widths = [
        jnp.sqrt(jnp.where(minified & (square > ONE_PIXEL**2), square, 1)) for square in squares
    ]
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
    if options.polynomial != KERNELS["linear"]:
        longest = functools.reduce(jnp.maximum, widths)[..., None].astype(wide)
        share = (longest - 1) / (_BLENDED - 1)
        mean = jnp.where(share < 1, plain + share * (mean - plain), mean)
    return jnp.where(minified[..., None], mean, plain).astype(dtype)


def _distance(width: Array, box: Array) -> Array:
    """How far from the centre two boxes lie that have the variance of one of ``width`` pixels.

    Of two single pixels it grows evenly from 0, and is half a pixel for a footprint of two.
    """
    spread = jnp.sqrt(jnp.maximum((width**2 - box**2) / 12, 0.25))
    return jnp.where(width < 2, (width - 1) / 2, spread)
