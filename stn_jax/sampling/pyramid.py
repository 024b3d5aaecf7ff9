"""Box means of an image, sampled at levels and pixel coordinates of the image."""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.box_means import BoxLayout
from stn_jax.sampling.interpolate import sample_box_means
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS


class Pyramid:
    """Means of an image over boxes whose side along each axis is a power of 2 pixels.

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
        self.image, self.fill, self.shape = image, fill, image.shape[:-1]
        # How far outside a point may lie and still depend on the image.
        self.reach = math.ceil(self.options.kernel.radius) + options.gradient_reach
        # A coordinate is clamped to `reach` pixels outside, and its taps lie up to `reach` farther.
        self.layout = BoxLayout(self.shape, options.padding, options.align_corners, 2 * self.reach)

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
        highest = _column(self.layout.highest[::-1], squares)
        return jnp.clip(jnp.right_shift(exponents + 1, 1) - 1, 0, highest)

    def sample(self, levels: Array, pixels: Sequence[Array]) -> Array:
        """Samples means at pixel coordinates of the image, and averages over the boxes.

        Args:
          levels: The level to read along each coordinate, x first: int32 ``[coordinates, *out]``;
            axes of ``*out`` may have size 1.
          pixels: One array ``[boxes, *out]`` for each coordinate, x first.
        """
        dtype = self.image.dtype
        rule, placed = PADDINGS[self.options.padding], []

        halvings, above = jnp.maximum(levels - 1, 0), jnp.minimum(levels, 1)
        # 1 / 2ʰ exactly, without a division.
        densities = jnp.right_shift(2**30, halvings).astype(dtype) * 2.0**-30
        firsts = -above.astype(dtype) / 2
        lasts = jnp.right_shift(_column(self.shape[::-1], levels) - 1, halvings) + above
        # The start of each level, x first, without a gather.
        axes = reversed(range(len(self.shape)))
        table = list(itertools.zip_longest(*map(self.layout.starts, axes), fillvalue=0))
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
        return sample_box_means(self.image, self.layout, placed, self.fill, self.options)


def _column(numbers: Any, array: Array) -> np.ndarray:
    """One int32 for each coordinate, as many axes as an array ``[coordinates, *out]``."""
    return np.asarray(numbers, np.int32).reshape(-1, *[1] * (array.ndim - 1))


def _exponents(numbers: Array) -> Array:
    """The largest k with 2ᵏ at most the number, for positive normal numbers; int32."""
    kind = jnp.finfo(numbers.dtype)
    bits = jax.lax.bitcast_convert_type(numbers, f"int{kind.bits}")
    return jnp.right_shift(bits, kind.nmant).astype(jnp.int32) - (kind.maxexp - 1)
