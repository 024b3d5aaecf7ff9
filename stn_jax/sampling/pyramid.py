"""Box means of an image, each side of a box from one pixel to half the image, in one array."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.backends.cpu_loops import isolate_loop
from stn_jax.sampling.interpolate import sample_pixels
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS


class Pyramid:
    """Means of an image over boxes whose side along each axis is a power of 2 pixels.

    A level l has boxes 2ˡ pixels wide, whose centres are 2ˡ⁻¹ pixels apart; a box may have another
    level along each axis. Along an axis all levels lie one behind the other in one array, so that
    one linear sample can read any of them. Level 0 is the image itself. The first box of a higher
    level is centred on the image's outer edge. The array is about three times as long as the image
    along each axis.

    Args:
      image: ``[*space, channels]`` in float32 at least.
      fill: Value of constant padding.
      options: How to sample.
    """

    def __init__(self, image: Array, fill: Array | None, options: SampleOptions) -> None:
        if options.gradient_reach is None:
            raise ValueError(
                "gradient must have a concrete spread where antialias is on, since the pyramid's "
                "margin depends on it; got a traced one. Pass a number, or antialias=False."
            )
        self.options = options.replaced(kernel=KERNELS["linear"], clip=False)
        self.shape = image.shape[:-1]
        # How far outside a point may lie and still depend on the image.
        self.reach = math.ceil(self.options.kernel.radius) + options.gradient_reach
        # A coordinate is clamped to `reach` pixels outside, and its taps lie up to `reach` farther.
        self.margin = 2 * self.reach
        # Two boxes of the highest level are as wide as the image.
        self.highest = [max(0, math.ceil(math.log2(size)) - 1) for size in self.shape]
        self.starts: list[np.ndarray] = []
        # Last index of every level, counted from its start.
        self.lasts: list[np.ndarray] = []
        self.levels = image
        # Begin with the last axis, the slowest to copy along, while the array is still small.
        for axis in reversed(range(len(self.shape))):
            self._append_levels(axis, fill)

    def level(self, coordinate: int, width: Array) -> Array:
        """The level along a coordinate, 0 for x, whose boxes are about half of ``width`` wide.

        Returns int32.
        """
        level = jnp.round(jnp.log2(jax.lax.stop_gradient(width))) - 1
        return jnp.clip(level, 0, self.highest[-1 - coordinate]).astype(jnp.int32)

    def sample(self, levels: Sequence[Array], pixels: Sequence[Array]) -> Array:
        """Samples means at pixel coordinates of the image.

        Args:
          levels: For each coordinate, x first, the level to read along it: int32 arrays, which may
            differ from point to point.
          pixels: One array ``[*out]`` for each coordinate, x first; they broadcast against levels.
        """
        dtype = self.levels.dtype
        rule, placed = PADDINGS[self.options.padding], []
        for axis, level, pixel in zip(
            reversed(range(len(self.shape))), levels, pixels, strict=True
        ):
            if rule.period is not None:
                pixel = rule.inside(pixel, self.shape[axis], self.options.align_corners)
            spacing = jnp.left_shift(1, jnp.maximum(level - 1, 0)).astype(dtype)
            first = jnp.where(level > 0, -0.5, 0).astype(dtype)
            start = _entry(self.starts[axis], level)
            last = _entry(self.lasts[axis], level)
            place = (pixel - first) / spacing + start.astype(dtype)
            low, high = start - self.reach, start + last + self.reach
            placed.append(jnp.clip(place, low.astype(dtype), high.astype(dtype)))
        return sample_pixels(self.levels, placed, None, self.options.replaced(padding="border"))

    def _append_levels(self, axis: int, fill: Array | None) -> None:
        """Puts the levels along an axis behind one another, each with a margin on either side."""
        means, last = self.levels, self.shape[axis] - 1
        rule, sides = PADDINGS[self.options.padding], self._sides(axis, fill)
        blocks, lasts = [jnp.concatenate([sides[0], means, sides[1]], axis)], [last]
        for level in range(1, self.highest[axis] + 1):
            # Average two boxes that touch. Above level 0 every second box touches, since neighbours
            # overlap by half.
            step = 1 if level == 1 else 2
            last = last + 1 if level == 1 else -(-last // 2)
            left, right = (
                jax.lax.slice_in_dim(blocks[-1], start, start + step * last + 1, step, axis)
                for start in (self.margin - 1, self.margin - 1 + step)
            )
            means = (left + right) / 2
            if rule.means == "edge":
                # All further boxes lie outside, where constant and border padding do not vary.
                block = jnp.concatenate([sides[0], means, sides[1]], axis)
            else:
                # Means outside a mirrored or repeated image are copies of those inside. Where the
                # image repeats, the last lattice point equals the first of the next period.
                wrapped = rule.means == "wrap"
                means = jax.lax.slice_in_dim(means, 0, last + 1 - wrapped, axis=axis)
                widths = [(0, 0)] * means.ndim
                widths[axis] = (self.margin, self.margin + wrapped)
                block = jnp.pad(means, widths, mode="wrap" if wrapped else "reflect")
            blocks.append(block)
            lasts.append(last)
        lengths = [block.shape[axis] for block in blocks]
        self.starts.insert(0, np.cumsum([0, *lengths[:-1]]) + self.margin)
        self.lasts.insert(0, np.array(lasts))
        self.levels = isolate_loop(functools.partial(jnp.concatenate, axis=axis), blocks)

    def _sides(self, axis: int, fill: Array | None) -> list[Array]:
        """The padded pixels before the first and after the last pixel, as many as the margin."""
        values, size = self.levels, self.shape[axis]
        rule, outside = PADDINGS[self.options.padding], np.arange(self.margin)
        if rule.filled:
            shape = (*values.shape[:axis], self.margin, *values.shape[axis + 1 :])
            value = jnp.zeros((), values.dtype) if fill is None else fill
            return 2 * [jnp.broadcast_to(value, shape)]
        align_corners = self.options.align_corners
        return [
            rule.pixels(values, jnp.asarray(index, jnp.int32), axis, align_corners)
            for index in (outside - self.margin, outside + size)
        ]


def _entry(table: np.ndarray, level: Array) -> Array:
    """Looks up each level in a short table of whole numbers, without a gather."""
    entries = [jnp.where(level == k, int(entry), 0) for k, entry in enumerate(table)]
    return functools.reduce(jnp.add, entries)
