"""Linear families: translation, rigid, similarity, attention, affine and projective.

Each family is one function from ``theta`` to a homogeneous matrix. Displacement and inverse are
computed from the matrix.
"""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._affine import affine_combinations
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import by_coordinate, regular_grid
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform, family

# A homography maps points whose denominator is below the first number to the second coordinate:
# outside every image, yet finite, so that neither values nor derivatives overflow.
_SMALLEST_DENOMINATOR = 1e-6
_FAR = 1e6


@family
def translation(*, ndim: int = 2) -> Transform:
    """Translation, ``theta = (tx, ty)``: ``[1 0 tx; 0 1 ty]``; 3-D: ``(tx, ty, tz)``.

    Args:
      ndim: Number of spatial axes, 2 or 3.

    Returns:
      The family; target points to source points, normalised coordinates.

    Raises:
      ValueError: If ``ndim`` is not supported.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> stn.translation().apply(jnp.array([0.5, -0.25]), jnp.zeros(2)).tolist()
      [0.5, -0.25]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.2.
    """

    def matrix(theta: Array) -> Array:
        return matrices.beside(jnp.eye(ndim, dtype=theta.dtype), theta)

    return _family("translation", ndim, np.zeros(ndim), matrix)


@family
def rigid(*, ndim: int = 2) -> Transform:
    """Rotation and translation, ``theta = (angle, tx, ty)``: ``[cos −sin tx; sin cos ty]``.

    In 3-D ``theta`` is an axis-angle vector (right-handed, its length the angle), then
    ``(tx, ty, tz)``.

    Args:
      ndim: Number of spatial axes, 2 or 3.

    Returns:
      The family; target points to source points, normalised coordinates, angle in radians. On an
      image that is not square a rotation in normalised coordinates is not one in pixels.

    Raises:
      ValueError: If ``ndim`` is not supported.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> quarter_turn = jnp.array([jnp.pi / 2, 0.0, 0.0])
      >>> stn.rigid().apply(quarter_turn, jnp.array([1.0, 0.0])).round(6).tolist()
      [0.0, 1.0]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.2.
    """

    def matrix(theta: Array) -> Array:
        return matrices.beside(matrices.rotation_matrix(theta[:-ndim]), theta[-ndim:])

    return _family("rigid", ndim, np.zeros(3 * ndim - 3), matrix)


@family
def similarity(*, ndim: int = 2) -> Transform:
    """Scale, rotation, translation, ``theta = (scale, angle, tx, ty)``.

    The matrix is ``[s·cos −s·sin tx; s·sin s·cos ty]``. A scale below 1 zooms in, since the map
    runs from output to input. In 3-D the angle is an axis-angle vector, as in :func:`rigid`.

    Args:
      ndim: Number of spatial axes, 2 or 3.

    Returns:
      The family; target points to source points, normalised coordinates, angle in radians.

    Raises:
      ValueError: If ``ndim`` is not supported.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> quarter_turn = jnp.array([0.5, jnp.pi / 2, 0.0, 0.0])
      >>> stn.similarity().apply(quarter_turn, jnp.array([1.0, 0.0])).round(6).tolist()
      [0.0, 0.5]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.2.
    """

    def matrix(theta: Array) -> Array:
        return matrices.beside(theta[0] * matrices.rotation_matrix(theta[1:-ndim]), theta[-ndim:])

    return _family("similarity", ndim, np.array([1.0] + (3 * ndim - 3) * [0.0]), matrix)


@family
def attention(*, ndim: int = 2) -> Transform:
    """Isotropic scale and translation, ``theta = (scale, tx, ty)``: ``[s 0 tx; 0 s ty]``.

    In 3-D ``theta`` is ``(scale, tx, ty, tz)``.

    Args:
      ndim: Number of spatial axes, 2 or 3.

    Returns:
      The family; target points to source points, normalised coordinates.

    Raises:
      ValueError: If ``ndim`` is not supported.

    Example:
      A crop of half the size, centred at x = 0.25:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> crop = jnp.array([0.5, 0.25, 0.0])
      >>> stn.attention().apply(crop, jnp.array([[-1.0, -1.0], [1.0, 1.0]])).tolist()
      [[-0.25, -0.5], [0.75, 0.5]]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 2.
    """

    def matrix(theta: Array) -> Array:
        return matrices.beside(theta[0] * jnp.eye(ndim, dtype=theta.dtype), theta[1:])

    return _family("attention", ndim, np.array([1.0] + ndim * [0.0]), matrix)


@family
def affine(*, ndim: int = 2) -> Transform:
    """Affine map, ``theta`` = the ``n × (n + 1)`` matrix ``[A | t]`` row by row.

    Args:
      ndim: Number of spatial axes, 2 or 3.

    Returns:
      The family; target points to source points, normalised coordinates. It has 6
      parameters in 2-D and 12 in 3-D.

    Raises:
      ValueError: If ``ndim`` is not supported.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> mirror = jnp.array([-1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
      >>> stn.affine().apply(mirror, jnp.array([0.25, 0.5])).tolist()
      [-0.25, 0.5]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 1.
    """

    def matrix(theta: Array) -> Array:
        return theta.reshape(ndim, ndim + 1)

    return _family("affine", ndim, np.eye(ndim, ndim + 1).ravel(), matrix)


@family
def projective(*, ndim: int = 2, full_matrix: bool = False) -> Transform:
    """Homography, ``theta`` = the 3×3 matrix row by row without its last entry, which is 1.

    The map of a target point has a denominator, the last coordinate of matrix times ``(x, y, 1)``.
    Points whose denominator is not positive lie behind the camera; they are mapped far outside the
    image, with zero derivatives.

    Args:
      ndim: Number of spatial axes; must be 2.
      full_matrix: Whether ``theta`` is all nine entries, at any scale. The centre of the output may
        then lie behind the camera; with a last entry of 1 it cannot.

    Returns:
      The family with 8 parameters, or 9; target points to source points, normalised coordinates.

    Raises:
      ValueError: If ``ndim`` is not supported.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> theta = jnp.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.5, 0.0])
      >>> stn.projective().apply(theta, jnp.array([-1.0, 0.25])).tolist()
      [-2.0, 0.5]

      A denominator of ``−x``, which is positive on the left alone:

      >>> theta = jnp.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0, 0.0])
      >>> points = jnp.array([[-0.5, 0.25], [0.5, 0.25]])
      >>> source = stn.projective(full_matrix=True).apply(theta, points)
      >>> source[0].tolist(), bool((source[1] > 1e5).all())
      ([-1.0, 0.5], True)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.2.
    """

    def matrix(theta: Array) -> Array:
        if full_matrix:
            return theta.reshape(3, 3)
        # ``where`` rather than ``concatenate``: JAX cannot join a constant to a sharded array.
        longer = jnp.concatenate([theta, theta[:1]])
        return jnp.where(np.arange(9) == 8, 1, longer).reshape(3, 3)

    if ndim != 2:
        raise ValueError(f"projective exists for ndim = 2; got {ndim!r}.")
    return _family("projective", ndim, np.eye(3).ravel()[: 9 if full_matrix else 8], matrix)


def affine_grid(
    matrix: Float[AnyArray, "rows columns"], shape: Sequence[Size], *, align_corners: bool = False
) -> Float[Array, "*space n"]:
    """The sampling grid of an affine matrix: the source point of every output pixel.

    Args:
      matrix: ``[n, n + 1]``, target to source in normalised coordinates, as PyTorch's ``theta``;
        one matrix, batch with ``jax.vmap``.
      shape: Spatial shape of the output, ``(height, width)`` or ``(depth, height, width)``.
      align_corners: As in :func:`regular_grid`.

    Returns:
      Grid ``[*shape, n]`` for :func:`grid_sample`.

    Raises:
      ValueError: If ``matrix`` and ``shape`` do not fit each other.
      TypeError: If ``matrix`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> grid = stn.affine_grid(jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]), (1, 2))
      >>> grid.tolist()
      [[[0.0, 0.0], [1.0, 0.0]]]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 1.
    """
    shape = _checks.spatial_shape("shape", shape)
    matrix = _checks.floating("matrix", matrix)
    ndim = len(shape)
    if matrix.shape != (ndim, ndim + 1):
        raise ValueError(
            f"matrix must have shape ({ndim}, {ndim + 1}) for an output of shape {shape}; "
            f"got {matrix.shape}. {_checks.matrix_remedy(matrix, ndim)}"
        )
    points = regular_grid(shape, align_corners=align_corners, dtype=matrix.dtype)
    return points + moved_by(_less_identity(matrix), points)


def _family(
    name: str, ndim: int, identity: np.ndarray, matrix: Callable[[Array], Array]
) -> Transform:
    """A family from its matrix: ``[n, n + 1]`` if affine, else ``[n + 1, n + 1]``."""
    if ndim not in (2, 3):
        raise ValueError(f"{name} exists for ndim = 2 and 3; got {ndim!r}.")

    def change(theta: Array) -> Array:
        return _less_identity(matrix(theta))

    return Transform(
        name=name,
        ndim=ndim,
        identity=identity,
        displacement=lambda theta, points: moved_by(change(theta), points),
        inverse=lambda theta, points: (
            points + moved_by(_less_identity(matrices.invert_matrix(matrix(theta))), points)
        ),
        homogeneous=lambda theta: matrices.square_matrix(matrix(theta)),
        affine_change=None if name == "projective" else change,
    )


def _less_identity(matrix: Array) -> Array:
    rows, columns = matrix.shape
    return matrix - np.eye(rows, columns, dtype=matrix.dtype)


def moved_by(delta: Array, points: Array) -> Array:
    """``T(p) − p``, from the matrix of T minus the identity.

    The matrix is ``[n, n + 1]`` or ``[n + 1, n + 1]``. The operations are elementwise, so that XLA
    fuses them, and accelerators do not round them to less than float32.
    """
    coordinates = by_coordinate(points)
    moved = affine_combinations(delta, *coordinates)
    if len(moved) > len(coordinates):
        excess = moved.pop()
        front = 1 + excess > _SMALLEST_DENOMINATOR
        denominator = jnp.where(front, 1 + excess, 1)
        moved = [
            jnp.where(front, (m - excess * p) / denominator, _FAR)
            for m, p in zip(moved, coordinates, strict=True)
        ]
    return jnp.stack(moved, axis=-1)
