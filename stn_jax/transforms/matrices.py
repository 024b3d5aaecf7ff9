"""Closed forms for small matrices, linear and homogeneous, and operations on their arrays.

The closed forms are elementwise operations, which are fast in batches.
"""

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


def square_matrix(matrix: Array) -> Array:
    """The homogeneous ``[n + 1, n + 1]`` matrix."""
    rows, size = matrix.shape
    if rows == size:
        return matrix
    is_last = np.arange(size)[:, None] == rows
    longer = jnp.concatenate([matrix, matrix[:1]])
    return jnp.where(is_last, jnp.eye(size, dtype=matrix.dtype), longer)


def inverse_homogeneous(matrix: Array) -> Array:
    """Inverse of a homogeneous matrix, ``[3, 3]`` or affine ``[4, 4]``."""
    return invert_matrix(matrix) if len(matrix) == 3 else square_matrix(invert_matrix(matrix[:3]))


def invert_matrix(matrix: Array) -> Array:
    """The matrix of the inverse map, in closed form, of the shape of ``matrix``."""
    ndim = matrix.shape[1] - 1
    if len(matrix) == ndim + 1:
        return inverse(matrix)
    linear = inverse(matrix[:, :ndim])
    return beside(linear, -jnp.sum(linear * matrix[None, :, ndim], axis=1))


def beside(linear: Array, translation: Array) -> Array:
    """``[A | t]``; by ``where``, since JAX cannot join a constant to a sharded array."""
    is_last = np.arange(len(linear) + 1)[None] == len(linear)
    wider = jnp.concatenate([linear, linear[:, :1]], axis=1)
    return jnp.where(is_last, translation[:, None], wider)


def rotation_matrix(angle: Array) -> Array:
    """Rotation matrix of an angle ``[1]`` in 2-D or of an axis-angle vector ``[3]`` in 3-D."""
    if len(angle) == 1:
        cos, sin = jnp.cos(angle[0]), jnp.sin(angle[0])
        return jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    # Rodrigues: R = I + sin(a)/a K + (1 − cos a)/a² K². Near a = 0 use the series of both factors:
    # there the division would make derivatives NaN.
    square = jnp.sum(angle**2)
    small = square < 1e-3
    safe = jnp.where(small, 1, square)
    root = jnp.sqrt(safe)
    near_sin = 1 - square / 6 * (1 - square / 20)
    near_cos = (1 - square / 12 * (1 - square / 30)) / 2
    sin_factor = jnp.where(small, near_sin, jnp.sin(root) / root)
    cos_factor = jnp.where(small, near_cos, (1 - jnp.cos(root)) / safe)
    eye = jnp.eye(3, dtype=angle.dtype)
    cross = jnp.cross(angle[None], -eye)  # K, of the rows angle × −eₖ
    outer = angle[:, None] * angle[None] - square * eye  # K²
    return eye + sin_factor * cross + cos_factor * outer
