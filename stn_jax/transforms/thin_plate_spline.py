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
from stn_jax.transforms.base import Transform, family
from stn_jax.transforms.newton import newton_inverse


def thin_plate_spline(
    shape: Sequence[int] = (4, 4),
    *,
    control_points: Float[AnyArray, "points 2"] | None = None,
    smoothing: float | AnyArray = 0.0,
    aspect: float = 1.0,
) -> Transform:
    """Thin plate spline, ``theta`` = the source ``(x, y)`` of each control point.

    Control point ``k`` of the output is sent to ``(theta[2 k], theta[2 k + 1])`` of the input, and
    the map between them has the least bending energy. The points run row by row over a regular
    lattice whose outermost points lie at ±1. Far from them the map grows like an affine one.

    Args:
      shape: Control points along the two axes, ``(rows, columns)``, at least 2 each.
      control_points: Target points ``[K, 2]`` of your own, in place of the lattice of ``shape``:
        at least 3, distinct and not all on one line. A JAX array may be traced, batched and
        differentiated.
      smoothing: Weight of the bending energy, at least 0: at 0 the map goes through the points;
        the larger it is, the nearer it is to an affine least-squares fit. It is added to the
        diagonal of the kernel ``r² log r²``. A JAX array without axes may be traced, too.
      aspect: Width over height of the image in pixels. The bending energy depends on what a
        distance is: ``r² = (aspect · Δx)² + Δy²`` in normalised coordinates. With 1 distances are
        those of normalised coordinates, with ``width / height`` those of pixels, up to a factor,
        so that the map is the spline between pixel coordinates that other libraries compute.

    Returns:
      The 2-D family with ``2 K`` parameters; target points to source points, normalised
      coordinates. The inverse is found by Newton's method and is NaN where the map folds. From
      numbers that are known the spline's linear system is solved in float64. From traced ones it is
      solved in their dtype, float32 at least, and nothing is checked: the map is not finite, or
      meaningless, where points coincide or lie on one line.

    Raises:
      ValueError: If the control points do not determine a map, ``smoothing`` is negative, or
        ``aspect`` is not positive.

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
    if isinstance(aspect, jax.Array) or not 0 < aspect < math.inf:
        raise ValueError(
            f"aspect must be a positive number, width over height in pixels; got {aspect!r}."
        )
    aspect = float(aspect)
    smoothing = _checked_smoothing(smoothing)
    control = _lattice(shape) if control_points is None else _checked_points(control_points)
    given = [each for each in (control, smoothing) if isinstance(each, jax.Array)]
    if any(isinstance(each, jax.core.Tracer) for each in given):
        dtype = jnp.result_type(*given)
        solve = _traced_solution(jnp.asarray(control, dtype), smoothing, aspect)
        return _thin_plate_spline(control, solve, aspect)
    known = np.asarray(control, np.float64)
    solved = _solution(known.tobytes(), float(smoothing), aspect)
    # JAX arrays make a record with leaves, also where their values are known.
    return _thin_plate_spline(
        control, jnp.asarray(solved, jnp.result_type(*given)) if given else solved, aspect
    )


@family
def _thin_plate_spline(control: AnyArray, solve: AnyArray, aspect: float) -> Transform:
    """The spline from its control points ``[K, 2]`` and its solved system ``[K + 3, K]``."""

    def weights(theta: Array) -> Array:
        moved = theta.reshape(-1, 2) - jnp.asarray(control, theta.dtype)
        return matrices.product(jnp.asarray(solve, theta.dtype), moved)

    def displacement(theta: Array, points: Array) -> Array:
        centres = jnp.asarray(control, points.dtype)
        return matrices.product(_basis(points, centres, aspect), weights(theta))

    def orientation(theta: Array) -> Array:
        # Far out the affine part is all that counts: the rest grows like a logarithm.
        return matrices.determinant(jnp.eye(2, dtype=theta.dtype) + weights(theta)[-2:])

    return Transform(
        name="thin_plate_spline",
        ndim=2,
        identity=control.reshape(-1),
        displacement=displacement,
        inverse=newton_inverse(displacement, orientation=orientation),
    )


def _checked_smoothing(smoothing: float | AnyArray) -> float | AnyArray:
    """A number, or a JAX scalar of at least float32."""
    if np.shape(smoothing) != ():
        raise ValueError(f"smoothing must be one number; got shape {np.shape(smoothing)}.")
    if isinstance(smoothing, jax.Array):
        smoothing = _checks.as_float(smoothing)
    if not isinstance(smoothing, jax.core.Tracer) and not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be finite and at least 0; got {smoothing!r}.")
    return smoothing


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


def _checked_points(control_points: AnyArray) -> AnyArray:
    """A user's control points, checked to determine a map as far as they are known.

    NumPy's in float64, JAX's in float32 at least.
    """
    given = control_points
    given = _checks.as_float(given) if isinstance(given, jax.Array) else np.asarray(given)
    if given.ndim != 2 or given.shape[1] != 2 or len(given) < 3:
        batch = " Batch with jax.vmap." if given.ndim == 3 else ""
        raise ValueError(
            "control_points must be [K, 2], (x, y) of at least 3 points; "
            f"got shape {given.shape}.{batch}"
        )
    if isinstance(given, jax.core.Tracer):
        return given
    control = np.asarray(given, np.float64)
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
    return given if isinstance(given, jax.Array) else control


@functools.lru_cache(maxsize=64)
def _solution(control: bytes, smoothing: float, aspect: float) -> np.ndarray:
    """From displacements ``[K, 2]`` of the control points to weights of the basis, ``[K + 3, K]``.

    Solved once, in float64: a linear system of Bookstein's matrix ``[U P; Pᵀ 0]``, in which U holds
    the kernel between control points and P the affine part of the basis.
    """
    points = np.frombuffer(control).reshape(-1, 2)
    count = len(points)
    scaled = points * [aspect, 1.0]
    squared = np.sum((scaled[:, None] - scaled) ** 2, axis=-1)
    kernel = squared * np.log(np.where(squared > 0, squared, 1))
    affine = np.concatenate([np.ones((count, 1)), points], axis=1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = kernel + smoothing * np.eye(count)
    system[:count, count:], system[count:, :count] = affine, affine.T
    solve = np.linalg.solve(system, np.eye(count + 3, count))
    solve.flags.writeable = False
    return solve


def _traced_solution(control: Array, smoothing: float | AnyArray, aspect: float) -> Array:
    """The same of traced numbers, in their dtype."""
    count = len(control)
    rows, columns = _basis(control, control, aspect), jnp.zeros_like(control, shape=(3, 3))
    diagonal = jnp.eye(count, count + 3, dtype=control.dtype)
    rows = rows + jnp.asarray(smoothing, control.dtype) * diagonal
    system = jnp.concatenate([rows, jnp.concatenate([rows[:, count:].T, columns], axis=1)])
    return jnp.linalg.solve(system, jnp.eye(count + 3, count, dtype=control.dtype))


def _basis(points: Array, control: Array, aspect: float) -> Array:
    """The kernel ``r² log r²`` to each control point, then 1, x and y: ``[..., K + 3]``."""
    x, y = points[..., :1], points[..., 1:]
    centre_x, centre_y = (matrices.with_rank(control[:, k], x.ndim) for k in range(2))
    squared = (aspect * (x - centre_x)) ** 2 + (y - centre_y) ** 2
    # At a control point the kernel is 0 and so is its slope, but its curvature is not finite: the
    # logarithm never sees such a distance, and every derivative there is 0.
    safe = jnp.where(squared > jnp.finfo(points.dtype).eps ** 2, squared, 1)
    return jnp.concatenate([safe * jnp.log(safe), jnp.ones_like(x), points], axis=-1)
