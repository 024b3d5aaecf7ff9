"""Registration in one call: from the coarsest level of a pyramid to the finest."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from stn_jax import _checks
from stn_jax._records import Opened
from stn_jax._types import AnyArray
from stn_jax.registration import checks, solvers
from stn_jax.registration.levels import (
    Level,
    Settings,
    best_solutions,
    best_starts,
    diagnosis,
    image_pyramid,
    improved,
    of_first_start,
)
from stn_jax.registration.losses import LossName
from stn_jax.registration.objective import Loss
from stn_jax.registration.record import Registration
from stn_jax.registration.search import Search, Starts, lattice, nearest
from stn_jax.sampling.options import SampleOptions
from stn_jax.transforms.base import Transform

# The starts are compared on images whose smallest side has about this many pixels, by ndim.
_SIDE_OF_SEARCH = {1: 16, 2: 16, 3: 10}
# Gauss-Newton is the default up to this many parameters, and this many numbers in the Jacobian.
_MOST_PARAMETERS, _MOST_NUMBERS = 256, 1 << 27
# Most steps at a level.
_STEPS = {"gauss_newton": 40, "optax": 200}
# Steps that improve each of the best starts.
_STEPS_OF_STARTS = {"gauss_newton": 15, "optax": 60}
# How many starts are improved, and how many of these are followed to the second level, by whether
# the family is linear. Steps of other families take longer.
_KEPT, _FOLLOWED = {True: 32, False: 8}, {True: 8, False: 4}
# A level ends after a Gauss-Newton step shorter than this, in pixels of the level. The numbers are
# for the first level if it has many starts, for the levels between, and for the last level.
_TOLERANCE_OF_STARTS, _TOLERANCE, _LAST_TOLERANCE = 0.1, 0.02, 0.001

Progress = Callable[[int, tuple[int, ...], Any, Any], object]


def register(
    fixed: Shaped[AnyArray, "*space channels"],
    moving: Shaped[AnyArray, "*moving_space channels"],
    transform: Transform,
    *,
    theta: Float[AnyArray, " params"] | None = None,
    fixed_mask: Shaped[AnyArray, "*space"] | None = None,
    moving_mask: Shaped[AnyArray, "*moving_space"] | None = None,
    loss: LossName | Loss = "cross_correlation",
    optimizer: Literal["gauss_newton"] | Any | None = None,
    shrink_factors: Sequence[float | int] | None = None,
    iterations: int | None = None,
    search: bool | Search | None = None,
    bending: float | int | Array = 0.0,
    inverse_consistency: float | int | Array = 0.0,
    min_overlap: float | int = 0.25,
    align_corners: bool = False,
    progress: bool | Progress = False,
) -> Registration:
    """Finds the map under which one image lies on another.

    ``stn.register(fixed, moving, stn.affine())`` tries starts all over the rotations, scales and
    shifts on images of about 16 pixels, improves the best ones at the coarsest level of a pyramid,
    and follows the best of these to the full size. The result's ``theta`` maps points of ``fixed``
    to points of ``moving``, as everywhere in this library, so ``stn.warp(moving, transform,
    theta)`` lies on ``fixed``.

    Any family of transforms works. If the images are not square, :func:`stn_jax.isotropic` gives a
    rotation without shear. A family of many local parameters is best chained with a linear one,
    ``stn.chain(stn.displacement((8, 8)), stn.affine())``; the search then moves the linear one.

    It can be compiled and batched: ``jax.vmap(lambda a, b: stn.register(a, b, t).theta)``. Its
    loops end early, and so have no reverse derivatives.

    Parameters that the images do not determine, such as a shift along stripes or along an axis of
    one pixel, keep their start.

    Args:
      fixed: Image ``[height, width, channels]`` or volume ``[depth, height, width, channels]``;
        floating.
      moving: Image with as many channels; its size may differ.
      transform: A family of maps from points of ``fixed`` to points of ``moving``.
      theta: Where to start, ``[num_params]``; ``None`` starts at the identity, and searches.
      fixed_mask: A mask ``[*space]`` of the pixels of ``fixed`` that count, or their weights, at
        least 0. ``None`` counts all pixels alike.
      moving_mask: The same of ``moving``.
      loss: ``"cross_correlation"``, which ignores gain and offset; ``"mean_squared_error"``, for
        images of the same values; ``"local_cross_correlation"``, where shades differ over the
        image; ``"mutual_information"``, for images of different kinds. Or a function of ``fixed``,
        the warped image and the weights ``[*space]``, which is minimised; another function object
        compiles anew.
      optimizer: ``"gauss_newton"``, with Levenberg and Marquardt's damping, for the first two
        losses; or an optimizer of optax, whose steps are in pixels of the level: the parameters are
        scaled such that a unit moves some point by a pixel. ``None`` takes Gauss-Newton for the
        first two losses, unless parameters or pixels are very many, and else Adam.
      shrink_factors: How many pixels become one at each level, coarse to fine. ``None``: powers of
        2, down to sides of about 12 pixels. A level's steps find maps up to about a pixel of the
        level away, so coarse levels find the large motions that no start has, as of a homography's
        corners. Families that are not linear stop at 24 pixels in 2-D, as they may have too many
        parameters for fewer.
      iterations: Most steps at a level; ``None``: 40 of Gauss-Newton, 200 of optax.
      search: Whether to try many starts; a :class:`stn_jax.registration.Search` says which.
        ``None``: if ``theta`` is not given.
      bending: Weight of :func:`stn_jax.registration.bending_energy`.
      inverse_consistency: Weight of :func:`stn_jax.registration.inverse_consistency`. If it is not
        0, a map from ``moving`` to ``fixed`` is found at the same time, ``backward``.
      min_overlap: The share of ``fixed`` that must at least read from inside ``moving``. Maps with
        a smaller share are rejected.
      align_corners: As in :func:`stn_jax.warp`.
      progress: Whether to print a line after each level, or a function that is called with the
        level's number, its shape, the loss and the number of steps.

    Returns:
      The map with its diagnostics; see :class:`stn_jax.registration.Registration`.

    Raises:
      ValueError: If shapes, channels or options do not fit; if a concrete image is constant or not
        finite where its mask counts; or if concrete images overlap too little at every start.
      TypeError: If an image is not floating, or ``transform`` is not a transform.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> noise = jax.random.normal(jax.random.key(0), (6, 6, 1))
      >>> moving = jax.image.resize(noise, (48, 48, 1), "cubic")
      >>> turn = jnp.array([0.4, 0.1, 0.0])  # 23 degrees, and a twentieth of the width
      >>> fixed = stn.warp(moving, stn.rigid(), turn, padding="border")
      >>> found = stn.register(fixed, moving, stn.rigid())
      >>> bool(jnp.abs(found.theta - turn).max() < 0.01)
      True

    Reference:
      Baker and Matthews, Lucas-Kanade 20 Years On, 2004; normalised images as in Evangelidis and
      Psarakis, Parametric image alignment using enhanced correlation coefficient maximization, IEEE
      TPAMI 30(10), 2008.
    """
    _checks.instance("transform", transform, Transform, "stn_jax.affine()")
    sides = [
        checks.side(name, image, mask, transform.ndim)
        for name, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask))
    ]
    fixed_side, moving_side = sides
    if fixed_side.image.shape[-1] != moving_side.image.shape[-1]:
        raise ValueError(
            "fixed and moving must have the same number of channels; got shapes "
            f"{fixed_side.image.shape} and {moving_side.image.shape}. Convert one, for instance to "
            "grey by a mean over its channels."
        )
    dtype = fixed_side.image.dtype
    start = _checks.as_array("theta", transform.identity if theta is None else theta)
    start = transform.check_theta(start.astype(dtype) if theta is None else start).astype(dtype)
    is_linear = transform.homogeneous is not None
    factors = checks.shrink_factors(shrink_factors, fixed_side.shape, moving_side.shape, is_linear)
    least_squares = isinstance(loss, str) and bool(checks.is_least_squares(loss))
    both_ways = not checks.is_zero(inverse_consistency)
    count = transform.num_params * (1 + both_ways)
    numbers = count * math.prod(fixed_side.image.shape)
    if optimizer is None and least_squares:
        fits = count <= _MOST_PARAMETERS and numbers <= _MOST_NUMBERS
        optimizer = "gauss_newton" if fits else None
    checks.optimizer(optimizer, loss, least_squares)
    kind = "gauss_newton" if isinstance(optimizer, str) else "optax"
    steps = _STEPS[kind] if iterations is None else _checks.positive("iterations", iterations)
    if not checks.is_number(min_overlap) or not 0 < min_overlap < 1:
        raise ValueError(f"min_overlap must lie between 0 and 1; got {min_overlap!r}.")

    options = SampleOptions.create("linear", "border", align_corners, "exact", False, None)
    penalties = (
        None if checks.is_zero(bending) else jnp.asarray(bending, dtype),
        jnp.asarray(inverse_consistency, dtype) if both_ways else None,
    )
    if search is None:
        search = theta is None
    if not isinstance(search, bool | Search):
        raise TypeError(
            "search must be True, False or a Search, such as stn_jax.registration.Search(angle=30);"
            f" got {search!r}."
        )
    search_space = search if isinstance(search, Search) else Search()
    starts = None
    if search:
        starts = Starts.of(search_space, transform, fixed_side.shape, moving_side.shape)

    smallest = min(*fixed_side.shape, *moving_side.shape)
    search_factor = max(smallest / _SIDE_OF_SEARCH.get(transform.ndim, 10), factors[0])
    *levels, search_level = (
        Level(fixed, moving, Opened(transform), options, *penalties)
        for fixed, moving in image_pyramid(sides, (*factors, search_factor), bool(align_corners))
    )
    settings = Settings(
        loss=loss,
        optimizer=optimizer,
        iterations=steps,
        tolerance=_TOLERANCE,
        min_overlap=float(min_overlap),
        align_corners=bool(align_corners),
    )
    thetas = start[None]
    if starts is not None:
        kept = search_space.kept or _KEPT[is_linear]
        thetas = best_starts(thetas, starts.thetas, search_level, settings, kept)
    thetas = _both_ways(transform, thetas) if both_ways else thetas[:, None]

    # One solution for each level; its first axis is the starts. A start that a level drops is also
    # dropped from the solutions of the earlier levels, so that entry k is the same start in all.
    solutions: list[solvers.Solution] = []
    for number, level in enumerate(levels):
        is_last = number + 1 == len(levels)
        level_settings = dataclasses.replace(
            settings, tolerance=_LAST_TOLERANCE if is_last else _TOLERANCE
        )
        if number == 0 and len(thetas) > 1 and not is_last:
            # Take only a few steps from each of many starts; the next level improves the best.
            fewer = min(steps, _STEPS_OF_STARTS[kind])
            level_settings = dataclasses.replace(
                settings, iterations=fewer, tolerance=_TOLERANCE_OF_STARTS
            )
        solution = improved(thetas, level, level_settings)
        followed = _FOLLOWED[is_linear] if number == 0 and not is_last else 1
        solutions = best_solutions([*solutions, solution], followed)
        solution, thetas = solutions[-1], solutions[-1].point
        if number == 0:
            checks.overlap(solution, float(min_overlap))
        _report(progress, number, level.fixed.shape, solution)
    solutions, thetas = [of_first_start(each) for each in solutions], thetas[0]
    histories = [
        jnp.pad(each.history, (0, steps + 1 - len(each.history)), constant_values=jnp.nan)
        for each in solutions
    ]
    overlap, residual, folds = diagnosis(thetas, levels[-1], level_settings)
    return Registration(
        transform=transform,
        theta=thetas[0],
        backward=thetas[1] if both_ways else None,
        loss=solutions[-1].value,
        history=jnp.stack(histories),
        iterations=jnp.stack([each.steps for each in solutions]),
        overlap=overlap,
        folds=folds,
        residual=residual,
        shapes=tuple(level.fixed.shape for level in levels),
        align_corners=bool(align_corners),
    )


def _both_ways(transform: Transform, thetas: Array) -> Array:
    """Each start, and the theta nearest to its inverse map, ``[starts, 2, params]``."""

    def nearest_inverse(theta: Array) -> Array:
        points = lattice(transform.ndim, 5, theta.dtype)
        return nearest(transform, transform.apply(theta, points), points)

    return jnp.stack([thetas, jax.vmap(nearest_inverse)(thetas)], axis=1)


def _report(
    progress: bool | Progress, number: int, shape: tuple[int, ...], solution: solvers.Solution
) -> None:
    if not progress:
        return
    tell = _printed if progress is True else progress

    def call(value: Any, steps: Any) -> None:
        tell(number, shape, value, steps)

    if isinstance(solution.value, jax.core.Tracer):
        jax.debug.callback(call, solution.value[0], solution.steps[0])
    else:
        call(solution.value[0], solution.steps[0])


def _printed(number: int, shape: tuple[int, ...], loss: Any, steps: Any) -> None:
    size = "×".join(map(str, shape))
    print(
        f"level {number + 1}, {size}: loss {float(loss):.5f} after {int(steps)} steps", flush=True
    )
