"""Box means of an image, each side of a box from one pixel to half the image, in one array."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

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
        self.levels = image
        # Begin with the last axis, the slowest to copy along, while the array is still small.
        for axis in reversed(range(len(self.shape))):
            self._append_levels(axis, fill)

    def levels_of(self, squares: Array) -> Array:
        """The levels whose boxes are about half as wide as footprints.

        Args:
          squares: The squared width of each footprint along each coordinate: positive numbers
            ``[coordinates, *out]``, x first.

        Returns:
          int32 of the same shape.
        """
        # Squares from 2ᵏ up to 2ᵏ⁺¹ have exponent k. The nearest power of 2 of their roots is
        # ⌊(k + 1) / 2⌋.
        exponents = _exponents(jax.lax.stop_gradient(squares))
        highest = _column(self.highest[::-1], squares)
        return jnp.clip(jnp.right_shift(exponents + 1, 1) - 1, 0, highest)

    def sample(self, levels: Array, pixels: Sequence[Array]) -> Array:
        """Samples means at pixel coordinates of the image.

        Args:
          levels: The level to read along each coordinate, x first: int32 ``[coordinates, *out]``;
            axes of ``*out`` may have size 1.
          pixels: One array ``[boxes, *out]`` for each coordinate, x first.
        """
        dtype = self.levels.dtype
        rule, placed = PADDINGS[self.options.padding], []

        halvings, above = jnp.maximum(levels - 1, 0), jnp.minimum(levels, 1)
        # 1 / 2ʰ exactly, without a division.
        densities = jnp.right_shift(2**30, halvings).astype(dtype) * 2.0**-30
        firsts = -above.astype(dtype) / 2
        lasts = jnp.right_shift(_column(self.shape[::-1], levels) - 1, halvings) + above
        # The start of each level, x first, without a gather.
        table = itertools.zip_longest(*reversed(self.starts), fillvalue=0)
        starts = functools.reduce(
            jnp.add,
            (jnp.where(levels == k, _column(each, levels), 0) for k, each in enumerate(table)),
        )
        for k, pixel in enumerate(pixels):
            if rule.period is not None:
                pixel = rule.inside(pixel, self.shape[-1 - k], self.options.align_corners)
            place = (pixel - firsts[k][None]) * densities[k][None]
            high = jnp.broadcast_to((lasts[k] + self.reach).astype(dtype)[None], place.shape)
            place = jax.lax.clamp(np.asarray(-self.reach, dtype), place, high)
            placed.append(place + starts[k][None].astype(dtype))
        return sample_pixels(self.levels, placed, None, self.options.replaced(padding="border"))

    def _append_levels(self, axis: int, fill: Array | None) -> None:
        """Puts the levels along an axis behind one another, each with a margin on either side."""
        means, last = self.levels, self.shape[axis] - 1
        rule, extended = PADDINGS[self.options.padding], self._with_edges(axis, fill)
        blocks = [extended(means)]
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
                block = extended(means)
            else:
                # Means outside a mirrored or repeated image are copies of those inside. Where the
                # image repeats, the last lattice point equals the first of the next period.
                wrapped = rule.means == "wrap"
                means = jax.lax.slice_in_dim(means, 0, last + 1 - wrapped, axis=axis)
                widths = [(0, 0)] * means.ndim
                widths[axis] = (self.margin, self.margin + wrapped)
                block = jnp.pad(means, widths, mode="wrap" if wrapped else "reflect")
            blocks.append(block)
        lengths = [block.shape[axis] for block in blocks]
        self.starts.insert(0, np.cumsum([0, *lengths[:-1]]) + self.margin)
        self.levels = jnp.concatenate(blocks, axis)

    def _with_edges(self, axis: int, fill: Array | None) -> Callable[[Array], Array]:
        """Returns a function that adds the padded pixels of the image on both sides of an axis."""
        values, size, margin = self.levels, self.shape[axis], self.margin
        rule = PADDINGS[self.options.padding]
        if rule.filled:
            value = jnp.zeros((), values.dtype) if fill is None else fill
            if value.ndim == 0:
                # Compiles faster than joining arrays.
                widths = [
                    (margin * (k == axis), margin * (k == axis), 0) for k in range(values.ndim)
                ]
                return lambda means: jax.lax.pad(means, value, widths)
            shape = (*values.shape[:axis], margin, *values.shape[axis + 1 :])
            sides = 2 * [jnp.broadcast_to(value, shape)]
        else:
            outside, corners = np.arange(margin, dtype=np.int32), self.options.align_corners
            sides = [
                rule.pixels(values, jnp.asarray(index), axis, corners)
                for index in (outside - margin, outside + size)
            ]
        return lambda means: jnp.concatenate([sides[0], means, sides[1]], axis)


def _column(numbers: Any, array: Array) -> np.ndarray:
    """One int32 for each coordinate, as many axes as an array ``[coordinates, *out]``."""
    return np.asarray(numbers, np.int32).reshape(-1, *[1] * (array.ndim - 1))


def _exponents(numbers: Array) -> Array:
    """The largest k with 2ᵏ at most the number, for positive normal numbers; int32."""
    kind = jnp.finfo(numbers.dtype)
    bits = jax.lax.bitcast_convert_type(numbers, f"int{kind.bits}")
    return jnp.right_shift(bits, kind.nmant).astype(jnp.int32) - (kind.maxexp - 1)
