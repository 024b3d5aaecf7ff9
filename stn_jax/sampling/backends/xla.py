"""The engine that runs everywhere: JAX operations, which XLA compiles.

The value is a sum of gathers, one for each pixel under the kernel. The image's cotangent is a
scatter of the value's cotangent to the same pixels. The cotangent of a coordinate or a weight is
the value's cotangent times the same sum of gathers, with the weights of one axis replaced by their
derivatives.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.sampling.backends import fixed_point
from stn_jax.sampling.backends.base import (
    FILL,
    IMAGE,
    Formula,
    Points,
    Taps,
    plain_engine,
    stacked,
)
from stn_jax.sampling.backends.batching import batched_pull, batched_sample
from stn_jax.sampling.backends.cpu_loops import CPU, PLAIN, Loops
from stn_jax.sampling.taps import Tap

# Up to this many pixels under a kernel, the sum is one expression; above, a scan over its rows.
_MOST_UNROLLED = 8
# Up to this many pixels, the image's cotangent is a matrix product with the weights of all pixels.
_FEW_PIXELS = 256
# The largest index that an int32 holds.
_LARGEST_INDEX = 2**31 - 1


def sample(formula: Formula, *operands: Array, loops: Loops = PLAIN) -> Array:
    """The value ``[*out, channels]`` in the image's dtype; the operands have no batch axes."""
    image, fill, *_ = operands
    axes = formula.taps(*loops.compute_once(operands))
    if not jnp.issubdtype(image.dtype, jnp.floating):
        corner = [axis[0] for axis in axes]
        inside = _inside(corner)
        value = _gather(image, [tap.index for tap in corner])
        return value if inside is None else jnp.where(inside[..., None], value, fill)
    return _contract(formula, image, fill, axes, loops).astype(image.dtype)


def pull(
    formula: Formula, wrt: Sequence[int], *operands: Array, loops: Loops = PLAIN
) -> list[Array]:
    """Cotangents of the operands named by ``wrt``; the last operand is the value's cotangent."""
    *sources, cotangent = operands
    image, fill = sources[:2]
    sources = loops.compute_once(sources)
    axes = formula.taps(*sources)
    cotangent = cotangent.astype(axes[0][0].weight.dtype)
    results: dict[int, Array] = {}
    if IMAGE in wrt:
        results[IMAGE] = _scatter(formula, image, axes, cotangent, loops)
    if FILL in wrt:
        results[FILL] = _pull_fill(axes, cotangent).astype(fill.dtype)
    for axis, source in enumerate(formula.sources):
        if source in wrt:
            directions = formula.directions(axes, axis, *sources)
            products = [
                _product(formula, image, fill, axes, axis, taps, cotangent, loops)
                for taps in directions
            ]
            # At a NaN coordinate the gradient along the other axes is 0, too.
            products = [jnp.where(_is_nan(axes), 0, product) for product in products]
            results[source] = jnp.stack(products) if isinstance(formula, Taps) else products[0]
    return [results[operand] for operand in wrt]


def _is_nan(axes: Sequence[Sequence[Tap]]) -> Array:
    """Whether a point has a NaN coordinate, and so NaN weights."""
    return functools.reduce(jnp.logical_or, [jnp.isnan(axis[0].weight) for axis in axes])


def _contract(
    formula: Formula,
    image: Array,
    fill: Array,
    axes: Sequence[Sequence[Tap]],
    loops: Loops,
    channel: int | None = None,
) -> Array:
    """The sum over the taps along all axes: ``[*out, channels]``, or ``[*out, 1]`` of a channel."""
    fill = fill if channel is None else fill[channel : channel + 1]

    def row(outer: Tap) -> Array:
        terms = []
        for corner in _corners(axes[:-1], outer):
            inside = _inside(corner)
            weight = functools.reduce(jnp.multiply, [tap.weight for tap in corner])
            value = _gather(image, [tap.index for tap in corner], channel).astype(weight.dtype)
            if inside is not None and formula.filled:
                value = jnp.where(inside[..., None], value, fill.astype(weight.dtype))
            elif inside is not None:
                weight = loops.or_zero(inside, weight)
            # Leave out pixels of weight 0: NaN · 0 would give NaN.
            weight = weight[..., None]
            terms.append(loops.or_zero(weight != 0, value * weight))
        return functools.reduce(jnp.add, terms)

    outer = axes[-1]
    if math.prod(map(len, axes)) <= _MOST_UNROLLED or len(outer) == 1:
        return functools.reduce(jnp.add, map(row, outer))
    # A scan keeps compilation short. Its initial zeros are made from an operand, so that inside
    # ``shard_map`` they vary over the same mesh axes as the sum.
    like = jax.eval_shape(row, outer[0])
    zeros = jnp.broadcast_to(jnp.zeros_like(outer[0].weight)[..., None], like.shape)
    return jax.lax.scan(lambda total, tap: (total + row(tap), None), zeros, stacked(outer))[0]


def _product(
    formula: Formula,
    image: Array,
    fill: Array,
    axes: Sequence[Sequence[Tap]],
    axis: int,
    taps: Sequence[Tap],
    cotangent: Array,
    loops: Loops,
) -> Array:
    """The sum with other taps along one axis, times the cotangent, summed over the channels."""
    axes = [taps if k == axis else each for k, each in enumerate(axes)]
    axes = loops.block_cse(axes, axis)

    def terms(channel: int | None) -> Array:
        total = _contract(formula, image, fill, axes, loops, channel)
        arrived = cotangent if channel is None else cotangent[..., channel : channel + 1]
        # Where the cotangent is 0, a NaN pixel must not reach the result.
        return jnp.where(arrived != 0, total * arrived, 0)

    return loops.sum_over_channels(terms, image.shape[-1])


def _corners(inner: Sequence[Sequence[Tap]], outer: Tap) -> list[tuple[Tap, ...]]:
    """All combinations of taps of the inner axes with one tap of the outermost axis, x first."""
    return [(*reversed(each), outer) for each in itertools.product(*reversed(inner))]


def _inside(corner: Sequence[Tap]) -> Array | None:
    """Whether all taps lie inside; ``None`` if the padding moves every tap inside."""
    known = [tap.inside for tap in corner if tap.inside is not None]
    return functools.reduce(jnp.logical_and, known) if known else None


def _gather(image: Array, index: Sequence[Array], channel: int | None = None) -> Array:
    """``image[..., y, x, :]`` at valid indices, given x first: ``[*out, channels]``."""
    image, where = _indexed(image, index, channel)
    out, leading = index[0].ndim, where.shape[-1]
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=(out,),
        collapsed_slice_dims=tuple(range(leading)),
        start_index_map=tuple(range(leading)),
    )
    sizes = (*[1] * leading, image.shape[-1])
    return jax.lax.gather(image, where, numbers, sizes, mode="promise_in_bounds")


def _indexed(
    image: Array, index: Sequence[Array], channel: int | None = None
) -> tuple[Array, Array]:
    """The image and indices ``[*out, axes]`` into it, by one flat axis if int32 can index it."""
    *space, channels = image.shape
    if all(isinstance(size, int) for size in space) and math.prod(image.shape) <= _LARGEST_INDEX:
        together = channels if channel is None else 1
        strides = [
            math.prod(space[len(space) - k :]) * (channels // together) for k in range(len(space))
        ]
        terms = [at * stride for at, stride in zip(index, strides, strict=True)]
        flat = functools.reduce(jnp.add, terms) + (channel or 0)
        return image.reshape(-1, together), flat[..., None]
    image = image if channel is None else image[..., channel : channel + 1]
    return image, jnp.stack(index[::-1], axis=-1)


def _scatter(
    formula: Formula,
    image: Array,
    axes: Sequence[Sequence[Tap]],
    cotangent: Array,
    loops: Loops,
) -> Array:
    """The image's cotangent: for each pixel, the sum of weight times cotangent over its readers."""
    if not formula.deterministic and _are_few(image.shape[:-1], cotangent[..., 0].size):
        return _scatter_by_products(axes, cotangent, image)
    # Windows need taps side by side. Those of ``Points`` are; those of ``Taps`` may lie anywhere.
    starts = loops.window_starts(axes, image.shape[-1]) if isinstance(formula, Points) else None
    if starts is not None and not formula.deterministic:
        return _scatter_windows(axes, starts, cotangent, image)

    def terms(outer: Tap) -> tuple[Array, Array]:
        """The indices of one row's corners, and the values to add there."""
        where, values = [], []
        for corner in _corners(axes[:-1], outer):
            values.append(_share(corner, cotangent))
            where.append(_indexed(image, [tap.index for tap in corner])[1])
        return jnp.stack(where), jnp.stack(values)

    outer = axes[-1]
    zeros = _indexed(jnp.zeros_like(image, cotangent.dtype), [axis[0].index for axis in axes])[0]
    if math.prod(map(len, axes)) > _MOST_UNROLLED and not formula.deterministic:
        total = jax.lax.scan(
            lambda total, tap: (_add_at(total, *terms(tap)), None), zeros, stacked(outer)
        )[0]
    else:
        where, values = (jnp.concatenate(each) for each in zip(*map(terms, outer), strict=True))
        add = fixed_point.add_at if formula.deterministic else lambda add, *rest: add(*rest)
        total = add(_add_at, zeros, where, values)
    return total.reshape(image.shape).astype(image.dtype)


def _share(corner: Sequence[Tap], cotangent: Array) -> Array:
    """The values that the points add to the cotangent of one of their pixels."""
    weight = functools.reduce(jnp.multiply, [tap.weight for tap in corner])
    inside = _inside(corner)
    heavy = (weight != 0) & ~jnp.isnan(weight)
    heavy = (heavy if inside is None else heavy & inside)[..., None]
    return jnp.where(heavy, cotangent * weight[..., None], 0)


def _scatter_windows(
    axes: Sequence[Sequence[Tap]], starts: Sequence[Array], cotangent: Array, image: Array
) -> Array:
    """The image's cotangent by one window per point, in an image padded by one pixel."""
    out, ndim = cotangent.ndim - 1, len(axes)
    shares = [_share(corner[::-1], cotangent) for corner in itertools.product(*reversed(axes))]
    windows = jnp.stack(shares, axis=out).reshape(*cotangent.shape[:-1], *ndim * [2], -1)
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=tuple(range(out, out + ndim + 1)),
        inserted_window_dims=(),
        scatter_dims_to_operand_dims=tuple(range(ndim)),
    )
    around = [(1, 1, 0)] * ndim + [(0, 0, 0)]
    zeros = jax.lax.pad(jnp.zeros_like(image, cotangent.dtype), cotangent.dtype.type(0), around)
    where = jnp.stack(starts[::-1], axis=-1)
    total = jax.lax.scatter_add(zeros, where, windows, numbers, mode="promise_in_bounds")
    inside = (*[slice(1, -1)] * ndim, slice(None))
    return total[inside].astype(image.dtype)


def _are_few(space: Sequence[Any], points: Any) -> bool:
    """Whether the image has few pixels, and each is read by many points."""
    if not all(isinstance(size, int) for size in (*space, points)):
        return False
    return math.prod(space) <= min(_FEW_PIXELS, points // 16)


def _scatter_by_products(axes: Sequence[Sequence[Tap]], cotangent: Array, image: Array) -> Array:
    """The image's cotangent by matrix products, for few pixels such as the lattice of a spline."""
    sizes = image.shape[:-1][::-1]
    nan = _is_nan(axes)[..., None]
    lost = ~jnp.isfinite(cotangent) & ~nan
    rows = []
    for axis, size in zip(axes, sizes, strict=True):
        pixels = jnp.arange(size, dtype=jnp.int32)
        terms = []
        for tap in axis:
            here = tap.index[..., None] == pixels
            here = here if tap.inside is None else here & tap.inside[..., None]
            terms.append(jnp.where(here & ~nan, tap.weight[..., None], 0))
        rows.append(functools.reduce(jnp.add, terms))

    def products(rows: Sequence[Array], values: Array) -> Array:
        points = values.reshape(-1, values.shape[-1])
        for row in rows[:-1]:
            points = row.reshape(-1, row.shape[-1])[:, :, None] * points[:, None, :]
            points = points.reshape(len(points), -1)
        outer = rows[-1].reshape(-1, rows[-1].shape[-1])
        total = jnp.matmul(outer.T, points, precision=jax.lax.Precision.HIGHEST)
        return total.reshape(image.shape)

    total = products(rows, jnp.where(lost | nan, 0, cotangent))
    # A cotangent that is not finite makes NaN only of the pixels under its point.
    reached = products([(row != 0).astype(row.dtype) for row in rows], lost.astype(total.dtype))
    return jnp.where(reached > 0, jnp.nan, total).astype(image.dtype)


def _add_at(total: Array, where: Array, values: Array) -> Array:
    """``total`` with values ``[*out, channels]`` added at indices ``[*out, axes]``."""
    count = where.shape[-1]
    numbers = jax.lax.ScatterDimensionNumbers(
        update_window_dims=(values.ndim - 1,),
        inserted_window_dims=tuple(range(count)),
        scatter_dims_to_operand_dims=tuple(range(count)),
    )
    return jax.lax.scatter_add(total, where, values, numbers, mode="promise_in_bounds")


def _pull_fill(axes: Sequence[Sequence[Tap]], cotangent: Array) -> Array:
    """The fill value's cotangent: the value's cotangent times the weight of taps outside."""

    def product(weight: Callable[[Tap], Array]) -> Array:
        sums = [functools.reduce(jnp.add, map(weight, axis)) for axis in axes]
        return functools.reduce(jnp.multiply, sums)

    def kept(tap: Tap) -> Array:
        return tap.weight if tap.inside is None else jnp.where(tap.inside, tap.weight, 0)

    whole = product(lambda tap: tap.weight)
    outside = whole - product(kept)
    outside = jnp.where(jnp.isnan(outside), 0, outside)[..., None]
    terms = jnp.where(outside != 0, cotangent * outside, 0)
    return jnp.sum(terms, axis=tuple(range(terms.ndim - 1)))


def _lowerings(loops: Loops) -> dict[str, Any]:
    return {
        "sample": batched_sample(functools.partial(sample, loops=loops)),
        "pull": batched_pull(functools.partial(pull, loops=loops)),
    }


XLA = plain_engine("xla", **_lowerings(PLAIN), on_cpu=_lowerings(CPU))
