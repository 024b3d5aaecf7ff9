"""Inversion of any transform by Newton's method."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.transforms import matrices
from stn_jax.transforms.base import PointFunction

_MAX_ITERATIONS = 30
# A damped step is halved up to this often, until it brings the point nearer to its goal.
_HALVINGS = 6


def newton_inverse(
    displacement: PointFunction, orientation: Callable[[Array], Array | float] = lambda theta: 1.0
) -> PointFunction:
    """The inverse of ``p + displacement(theta, p)``, by a damped Newton iteration.

    The iteration starts from one fixed-point step, is bounded, and gives NaN where it has not
    converged, as where no target point is sent to the source point, and where it ends on a fold:
    where the map mirrors although as a whole it does not. Its derivatives, of every order, are
    those of the implicit function, not of the iteration.

    Args:
      displacement: ``(theta, points) -> T(points) − points``.
      orientation: ``theta`` to the sign of the map as a whole, that is of ``det ∂T/∂p`` far out:
        1, unless the displacement grows without bound.

    Returns:
      ``(theta, points) -> points``, source to target.
    """

    def inverse(theta: Array, points: Array) -> Array:
        def function(target: Array) -> Array:
            return target + displacement(theta, target)

        def solve(point: Array) -> Array:
            target = _solve(function, point)
            slopes = jax.jacfwd(function)(jax.lax.stop_gradient(target))
            unfolded = matrices.determinant(slopes) * orientation(theta) > 0
            return jnp.where(unfolded, target, jnp.nan)

        batched = solve
        for _ in points.shape[:-1]:
            batched = jax.vmap(batched)
        return batched(points)

    return inverse


def _solve(function: Callable[[Array], Array], goal: Array) -> Array:
    """The point that ``function`` sends to ``goal``; differentiable in what both close over."""
    tolerance = 32 * jnp.finfo(goal.dtype).eps * (1 + jnp.abs(goal).max())

    def find(function: Callable[[Array], Array], start: Array) -> Array:
        def residual(point: Array) -> Array:
            return jnp.abs(function(point)).max()

        def step(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            count, point, _ = carry
            change = _divide(function(point), jax.jacfwd(function)(point))
            scales = jnp.asarray(0.5 ** np.arange(_HALVINGS)[:, None], point.dtype)
            tried = point[None] - scales * change[None]
            errors = jax.vmap(residual)(tried)
            best = jnp.argmin(jnp.where(jnp.isfinite(errors), errors, jnp.inf))
            return count + 1, tried[best], errors[best]

        def unfinished(carry: tuple[Array, Array, Array]) -> Array:
            # Of what is carried alone: a batched loop asks twice, and asking twice for a residual
            # that is computed in two places, and rounded in two ways, may never end.
            count, _, error = carry
            return (count < _MAX_ITERATIONS) & (error > tolerance / 16)

        carry = jnp.zeros((), jnp.int32), start, residual(start)
        _, point, error = jax.lax.while_loop(unfinished, step, carry)
        return jnp.where(error <= tolerance, point, jnp.nan)

    def tangent_solve(linear: Callable[[Array], Array], value: Array) -> Array:
        # Zeros of the value's, since the identity alone would not vary over a mesh as it does.
        basis = jnp.eye(len(value), dtype=value.dtype) + jnp.zeros_like(value)[None]
        return _divide(value, jax.vmap(linear, out_axes=1)(basis))

    start = 2 * goal - function(goal)
    return jax.lax.custom_root(lambda point: function(point) - goal, start, find, tangent_solve)


def _divide(value: Array, matrix: Array) -> Array:
    """``matrix⁻¹ value``, linear in ``value`` so that it can be transposed."""
    return jnp.sum(matrices.inverse(matrix) * value[None], axis=1)
