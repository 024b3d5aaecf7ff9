"""A level of a registration's pyramid: its images, and the compiled functions of them."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.registration import solvers
from stn_jax.registration.objective import Loss, Objective, Side
from stn_jax.registration.pyramid import reduced
from stn_jax.registration.search import Starts
from stn_jax.sampling.options import SampleOptions

# Largest move by a step of the default Adam at a level's start and end, in its pixels.
_FIRST_RATE, _LAST_RATE = 0.25, 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The static arguments of the compiled functions of a level."""

    loss: str | Loss
    optimizer: Any
    iterations: int
    tolerance: float
    min_overlap: float
    align_corners: bool


class Level(NamedTuple):
    """The arrays of a level of the pyramid; the attributes are those of ``Objective``."""

    fixed: Side
    moving: Side
    transform: Any
    options: SampleOptions
    bending: Array | None
    consistency: Array | None

    def objective(self, settings: Settings) -> Objective:
        """The function to minimise at the level."""
        return Objective(
            fixed=self.fixed,
            moving=self.moving,
            transform=self.transform,
            loss=settings.loss,
            options=self.options,
            bending=self.bending,
            consistency=self.consistency,
            min_overlap=settings.min_overlap,
        )


@functools.partial(jax.jit, static_argnums=(1, 2))
def image_pyramid(
    sides: list[Side], factors: tuple[float, ...], align_corners: bool
) -> list[list[Side]]:
    """Both sides at each level."""
    return [[Side(*reduced(*side, factor, align_corners)) for side in sides] for factor in factors]


@functools.partial(jax.jit, static_argnames="settings")
def _improve(thetas: Array, level: Level, settings: Settings) -> solvers.Solution:
    """Improves thetas ``[directions, params]`` at a level."""
    objective = level.objective(settings)
    scales = objective.scales(thetas).ravel()
    if isinstance(settings.optimizer, str):

        def equations(flat: Array) -> tuple[Array, Array, Array]:
            return objective.normal_equations(flat.reshape(thetas.shape))

        solution = solvers.levenberg_marquardt(
            equations,
            thetas.ravel(),
            scales,
            iterations=settings.iterations,
            tolerance=settings.tolerance,
        )
    else:
        optimizer = settings.optimizer
        if optimizer is None:
            import optax

            rate = optax.cosine_decay_schedule(
                _FIRST_RATE, settings.iterations, alpha=_LAST_RATE / _FIRST_RATE
            )
            optimizer = optax.adam(rate)
        solution = solvers.descend(
            lambda flat: objective.value(flat.reshape(thetas.shape)),
            thetas.ravel(),
            scales,
            optimizer,
            iterations=settings.iterations,
        )
    return solution._replace(point=solution.point.reshape(thetas.shape))


def improved(thetas: Array, level: Level, settings: Settings) -> solvers.Solution:
    """Improves several thetas ``[starts, directions, params]``."""
    if len(thetas) == 1:
        return jax.tree.map(lambda each: each[None], _improve(thetas[0], level, settings))
    return _several(thetas, level, settings)


@functools.partial(jax.jit, static_argnames="settings")
def _several(thetas: Array, level: Level, settings: Settings) -> solvers.Solution:
    return jax.vmap(lambda each: _improve(each, level, settings))(thetas)


def best_solutions(solutions: list[solvers.Solution], number: int) -> list[solvers.Solution]:
    """Keeps at most ``number`` starts: those with the smallest loss in the last solution."""
    order = jnp.argsort(solutions[-1].value)[:number]
    return [jax.tree.map(lambda each: each[order], solution) for solution in solutions]


def of_first_start(solution: solvers.Solution) -> solvers.Solution:
    """The solution of the first start."""
    return solvers.Solution(*(each[0] for each in solution))


@functools.partial(jax.jit, static_argnums=(3, 4))
def best_starts(given: Array, starts: Array, level: Level, settings: Settings, kept: int) -> Array:
    """The given starts, followed by the best of the others, ``[starts, params]``."""
    objective = level.objective(settings)
    objective = objective._replace(consistency=None)
    starts = starts.astype(given.dtype)
    best = Starts(starts).best(lambda theta: objective.value(theta[None])[1], kept)
    return jnp.concatenate([given, best])


@functools.partial(jax.jit, static_argnames="settings")
def diagnosis(thetas: Array, level: Level, settings: Settings) -> tuple[Array, Array, Array]:
    """The overlap, the residual and the folds of a result."""
    from stn_jax import diagnostics  # Imported here: stn_jax loads it when it is first used.

    objective = level.objective(settings)
    squares = objective._replace(
        loss="mean_squared_error", bending=None, consistency=None, min_overlap=0.0
    )
    folds = diagnostics.fold_fraction(
        level.transform, thetas[0], level.fixed.shape, align_corners=settings.align_corners
    )
    return objective.overlap(thetas[:1]), jnp.sqrt(squares.value(thetas[:1])[0]), folds
