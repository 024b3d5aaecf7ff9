"""Loops that minimise a function of a flat vector: Levenberg and Marquardt's, and optax's."""

import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

# The damping, relative to the diagonal of the normal equations, and its limits.
_FIRST, _LEAST, _MOST = 1e-3, 1e-6, 1e7
# A descent ends once this many steps have lowered the loss by less than this share of it.
_PATIENCE, _SHARE = 30, 1e-4
# A slope is a rounding error, and becomes 0, if it is below so many times the precision of the
# steepest slope so far.
_ROUNDING = 32


def columns(linear: Callable[[Array], Any], size: int, dtype: Any, *, at_once: bool) -> Any:
    """A linear function of each unit vector, stacked; at once, or one after the other."""
    units = jnp.eye(size, dtype=dtype)
    return jax.vmap(linear)(units) if at_once else jax.lax.map(linear, units)


class Solution(typing.NamedTuple):
    """Where a loop ended.

    Attributes:
      point: The best vector that was tried.
      value: Its value; infinity if no vector had a finite one.
      history: The value at the start and after each step, ``[1 + iterations]``; NaN after the last.
      steps: The number of steps.
    """

    point: Array
    value: Array
    history: Array
    steps: Array


def levenberg_marquardt(
    equations: Callable[[Array], tuple[Array, Array, Array]],
    start: Array,
    scales: Array,
    *,
    iterations: int,
    tolerance: float,
) -> Solution:
    """Damped Gauss-Newton steps; each is taken if it lowers the value.

    Args:
      equations: Gives a sum of squares, the matrix of its normal equations and their right side.
      start: The first vector.
      scales: Pixels that a unit of each entry moves.
      iterations: At most so many steps.
      tolerance: It ends after a step shorter than this, in pixels.
    """

    class State(typing.NamedTuple):
        point: Array
        value: Array
        matrix: Array
        slope: Array
        damping: Array
        history: Array
        steps: Array
        goes_on: Array

    def step(state: State) -> State:
        # The equations are scaled so that their diagonal is 1. In the first round the change is 0:
        # the loop evaluates the start, so that the equations are compiled once.
        diagonal = jnp.diagonal(state.matrix)
        unit = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
        scaled = state.matrix / (unit[:, None] * unit[None])
        damped = scaled + state.damping * jnp.eye(len(unit), dtype=unit.dtype)
        change = -_solved(damped, state.slope / unit) / unit
        value, matrix, slope = equations(state.point + change)
        better = value < state.value
        length = jnp.sqrt(jnp.sum((change * scales) ** 2))
        first = state.steps == 0
        goes_on = (length > tolerance) & (state.damping < _MOST) | (first & better)

        def chosen(new: Array, old: Array) -> Array:
            return jnp.where(better, new, old)

        value = chosen(value, state.value)
        damping = jnp.where(better, state.damping / 8, state.damping * 5)
        return State(
            point=chosen(state.point + change, state.point),
            value=value,
            matrix=chosen(matrix, state.matrix),
            slope=chosen(slope, state.slope),
            damping=jnp.where(first, _FIRST, jnp.maximum(damping, _LEAST)),
            history=state.history.at[state.steps].set(value),
            steps=state.steps + 1,
            goes_on=goes_on & (state.steps < iterations),
        )

    size, dtype = start.size, start.dtype
    state = State(
        point=start,
        value=jnp.full((), jnp.inf, dtype),
        matrix=jnp.zeros((size, size), dtype),
        slope=jnp.zeros_like(start),
        damping=jnp.full((), _FIRST, dtype),
        history=jnp.full((iterations + 1,), jnp.nan, dtype),
        steps=jnp.zeros((), jnp.int32),
        goes_on=jnp.array(True),
    )
    state = jax.lax.while_loop(lambda state: state.goes_on, step, state)
    return Solution(state.point, state.value, state.history, state.steps - 1)


def _solved(matrix: Array, right: Array) -> Array:
    """The solution of equations with a positive definite matrix."""
    factor = jnp.linalg.cholesky(matrix, symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((factor, True), right)


def descend(
    value_and_score: Callable[[Array], tuple[Array, Array]],
    start: Array,
    scales: Array,
    optimizer: Any,
    *,
    iterations: int,
) -> Solution:
    """Minimises a function by an optax optimizer, which gets the vector in units of a pixel.

    Args:
      value_and_score: Gives the value to minimise, and a score; the vector of the smallest score is
        the result.
      start: The first vector.
      scales: Pixels that a unit of each entry moves.
      optimizer: The optimizer; it may use a line search, as ``optax.lbfgs()`` does.
      iterations: At most so many steps.
    """
    import optax

    optimizer = optax.with_extra_args_support(optimizer)

    class State(typing.NamedTuple):
        pixels: Array
        value: Array
        slope: Array
        steepest: Array
        optimizer: Any
        best: Array
        score: Array
        # The score that a step must lower by ``_SHARE``, and the number of steps since one did.
        mark: Array
        waited: Array
        history: Array
        steps: Array
        goes_on: Array

    def function(pixels: Array) -> Array:
        return value_and_score(pixels / scales)[0]

    eps = jnp.finfo(start.dtype).eps
    evaluate = jax.value_and_grad(lambda pixels: value_and_score(pixels / scales), has_aux=True)

    def step(state: State) -> State:
        # At first the start itself is evaluated, so that the function is compiled once.
        first = state.steps == 0
        updates, inner = optimizer.update(
            state.slope,
            state.optimizer,
            state.pixels,
            value=state.value,
            grad=state.slope,
            value_fn=function,
        )
        moved = optax.apply_updates(state.pixels, updates)
        pixels = jnp.where(first, state.pixels, moved)
        inner = jax.tree.map(lambda old, new: jnp.where(first, old, new), state.optimizer, inner)
        (value, score), slope = evaluate(pixels)
        # Optimizers that divide by a mean of the slope would follow a rounding error.
        steepest = jnp.maximum(state.steepest, jnp.max(jnp.abs(slope)))
        slope = jnp.where(jnp.abs(slope) > _ROUNDING * eps * steepest, slope, 0)
        better = score < state.score
        improved = (score < state.mark - _SHARE * jnp.abs(state.mark)) | (first & better)
        waited = jnp.where(improved, 0, state.waited + 1)
        goes_on = (waited < _PATIENCE) & (state.steps < iterations) & jnp.isfinite(value)
        return State(
            pixels=pixels,
            value=value,
            slope=slope,
            steepest=steepest,
            optimizer=inner,
            best=jnp.where(better, pixels, state.best),
            score=jnp.where(better, score, state.score),
            mark=jnp.where(improved, score, state.mark),
            waited=waited,
            history=state.history.at[state.steps].set(value),
            steps=state.steps + 1,
            goes_on=goes_on,
        )

    pixels, dtype = start * scales, start.dtype
    infinity = jnp.full((), jnp.inf, dtype)
    state = State(
        pixels=pixels,
        value=jnp.zeros((), dtype),
        slope=jnp.zeros_like(pixels),
        steepest=jnp.zeros((), dtype),
        optimizer=optimizer.init(pixels),
        best=pixels,
        score=infinity,
        mark=infinity,
        waited=jnp.zeros((), jnp.int32),
        history=jnp.full((iterations + 1,), jnp.nan, dtype),
        steps=jnp.zeros((), jnp.int32),
        goes_on=jnp.array(True),
    )
    state = jax.lax.while_loop(lambda state: state.goes_on, step, state)
    return Solution(state.best / scales, state.score, state.history, state.steps - 1)
