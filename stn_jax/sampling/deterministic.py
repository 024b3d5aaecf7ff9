"""A gather whose transpose adds up in the same bits whatever the order.

Adding floats in parallel rounds differently from run to run. Here each term becomes a few integers,
digits of a fixed-point number on one scale, and integers add up alike in any order.

The gather and its transpose are primitives of their own: only so are both differentiable in either
mode, to any order, and batched by ``vmap``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array


def gather(values: Array, index: Array) -> Array:
    """``values[index]`` for indices inside: ``[size, channels]`` at ``[*out]``."""
    return _gather.bind(values[None], index.reshape(1, -1)).reshape(*index.shape, -1)


def _take(pixels: Array, index: Array) -> Array:
    """``[batch, pixels, channels]`` at ``[batch, points]``."""
    return jax.vmap(lambda values, at: values.at[at].get(mode="promise_in_bounds"))(pixels, index)


def _add_up(values: Array, index: Array, *, size: int) -> Array:
    """Its transpose: ``[batch, points, channels]`` to ``[batch, size, channels]``."""
    return jax.vmap(lambda each, at: _exact_sum(each, at, size))(values, index)


def _exact_sum(values: Array, index: Array, size: int) -> Array:
    points, dtype = len(values), values.dtype
    # A digit is small enough for the digits of all points to add up within an int32.
    bits = 29 - max(points - 1, 1).bit_length()
    if bits < 1:
        raise ValueError(
            f"deterministic sampling takes at most 2**28 points of one image; got {points}."
        )
    digits = -(-(jnp.finfo(dtype).nmant + 8) // bits)
    largest = jnp.max(jnp.abs(values), initial=0)
    exponent = jnp.maximum(jnp.frexp(largest)[1], jnp.finfo(dtype).minexp // 2)
    rest, words = jnp.ldexp(values, -exponent), []
    for _ in range(digits):
        rest = rest * 2**bits
        word = jnp.round(rest)
        rest = rest - word  # Exact, as is the product above.
        words.append(word.astype(jnp.int32))
    stacked = jnp.concatenate(words, axis=-1)
    sums = jnp.zeros((size, stacked.shape[-1]), jnp.int32)
    sums = sums.at[index].add(stacked, mode="promise_in_bounds")
    total = jnp.zeros((size, values.shape[-1]), dtype)
    for word in reversed(jnp.split(sums, digits, axis=-1)):
        total = (total + word.astype(dtype)) * 2.0**-bits
    return jnp.where(jnp.isfinite(largest), jnp.ldexp(total, exponent), jnp.nan)


def _merged(operands: Any, dims: Any) -> tuple[list[Array], int]:
    """Operands with the new batch axis merged into their first."""
    count = next(x.shape[d] for x, d in zip(operands, dims, strict=True) if d is not None)
    merged = []
    for x, d in zip(operands, dims, strict=True):
        x = jnp.broadcast_to(x, (count, *x.shape)) if d is None else jnp.moveaxis(x, d, 0)
        merged.append(x.reshape(-1, *x.shape[2:]))
    return merged, count


def _batch_gather(operands: Any, dims: Any) -> tuple[Array, int]:
    pixels, index = operands
    if dims[0] is None:  # Several sets of points of one image: more points of that image.
        index = jnp.moveaxis(index, dims[1], 1)
        batch, count, points = index.shape
        found = _gather.bind(pixels, index.reshape(batch, -1))
        return found.reshape(batch, count, points, -1), 1
    merged, count = _merged(operands, dims)
    found = _gather.bind(*merged)
    return found.reshape(count, -1, *found.shape[1:]), 0


def _batch_scatter(operands: Any, dims: Any, *, size: int) -> tuple[Array, int]:
    merged, count = _merged(operands, dims)
    found = _scatter.bind(*merged, size=size)
    return found.reshape(count, -1, *found.shape[1:]), 0


def _transpose_gather(cotangent: Any, pixels: Any, index: Array) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(pixels.aval), None]
    return [_scatter.bind(cotangent, index, size=pixels.aval.shape[1]), None]


def _transpose_scatter(cotangent: Any, values: Any, index: Array, *, size: int) -> list[Any]:
    del size
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(values.aval), None]
    return [_gather.bind(cotangent, index), None]


def _linear_primitive(name: str, function: Any, shape: Any, transpose: Any, batch: Any) -> Any:
    """A primitive that is linear in its first operand and does not depend smoothly on the other."""
    primitive = Primitive(name)
    primitive.def_impl(
        lambda values, index, **options: jax.jit(functools.partial(function, **options))(
            values, index
        )
    )
    primitive.def_abstract_eval(
        lambda values, index, **options: values.update(shape=shape(values, index, **options))
    )
    ad.defjvp(
        primitive,
        lambda tangent, _, index, **options: primitive.bind(tangent, index, **options),
        None,
    )
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    return primitive


_gather = _linear_primitive(
    "stn_jax_gather",
    _take,
    lambda pixels, index: (*index.shape, pixels.shape[-1]),
    _transpose_gather,
    _batch_gather,
)
_scatter = _linear_primitive(
    "stn_jax_scatter",
    _add_up,
    lambda values, index, size: (values.shape[0], size, values.shape[-1]),
    _transpose_scatter,
    _batch_scatter,
)
