"""Tricks against what XLA fuses on a CPU; none reaches another platform.

XLA on the CPU compiles each fusion to one loop with one result, and decides by itself what it
fuses. Each function here says what goes wrong without it; ``tests/sampling/test_cpu_loops.py``
fails when a trick is no longer needed.
All were needed on jaxlib 0.10.2.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.sampling import meshes
from stn_jax.sampling.taps import Tap

# Channels up to which a sum over them is written out.
_FEW_CHANNELS = 4


class Loops(NamedTuple):
    """How the plain engine is bent for a platform."""

    compute_once: Callable[[Sequence[Array]], list[Array]]
    block_cse: Callable[[Sequence[Sequence[Tap]], int], Sequence[Sequence[Tap]]]
    sum_over_channels: Callable[..., Array]
    window_starts: Callable[[Sequence[Sequence[Tap]], int], list[Array] | None]


def compute_once(operands: Sequence[Array]) -> list[Array]:
    """The image and the fill value, and the other floating operands, each computed once.

    Symptom: XLA computes a coordinate anew in every loop that reads it, and may round it in two
    ways; an index and a weight then disagree about the cell that the coordinate lies in.
    Means: a division by 1 that XLA cannot see through, since it never duplicates a division.
    """
    image, fill, *rest = operands
    return [image, fill, *map(_divided, rest)]


def _divided(array: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    one = jax.lax.optimization_barrier(jnp.ones((), array.dtype))
    # By a number alone XLA would multiply with its inverse.
    return array / jnp.maximum(one, jnp.minimum(array, 1))


def block_cse(axes: Sequence[Sequence[Tap]], axis: int) -> Sequence[Sequence[Tap]]:
    """The taps with indices that XLA cannot tell to equal those of the value or of another axis.

    Symptom: XLA finds that the value and the slopes read the same pixels, and then stores every one
    of these gathers; to gather anew inside each fused loop is faster.
    Means: an integer zero of its own for each axis, ``n − n`` with one n behind a barrier.
    """
    zero = jax.lax.optimization_barrier(jnp.asarray(axis + 1, jnp.int32)) - (axis + 1)
    first = [tap._replace(index=tap.index + zero) for tap in axes[0]]
    return [first, *axes[1:]]


def sum_over_channels(terms: Callable[[int | None], Array], channels: int) -> Array:
    """The sum of terms ``[*out, channels]`` over the channels; ``terms(c)`` gives one channel.

    Symptom: a loop over a short last axis stands inside that over the points, and no loop is
    vectorized; with many channels, the gathers are not fused with the reduction.
    Means: a few channels are written out; many are summed by a product with ones.
    """
    if channels <= _FEW_CHANNELS:
        return functools.reduce(jnp.add, [terms(c)[..., 0] for c in range(channels)])
    every = terms(None)
    ones = jnp.ones((channels,), every.dtype)
    return jnp.matmul(every, ones, precision=jax.lax.Precision.HIGHEST)


def isolate_loop(function: Callable[..., Array], *operands: Any) -> Array:
    """``function(*operands)``, which XLA on a CPU does not fuse with what uses it.

    Symptom: XLA computes the array anew for each of its uses. A chain of n steps that each use the
    last one twice takes 2ⁿ of the work, and a reduction is not vectorized inside a longer loop.
    Means: a ``cond`` whose predicate XLA cannot evaluate; it does not fuse across one.
    """

    def isolated(*operands: Any) -> Array:
        always = jax.lax.optimization_barrier(jnp.ones((), bool))
        # On a mesh both branches must have one sharding, and vary over the same axes.
        value = jax.typeof(jax.eval_shape(function, *operands))
        return jax.lax.cond(always, function, lambda *_: meshes.zeros(value), *operands)

    return jax.lax.platform_dependent(*operands, cpu=isolated, default=function)


def window_starts(axes: Sequence[Sequence[Tap]], channels: int) -> list[Array] | None:
    """Where the window of each point begins in an image's cotangent with one more pixel around it.

    Symptom: XLA's scatter does much for each index, however little is added there.
    Means: one index for all the pixels of a point, where the linear kernel reads a window of two
    along each axis; the pixels around catch what falls outside. ``None`` where channels are many,
    and where a padding moves taps, so that they are not side by side. One channel takes 1.5 to
    1.8 times as long without it.
    """
    starts = []
    for axis in axes:
        inside = axis[-1].inside
        if len(axis) != 2 or inside is None or channels > _FEW_CHANNELS:
            return None
        starts.append(jnp.where(inside, axis[1].index, axis[0].index + 1))
    return starts


CPU = Loops(compute_once, block_cse, sum_over_channels, window_starts)
PLAIN = Loops(
    list,
    lambda axes, axis: axes,
    lambda terms, channels: jnp.sum(terms(None), axis=-1),
    lambda axes, channels: None,
)
