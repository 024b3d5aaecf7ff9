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

_MAX_ITERATIONS = 30
# Step lengths tried per iteration: the Newton step, and its successive halves.
_HALVINGS = 6


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
        target = _root(function, theta, points, *constants)
        slopes = _slopes(
            lambda p: p + function(theta, p, *constants), jax.lax.stop_gradient(target)
        )
        determinant = _determinant(slopes)
        if orientation is not None:
            determinant = determinant * jax.lax.stop_gradient(orientation(theta))
        unfolded = determinant > 0
        return jnp.where(unfolded[..., None], target, jnp.nan)

    return inverse


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _root(function: Callable[..., Array], theta: Array, points: Array, *constants: Array) -> Array:
    """The target points that the map sends to ``points``."""
    return _solve(lambda target: target + function(theta, target, *constants), points)


@_root.defjvp
def _root_jvp(function: Callable[..., Array], primals: Any, tangents: Any) -> tuple[Array, Array]:
    """Solves ``∂T/∂p · target_dot = points_dot − ∂T/∂θ · theta_dot``."""
    theta, points, *constants = primals
    theta_dot, points_dot, *constants_dot = tangents
    target = _root(function, theta, points, *constants)
    _, change = jax.jvp(
        lambda theta, *constants: function(theta, target, *constants),
        (theta, *constants),
        (theta_dot, *constants_dot),
    )
    slopes = _slopes(lambda p: p + function(theta, p, *constants), target)
    return target, _divide(points_dot - change, slopes)


def _slopes(function: Callable[[Array], Array], points: Array) -> Array:
    """The Jacobians ``[..., n, n]`` of a function that maps each point."""
    columns = []
    for axis in range(points.shape[-1]):
        unit = np.zeros((1,) * (points.ndim - 1) + points.shape[-1:])
        unit[..., axis] = 1
        direction = jnp.zeros_like(points) + jnp.asarray(unit, points.dtype)
        columns.append(jax.jvp(function, (points,), (direction,))[1])
    return jnp.stack(columns, axis=-1)


def _solve(function: Callable[[Array], Array], goal: Array) -> Array:
    """The points that ``function`` sends to ``goal``; NaN where none is found."""
    tolerance = 32 * jnp.finfo(goal.dtype).eps * (1 + jnp.abs(goal).max(axis=-1))
    scales = 0.5 ** np.arange(_HALVINGS).reshape(-1, *goal.ndim * [1])

    def residual(points: Array) -> Array:
        return jnp.abs(function(points) - goal).max(axis=-1)

    def unfinished(count: Array, error: Array) -> Array:
        return (count < _MAX_ITERATIONS) & (error > tolerance / 16)

    def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        count, points, error = carry
        change = _divide(function(points) - goal, _slopes(function, points))
        tried = points[None] - jnp.asarray(scales, points.dtype) * change[None]
        errors = jax.vmap(residual)(tried)
        best, least = tried[0], errors[0]
        for trial, its_error in zip(tried[1:], errors[1:], strict=True):
            is_less = (its_error < least) | jnp.isnan(least)
            best = jnp.where(is_less[..., None], trial, best)
            least = jnp.where(is_less, its_error, least)
        goes_on = unfinished(count, error)
        points = jnp.where(goes_on[..., None], best, points)
        return count + 1, points, jnp.where(goes_on, least, error)

    def any_unfinished(carry: tuple[Array, Array, Array]) -> Array:
        # Test only carried values. Under vmap the condition is evaluated twice; a recomputed
        # residual may round differently, and the loop might never end.
        count, _, error = carry
        return unfinished(count, error).any()

    start = 2 * goal - function(goal)
    error = residual(start)
    # A count for each point, computed from the error, so that it is batched and sharded alike:
    # under vmap JAX cannot shard a constant carry over an Explicit mesh.
    count = jnp.where(error >= 0, np.int32(0), np.int32(0))
    carry = count, start, error
    _, points, error = jax.lax.while_loop(any_unfinished, step, carry)
    return jnp.where((error <= tolerance)[..., None], points, jnp.nan)


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
