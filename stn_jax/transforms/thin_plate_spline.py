"""Thin plate splines: the smoothest map that moves control points to given places."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform
from stn_jax.transforms.newton import newton_inverse


def thin_plate_spline(
    shape: Sequence[int] = (4, 4),
    *,
    control_points: Float[AnyArray, "points 2"] | None = None,
    smoothing: float = 0.0,
) -> Transform:
    """Thin plate spline, ``theta`` = the source ``(x, y)`` of each control point.

    Control point ``k`` of the output is sent to ``(theta[2 k], theta[2 k + 1])`` of the input, and
    the map between them has the least bending energy. The points run row by row over a regular
    lattice whose outermost points lie at ±1. Far from them the map grows like an affine one.

    Args:
      shape: Control points along the two axes, ``(rows, columns)``, at least 2 each.
      control_points: Target points ``[K, 2]`` of your own, in place of the lattice of ``shape``:
        concrete, at least 3, distinct and not all on one line.
      smoothing: Weight of the bending energy, at least 0: at 0 the map goes through the points;
        the larger it is, the nearer it is to an affine least-squares fit. It is added to the
        diagonal of the kernel ``r² log r²``.

    Returns:
      The 2-D family with ``2 K`` parameters; target points to source points, normalised
      coordinates. The inverse is found by Newton's method and is NaN where the map folds.

    Raises:
      ValueError: If the control points do not determine a map, or ``smoothing`` is negative.

    Example:
      Pull the centre of the image to the right, and hold the corners:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> points = jnp.array([[-1.0, -1.0], [1.0, -1.0], [0.0, 0.0], [-1.0, 1.0], [1.0, 1.0]])
      >>> t = stn.thin_plate_spline(control_points=points)
      >>> theta = points.at[2].set(jnp.array([0.5, 0.0])).ravel()
      >>> abs(t.apply(theta, points).round(3)).tolist()
      [[1.0, 1.0], [1.0, 1.0], [0.5, 0.0], [1.0, 1.0], [1.0, 1.0]]

    Reference:
      Bookstein, Principal warps: thin-plate splines and the decomposition of deformations, IEEE
      TPAMI 11(6), 1989. Smoothing: Wahba, Spline models for observational data, 1990, chapter 2.
      As a spatial transformer: Jaderberg et al., arXiv:1506.02025, section 3.2.
    """
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be finite and at least 0; got {smoothing!r}.")
    points = _lattice(shape) if control_points is None else _distinct(control_points)
    return _thin_plate_spline(tuple(map(tuple, points.tolist())), float(smoothing))


@functools.cache
def _thin_plate_spline(
    control_points: tuple[tuple[float, ...], ...], smoothing: float
) -> Transform:
    """The one record of these arguments, which are hashable so that it can be cached."""
    control = np.array(control_points)
    solve = _solution(control, smoothing)

    def weights(theta: Array) -> Array:
        moved = theta.reshape(control.shape) - jnp.asarray(control, theta.dtype)
        return _product(jnp.asarray(solve, theta.dtype), moved)

    def displacement(theta: Array, points: Array) -> Array:
        return _product(_basis(points, control), weights(theta))

    def orientation(theta: Array) -> Array:
        # Far out the affine part is all that counts: the rest grows like a logarithm.
        return matrices.determinant(jnp.eye(2, dtype=theta.dtype) + weights(theta)[-2:])

    return Transform(
        name="thin_plate_spline",
        ndim=2,
        identity=control.ravel(),
        displacement=displacement,
        inverse=newton_inverse(displacement, orientation),
    )


def _lattice(shape: Sequence[int]) -> np.ndarray:
    """Points ``[K, 2]`` of a regular lattice, row by row."""
    sizes = _checks.spatial_shape("shape", shape)
    if len(sizes) != 2 or min(sizes) < 2:
        raise ValueError(
            "shape must be (rows, columns) of control points with at least 2 along each axis; "
            f"got {sizes}. Take (2, 2) or more, or pass control_points."
        )
    y, x = np.meshgrid(*(np.linspace(-1, 1, size) for size in sizes), indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=-1)


def _distinct(control_points: AnyArray) -> np.ndarray:
    """A user's control points in float64, checked to determine a map."""
    control = np.asarray(control_points, np.float64)
    if control.ndim != 2 or control.shape[1] != 2 or len(control) < 3:
        raise ValueError(
            "control_points must be [K, 2], (x, y) of at least 3 points; "
            f"got shape {control.shape}."
        )
    if not np.isfinite(control).all():
        raise ValueError("control_points must be finite; got NaN or infinity.")
    centred = control - control.mean(axis=0)
    extent = np.abs(centred).max()
    _, first, count = np.unique(control, axis=0, return_index=True, return_counts=True)
    if (count > 1).any():
        twice = control[first[count > 1][0]].tolist()
        raise ValueError(
            f"control_points must be distinct; got {twice} {count.max()} times. Remove duplicates."
        )
    if np.linalg.matrix_rank(centred, tol=1e-6 * extent) < 2:
        raise ValueError(
            f"control_points must not all lie on one line; got {len(control)} collinear points. "
            "Add a point beside the line."
        )
    return control


def _solution(control: np.ndarray, smoothing: float) -> np.ndarray:
    """From displacements ``[K, 2]`` of the control points to weights of the basis, ``[K + 3, K]``.

    Solved once, in float64: a linear system of Bookstein's matrix ``[U P; Pᵀ 0]``, in which U holds
    the kernel between control points and P the affine part of the basis.
    """
    count = len(control)
    squared = np.sum((control[:, None] - control) ** 2, axis=-1)
    kernel = squared * np.log(np.where(squared > 0, squared, 1))
    affine = np.concatenate([np.ones((count, 1)), control], axis=1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = kernel + smoothing * np.eye(count)
    system[:count, count:], system[count:, :count] = affine, affine.T
    return np.linalg.solve(system, np.eye(count + 3, count))


def _basis(points: Array, control: np.ndarray) -> Array:
    """The kernel ``r² log r²`` to each control point, then 1, x and y: ``[..., K + 3]``."""
    x, y = points[..., :1], points[..., 1:]
    centre_x, centre_y = jnp.asarray(control.T, points.dtype)
    squared = (x - centre_x) ** 2 + (y - centre_y) ** 2
    # At a control point the kernel is 0 and so is its slope, but its curvature is not finite: the
    # logarithm never sees such a distance, and every derivative there is 0.
    safe = jnp.where(squared > jnp.finfo(points.dtype).eps ** 2, squared, 1)
    return jnp.concatenate([safe * jnp.log(safe), jnp.ones_like(x), points], axis=-1)


def _product(left: Array, right: Array) -> Array:
    """Matrix product without the reduced precision that accelerators would take."""
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)
