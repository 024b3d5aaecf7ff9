"""What keeps XLA on the CPU from making one loop of everything."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def apart(function: Callable[..., Array], *operands: Any) -> Array:
    """The function's value, computed by loops of its own on the CPU.

    XLA on the CPU fuses all that leads to a result into one loop, and does not vectorize it when it
    is long. It does not fuse across a ``cond`` whose predicate it cannot evaluate.
    """

    def isolated(*operands: Any) -> Array:
        value = jax.eval_shape(function, *operands)
        always = jax.lax.optimization_barrier(jnp.ones((), bool))
        zeros = lambda *_: jnp.zeros(value.shape, value.dtype)  # noqa: E731
        return jax.lax.cond(always, function, zeros, *operands)

    return jax.lax.platform_dependent(*operands, cpu=isolated, default=function)
