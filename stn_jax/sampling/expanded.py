"""Formulas as sums of simpler ones, which JAX differentiates once more.

A sum from pixel coordinates becomes a sum over taps. A formula of several steps becomes these
steps; an engine that does not evaluate it whole takes them one by one, too.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.sampling import meshes, primitives
from stn_jax.sampling.backends import affine
from stn_jax.sampling.backends.base import AffinePoints, BoxMeans, Paths, Points, full_sizes
from stn_jax.sampling.taps import operands_along

# The classic fourth-order Runge-Kutta rule: how far each stage goes along the previous slope, and
# the weight of its own slope.
_RUNGE_KUTTA = ((0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def expanded(formula: Points, batch: int, *operands: Array) -> Array:
    """The value as a sum over taps; that of a formula of several steps, step by step."""
    if isinstance(formula, Paths):
        return _displacement(formula, batch, operands)
    if isinstance(formula, BoxMeans):
        return _over_box_means(formula, batch, *operands)
    image, fill, *pixels = operands
    if isinstance(formula, AffinePoints):
        pixels = affine.pixels_of(formula, batch, operands)
    sizes = image.shape[batch:-1][::-1]
    along = [
        operands_along(pixel, size, formula.kernel, formula.padding, formula.align_corners, batch)
        for pixel, size in zip(pixels, sizes, strict=True)
    ]
    indices, weights = zip(*along, strict=True)
    return primitives.sample(formula.over_taps(), batch, (image, fill, *indices, *weights))


def _over_box_means(
    formula: BoxMeans, batch: int, image: Array, fill: Array, *rest: Array
) -> Array:
    """Computes the array of box means, samples it at every box, and averages over the boxes."""
    *pixels, levels, edges = rest
    expand, arrays = formula.layout.expand, [image, fill]
    if not formula.filled:
        expand, arrays = functools.partial(formula.layout.expand, fill=None), [image]
    means = _mapped(expand, batch, arrays)
    places = _mapped(
        lambda levels, edges, *pixels: formula.layout.places(pixels, levels, edges),
        batch,
        [levels, edges, *pixels],
    )
    operands = (means, jnp.zeros_like(fill), *places)
    mean = primitives.sample(formula.over_means(), batch, operands).mean(axis=batch)
    if not formula.reads_image:
        return mean
    plain = primitives.sample(formula.over_points(), batch, (image, fill, *pixels))
    first = jax.lax.index_in_dim(levels, 0, batch, keepdims=False)
    own = (*first.shape, *[1] * (mean.ndim - first.ndim))
    return jnp.where(first.reshape(own) < 0, plain, mean)


def _mapped(function: Callable[..., Any], batch: int, operands: Sequence[Array]) -> Any:
    """The function of each entry of a batch; it has the axes that some operand has."""
    sizes = full_sizes(batch, operands)
    operands = [jnp.broadcast_to(each, (*sizes, *each.shape[batch:])) for each in operands]
    for _ in range(batch):
        function = jax.vmap(function)
    return function(*operands)


def _displacement(formula: Paths, batch: int, operands: Sequence[Array]) -> Array:
    """The displacement along each path, by a loop over Runge-Kutta steps of four stages."""
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
