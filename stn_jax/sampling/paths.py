"""The displacement of points along a velocity field, as a loop over sums at points.

An engine that follows paths itself does the same in one call.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.sampling import meshes, primitives
from stn_jax.sampling.backends.base import Paths

# The classic fourth-order Runge-Kutta rule: how far each stage goes along the previous slope, and
# the weight of its own slope.
_RUNGE_KUTTA = ((0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def displacement(formula: Paths, batch: int, operands: Sequence[Array]) -> Array:
    """The value of the formula at operands with batch axes."""
    field, fill, *pixels = meshes.alike(operands)
    velocity = formula.over_points()

    def velocity_at(moved: Array) -> Array:
        places = [pixel + moved[..., k] for k, pixel in enumerate(pixels)]
        return primitives.sample(velocity, batch, (field, fill, *places))

    def stage(carry: tuple[Array, Array, Array], rule: tuple[Array, Array]) -> Any:
        moved, slope, total = carry
        slope = velocity_at(moved + rule[0] * slope)
        return (moved, slope, total + rule[1] * slope), None

    def step(moved: Array, _: None) -> tuple[Array, None]:
        # A scan over the four stages runs as fast as four copies, and compiles faster.
        stages = jnp.asarray(_RUNGE_KUTTA, moved.dtype) / formula.steps
        start = (moved, jnp.zeros_like(moved), moved)
        carry, _ends = jax.lax.scan(stage, start, (stages[0], stages[1]))
        return carry[2], None

    # Only the type of this value is used.
    value = primitives.sample(velocity, batch, (field, fill, *pixels))
    # To save memory, the gradient recomputes the intermediate values of a step.
    step = jax.checkpoint(step, prevent_cse=False)
    zero = meshes.zeros(jax.typeof(value))
    return jax.lax.scan(step, zero, None, length=formula.steps)[0]
