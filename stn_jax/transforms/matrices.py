"""Small matrices in closed form, by elementwise operations: fast in batches, on every backend."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def determinant(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Determinant of a matrix of up to 3×3."""
    if len(matrix) == 1:
        return matrix[0, 0]
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        return a * d - b * c
    return jnp.sum(matrix[0] * jnp.cross(matrix[1], matrix[2]))


def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Adjugate over determinant of a matrix of up to 3×3; not finite where it is singular."""
    if len(matrix) == 1:
        return 1 / matrix
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        adjugate = jnp.stack([jnp.stack([d, -b]), jnp.stack([-c, a])])
    else:
        r0, r1, r2 = matrix
        adjugate = jnp.stack([jnp.cross(r1, r2), jnp.cross(r2, r0), jnp.cross(r0, r1)], axis=1)
    return adjugate / determinant(matrix)[None, None]


def with_rank(array: Array, ndim: int) -> Array:
    """The array with leading axes of length 1, for ``jax_numpy_rank_promotion="raise"``."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def product(left: Array, right: Array) -> Array:
    """Matrix product without the reduced precision that accelerators would take."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def zeros_of(array: Array, *others: Array) -> Array:
    """Zeros like ``array``, to be carried by a loop whose body uses the others, too.

    A constant would not do: in ``jax.shard_map`` a carry must vary over the mesh as what the body
    returns, and under ``jax.vmap`` on an Explicit mesh it must be batched as that is.
    """
    zeros = _zero(array)
    for other in others:
        zeros = zeros + with_rank(_zero(other.ravel()[:1]), array.ndim).astype(array.dtype)
    return zeros


def _zero(array: Array) -> Array:
    zero = np.zeros((), array.dtype)
    return jnp.where(array == array, zero, zero)
