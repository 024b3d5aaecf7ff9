"""A sum of updates whose bits do not depend on their order.

Adding floats in parallel rounds differently from run to run. Here each term becomes a few integers,
the digits of a fixed-point number on one scale, and integers add up alike in any order.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array


def add_at(
    add: Callable[[Array, Array, Array], Array], zeros: Array, where: Array, values: Array
) -> Array:
    """Values added to an array of zeros, rounded once.

    Args:
      add: ``(array, where, values)`` to the array with the values added, in any order.
      zeros: ``[*space, channels]``.
      where: Indices into the space, ``[*out, axes]``.
      values: ``[*out, channels]``.
    """
    points, dtype = values.size // max(values.shape[-1], 1), values.dtype
    # A digit is small enough for the digits of all points to add up within an int32.
    bits = 29 - max(points - 1, 1).bit_length()
    if bits < 1:
        raise ValueError(
            f"deterministic sampling takes at most 2**28 reads of one image; got {points}."
        )
    digits = -(-(jnp.finfo(dtype).nmant + 8) // bits)
    largest = jnp.max(jnp.abs(values), initial=0)
    exponent = jnp.maximum(jnp.frexp(largest)[1], jnp.finfo(dtype).minexp // 2)
    rest, words = jnp.ldexp(values, -exponent), []
    for _ in range(digits):
        rest = rest * 2**bits
        word = jnp.round(rest)
        rest = rest - word  # Exact, as is the product above.
        words.append(word.astype(jnp.int32))
    total = zeros
    for word in reversed(words):
        # Integers of one digit at a time: an array of all would be as many times as large.
        digit = add(zeros.astype(jnp.int32), where, word)
        total = (total + digit.astype(dtype)) * jnp.asarray(2.0**-bits, dtype)
    return jnp.where(jnp.isfinite(largest), jnp.ldexp(total, exponent), jnp.nan)
