"""Closed forms for small matrices, by elementwise operations, which are fast in batches."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def determinant(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """The determinant of a matrix, at most 3×3."""
    if len(matrix) == 1:
        return matrix[0, 0]
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        return a * d - b * c
    return jnp.sum(matrix[0] * jnp.cross(matrix[1], matrix[2]))


def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The inverse of a matrix, at most 3×3; not finite if the matrix is singular."""
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
    """The array with leading axes of size 1, as ``jax_numpy_rank_promotion="raise"`` requires."""
    return array.reshape((1,) * (ndim - array.ndim) + array.shape)


def product(left: Array, right: Array) -> Array:
    """Matrix product in full precision; accelerators would round its operands by default."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def zeros_of(array: Array, *others: Array) -> Array:
    """Zeros like ``array``, as the initial carry of a loop whose body also uses ``others``.

    They are computed from all the arrays, since a constant fails on a mesh of devices: in
    ``jax.shard_map`` the carry must vary over the same mesh axes as the body's result, and under
    ``jax.vmap`` on an Explicit mesh it must have the same batch axes.
    """
    zeros = _zero(array)
    for other in others:
        zeros = zeros + with_rank(_zero(other.ravel()[:1]), array.ndim).astype(array.dtype)
    return zeros


def _zero(array: Array) -> Array:
    zero = np.zeros((), array.dtype)
    return jnp.where(array == array, zero, zero)
