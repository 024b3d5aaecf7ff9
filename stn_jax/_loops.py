"""What keeps XLA on the CPU from making one loop of everything.

It takes no notice of ``jax.lax.optimization_barrier`` when it decides which operations to fuse.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def materialize(arrays: Sequence[Array]) -> tuple[Array, ...]:
    """The arrays, computed once: XLA on the CPU takes cheap operations into every consumer's loop.

    Where a coordinate is computed twice it may be rounded in two ways, and an index and a weight
    then disagree about the pixel that it lies in. A division is not cheap, and what divides is 1
    only for those who look behind the barrier.
    """
    one = jax.lax.optimization_barrier(jnp.ones((), arrays[0].dtype))
    return tuple(array / one for array in arrays)


def apart(function: Callable[..., Array], *operands: Any) -> Array:
    """The function's value, computed by loops of its own on the CPU.

    XLA there makes one loop of all that leads to a result, and does not vectorize it when it is
    long. It does not look through a choice whose condition holds only for those who look behind
    the barrier.
    """
    if jax.default_backend() != "cpu":
        return function(*operands)
    value = jax.eval_shape(function, *operands)
    always = jax.lax.optimization_barrier(jnp.ones((), bool))
    return jax.lax.cond(always, function, lambda *_: jnp.zeros(value.shape, value.dtype), *operands)


def distinct_zero(orders: tuple[int, ...]) -> Any:
    """Zero, in another way for every order.

    Gathers that a value and a slope had in common would be kept in memory; each fused into its own
    sum is faster than that.
    """
    if not any(orders):
        return 0
    number = 1 + sum(order * 8**axis for axis, order in enumerate(orders))
    return jax.lax.optimization_barrier(jnp.asarray(number, jnp.int32)) - number


@jax.custom_jvp
def apart_in_reverse(array: Array) -> Array:
    """The array itself; its gradient is computed once, however many need it."""
    return array


@apart_in_reverse.defjvp
def _apart_in_reverse_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], apart(lambda tangent: tangent, tangents[0])
