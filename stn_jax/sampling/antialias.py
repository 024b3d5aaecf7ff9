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

from stn_jax._loops import apart, materialize
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS
from stn_jax.sampling.interpolate import sample_pixels
extend = None

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
    dtype, wide = image.dtype, jnp.promote_types(image.dtype, jnp.float32)
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
    pyramid = _Pyramid(image, fill, options)
    distance = functools.reduce(jnp.maximum, lengths) / _PROBES
    level = jnp.minimum(jnp.log2(jnp.maximum(distance, 1)), pyramid.highest)
    low = jnp.minimum(jnp.floor(jax.lax.stop_gradient(level)), pyramid.highest - 1)
    share = level - low
    low = low.astype(jnp.int32)

    # Each is read many times below, and cheaper to read than to compute again.
    centre = materialize([jnp.where(minified, pixel, 0) for pixel in pixels])
    edges = [list(materialize(edge)) for edge in edges]
    shares = (np.arange(_PROBES) + 0.5) / _PROBES - 0.5

    def mean_of(place: Sequence[tuple[Array, ...]]) -> Array:
        """The mean over the probes, of a level for each point."""
        total = jnp.zeros_like(plain, wide)
        for probe in itertools.product(shares, repeat=len(edges)):
            position = [
                pixel + sum(float(each) * edge[k] for each, edge in zip(probe, edges, strict=True))
                for k, pixel in enumerate(centre)
            ]
            total = total + pyramid.sample(place, position)
        return total / _PROBES ** len(edges)

    fine, coarse = (apart(mean_of, pyramid.place(each)) for each in (low, low + 1))
    mean = fine + share[..., None] * (coarse - fine)
    return jnp.where(minified[..., None], mean, plain).astype(dtype)


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
                # A box more on either side; those beyond lie wholly outside, where constant and
                # border are flat.
                if level == 0:
                    means = self._extend(means, axis, 2, 2, level, fill)
                else:
                    means = self._extend(means, axis, 3, last % 2 + 3, level, fill)
                    means = jax.lax.slice_in_dim(means, 0, None, stride=2, axis=axis)
                left = jax.lax.slice_in_dim(means, 0, -1, axis=axis)
                right = jax.lax.slice_in_dim(means, 1, None, axis=axis)
                means = (left + right) / 2
            lasts.append([last + 1 if level == 0 else -(-last // 2) for last in lasts[-1]])
            levels.append(means)
        # Taps of a coordinate that is clamped to `reach` outside go as far again.
        self.margin = 2 * self.reach
        blocks = []
        for level, values in enumerate(levels):
            for axis in range(len(self.shape)):
                values = self._extend(values, axis, self.margin, self.margin, level, fill)
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
        self, values: Array, axis: int, before: int, after: int, level: int, fill: Array | None
    ) -> Array:
        """The values along an axis, with so many on either side that lie outside the image.

        Above level 0 the array holds one on either side already.
        """
        if level == 0:
            return extend(values, axis, before, after, fill, self.options)
        kind = self.options.padding
        if kind in ("constant", "border"):
            mode, before, after = "edge", before - 1, after - 1
        else:
            # The last index of a period is the first of the next.
            mode, whole = ("reflect", 1) if kind == "reflection" else ("wrap", 2)
            values = jax.lax.slice_in_dim(values, 1, values.shape[axis] - whole, axis=axis)
            after += whole - 1
        widths = [(before, after) if each == axis else (0, 0) for each in range(values.ndim)]
        return jnp.pad(values, widths, mode=mode)

    def place(self, level: Array) -> list[tuple[Array, ...]]:
        """Where the lattices of some levels lie in the atlas, along each coordinate, x first.

        Of a coordinate: its factor and its shift from pixels, the least and the greatest.
        """
        spacing = jnp.exp2(jnp.maximum(level - 1, 0).astype(self.atlas.dtype))
        first = jnp.where(level > 0, -0.5, 0).astype(self.atlas.dtype)
        axes = []
        for axis in reversed(range(len(self.shape))):
            start = jnp.asarray(self.starts if axis == 0 else 0 * self.starts)[level] + self.margin
            last = jnp.asarray(self.lasts[:, axis])[level]
            bounds = (start - self.reach, start + last + self.reach)
            shift = start - first / spacing
            axes.append(materialize([1 / spacing, shift, *(b.astype(shift.dtype) for b in bounds)]))
        return axes

    def sample(self, place: Sequence[tuple[Array, ...]], position: Sequence[Array]) -> Array:
        """Samples levels, which may differ from point to point, at pixel coordinates."""
        placed = []
        for axis, pixel, (scale, shift, least, greatest) in zip(
            reversed(range(len(position))), position, place, strict=True
        ):
            if PADDINGS[self.options.padding].period is not None:
                inside = PADDINGS[self.options.padding].inside
                pixel = inside(pixel, self.shape[axis], self.options.align_corners)
            placed.append(jnp.clip(pixel * scale + shift, least, greatest))
        return sample_pixels(
            self.atlas, materialize(placed), None, self.options._replace(padding="border")
        )
