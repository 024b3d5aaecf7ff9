"""Box means of an image, sampled at levels and pixel coordinates of the image."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.box_means import BoxLayout
from stn_jax.sampling.interpolate import sample_box_means
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.options import SampleOptions


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
        self.layout = BoxLayout(self.shape, options.padding, options.align_corners, self.reach)

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
        highest = np.array(self.layout.highest[::-1], np.int32)
        highest = highest.reshape(-1, *[1] * (squares.ndim - 1))
        return jnp.clip(jnp.right_shift(exponents + 1, 1) - 1, 0, highest)

    def sample(
        self,
        pixels: Sequence[Array],
        levels: Array,
        edges: Array,
        *,
        reads_image: bool,
    ) -> Array:
        """Samples the means of the boxes around points, and averages over the boxes.

        Args:
          pixels: The points' coordinates in pixels of the image, ``[*out]`` for each, x first.
          levels: The level to read along each coordinate, x first: int32 ``[coordinates, *out]``;
            all axes of ``*out`` may have size 1.
          edges: How far along each coordinate the boxes of an edge lie from the point:
            ``[edges, coordinates, *out]``, of the same ``*out`` as ``levels``.
          reads_image: Whether points of level −1 read the image itself.
        """
        out = pixels[0].shape
        if all(size == 1 for size in levels.shape[1:]):
            levels, edges = levels.reshape(-1), edges.reshape(edges.shape[:2])
        else:
            levels = jnp.broadcast_to(levels, (*levels.shape[:1], *out))
            edges = jnp.broadcast_to(edges, (*edges.shape[:2], *out))
        return sample_box_means(
            self.image, self.layout, pixels, levels, edges, self.fill, self.options, reads_image
        )


def _exponents(numbers: Array) -> Array:
    """The largest k with 2ᵏ at most the number, for positive normal numbers; int32."""
    kind = jnp.finfo(numbers.dtype)
    bits = jax.lax.bitcast_convert_type(numbers, f"int{kind.bits}")
    return jnp.right_shift(bits, kind.nmant).astype(jnp.int32) - (kind.maxexp - 1)
