"""Box means of an image, from one pixel wide to the whole image, in one array."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.interpolate import sample_pixels
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS


class Pyramid:
    """Box means of an image, 2ˡ pixels wide, on lattices 2ˡ⁻¹ apart; level 0 is the image itself.

    The levels lie one below the other in one array, so that a point can be read from any of them.
    The lattice of a level above 0 has its first point on the image's outer edge.

    Args:
      image: ``[*space, channels]`` in float32 at least.
      fill: Value of constant padding.
      options: How to sample.
    """

    def __init__(self, image: Array, fill: Array | None, options: SampleOptions) -> None:
        self.options = options
        self.shape = image.shape[:-1]
        # How far outside a point may lie and still depend on the image.
        if options.gradient_reach is None:
            raise ValueError(
                "gradient must have a concrete spread where antialias is on, since the pyramid's "
                "margin depends on it; got a traced one. Pass a number, or antialias=False."
            )
        self.reach = math.ceil(options.kernel.radius) + options.gradient_reach
        self.highest = max(1, math.ceil(math.log2(max(self.shape))) - 1)
        levels = [image]
        # Last index along each axis of every level; the first is 0.
        lasts = [[size - 1 for size in self.shape]]
        for level in range(self.highest):
            means = levels[-1]
            for axis, last in enumerate(lasts[-1]):
                # A box more on either side; those beyond lie wholly outside, where constant and
                # border are flat.
                after = 2 if level == 0 else last % 2 + 3
                means = self._extended(means, axis, 2 + (level > 0), after, level, fill)
                if level > 0:
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
                values = self._extended(values, axis, self.margin, self.margin, level, fill)
            blocks.append(values)
        self.starts = np.cumsum([0] + [len(block) for block in blocks[:-1]])
        self.lasts = np.array(lasts)
        widest = np.max([block.shape for block in blocks], axis=0)
        widths = [(widest - block.shape) * (np.arange(block.ndim) > 0) for block in blocks]
        self.levels = jnp.concatenate(
            [
                jnp.pad(block, [(0, width) for width in each])
                for block, each in zip(blocks, widths, strict=True)
            ]
        )

    def sample(self, level: Array, pixels: Sequence[Array]) -> Array:
        """Samples levels, which may differ from point to point, at pixel coordinates of the image.

        Args:
          level: Whole numbers, int32, that broadcast against the coordinates.
          pixels: One array ``[*out]`` for each coordinate, x first.
        """
        dtype = self.levels.dtype
        spacing = jnp.exp2(jnp.maximum(level - 1, 0).astype(dtype))
        first = jnp.where(level > 0, -0.5, 0).astype(dtype)
        rule, placed = PADDINGS[self.options.padding], []
        for axis, pixel in zip(reversed(range(len(self.shape))), pixels, strict=True):
            if rule.period is not None:
                pixel = rule.inside(pixel, self.shape[axis], self.options.align_corners)
            start = _entry(self.starts * (axis == 0), level) + self.margin
            last = _entry(self.lasts[:, axis], level)
            place = (pixel - first) / spacing + start.astype(dtype)
            low, high = start - self.reach, start + last + self.reach
            placed.append(jnp.clip(place, low.astype(dtype), high.astype(dtype)))
        options = self.options.replaced(padding="border")
        return sample_pixels(self.levels, placed, None, options)

    def _extended(
        self, values: Array, axis: int, before: int, after: int, level: int, fill: Array | None
    ) -> Array:
        """The values along an axis, with so many on either side that lie outside the image.

        Above level 0 the array holds one on either side already.
        """
        rule = PADDINGS[self.options.padding]
        if level > 0:
            before, after = before - 1, after - 1
            if rule.means != "edge":
                # Means of a mirrored or repeated image follow from those inside; of a period, the
                # last lattice point is the first of the next.
                whole = 1 if rule.means == "mirror" else 2
                values = jax.lax.slice_in_dim(values, 1, values.shape[axis] - whole, axis=axis)
                before, after = before + 1, after + whole
            mode = {"edge": "edge", "mirror": "reflect", "wrap": "wrap"}[rule.means]
            widths = [(before, after) if each == axis else (0, 0) for each in range(values.ndim)]
            return jnp.pad(values, widths, mode=mode)
        size, align_corners = values.shape[axis], self.options.align_corners
        sides = []
        for outside in (np.arange(-before, 0), np.arange(size, size + after)):
            if rule.filled:
                shape = (*values.shape[:axis], len(outside), *values.shape[axis + 1 :])
                value = jnp.zeros((), values.dtype) if fill is None else fill
                sides.append(jnp.broadcast_to(value, shape))
            else:
                inside = rule.inside(jnp.asarray(outside, jnp.int32), size, align_corners)
                sides.append(jnp.take(values, inside, axis=axis, mode="clip"))
        return jnp.concatenate([sides[0], values, sides[1]], axis=axis)


def _entry(table: np.ndarray, level: Array) -> Array:
    """The entries of a short table of whole numbers at some levels, without a gather."""
    entries = [jnp.where(level == k, int(entry), 0) for k, entry in enumerate(table)]
    return functools.reduce(jnp.add, entries)
