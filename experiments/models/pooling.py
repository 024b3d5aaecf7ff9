"""Pooling and convolution in the forms that XLA runs fast on the CPU."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stn_jax.sampling.backends.cpu_loops import isolate_loop

# Output columns of a convolution that one matrix product computes.
_COLUMNS_AT_ONCE = 10


@jax.custom_jvp
def max_pool(maps: Float[Array, "batch h w c"]) -> Float[Array, "batch h//2 w//2 c"]:
    """2×2 max-pooling, in the form whose gradient XLA runs fast on the CPU.

    If pixels are equal, the first gets the gradient, as in PyTorch.
    """
    return _in_windows(maps).max(axis=(2, 4))


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    windows = _in_windows(primals[0])
    a, b, c, d = (windows[:, :, y, :, x] for y in range(2) for x in range(2))
    upper, lower = jnp.maximum(a, b), jnp.maximum(c, d)
    first = jnp.where(lower > upper, jnp.where(d > c, 3, 2), jnp.where(b > a, 1, 0))

    def chosen(tangent: Array, first: Array) -> Array:
        place = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
        here = first[:, :, None, :, None] == place
        return jnp.where(here, _in_windows(tangent), 0).sum(axis=(2, 4))

    # Isolated in its own loop; otherwise XLA recomputes the transpose for both its consumers.
    tangent = isolate_loop(chosen, tangents[0], first.astype(jnp.int8))
    return jnp.maximum(upper, lower), tangent


def average_pool(maps: Array) -> Array:
    """2×2 average-pooling."""
    return _in_windows(maps).mean(axis=(2, 4))


def _in_windows(maps: Array) -> Array:
    """``[batch, rows, 2, columns, 2, channels]``, without a last odd row or column."""
    batch, height, width, channels = maps.shape
    maps = maps[:, : height // 2 * 2, : width // 2 * 2]
    return maps.reshape(batch, height // 2, 2, width // 2, 2, channels)


def convolve(inputs: Array, kernel: Array, *args: Any, **options: Any) -> Array:
    """``lax.conv_general_dilated``; on the CPU a matrix product for every few output columns.

    XLA on the CPU runs the input gradient of a convolution with a large kernel through a naive
    loop, but the gradient of a product is another product. One product per column would read every
    pixel once for each column of the kernel; one product for several neighbouring columns
    multiplies by some zeros instead, which is faster. Only for convolutions without padding,
    strides or dilation.
    """

    def plain(inputs: Array, kernel: Array) -> Array:
        return jax.lax.conv_general_dilated(inputs, kernel, *args, **options)

    return jax.lax.platform_dependent(inputs, kernel, cpu=_by_products, default=plain)


def _by_products(inputs: Array, kernel: Array) -> Array:
    """The convolution as one matrix product for every few columns of the output."""
    size_y, size_x, channels, filters = kernel.shape
    batch, *space, _ = inputs.shape
    height, width = space[0] - size_y + 1, space[1] - size_x + 1
    tiles = math.ceil(width / _COLUMNS_AT_ONCE)
    columns = math.ceil(width / tiles)
    span = columns + size_x - 1
    # Without the barrier XLA recomputes the inputs for every window.
    rows = jax.lax.optimization_barrier(inputs)
    rows = jnp.pad(rows, [(0, 0), (0, 0), (0, tiles * columns - width), (0, 0)])
    tiled = jnp.stack([rows[:, :, x * columns :][:, :, :span] for x in range(tiles)], axis=2)
    tiled = tiled.reshape(batch, -1, tiles, span * channels)
    windows = jnp.concatenate([tiled[:, y : y + height] for y in range(size_y)], axis=-1)
    # place[s, o, k]: whether output column o weights window column s by kernel column k.
    place = np.arange(span)[:, None, None] == (
        np.arange(columns)[:, None] + np.arange(size_x)[None, :]
    )
    matrix = jnp.einsum(
        "sok,ykif->ysiof", place.astype(kernel.dtype), kernel, precision=jax.lax.Precision.HIGHEST
    )
    outputs = windows @ matrix.reshape(-1, columns * filters)
    return outputs.reshape(batch, height, tiles * columns, filters)[:, :, :width]
