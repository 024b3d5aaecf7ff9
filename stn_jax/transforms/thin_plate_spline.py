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

    The map sends control point ``k`` of the output to ``(theta[2 k], theta[2 k + 1])`` of the
    input, and among all such maps has the least bending energy. The points are a regular lattice,
    row by row, whose outermost points lie at ±1. Far from them the map is nearly affine. The map
    exists in 1-D for signals, where it is the cubic spline, and in 3-D for volumes.

    Args:
      shape: Control points along each axis, ``(rows, columns)``, ``(planes, rows, columns)`` or
        ``(columns,)``, at least 2 each.
      control_points: Target points ``[K, n]`` in place of the lattice of ``shape``: at least
        ``n + 1``, distinct and not all on one line, or in one plane in 3-D. A JAX array may be
        traced, batched and differentiated.
      smoothing: Weight of the bending energy, at least 0. At 0 the map passes exactly through the
        points; a large weight gives almost the affine least-squares fit. The weight is added to the
        diagonal of the kernel matrix, whose kernel is ``r² log r²``, in 1-D ``r³``, in 3-D ``−r``.
        A JAX scalar may be traced.
      aspect: Width over height of the image in pixels, as in :func:`isotropic`; for a volume the
        pair ``(width / depth, height / depth)``, or 1. The bending energy depends on distances:
        ``r² = (aspect · Δx)² + Δy²`` in normalised coordinates. With 1, distances are measured in
        normalised coordinates. With ``width / height`` they are measured in pixels, up to a factor,
        and the map is the spline of pixel coordinates that other libraries compute.

    Returns:
      The family of ``n`` dimensions with ``n K`` parameters; target points to source points,
      normalised coordinates. The inverse is found by Newton's method and is NaN where the map
      folds. With concrete arguments the spline's linear system is solved in float64. With traced
      ones it is solved in their dtype, float32 or wider, without checks: the map is then not
      finite, or meaningless, if points coincide or lie on one line.

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
    # A JAX array, concrete or traced, becomes a leaf of the record.
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
        # The sign is that of the affine part, which dominates far out: the rest grows only like a
        # logarithm, or in 3-D not at all. In 1-D the affine slope is the mean of the slopes at both
        # ends.
        return matrices.determinant(jnp.eye(ndim, dtype=theta.dtype) + weights(theta)[-ndim:])

    return Transform(
        name="thin_plate_spline",
        ndim=ndim,
        identity=control.reshape(-1),
        displacement=displacement,
        inverse=newton_inverse(displacement, orientation=orientation),
    )


def _lengths(aspect: float | int | Sequence[float | int], ndim: int) -> tuple[float, ...]:
    """The lengths of the image's sides, in units of the last side."""
    if isinstance(aspect, jax.Array):
        raise ValueError(f"aspect must be a number or a sequence of numbers; got {aspect!r}.")
    if np.ndim(aspect) == 0 and aspect == 1:
        return (1.0,) * ndim
    return tuple(_checks.aspect(aspect, ndim).tolist())


def _checked_smoothing(smoothing: float | AnyArray) -> float | AnyArray:
    """Checks the smoothing; returns a number, or a JAX scalar in float32 or wider."""
    if np.shape(smoothing) != ():
        raise ValueError(f"smoothing must be one number; got shape {np.shape(smoothing)}.")
    if isinstance(smoothing, jax.Array):
        smoothing = _checks.as_float(smoothing)
    if not isinstance(smoothing, jax.core.Tracer) and not 0 <= smoothing < math.inf:
        raise ValueError(f"smoothing must be finite and at least 0; got {smoothing!r}.")
    return smoothing


def _lattice(shape: Sequence[int]) -> np.ndarray:
    """Points ``[K, n]`` of a regular lattice, row by row."""
    sizes = _checks.spatial_shape("shape", shape, may_be_symbolic=False)
    if len(sizes) > 3 or min(sizes) < 2:
        raise ValueError(
            "shape must be (rows, columns) of control points, (planes, rows, columns) or "
            f"(columns,), with at least 2 along each axis; got {sizes}. Use (2, 2) or more, or "
            "pass control_points."
        )
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in sizes), indexing="ij")
    return np.stack([axis.ravel() for axis in reversed(axes)], axis=-1)


def _checked_points(control_points: AnyArray) -> AnyArray:
    """Checks that the user's control points determine a map; traced values are not checked.

    Returns NumPy arrays in float64, JAX arrays in float32 or wider.
    """
    given = _checks.numbers("control_points", control_points)
    _checks.known_sizes("control_points", given.shape)
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
            f"Add a point outside the {where}."
        )
    return given if isinstance(given, jax.Array) else control


@functools.lru_cache(maxsize=64)
def _solution(control: bytes, smoothing: float, lengths: tuple[float, ...]) -> np.ndarray:
    """The matrix ``[K + n + 1, K]`` from displacements of the control points to basis weights.

    It solves, in float64, the linear system of Bookstein's matrix ``[U P; Pᵀ 0]``. U holds the
    kernel between control points, P the affine part of the basis.
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
    """The same matrix from traced arrays, in their dtype."""
    count, affine_part = len(control), len(lengths) + 1
    rows = _basis(control, control, lengths)
    columns = jnp.zeros_like(control, shape=(affine_part, affine_part))
    diagonal = jnp.eye(count, count + affine_part, dtype=control.dtype)
    rows = rows + jnp.asarray(smoothing, control.dtype) * diagonal
    system = jnp.concatenate([rows, jnp.concatenate([rows[:, count:].T, columns], axis=1)])
    return jnp.linalg.solve(system, jnp.eye(count + affine_part, count, dtype=control.dtype))


# For each number of dimensions, the kernel as a function of the squared distance, which must be
# positive, and of the module to compute with: NumPy or jax.numpy.
_KERNELS: dict[int, Callable[[Any, Any], Any]] = {
    1: lambda squared, np: squared * np.sqrt(squared),
    2: lambda squared, np: squared * np.log(squared),
    3: lambda squared, np: -np.sqrt(squared),
}


def _basis(points: Array, control: Array, lengths: tuple[float, ...]) -> Array:
    """The basis at points: kernel of each control point, 1, coordinates: ``[..., K + n + 1]``."""
    coordinates = [points[..., k : k + 1] for k in range(len(lengths))]
    squared = sum(
        (length * (each - matrices.with_rank(control[:, k], points.ndim))) ** 2
        for k, (length, each) in enumerate(zip(lengths, coordinates, strict=True))
    )
    # At a control point the kernel is 0. Its derivatives are set to 0 there too: in 2-D the second
    # one is not finite, and in 3-D the kernel has a kink.
    is_apart = squared > jnp.finfo(points.dtype).eps ** 2
    kernel = _KERNELS[len(lengths)](jnp.where(is_apart, squared, 1), jnp)
    kernel = jnp.where(is_apart, kernel, 0)
    return jnp.concatenate([kernel, jnp.ones_like(coordinates[0]), points], axis=-1)
