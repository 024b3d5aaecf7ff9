"""Turns the sum at a moved lattice into the sum from pixel coordinates, for any engine."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.sampling.backends.base import FILL, AffinePoints, full_sizes, sum_over

# The position of the matrix among the operands.
_MATRIX = 2


def pixels_of(formula: AffinePoints, batch: int, operands: Sequence[Array]) -> list[Array]:
    """The coordinates, with the batch axes of the matrix."""
    space = operands[0].shape[batch:-1]

    def pixels(matrix: Array) -> list[Array]:
        return formula.pixels(matrix, space)

    for _ in range(batch):
        pixels = jax.vmap(pixels)
    return pixels(operands[_MATRIX])


def sample(
    evaluate: Callable[..., Array], *operands: Array, formula: AffinePoints, batch: int
) -> Array:
    """The value. ``evaluate`` is ``sample`` of the formula over points."""
    pixels = pixels_of(formula, batch, operands)
    return evaluate(*operands[:_MATRIX], *pixels, formula=formula.over_points(), batch=batch)


def pull(
    evaluate: Callable[..., Sequence[Array]],
    *both: Array,
    formula: AffinePoints,
    batch: int,
    wrt: Sequence[int],
    reduced: Sequence[Sequence[bool]],
) -> list[Array]:
    """The cotangents. ``evaluate`` is ``pull`` of the formula over points."""
    *operands, cotangent = both
    sizes = full_sizes(batch, both)
    named = dict(zip(wrt, reduced, strict=True))
    sums = named.pop(_MATRIX, None)
    if sums is not None:
        # An axis that is not summed over needs a matrix for each entry.
        matrix = operands[_MATRIX]
        kept = [n if s else size for n, s, size in zip(matrix.shape, sums, sizes, strict=False)]
        operands[_MATRIX] = jnp.broadcast_to(matrix, (*kept, *matrix.shape[batch:]))
    pixels, to_matrix = jax.vjp(
        lambda matrix: pixels_of(formula, batch, [*operands[:_MATRIX], matrix]), operands[_MATRIX]
    )
    every: dict[int, Any] = dict(named)
    if sums is not None:
        own = pixels[0].shape[:batch]
        shared = tuple(n == 1 and size != 1 for n, size in zip(own, sizes, strict=True))
        every |= dict.fromkeys(formula.over_points().sources, shared)
    results = dict(
        zip(
            every,
            evaluate(
                *operands[:_MATRIX],
                *pixels,
                cotangent,
                formula=formula.over_points(),
                batch=batch,
                wrt=tuple(every),
                reduced=tuple(every.values()),
            ),
            strict=True,
        )
    )
    found = {operand: each for operand, each in results.items() if operand <= FILL}
    if sums is not None:
        (of_matrix,) = to_matrix([results[k] for k in formula.over_points().sources])
        found[_MATRIX] = sum_over(of_matrix, sums)
    return [found[operand] for operand in wrt]
