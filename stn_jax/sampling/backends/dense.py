"""The dense engine: matrix products with the weights of all pixels, as equation 3 is written.

It is meant for devices whose gathers are slow, such as TPUs; its speed on a TPU has not been
measured. Every point reads every pixel, so on a CPU or a GPU it takes far longer than gathers.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.sampling.backends import xla
from stn_jax.sampling.backends.base import FILL, IMAGE, Call, Formula, Taps, plain_engine
from stn_jax.sampling.backends.batching import batched_pull, batched_sample
from stn_jax.sampling.taps import Tap

# Number of points whose products with the image are in memory at once.
_POINTS_AT_ONCE = 1024


def sample(formula: Formula, *operands: Array) -> Array:
    """The value ``[*out, channels]`` in the image's dtype.

    The image and the fill value must be finite; the operands have no batch axes.
    """
    image, fill, *_ = operands
    axes, nan, out = _flat(formula.taps(*operands))
    pixels = image.astype(axes[0][0].weight.dtype)

    def at_point(point: Any) -> Array:
        value = _contracted(
            pixels, [_row(taps, n) for taps, n in zip(point, _sizes(image), strict=True)]
        )
        if formula.filled:
            value = value + fill.astype(value.dtype) * _weight_outside(point)
        return value

    value = jax.lax.map(at_point, axes, batch_size=_POINTS_AT_ONCE)
    value = jnp.where(nan[:, None], jnp.nan, value)
    return value.reshape(*out, image.shape[-1]).astype(image.dtype)


def pull(formula: Formula, wrt: Sequence[int], *operands: Array) -> list[Array]:
    """Cotangents of the operands named by ``wrt``; the last operand is the value's cotangent."""
    *sources, cotangent = operands
    image, fill, *_ = sources
    taps = formula.taps(*sources)
    directions = [
        [_in_a_row(each) for each in formula.directions(taps, axis, *sources)]
        for axis in range(formula.ndim)
    ]
    axes, nan, out = _flat(taps)
    dtype = axes[0][0].weight.dtype
    pixels, fill_value = image.astype(dtype), fill.astype(dtype)
    cotangent = cotangent.reshape(-1, image.shape[-1]).astype(dtype)
    cotangent = jnp.where(nan[:, None], 0, cotangent)

    def at_point(both: Any) -> Any:
        point, every, arrived = both
        rows = [_row(taps, n) for taps, n in zip(point, _sizes(image), strict=True)]
        spread = functools.reduce(
            lambda outer, row: row[:, None] * outer.reshape(1, -1), rows, arrived
        )
        weights = [
            [
                _pulled_back(formula, axis, point, taps, rows, pixels, fill_value, arrived)
                for taps in directions
            ]
            for axis, directions in enumerate(every)
        ]
        filled = arrived * _weight_outside(point)
        return spread.reshape(image.shape), filled, weights

    def step(total: Any, both: Any) -> Any:
        added, filled, weights = jax.vmap(at_point)(both)
        return jax.tree.map(lambda t, each: t + each.sum(axis=0), total, (added, filled)), weights

    zeros = jnp.zeros_like(pixels), jnp.zeros_like(fill_value)
    (d_image, d_fill), gradients = _in_chunks(step, zeros, (axes, directions, cotangent))
    results = {IMAGE: d_image.astype(image.dtype), FILL: d_fill.astype(fill.dtype)}
    for source, axis in zip(formula.sources, gradients, strict=True):
        products = [each.reshape(out) for each in axis]
        results[source] = jnp.stack(products) if isinstance(formula, Taps) else products[0]
    return [results[operand] for operand in wrt]


def _flat(axes: Sequence[Sequence[Tap]]) -> tuple[list[list[Tap]], Array, tuple[int, ...]]:
    """The taps with flattened points, x first; where a coordinate is NaN; the points' shape."""
    nan = functools.reduce(jnp.logical_or, [jnp.isnan(t.weight) for axis in axes for t in axis])
    flat = nan.reshape(-1)
    clean = [
        [tap._replace(weight=jnp.where(flat, 0, tap.weight)) for tap in _in_a_row(axis)]
        for axis in axes
    ]
    return clean, flat, nan.shape


def _in_a_row(taps: Sequence[Tap]) -> list[Tap]:
    """The taps with flattened points."""
    return [jax.tree.map(lambda each: each.reshape(-1), tap) for tap in taps]


def _sizes(image: Array) -> tuple[Any, ...]:
    """The number of pixels along each axis, x first."""
    return image.shape[:-1][::-1]


def _row(taps: Sequence[Tap], size: Any) -> Array:
    """The weight of each pixel of an axis, 0 for those under no tap."""
    pixels = jnp.arange(size, dtype=jnp.int32)
    terms = [jnp.where(_here(tap, pixels), tap.weight, 0) for tap in taps]
    return functools.reduce(jnp.add, terms)


def _here(tap: Tap, pixels: Array) -> Array:
    """Whether a tap reads each pixel; false for all if the tap lies outside."""
    here = tap.index == pixels
    return here if tap.inside is None else here & tap.inside


def _weight_outside(axes: Sequence[Sequence[Tap]]) -> Array:
    """The sum of the weights of the taps outside the image."""
    total = inside = jnp.ones_like(axes[0][0].weight)
    for taps in axes:
        kept = [t.weight if t.inside is None else jnp.where(t.inside, t.weight, 0) for t in taps]
        total = total * functools.reduce(jnp.add, [t.weight for t in taps])
        inside = inside * functools.reduce(jnp.add, kept)
    return total - inside


def _contracted(pixels: Array, rows: Sequence[Array]) -> Array:
    """Contracts the pixels with one row of weights per axis, the outermost axis first."""
    for row in reversed(rows):
        pixels = jnp.tensordot(row, pixels, axes=1, precision=jax.lax.Precision.HIGHEST)
    return pixels


def _pulled_back(
    formula: Formula,
    axis: int,
    point: Sequence[Sequence[Tap]],
    taps: Sequence[Tap],
    rows: Sequence[Array],
    pixels: Array,
    fill: Array,
    arrived: Array,
) -> Array:
    """The sum at one point with other taps along one axis, times the point's cotangent."""
    exchanged = [_row(taps, row.shape[0]) if k == axis else row for k, row in enumerate(rows)]
    product = _contracted(pixels, exchanged) @ arrived
    if formula.filled:
        axes = [taps if k == axis else each for k, each in enumerate(point)]
        product = product + (fill @ arrived) * _weight_outside(axes)
    return product


def _in_chunks(step: Callable[..., Any], total: Any, points: Any) -> Any:
    """Scans over chunks of points; the last chunk may be shorter."""
    count = jax.tree.leaves(points)[0].shape[0]
    whole = count // _POINTS_AT_ONCE * _POINTS_AT_ONCE
    chunks = jax.tree.map(
        lambda each: each[:whole].reshape(-1, _POINTS_AT_ONCE, *each.shape[1:]), points
    )
    total, first = jax.lax.scan(step, total, chunks)
    first = jax.tree.map(lambda each: each.reshape(whole, *each.shape[2:]), first)
    total, rest = step(total, jax.tree.map(lambda each: each[whole:], points))
    return total, jax.tree.map(lambda *both: jnp.concatenate(both), first, rest)


def _where_finite(dense: Callable[..., Any], exact: Callable[..., Any], last: int) -> Any:
    """Uses ``exact`` where a number is not finite: in a matrix product 0 · inf gives NaN."""

    def either(*operands: Array, **parameters: Any) -> Any:
        arrays = [*operands[:2], *operands[len(operands) - last :]]
        finite = functools.reduce(jnp.logical_and, [jnp.isfinite(each).all() for each in arrays])
        return jax.lax.cond(
            finite,
            functools.partial(dense, **parameters),
            functools.partial(exact, **parameters),
            *operands,
        )

    return either


def _refuses(call: Call) -> str | None:
    if not jnp.issubdtype(call.operands[IMAGE].dtype, jnp.floating):
        return f"it samples floating images; got {call.operands[IMAGE].dtype}."
    return None


DENSE = plain_engine(
    "dense",
    _where_finite(batched_sample(sample), batched_sample(xla.sample), last=0),
    _where_finite(batched_pull(pull), batched_pull(xla.pull), last=1),
    refuses=_refuses,
    automatic=False,
)
