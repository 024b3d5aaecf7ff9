"""Workarounds for XLA's fusion on CPUs. They are not applied on other platforms.

XLA on a CPU compiles each fusion to one loop with one result, and chooses the fusions itself. Each
function's docstring names the symptom without it, and how it avoids that.
``tests/sampling/test_cpu_loops.py`` fails when a workaround is no longer needed; all are needed on
jaxlib 0.10.2.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling import meshes
from stn_jax.sampling.taps import Tap

# Up to this many channels, a sum over them is unrolled.
_FEW_CHANNELS = 4


class Loops(NamedTuple):
    """The workarounds that the engine ``xla`` calls on a platform."""

    compute_once: Callable[[Sequence[Array]], list[Array]]
    block_cse: Callable[[Sequence[Sequence[Tap]], int], Sequence[Sequence[Tap]]]
    sum_over_channels: Callable[..., Array]
    window_starts: Callable[[Sequence[Sequence[Tap]], int], list[Array] | None]
    or_zero: Callable[[Array, Array], Array]


def compute_once(operands: Sequence[Array]) -> list[Array]:
    """Makes XLA compute each coordinate or weight once; image and fill value stay as they are.

    Symptom: XLA recomputes a coordinate in every loop that reads it, and may round it differently.
    The index and the weight then disagree about the cell of the coordinate.
    Means: divide by a 1 behind an optimization barrier. XLA never duplicates a division.
    """
    image, fill, *rest = operands
    return [image, fill, *map(_divided, rest)]


def _divided(array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    one = jax.lax.optimization_barrier(jnp.ones((), array.dtype))
    # The divisor is an array: XLA turns division by a scalar into multiplication by its inverse.
    return array / jnp.maximum(one, jnp.minimum(array, 1))


def block_cse(axes: Sequence[Sequence[Tap]], axis: int) -> Sequence[Sequence[Tap]]:
    """Hides from XLA that the slope along an axis gathers the same pixels as the value.

    Symptom: common-subexpression elimination (CSE) shares the gathers of value and slopes, and
    stores them. Gathering again inside each fused loop is faster.
    Means: add an integer zero per axis to the indices: ``n − n`` with one n behind a barrier.
    """
    zero = jax.lax.optimization_barrier(jnp.asarray(axis + 1, jnp.int32)) - (axis + 1)
    first = [tap._replace(index=tap.index + zero) for tap in axes[0]]
    return [first, *axes[1:]]


def sum_over_channels(terms: Callable[[int | None], Array], channels: int) -> Array:
    """The sum of terms ``[*out, channels]`` over the channels; ``terms(c)`` gives one channel.

    Symptom: with few channels, XLA nests a short loop over them inside the loop over points, and
    vectorizes neither. With many channels, it does not fuse the gathers with the reduction.
    Means: unroll a few channels; sum many by a product with a vector of ones.
    """
    if channels <= _FEW_CHANNELS:
        return functools.reduce(jnp.add, [terms(c)[..., 0] for c in range(channels)])
    every = terms(None)
    ones = jnp.ones((channels,), every.dtype)
    return jnp.matmul(every, ones, precision=jax.lax.Precision.HIGHEST)


def isolate_loop(function: Callable[..., Array], *operands: Any) -> Array:
    """Keeps XLA on a CPU from fusing ``function(*operands)`` with what reads its result.

    Symptom: XLA recomputes the array for each of its uses. A chain of n steps that each use the
    last one twice takes 2ⁿ times the work, and a reduction inside a longer loop is not vectorized.
    Means: a ``cond`` whose predicate XLA cannot evaluate. XLA does not fuse across a ``cond``.
    """

    def isolated(*operands: Any) -> Array:
        always = jax.lax.optimization_barrier(jnp.ones((), bool))
        # On a mesh both branches need the same sharding and the same varying axes.
        value = jax.typeof(jax.eval_shape(function, *operands))
        return jax.lax.cond(always, function, lambda *_: meshes.zeros(value), *operands)

    return jax.lax.platform_dependent(*operands, cpu=isolated, default=function)


def window_starts(axes: Sequence[Sequence[Tap]], channels: int) -> list[Array] | None:
    """The first index of each point's window, in an image's cotangent padded by one pixel.

    Symptom: XLA's scatter takes long per index, however few numbers it adds there. One channel
    takes 1.5 to 1.8 times as long without this function.
    Means: one index per point. The linear kernel reads a window of two pixels along each axis, and
    the extra border pixels receive values that fall outside. ``None`` for many channels, and for a
    padding mode that moves taps, which are then not side by side.
    """
    starts = []
    for axis in axes:
        inside = axis[-1].inside
        if len(axis) != 2 or inside is None or channels > _FEW_CHANNELS:
            return None
        starts.append(jnp.where(inside, axis[1].index, axis[0].index + 1))
    return starts


def or_zero(condition: Array, values: Array) -> Array:
    """``jnp.where(condition, values, 0)``.

    Symptom: XLA turns the selection into a branch, and no longer vectorizes the loop.
    Means: the lesser of two patterns of bits, that of the number and all zeros or all ones.
    """
    bits = np.dtype(f"uint{8 * values.dtype.itemsize}")
    mask = jnp.where(condition, bits.type(np.iinfo(bits).max), bits.type(0))
    pattern = jax.lax.bitcast_convert_type(values, bits)
    return jax.lax.bitcast_convert_type(jnp.minimum(pattern, mask), values.dtype)


CPU = Loops(compute_once, block_cse, sum_over_channels, window_starts, or_zero)
PLAIN = Loops(
    list,
    lambda axes, axis: axes,
    lambda terms, channels: jnp.sum(terms(None), axis=-1),
    lambda axes, channels: None,
    lambda condition, values: jnp.where(condition, values, 0),
)
