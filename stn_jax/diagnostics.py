"""Cheap measures of a transform: derivatives, folds, coverage, distance from the identity.

All of them are pure functions of one ``theta``; batch with ``jax.vmap``, compile with ``jax.jit``.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._renames import renamed_argument
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import Coverage, regular_grid
from stn_jax.transforms.base import Transform

__all__ = [
    "coverage",
    "distance_from_identity",
    "fold_fraction",
    "inverse_residual",
    "jacobian",
    "log_abs_det",
]


def jacobian(
    transform: Transform, theta: Float[AnyArray, " params"], points: Float[AnyArray, "*batch n"]
) -> Float[Array, "*batch n n"]:
    """The derivative of the source point with respect to the target point, ``∂T_i/∂p_j``.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      points: Normalised target points ``[..., n]``.

    Returns:
      ``[..., n, n]``, in float32 or wider; row ``i`` holds the derivatives of coordinate ``i``.

    Raises:
      ValueError: If ``theta`` or the last axis of ``points`` has the wrong length.
      TypeError: If either is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import diagnostics
      >>> theta = jnp.array([1.0, 2.0, 0.5, 3.0, 4.0, 0.5])
      >>> diagnostics.jacobian(stn.affine(), theta, jnp.zeros(2)).tolist()
      [[1.0, 2.0], [3.0, 4.0]]
    """
    points = _checks.points("points", points, transform.ndim)

    def along(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, points.shape)
        return jax.jvp(lambda p: transform.apply(theta, p), (points,), (tangent,))[1]

    axes = jnp.eye(transform.ndim, dtype=points.dtype)
    return jax.vmap(along, out_axes=-1)(axes)


def log_abs_det(
    transform: Transform, theta: Float[AnyArray, " params"], points: Float[AnyArray, "*batch n"]
) -> Float[Array, "*batch"]:
    """``log |det ∂T/∂p|``, the logarithm of the input's area per area of the output.

    Above 0 the output shows objects smaller than the input does.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      points: Normalised target points ``[..., n]``.

    Returns:
      ``[...]``, in float32 or wider; −inf where the map is singular.

    Raises:
      ValueError: If ``theta`` or the last axis of ``points`` has the wrong length.
      TypeError: If either is not of a floating dtype.

    Example:
      A crop of half the size shows a quarter of the area:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import diagnostics
      >>> crop = jnp.array([0.5, 0.0, 0.0])
      >>> area = jnp.exp(diagnostics.log_abs_det(stn.attention(), crop, jnp.zeros(2)))
      >>> area.round(6).item()
      0.25
    """
    return jnp.log(jnp.abs(_determinant(transform, theta, points)))


@renamed_argument("shape", "output_shape")
def fold_fraction(
    transform: Transform,
    theta: Float[AnyArray, " params"],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> Float[Array, ""]:
    """The share of a lattice where the map is folded: ``det ∂T/∂p`` is not positive.

    There the output shows the input mirrored, for instance where a dense flow crosses itself. A
    homography's points behind the camera count as outside the image, not as folded; see
    :func:`coverage`.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      output_shape: Spatial shape of the output, whose lattice is tested.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      A number from 0 to 1, in float32 or wider; NaN determinants count as folds.

    Raises:
      ValueError: If ``theta`` has the wrong length, or ``output_shape`` does not fit the transform.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import diagnostics
      >>> mirror = jnp.array([-1.0, 0.0, 0.0, 0.0, 1.0, 0.0])
      >>> diagnostics.fold_fraction(stn.affine(), mirror, (4, 4)).item()
      1.0

    Reference:
      Balakrishnan et al., VoxelMorph: A Learning Framework for Deformable Medical Image
      Registration, arXiv:1809.05231.
    """
    theta, points = _lattice(transform, theta, output_shape, align_corners)
    folded = ~(_determinant(transform, theta, points) > 0)
    return jnp.mean(folded, dtype=theta.dtype)


def inverse_residual(
    transform: Transform, theta: Float[AnyArray, " params"], points: Float[AnyArray, "*batch n"]
) -> Float[Array, "*batch"]:
    """The error of the inverse: the distance of ``T(T⁻¹(p))`` from ``p``.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      points: Normalised source points ``[..., n]``, as :meth:`stn_jax.Transform.invert` takes them.

    Returns:
      ``[...]``, lengths in normalised units, in float32 or wider; NaN where there is no inverse.

    Raises:
      ValueError: If ``theta`` or the last axis of ``points`` has the wrong length.
      TypeError: If either is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import diagnostics
      >>> bump = stn.displacement((3, 3))
      >>> theta = jnp.zeros((3, 3, 2)).at[1, 1, 0].set(0.4).ravel()
      >>> residual = diagnostics.inverse_residual(bump, theta, jnp.array([[0.0, 0.0], [0.4, 0.1]]))
      >>> bool((residual < 1e-5).all())
      True
    """
    points = _checks.points("points", points, transform.ndim)
    back = transform.apply(theta, transform.invert(theta, points))
    return jnp.linalg.norm(back - points, axis=-1)


def coverage(
    transform: Transform,
    theta: Float[AnyArray, " params"],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> Coverage:
    """Which output pixels read a point inside the input, and their share.

    :func:`stn_jax.warp` returns the same with ``return_coverage=True``.

    Inside means from −1 to 1 along every axis: up to the outer edges of the image, or up to the
    centres of its corner pixels under ``align_corners=True``.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      output_shape: Spatial shape of the output.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      The mask ``[*output_shape]``, and its share of true pixels, in float32 or wider.

    Raises:
      ValueError: If ``theta`` has the wrong length, or ``output_shape`` does not fit the transform.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      A shift by half a unit reads a quarter of the columns from outside:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import diagnostics
      >>> shift = jnp.array([0.5, 0.0])
      >>> mask, fraction = diagnostics.coverage(stn.translation(), shift, (1, 4))
      >>> mask.tolist(), fraction.item()
      ([[True, True, True, False]], 0.75)
    """
    theta, points = _lattice(transform, theta, output_shape, align_corners)
    return Coverage.of(transform.apply(theta, points))


@renamed_argument("shape", "output_shape")
def distance_from_identity(
    transform: Transform,
    theta: Float[AnyArray, " params"],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> Float[Array, ""]:
    """How far the map moves points: the root mean square of ``|T(p) − p|`` over a lattice.

    It is differentiable; at the identity its gradient is 0.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      output_shape: Spatial shape of the output, over whose lattice the mean is taken.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      A length in normalised units, in float32 or wider.

    Raises:
      ValueError: If ``theta`` has the wrong length, or ``output_shape`` does not fit the transform.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import diagnostics
      >>> shift = jnp.array([3.0, 4.0])
      >>> diagnostics.distance_from_identity(stn.translation(), shift, (8, 8)).item()
      5.0
    """
    theta, points = _lattice(transform, theta, output_shape, align_corners)
    square = jnp.mean(jnp.sum(transform.displacement(theta, points) ** 2, axis=-1))
    still = square == 0
    return jnp.where(still, 0, jnp.sqrt(jnp.where(still, 1, square)))


def _determinant(transform: Transform, theta: AnyArray, points: AnyArray) -> Array:
    """``det ∂T/∂p``, which JAX computes in closed form for 2×2 and 3×3."""
    return jnp.linalg.det(jacobian(transform, theta, points))


def _lattice(
    transform: Transform, theta: AnyArray, output_shape: Sequence[Size], align_corners: bool
) -> tuple[Array, Array]:
    """Checks the parameters; returns them and the points of the lattice in their dtype."""
    theta = transform.check_theta(theta)
    shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
    return theta, regular_grid(shape, align_corners=align_corners, dtype=theta.dtype)
