"""Antialiasing: an output pixel that covers more than one input pixel reads a mean over them.

The footprint of an output pixel is the parallelogram, or parallelepiped, that the map's Jacobian
makes of it. It is read by a few probes along each of its axes; where the probes are more than a
pixel apart, each reads a box mean as wide as their distance, interpolated between the levels of a
pyramid whose boxes double in width.
"""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS
from stn_jax.sampling.sampler import sample_pixels

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
    plain = sample_pixels(image, pixels, fill, options)
    wide = jnp.promote_types(image.dtype, jnp.float32)
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
    shares = (np.arange(_PROBES) + 0.5) / _PROBES - 0.5
    probes = jnp.asarray(list(itertools.product(shares, repeat=len(edges))), wide)
    positions = []
    for k, pixel in enumerate(pixels):
        moved = jnp.where(minified, pixel, 0)[None]
        for axis, edge in enumerate(edges):
            moved = moved + probes[:, axis].reshape(-1, *[1] * edge[k].ndim) * edge[k]
        positions.append(moved)

    pyramid = _Pyramid(image, fill, options)
    distance = functools.reduce(jnp.maximum, lengths) / _PROBES
    level = jnp.minimum(jnp.log2(jnp.maximum(distance, 1)), pyramid.highest)
    low = jnp.minimum(jnp.floor(jax.lax.stop_gradient(level)), pyramid.highest - 1)
    share = (level - low)[..., None]
    low = low.astype(jnp.int32)
    fine, coarse = (jnp.mean(pyramid.sample(each, positions), axis=0) for each in (low, low + 1))
    mean = (1 - share) * fine + share * coarse
    return jnp.where(minified[..., None], mean.astype(plain.dtype), plain)


class _Pyramid:
    """Box means of an image, 2ˡ pixels wide, on lattices 2ˡ⁻¹ apart, level 0 the image itself.

    The levels lie one below the other in one array, so that a gather can read from any of them.
    The lattice of a level above 0 has its first point on the image's outer edge.
    """

    def __init__(self, image: Array, fill: Array | None, options: SampleOptions) -> None:
        self.options = options
        self.shape = image.shape[:-1]
        # How far outside a point may lie and still depend on the image.
        reach = options.kernel.radius
        if options.gradient:
            reach += np.max(options.gradient.offsets(len(self.shape)))
        self.reach = math.ceil(reach)
        self.highest = max(1, math.ceil(math.log2(max(self.shape))) - 1)
        levels = [image]
        # Last index along each axis of every level; the first is 0.
        lasts = [[size - 1 for size in self.shape]]
        for level in range(self.highest):
            means = levels[-1]
            for axis, last in enumerate(lasts[-1]):
                count = last + 2 if level == 0 else -(-last // 2) + 1
                index = np.arange(-1, count + 1)
                # Boxes beyond the first two lie wholly outside, where constant and border are flat.
                pair = (index - 1, index) if level == 0 else (2 * index - 1, 2 * index + 1)
                left, right = (self._extend(means, axis, each, last, level, fill) for each in pair)
                means = (left + right) / 2
            lasts.append([last + 1 if level == 0 else -(-last // 2) for last in lasts[-1]])
            levels.append(means)
        # Taps of a coordinate that is clamped to `reach` outside go as far again.
        self.margin = 2 * self.reach
        blocks = []
        for level, (values, last_of) in enumerate(zip(levels, lasts, strict=True)):
            for axis, last in enumerate(last_of):
                index = np.arange(-self.margin, last + 1 + self.margin)
                values = self._extend(values, axis, index, last, level, fill)
            blocks.append(values)
        starts = np.cumsum([0] + [len(block) for block in blocks[:-1]])
        widest = np.max([block.shape for block in blocks], axis=0)
        widths = [(widest - block.shape) * (np.arange(block.ndim) > 0) for block in blocks]
        self.atlas = jnp.concatenate(
            [
                jnp.pad(block, [(0, width) for width in each])
                for block, each in zip(blocks, widths, strict=True)
            ]
        )
        self.starts, self.lasts = starts, np.array(lasts)

    def _extend(
        self, values: Array, axis: int, index: np.ndarray, last: int, level: int, fill: Array | None
    ) -> Array:
        """The values at indices along an axis, some of which lie outside the image.

        Above level 0 the array holds one index more on either side.
        """
        kind, size = self.options.padding, last + 1
        if level == 0:
            with jax.ensure_compile_time_eval():
                find = PADDINGS[kind].inside
                inside = np.asarray(find(jnp.asarray(index), size, self.options.align_corners))
            taken = jnp.take(values, inside, axis=axis)
            if kind == "constant":
                shape = [1] * values.ndim
                shape[axis] = len(index)
                outside = 0 if fill is None else fill
                taken = jnp.where((inside == index).reshape(shape), taken, outside)
            return taken
        if kind == "reflection":
            index = last - np.abs(last - index % (2 * last))
        elif kind == "wrap":
            index = index % last
        return jnp.take(values, np.clip(index, -1, last + 1) + 1, axis=axis)

    def sample(self, level: Array, positions: Sequence[Array]) -> Array:
        """Samples a level, which may differ from point to point, at pixel coordinates."""
        first, spacing = jnp.where(level > 0, -0.5, 0), jnp.exp2(jnp.maximum(level - 1, 0))
        placed = []
        for axis, position in zip(reversed(range(len(positions))), positions, strict=True):
            if PADDINGS[self.options.padding].period is not None:
                inside = PADDINGS[self.options.padding].inside
                position = inside(position, self.shape[axis], self.options.align_corners)
            place = (position - first) / spacing
            last = jnp.asarray(self.lasts[:, axis], position.dtype)[level]
            place = jnp.clip(place, -self.reach, last + self.reach) + self.margin
            if axis == 0:
                place = place + jnp.asarray(self.starts, position.dtype)[level]
            placed.append(place)
        options = self.options._replace(padding="border")
        return sample_pixels(self.atlas, placed, None, options)
