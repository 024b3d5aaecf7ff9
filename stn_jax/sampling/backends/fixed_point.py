"""A scatter-add whose result does not depend on the order of additions.

Floats that are added in parallel round differently from run to run. Here each term becomes a
fixed-point number, of a few int32 digits on a common scale. Sums of integers are the same in any
order.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array


def add_at(
    add: Callable[[Array, Array, Array], Array], zeros: Array, where: Array, values: Array
) -> Array:
    """Adds values to an array of zeros; each sum is rounded once.

    Args:
      add: Function ``(array, where, values)`` that adds the values to the array, in any order.
      zeros: ``[*space, channels]``.
      where: Indices into the spatial axes, ``[*out, axes]``.
      values: ``[*out, channels]``.
    """
    points, dtype = values.size // max(values.shape[-1], 1), values.dtype
    # Bits per digit: the sum of all points' digits must fit an int32.
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
        # Add one digit at a time: an array of all digits would be several times as large.
        digit = add(zeros.astype(jnp.int32), where, word)
        total = (total + digit.astype(dtype)) * jnp.asarray(2.0**-bits, dtype)
    return jnp.where(jnp.isfinite(largest), jnp.ldexp(total, exponent), jnp.nan)
