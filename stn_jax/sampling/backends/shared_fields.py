"""Makes one call of many whose points follow the same velocity field.

Each ``vmap`` puts a batch axis in front of the operands. Where points differ along it and the field
does not, the axis becomes one of points, so that an engine prepares the field once.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.sampling.backends.base import FILL, IMAGE, Paths, full_sizes, sum_over


def shared_axes(batch: int, operands: Sequence[Any]) -> list[int]:
    """The batch axes along which points differ and the field is the same."""
    sizes = full_sizes(batch, operands)
    return [a for a in range(batch) if operands[IMAGE].shape[a] == 1 and sizes[a] != 1]


def merged_axes(
    batch: int, operands: Sequence[Any], wrt: Sequence[int], reduced: Sequence[Sequence[bool]]
) -> list[int]:
    """The shared axes along which no gradients to the field are wanted apart."""
    summed = dict(zip(wrt, reduced, strict=True)).get(IMAGE)
    return [a for a in shared_axes(batch, operands) if summed is None or summed[a]]


def _with_points_of(
    axes: Sequence[int], batch: int, operands: Sequence[Array]
) -> tuple[list[Array], tuple[int, ...]]:
    """Makes axes of the batch axes of points; the field has size 1 along them.

    Returns:
      The operands, and the order of batch axes that puts these last.
    """
    sizes = full_sizes(batch, operands)
    order = (*(a for a in range(batch) if a not in axes), *axes)
    results = []
    for number, each in enumerate(operands):
        rest = each.shape[batch:]
        kept = tuple(each.shape[a] for a in order[: batch - len(axes)])
        if number <= FILL:
            results.append(each.reshape(*kept, *rest))
            continue
        moved = jnp.transpose(each, (*order, *range(batch, each.ndim)))
        results.append(jnp.broadcast_to(moved, (*kept, *(sizes[a] for a in axes), *rest)))
    return results, order


def _in_their_order(each: Array, order: Sequence[int]) -> Array:
    """Puts batch axes that were permuted by ``order`` back."""
    own = np.argsort(order).tolist()
    return jnp.transpose(each, (*own, *range(len(own), each.ndim)))


def sample_merged(primitive: Any, *operands: Array, formula: Paths, batch: int) -> Array:
    """The displacements; points of a batch that share a field are points of one call."""
    axes = shared_axes(batch, operands)
    merged, order = _with_points_of(axes, batch, operands)
    value = primitive.bind(*merged, formula=formula, batch=batch - len(axes))
    return _in_their_order(value, order)


def pull_merged(
    primitive: Any,
    *both: Array,
    formula: Paths,
    batch: int,
    wrt: tuple[int, ...],
    reduced: tuple[tuple[bool, ...], ...],
) -> list[Array]:
    """The cotangents; points of a batch that share a field are points of one call."""
    axes = merged_axes(batch, both, wrt, reduced)
    merged, order = _with_points_of(axes, batch, both)
    kept = order[: batch - len(axes)]
    sums = tuple(
        tuple(each[a] and operand == IMAGE for a in kept)
        for operand, each in zip(wrt, reduced, strict=True)
    )
    options = {"formula": formula, "batch": len(kept), "wrt": wrt, "reduced": sums}
    results = []
    for operand, part, each in zip(wrt, primitive.bind(*merged, **options), reduced, strict=True):
        if operand == IMAGE:
            results.append(jnp.expand_dims(part, axes))
        else:
            results.append(sum_over(_in_their_order(part, order), each))
    return results
