"""Thin plate splines: the smoothest map that moves control points to given places."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

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
    control_points: Float[AnyArray, "points n"] | None = None,
    smoothing: float | AnyArray = 0.0,
    aspect: float | int | Sequence[float | int] = 1.0,
) -> Transform:
    """Thin plate spline, ``theta`` = the source ``(x, y)`` of each control point.

    Control point ``k`` of the output is sent to ``(theta[2 k], theta[2 k + 1])`` of the input, and
    the map between them has the least bending energy. The points run row by row over a regular
    lattice whose outermost points lie at ±1. Far from them the map grows like an affine one. The
    same in 1-D, the cubic spline of signals, and in 3-D, of volumes.

    Args:
      shape: Control points along each axis, ``(rows, columns)``, ``(planes, rows, columns)`` or
        ``(columns,)``, at least 2 each.
      control_points: Target points ``[K, n]`` of your own, in place of the lattice of ``shape``:
        at least ``n + 1``, distinct and not all on one line, or in one plane in 3-D. A JAX array
        may be traced, batched and differentiated.
      smoothing: Weight of the bending energy, at least 0: at 0 the map goes through the points;
        the larger it is, the nearer it is to an affine least-squares fit. It is added to the
        diagonal of the kernel: ``r² log r²``, ``r³`` in 1-D, ``−r`` in 3-D. A JAX array without
        axes may be traced, too.
      aspect: Width over height of the image in pixels, as in :func:`isotropic`. The bending energy
        depends on what a distance is: ``r² = (aspect · Δx)² + Δy²`` in normalised coordinates. With
        1 distances are those of normalised coordinates, with ``width / height`` those of pixels,
        up to a factor, so that the map is the spline between pixel coordinates that other libraries
        compute. Of a volume the pair ``(width / depth, height / depth)``, or 1.

    Returns:
      The family of ``n`` dimensions with ``n K`` parameters; target points to source points,
      normalised coordinates. The inverse is found by Newton's method and is NaN where the map
      folds. From numbers that are known the spline's linear system is solved in float64. From
      traced ones it is solved in their dtype, float32 at least, and nothing is checked: the map is
      not finite, or meaningless, where points coincide or lie on one line.

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
      TPAMI 11(6), 1989. Smoothing and other dimensions: Wahba, Spline models for observational
      data, 1990, chapter 2.
      As a spatial transformer: Jaderberg et al., arXiv:1506.02025, section 3.2.
    """
    smoothing = _checked_smoothing(smoothing)
    control = _lattice(shape) if control_points is None else _checked_points(control_points)
    lengths = _lengths(aspect, control.shape[1])
    given = [each for each in (control, smoothing) if isinstance(each, jax.Array)]
    if any(isinstance(each, jax.core.Tracer) for each in given):
        dtype = jnp.result_type(*given)
        solve = _traced_solution(jnp.asarray(control, dtype), smoothing, lengths)
        return _thin_plate_spline(control, solve, lengths)
    known = np.asarray(control, np.float64)
    solved = _solution(known.tobytes(), float(smoothing), lengths)
    # JAX arrays make a record with leaves, also where their values are known.
    return _thin_plate_spline(
        control, jnp.asarray(solved, jnp.result_type(*given)) if given else solved, lengths
    )


@family
def _thin_plate_spline(control: AnyArray, solve: AnyArray, lengths: tuple[float, ...]) -> Transform:
    """The spline from its control points ``[K, n]`` and its solved system ``[K + n + 1, K]``."""
    ndim = len(lengths)

    def weights(theta: Array) -> Array:
        moved = theta.reshape(-1, ndim) - jnp.asarray(control, theta.dtype)
        return matrices.product(jnp.asarray(solve, theta.dtype), moved)

    def displacement(theta: Array, points: Array) -> Array:
        centres = jnp.asarray(control, points.dtype)
        return matrices.product(_basis(points, centres, lengths), weights(theta))

    def orientation(theta: Array) -> Array:
        # Far out the affine part is all that counts: the rest grows like a logarithm, or not at
        # all in 3-D. In 1-D it is the mean of the slopes at both ends.
        return matrices.determinant(jnp.eye(ndim, dtype=theta.dtype) + weights(theta)[-ndim:])

    return Transform(
        name="thin_plate_spline",
        ndim=ndim,
        identity=control.reshape(-1),
        displacement=displacement,
        inverse=newton_inverse(displacement, orientation=orientation),
    )


def _lengths(aspect: float | int | Sequence[float | int], ndim: int) -> tuple[float, ...]:
    """How long the sides of the image are, the last being 1."""
    if isinstance(aspect, jax.Array):
        raise ValueError(f"aspect must be known numbers; got the JAX array {aspect!r}.")
    if np.ndim(aspect) == 0 and aspect == 1:
        return (1.0,) * ndim
    return tuple(_checks.aspect(aspect, ndim).tolist())


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
    if len(sizes) > 3 or min(sizes) < 2:
        raise ValueError(
            "shape must be (rows, columns) of control points, (planes, rows, columns) or "
            f"(columns,), with at least 2 along each axis; got {sizes}. Take (2, 2) or more, or "
            "pass control_points."
        )
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in sizes), indexing="ij")
    return np.stack([axis.ravel() for axis in reversed(axes)], axis=-1)


def _checked_points(control_points: AnyArray) -> AnyArray:
    """A user's control points, checked to determine a map as far as they are known.

    NumPy's in float64, JAX's in float32 at least.
    """
    given = control_points
    given = _checks.as_float(given) if isinstance(given, jax.Array) else np.asarray(given)
    ndim = given.shape[1] if given.ndim == 2 and given.shape[1] in (1, 2, 3) else 2
    if given.ndim != 2 or given.shape[1] != ndim or len(given) <= ndim:
        batch = " Batch with jax.vmap." if given.ndim == 3 else ""
        raise ValueError(
            f"control_points must be [K, {ndim}], the coordinates of at least {ndim + 1} points; "
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
    if np.linalg.matrix_rank(centred, tol=1e-6 * extent) < ndim:
        where, kind = ("line", "collinear") if ndim == 2 else ("plane", "coplanar")
        raise ValueError(
            f"control_points must not all lie on one {where}; got {len(control)} {kind} points. "
            f"Add a point beside the {where}."
        )
    return given if isinstance(given, jax.Array) else control


@functools.lru_cache(maxsize=64)
def _solution(control: bytes, smoothing: float, lengths: tuple[float, ...]) -> np.ndarray:
    """From displacements ``[K, n]`` of the control points to weights of the basis.

    ``[K + n + 1, K]``, solved once, in float64: a linear system of Bookstein's matrix ``[U P; Pᵀ
    0]``, in which U holds the kernel between control points and P the affine part of the basis.
    """
    points = np.frombuffer(control).reshape(-1, len(lengths))
    count, affine_part = len(points), len(lengths) + 1
    scaled = points * lengths
    squared = np.sum((scaled[:, None] - scaled) ** 2, axis=-1)
    safe = np.where(squared > 0, squared, 1)
    kernel = np.where(squared > 0, _KERNELS[len(lengths)](safe, np), 0)
    affine = np.concatenate([np.ones((count, 1)), points], axis=1)
    system = np.zeros((count + affine_part, count + affine_part))
    system[:count, :count] = kernel + smoothing * np.eye(count)
    system[:count, count:], system[count:, :count] = affine, affine.T
    solve = np.linalg.solve(system, np.eye(count + affine_part, count))
    solve.flags.writeable = False
    return solve


def _traced_solution(
    control: Array, smoothing: float | AnyArray, lengths: tuple[float, ...]
) -> Array:
    """The same of traced numbers, in their dtype."""
    count, affine_part = len(control), len(lengths) + 1
    rows = _basis(control, control, lengths)
    columns = jnp.zeros_like(control, shape=(affine_part, affine_part))
    diagonal = jnp.eye(count, count + affine_part, dtype=control.dtype)
    rows = rows + jnp.asarray(smoothing, control.dtype) * diagonal
    system = jnp.concatenate([rows, jnp.concatenate([rows[:, count:].T, columns], axis=1)])
    return jnp.linalg.solve(system, jnp.eye(count + affine_part, count, dtype=control.dtype))


# The kernel of a squared distance above 0, by the number of dimensions, with JAX or NumPy.
_KERNELS: dict[int, Callable[[Any, Any], Any]] = {
    1: lambda squared, np: squared * np.sqrt(squared),
    2: lambda squared, np: squared * np.log(squared),
    3: lambda squared, np: -np.sqrt(squared),
}


def _basis(points: Array, control: Array, lengths: tuple[float, ...]) -> Array:
    """The kernel to each control point, then 1 and the coordinates: ``[..., K + n + 1]``."""
    coordinates = [points[..., k : k + 1] for k in range(len(lengths))]
    squared = sum(
        (length * (each - matrices.with_rank(control[:, k], points.ndim))) ** 2
        for k, (length, each) in enumerate(zip(lengths, coordinates, strict=True))
    )
    # At a control point the kernel is 0 and so is its slope, but in 2-D its curvature is not
    # finite, and in 3-D it has a kink: no root or logarithm sees such a distance, and every
    # derivative there is 0.
    is_apart = squared > jnp.finfo(points.dtype).eps ** 2
    kernel = _KERNELS[len(lengths)](jnp.where(is_apart, squared, 1), jnp)
    kernel = jnp.where(is_apart, kernel, 0)
    return jnp.concatenate([kernel, jnp.ones_like(coordinates[0]), points], axis=-1)
