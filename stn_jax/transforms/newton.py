"""Inversion of any transform by Newton's method."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.meshes import alike, on_one_mesh
from stn_jax.transforms import matrices
from stn_jax.transforms.base import PointFunction

# Evaluations of the map in an inversion.
_MAX_EVALUATIONS = 90
# The shortest step that is tried, as a share of the Newton step; it is taken whatever it gives.
_SHORTEST_STEP = 2.0**-5

# Count, points, their error and determinant, the Newton step, and the share of it that is tried.
_Carry = tuple[Array, Array, Array, Array, Array, Array]


def newton_inverse(
    displacement: PointFunction,
    *,
    orientation: Callable[[Array], Array | float] = lambda theta: 1.0,
) -> PointFunction:
    """The inverse of ``p + displacement(theta, p)``, by a damped Newton iteration.

    The iteration starts from one fixed-point step and stops after a fixed number of steps. The
    result is NaN where it has not converged, for instance because the map sends no target point to
    the source point. It is also NaN on a fold, where the sign of ``det ∂T/∂p`` differs from that of
    the map far out. Derivatives, of every order, are those of the implicit function rather than of
    the iteration.

    Args:
      displacement: ``(theta, points) -> T(points) − points``.
      orientation: Function from ``theta`` to a number with the sign of ``det ∂T/∂p`` far outside
        the image. It is positive unless the displacement grows without bound.

    Returns:
      ``(theta, points) -> points``, source to target, the ``inverse`` of a
      :class:`stn_jax.Transform`.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> bend = lambda theta, points: theta[0] * points[..., ::-1] ** 2
      >>> theta, point = jnp.array([0.25]), jnp.array([0.5, -0.5])
      >>> invert = stn.newton_inverse(bend)
      >>> invert(theta, point + bend(theta, point)).round(4).tolist()
      [0.5, -0.5]

    Reference:
      Derivative: the implicit function theorem. Damping: Dennis and Schnabel, Numerical Methods for
      Unconstrained Optimization, 1983, section 6.3.
    """

    def inverse(theta: Array, points: Array) -> Array:
        # The map is traced once and called for points that the iteration has moved. On a mesh
        # theta and points must therefore have the mesh and the varying axes of the result.
        theta, points = alike(on_one_mesh([theta, points]))
        # Turn traced arrays that the map closes over, such as control points, into arguments.
        function, constants = jax.closure_convert(displacement, theta, points)
        if constants:
            theta, points, *_ = alike(on_one_mesh([theta, points, *constants]))
            function, constants = jax.closure_convert(displacement, theta, points)
        target, determinant = _root(function, theta, points, *constants)
        sign = jax.lax.stop_gradient(orientation(theta))
        return jnp.where((determinant * sign > 0)[..., None], target, jnp.nan)

    return inverse


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _root(
    function: Callable[..., Array], theta: Array, points: Array, *constants: Array
) -> tuple[Array, Array]:
    """The target points that the map sends to ``points``, and ``det ∂T/∂p`` there."""
    return _solve(lambda target: target + function(theta, target, *constants), points)


@_root.defjvp
def _root_jvp(function: Callable[..., Array], primals: Any, tangents: Any) -> Any:
    """Solves ``∂T/∂p · target_dot = points_dot − ∂T/∂θ · theta_dot``.

    The determinant only says where the map folds, so it has no derivative.
    """
    theta, points, *constants = primals
    theta_dot, points_dot, *constants_dot = tangents
    target, determinant = _root(function, theta, points, *constants)
    _, change = jax.jvp(
        lambda theta, *constants: function(theta, target, *constants),
        (theta, *constants),
        (theta_dot, *constants_dot),
    )
    _, slopes = _linearized(lambda p: p + function(theta, p, *constants), target)
    moved = _divide(points_dot - change, slopes)
    return (target, determinant), (moved, matrices.zeros_of(determinant))


def _linearized(function: Callable[[Array], Array], points: Array) -> tuple[Array, Array]:
    """A function that maps each point: its values, and its Jacobians ``[..., n, n]``.

    The function is traced once, and its derivatives along all axes are one batch, since compilers
    take long over several copies of a map.
    """
    ndim = points.shape[-1]
    units = np.eye(ndim).reshape(ndim, *(points.ndim - 1) * [1], ndim)
    directions = jnp.zeros_like(points)[None] + jnp.asarray(units, points.dtype)
    push = lambda direction: jax.jvp(function, (points,), (direction,))  # noqa: E731
    return jax.vmap(push, out_axes=(None, -1))(directions)


def _solve(function: Callable[[Array], Array], goal: Array) -> tuple[Array, Array]:
    """The points that ``function`` sends to ``goal``, NaN where none is found; and determinants.

    Each turn of the loop evaluates the map and its Jacobian once, at a tried point. If the point is
    nearer to the goal than the last one, it is kept, and the next one is a Newton step away from
    it; else the step is halved. So the program holds a single copy of the map.
    """
    tolerance = 32 * jnp.finfo(goal.dtype).eps * (1 + jnp.abs(goal).max(axis=-1))

    def turn(carry: _Carry) -> _Carry:
        count, points, error, determinant, step, share = carry
        tried = points - share[..., None] * step
        value, slopes = _linearized(function, tried)
        its_error = jnp.abs(value - goal).max(axis=-1)
        goes_on = unfinished(count, error)
        kept = goes_on & ((its_error < error) | (share <= _SHORTEST_STEP))
        points = jnp.where(kept[..., None], tried, points)
        step = jnp.where(kept[..., None], _divide(value - goal, slopes), step)
        return (
            count + 1,
            points,
            jnp.where(kept, its_error, error),
            jnp.where(kept, _determinant(slopes), determinant),
            step,
            jnp.where(kept, 1, share / 2),
        )

    def unfinished(count: Array, error: Array) -> Array:
        return (count < _MAX_EVALUATIONS) & (error > tolerance / 16)

    def any_unfinished(carry: _Carry) -> Array:
        # Test only carried values. Under vmap the condition is evaluated twice; a recomputed
        # residual may round differently, and the loop might never end.
        return unfinished(carry[0], carry[2]).any()

    # The first turn evaluates the map at the goal. All values are computed from the goal, so that
    # they are batched and sharded alike: under vmap JAX cannot shard a constant carry over an
    # Explicit mesh. A count for each point, for the same reason.
    zero = matrices.zeros_of(goal)
    nought = zero[..., 0]
    count = nought.astype(np.int32)
    carry = count, goal, nought + jnp.inf, nought, zero, nought + 1
    _, points, error, determinant, _, _ = jax.lax.while_loop(any_unfinished, turn, carry)
    return jnp.where((error <= tolerance)[..., None], points, jnp.nan), determinant


def _determinant(matrix: Array) -> Array:
    """The determinants of ``[..., n, n]``."""
    determinant = matrices.determinant
    for _ in matrix.shape[:-2]:
        determinant = jax.vmap(determinant)
    return determinant(matrix)


def _divide(value: Array, matrix: Array) -> Array:
    """``matrix⁻¹ value``, by operations linear in ``value``, so that JAX can transpose it."""
    invert = matrices.inverse
    for _ in matrix.shape[:-2]:
        invert = jax.vmap(invert)
    return jnp.sum(invert(matrix) * value[..., None, :], axis=-1)
