"""Extends functions of single images to operands with batch axes in front.

Each operand has the same number of batch axes, each of the full size or of size 1. Along an axis
where the images differ, the function is mapped. Along an axis where many sets of points read the
same image, all of them become points of one call. The matrix of an affine map is first turned into
coordinates.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.sampling.backends import affine
from stn_jax.sampling.backends.base import (
    FILL,
    IMAGE,
    AffinePoints,
    Formula,
    Taps,
    full_sizes,
    sum_over,
)


def batched_sample(sample: Callable[..., Array]) -> Callable[..., Array]:
    """Makes ``(*operands, formula, batch)`` out of ``sample(formula, *operands)`` of one image."""

    def batched(*operands: Array, formula: Formula, batch: int) -> Array:
        if isinstance(formula, AffinePoints):
            return affine.sample(batched, *operands, formula=formula, batch=batch)
        sizes = full_sizes(batch, operands)
        shared = _shared(batch, operands)
        order = [*(a for a in range(batch) if a not in shared), *shared]

        def unbatched(*operands: Array) -> Array:
            return sample(formula, *_with_more_points(formula, sizes, shared, operands))

        mapped = len(order) - len(shared)
        operands = tuple(_transposed(each, order) for each in operands)
        value = _mapped(unbatched, mapped)(*operands)
        return _transposed(value, [order.index(axis) for axis in range(batch)])

    return batched


def batched_pull(pull: Callable[..., list[Array]]) -> Callable[..., list[Array]]:
    """Makes ``pull(formula, wrt, *operands, cotangent)`` of one image batched.

    Returns ``(*operands, cotangent, formula, batch, wrt, reduced)``.
    """

    def batched(
        *operands: Array,
        formula: Formula,
        batch: int,
        wrt: Sequence[int],
        reduced: Sequence[Sequence[bool]],
    ) -> list[Array]:
        if isinstance(formula, AffinePoints):
            options: Any = {"formula": formula, "batch": batch, "wrt": wrt, "reduced": reduced}
            return affine.pull(batched, *operands, **options)
        sizes = full_sizes(batch, operands)
        of_image = [each for operand, each in zip(wrt, reduced, strict=True) if operand <= FILL]
        shared = [a for a in _shared(batch, operands) if all(each[a] for each in of_image)]
        order = [*(a for a in range(batch) if a not in shared), *shared]
        mapped = len(order) - len(shared)

        def unbatched(*operands: Array) -> list[Array]:
            results = pull(formula, wrt, *_with_more_points(formula, sizes, shared, operands))
            return [
                jnp.expand_dims(each, tuple(range(len(shared))))
                if operand <= FILL
                else _taps_behind(each, len(shared), formula)
                for operand, each in zip(wrt, results, strict=True)
            ]

        operands = tuple(_transposed(each, order) for each in operands)
        results = _mapped(unbatched, mapped)(*operands)
        back = [order.index(axis) for axis in range(batch)]
        return [
            sum_over(_transposed(each, back), sums)
            for each, sums in zip(results, reduced, strict=True)
        ]

    return batched


def _shared(batch: int, operands: Sequence[Array]) -> list[int]:
    """The batch axes along which the image and the fill value are the same."""
    return [a for a in range(batch) if operands[IMAGE].shape[a] == operands[FILL].shape[a] == 1]


def _mapped(function: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """Maps a function over leading axes of its arguments; an axis of size 1 is broadcast."""
    if axes == 0:
        return function

    def mapped(*operands: Array) -> Any:
        full = full_sizes(1, operands)[0]
        varies = [each.shape[0] == full for each in operands]
        if full == 1:
            varies = [True] * len(operands)
        arguments = [
            each if vary else jnp.squeeze(each, 0)
            for each, vary in zip(operands, varies, strict=True)
        ]
        inner = _mapped(function, axes - 1)
        return jax.vmap(inner, in_axes=tuple(0 if vary else None for vary in varies))(*arguments)

    return mapped


def _with_more_points(
    formula: Formula, sizes: Sequence[Any], shared: Sequence[int], operands: Sequence[Array]
) -> list[Array]:
    """Turns the shared batch axes of the operands into axes of points."""
    if not shared:
        return list(operands)
    extra = tuple(sizes[axis] for axis in shared)
    results = []
    for number, each in enumerate(operands):
        if number <= FILL:
            results.append(each.reshape(each.shape[len(shared) :]))
            continue
        each = jnp.broadcast_to(each, (*extra, *each.shape[len(shared) :]))
        if isinstance(formula, Taps) and number < 2 + 2 * formula.ndim:
            each = jnp.moveaxis(each, len(shared), 0)
        results.append(each)
    return results


def _taps_behind(each: Array, shared: int, formula: Formula) -> Array:
    """Moves the axis of taps back behind the leading axes of points."""
    return jnp.moveaxis(each, 0, shared) if isinstance(formula, Taps) else each


def _transposed(each: Array, order: Sequence[int]) -> Array:
    """Permutes the leading axes."""
    if list(order) == sorted(order):
        return each
    return jnp.transpose(each, (*order, *range(len(order), each.ndim)))
