"""Small matrices in closed form, by elementwise operations: fast in batches, on every backend."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def determinant(matrix: Float[Array, "n n"]) -> Float[Array, ""]:
    """Determinant of a 2×2 or 3×3 matrix."""
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        return a * d - b * c
    return jnp.sum(matrix[0] * jnp.cross(matrix[1], matrix[2]))


def inverse(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Adjugate over determinant of a 2×2 or 3×3 matrix; not finite where it is singular."""
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
