"""Antialiasing: an output pixel that covers more than one input pixel reads a mean over them.

The footprint of an output pixel is the parallelogram, or parallelepiped, that the map's Jacobian
makes of it. It is read by a few probes along each of its axes; where the probes are more than a
pixel apart, each reads a box mean as wide as their distance, interpolated between the levels of a
pyramid whose boxes double in width.
"""

import functools
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.sampling.interpolate import sample_pixels
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.pyramid import Pyramid
from stn_jax.sampling.splines import prefiltered

# Probes along each axis of a footprint. With the boxes between them two are enough: a footprint
# of 2ˡ pixels along the axes is then the mean over exactly its pixels.
_PROBES = 2
# How fast the probes spread when a footprint outgrows a pixel, as 1 − length⁻⁸. Their distance is
# then smooth in the length, 0 at a pixel, and within 4 % of the footprint's from 1.5 pixels on.
_ONSET = 8


def sample_footprints(
    image: Array,
    pixels: Sequence[Array],
    footprints: Sequence[Sequence[Array]],
    fill: Array | None,
    options: SampleOptions,
) -> Array:
    """Samples means over footprints; where none is longer than a pixel, samples points.

    Args:
      image: Floating image ``[*space, channels]``.
      pixels: Pixel coordinates of the footprints' centres, one ``[*out]`` per coordinate, x first.
      footprints: For each axis of the output, x first, how far each pixel coordinate moves from
        one output pixel to the next.
      fill: Value of constant padding.
      options: How to sample.
    """
    dtype, wide = image.dtype, _checks.widest(image.dtype)
    image, pixels, options = prefiltered(image, pixels, fill, options)
    plain = sample_pixels(image, pixels, fill, options)
    image, fill = image.astype(wide), None if fill is None else fill.astype(wide)

    squares = [functools.reduce(jnp.add, (each**2 for each in axis)) for axis in footprints]
    # False for what is not a number, as for points that a homography throws far out.
    minified = functools.reduce(jnp.logical_or, (square > 1 for square in squares))
    minified &= functools.reduce(jnp.logical_and, (jnp.isfinite(each) for each in squares))
    lengths = [jnp.sqrt(jnp.where(minified, jnp.maximum(square, 1), 1)) for square in squares]
    reaches = [1 - length**-_ONSET for length in lengths]
    edges = [
        [jnp.where(minified, change * reach, 0) for change in axis]
        for axis, reach in zip(footprints, reaches, strict=True)
    ]
    pyramid = Pyramid(image, fill, options)
    distance = functools.reduce(jnp.maximum, lengths) / _PROBES
    level = jnp.minimum(jnp.log2(jnp.maximum(distance, 1)), pyramid.highest)
    low = jnp.minimum(jnp.floor(jax.lax.stop_gradient(level)), pyramid.highest - 1)
    share = (level - low)[..., None]

    # All probes of both levels are points of one sample: [levels, probes, *out].
    levels = jnp.stack([low, low + 1]).astype(jnp.int32)[:, None]
    along = (np.arange(_PROBES) + 0.5) / _PROBES - 0.5
    probes = np.array(list(itertools.product(along, repeat=len(edges))))
    places = []
    for k, pixel in enumerate(pixels):
        centre = jnp.where(minified, pixel, 0)
        moved = [
            functools.reduce(
                jnp.add,
                [
                    edge[k] * share.astype(centre.dtype)
                    for share, edge in zip(probe, edges, strict=True)
                ],
                centre,
            )
            for probe in probes
        ]
        places.append(jnp.stack(moved)[None])
    samples = pyramid.sample(levels, [jnp.broadcast_to(p, (2, *p.shape[1:])) for p in places])
    fine, coarse = samples.mean(axis=1)
    mean = fine + share * (coarse - fine)
    return jnp.where(minified[..., None], mean, plain.astype(wide)).astype(dtype)
