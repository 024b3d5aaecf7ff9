"""The sum over a kernel's support, equation 3 of the paper: what sampling computes.

It stands here twice. :func:`weighted_sum` is the fast one to evaluate: XLA fuses the arithmetic of
coordinates and weights with the gathers, and nothing but the result is written. Its transpose,
with respect to the image, is not: that is what :func:`weighted_windows` is for, whose transpose is
a single scatter.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax._loops import distinct_zero, materialize
from stn_jax.sampling import deterministic
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS

# Pixels under a kernel up to which the sum is one expression.
_MOST_UNROLLED = 8
# Channels up to which a scatter of whole runs of pixels is faster than one of single pixels.
_FEW_CHANNELS = 8


def weighted_sum(
    options: SampleOptions,
    orders: tuple[int, ...],
    image: Array,
    fill: Array | None,
    phi: tuple[Array, ...],
    *pixels: Array,
    channel: int | None = None,
) -> Array:
    """The sum of the pixels under the kernel, as one gather for each of them.

    Args:
      options: How to sample.
      orders: Which derivative of the weights to take along each coordinate, x first.
      image: ``[*space, channels]``.
      fill: Scalar or ``[channels]``; ``None`` for 0.
      phi: The kernel's parameters.
      *pixels: Pixel coordinates ``[*out]``, one array for each coordinate.
      channel: The one channel to sample; all of them when ``None``.

    Returns:
      ``[*out, channels]``.
    """
    is_float = jnp.issubdtype(image.dtype, jnp.floating)
    sizes = image.shape[:-1][::-1]
    wide = is_wide(options, len(pixels))
    if wide:
        pixels = materialize(pixels)
    axes = []
    for pixel, order, size in zip(pixels, orders, sizes, strict=True):
        first, offset = _place(pixel, size, options)
        # A sample at NaN is NaN, by its weights; but nothing depends on where it is.
        nan = jnp.isnan(offset)
        at_nan = 0 if any(orders) else jnp.nan
        weights = options.kernel.weights(jnp.where(nan, 0, offset), order, phi)
        weights = [jnp.where(nan, at_nan, weight) for weight in weights]
        axes.append(_Axis.create(first + distinct_zero(orders), weights, size, options))
    if wide:
        # Else XLA would compute an axis' weights anew for each pixel under the kernel.
        axes = [axis._replace(weights=list(materialize(axis.weights))) for axis in axes]

    # One flat index takes fewer operations than an index for each axis.
    together = image.shape[-1] if channel is None else 1
    flat = image.reshape(-1, together)
    strides = np.cumprod([image.shape[-1] // together, *sizes])
    starts = [channel or 0, *[0] * len(sizes)]
    taps = [
        [(index * int(stride) + start, weight) for index, weight in zip(*axis[:2], strict=True)]
        for axis, stride, start in zip(axes, strides, starts, strict=False)
    ]
    *inner, outer = taps

    def sum_of_slice(outer_tap: tuple[Array, ...]) -> Array:
        terms = []
        for corner in itertools.product([outer_tap], *reversed(inner)):
            indices, weights = zip(*corner, strict=True)
            value = _gather(flat, functools.reduce(jnp.add, indices), options)
            if is_float:
                value = value * functools.reduce(jnp.multiply, weights)[..., None]
            terms.append(value)
        return functools.reduce(jnp.add, terms)

    if wide:
        # A wide kernel is summed slice by slice, or compiling would take longer than sampling.
        total = jnp.zeros((*pixels[0].shape, together), image.dtype)
        stacked = tuple(jnp.stack(each) for each in zip(*outer, strict=True))
        total = jax.lax.scan(lambda sum_, tap: (sum_ + sum_of_slice(tap), None), total, stacked)[0]
    else:
        total = functools.reduce(jnp.add, map(sum_of_slice, outer))
    if options.padding != "constant":
        return total
    fill = None if fill is None else of_channel(fill, channel)
    return _with_fill(total, fill, axes, options)


def weighted_windows(
    options: SampleOptions,
    orders: tuple[int, ...],
    image: Array,
    fill: Array | None,
    phi: tuple[Array, ...],
    *pixels: Array,
) -> Array:
    """:func:`weighted_sum` as one gather of windows; 0 where a coordinate is not a number.

    The image is extended so that every window lies inside, and nothing has to be masked.
    """
    channels = image.shape[-1]
    nan = functools.reduce(jnp.logical_or, map(jnp.isnan, pixels))
    pixels = materialize([jnp.where(nan, 0, pixel) for pixel in pixels])
    starts, weights = [], []
    for axis, (pixel, order) in enumerate(zip(pixels, orders, strict=True)):
        array_axis = len(pixels) - 1 - axis
        size = image.shape[array_axis]
        first, offset = _place(pixel, size, options)
        before, after = _reach(size, options)
        image = extend(image, array_axis, before, after, fill, options)
        starts.append(first + before)
        weights.append(options.kernel.weights(offset, order, phi))

    taps = len(weights[0])
    window = [taps] * len(pixels) + [channels]
    if channels <= _FEW_CHANNELS and len(pixels) > 1:
        # A window's rows are then runs of numbers, which the scatter's loops go through faster.
        image = image.reshape(*image.shape[:-2], -1)
        starts[0] = starts[0] * channels
        window[-2:] = [taps * channels]
    *inner, outer = weights

    def sum_from(start: Array, outer_weights: Sequence[Array]) -> Array:
        """The sum over slices of the window, from an index of the outermost axis onwards."""
        shape = [len(outer_weights), *window[1:]]
        values = _gather_windows(image, [*starts[:-1], start][::-1], shape)
        weight = _outer_product([outer_weights, *reversed(inner)])[..., None]
        values = values.reshape(*weight.shape[:-1], channels) * weight
        return jnp.sum(values, axis=tuple(range(start.ndim, values.ndim - 1)))

    if is_wide(options, len(pixels)):
        total = jnp.zeros((*nan.shape, channels), image.dtype)
        slices = jnp.arange(taps, dtype=jnp.int32), jnp.stack(outer)
        total = jax.lax.scan(
            lambda sum_, tap: (sum_ + sum_from(starts[-1] + tap[0], [tap[1]]), None), total, slices
        )[0]
    else:
        total = sum_from(starts[-1], outer)
    return jnp.where(nan[..., None], 0, total)


def is_wide(options: SampleOptions, ndim: int) -> bool:
    """Whether more pixels lie under the kernel than one expression should hold."""
    return math.ceil(2 * options.kernel.radius) ** ndim > _MOST_UNROLLED


def of_channel(values: Array, channel: int | None) -> Array:
    """``[..., channels]``, or what broadcasts against it, for one of them or for all."""
    if values.ndim == 0 or channel is None:
        return values
    return values[..., channel : channel + 1]


def _outer_product(weights: Sequence[Sequence[Array]]) -> Array:
    """The weight of every pixel of a window, given those along each axis: ``[*out, *window]``."""
    product = jnp.stack(weights[0], axis=-1)
    out = product.ndim - 1
    for depth, each in enumerate(weights[1:], start=1):
        along = jnp.expand_dims(jnp.stack(each, axis=-1), tuple(range(out, out + depth)))
        product = product[..., None] * along
    return product


def _gather(flat: Array, index: Array, options: SampleOptions) -> Array:
    if options.deterministic:
        return deterministic.gather(flat, index)
    # A signed index would be compared with 0, to count from the end.
    return flat.at[index.astype(jnp.uint32)].get(mode="promise_in_bounds")


def _gather_windows(image: Array, starts: Sequence[Array], shape: Sequence[int]) -> Array:
    """``[*out, *shape]``: the windows of an array that start at some indices."""
    out = starts[0].ndim
    numbers = jax.lax.GatherDimensionNumbers(
        offset_dims=tuple(range(out, out + len(shape))),
        collapsed_slice_dims=(),
        start_index_map=tuple(range(len(starts))),
    )
    indices = jnp.stack(starts, axis=-1)
    return jax.lax.gather(image, indices, numbers, shape, mode="promise_in_bounds")


class _Axis(NamedTuple):
    """The pixels under the kernel along one axis, moved inside the image."""

    indices: list[Array]
    weights: list[Array]
    reached: Array
    weight: Array
    weight_inside: Array

    @classmethod
    def create(
        cls, first: Array, weights: Sequence[Array], size: int, options: SampleOptions
    ) -> "_Axis":
        """``reached`` and the sums of the weights are what constant padding needs to know."""
        indices = [first + tap for tap in range(len(weights))]
        inside = [
            PADDINGS[options.padding].inside(index, size, options.align_corners)
            for index in indices
        ]
        if options.padding != "constant":
            everywhere, whole = jnp.ones_like(first, bool), functools.reduce(jnp.add, weights)
            return cls(inside, list(weights), everywhere, whole, whole)
        unmoved = [moved == index for moved, index in zip(inside, indices, strict=True)]
        kept = [jnp.where(here, weight, 0) for here, weight in zip(unmoved, weights, strict=True)]
        reached = functools.reduce(jnp.logical_or, unmoved)
        sums = (functools.reduce(jnp.add, each) for each in (weights, kept))
        return cls(inside, kept, reached, *sums)


def _with_fill(
    total: Array, fill: Array | None, axes: Sequence[_Axis], options: SampleOptions
) -> Array:
    """Adds the fill value, by the weight that fell outside.

    Outside the kernel's reach nothing of the image is left, not even what is not finite.
    """
    reached = functools.reduce(jnp.logical_and, [axis.reached for axis in axes])[..., None]
    if not jnp.issubdtype(total.dtype, jnp.floating):
        outside = jnp.zeros((), total.dtype) if fill is None else fill
        return jnp.where(reached, total, outside)
    # The deterministic sum is transposed as it stands, and patterns of bits cannot be.
    total = jnp.where(reached, total, 0) if options.deterministic else _only_where(reached, total)
    if fill is None:
        return total
    weight, inside = (
        math.prod(getattr(axis, name) for axis in axes)[..., None]
        for name in ("weight", "weight_inside")
    )
    outside = jnp.where(reached, weight - inside, weight)
    # Where nothing is outside a fill value that is not finite must not be seen.
    return jnp.where(outside == 0, total, total + fill * outside)


@jax.custom_jvp
def _only_where(condition: Array, values: Array) -> Array:
    """``jnp.where(condition, values, 0)``, as the lesser of two patterns of bits.

    XLA on the CPU makes a branch of a selection, which keeps the loop from being vectorized.
    """
    bits = np.dtype(f"uint{8 * values.dtype.itemsize}")
    mask = jnp.where(condition, bits.type(np.iinfo(bits).max), bits.type(0))
    pattern = jax.lax.bitcast_convert_type(values, bits)
    return jax.lax.bitcast_convert_type(jnp.minimum(pattern, mask), values.dtype)


@_only_where.defjvp
def _only_where_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    condition, _ = primals
    return _only_where(*primals), jnp.where(condition, tangents[1], 0)


def _place(pixel: Array, size: int, options: SampleOptions) -> tuple[Array, Array]:
    """The first pixel under the kernel, and how far beyond it the coordinate lies.

    At NaN the pixel is one of the image's, and the distance NaN.
    """
    near = _bring_near(pixel, size, options)
    first = options.kernel.first(near)
    return jnp.where(jnp.isnan(near), 0, first).astype(jnp.int32), near - first


def _bring_near(pixel: Array, size: int, options: SampleOptions) -> Array:
    """A coordinate near the image where the sample is the same, so that an index can hold it."""
    extent = _extent(size, options)
    if PADDINGS[options.padding].period is not None:
        infinite = jnp.isinf(pixel)
        pixel = pixel - extent * jnp.floor(pixel / extent)
        # An infinite coordinate has no place in a period; any finite one will do.
        pixel = jnp.where(infinite, 0, pixel)
    margin = _margin(options)
    return jnp.clip(pixel, -margin, extent - 1 + margin)


def _extent(size: int, options: SampleOptions) -> int:
    """Pixels after which there is nothing new: the image's, or those of its period."""
    period_of = PADDINGS[options.padding].period
    return size if period_of is None else max(size, period_of(size, options.align_corners))


def _margin(options: SampleOptions) -> int:
    """How far outside the image a coordinate can be told from one farther out."""
    return math.ceil(options.kernel.radius) + 1


def _reach(size: int, options: SampleOptions) -> tuple[int, int]:
    """How many pixels before and after an axis lie under the kernel of a coordinate near it."""
    reach = _margin(options) + math.ceil(options.kernel.radius)
    return reach, _extent(size, options) - size + reach


def extend(
    image: Array, axis: int, before: int, after: int, fill: Array | None, options: SampleOptions
) -> Array:
    """The image with some of what is outside written out along an axis."""
    mode = PADDINGS[options.padding].numpy_mode(options.align_corners)
    widths = [(before, after) if each == axis else (0, 0) for each in range(image.ndim)]
    extended = jnp.pad(image, widths, mode=mode)
    if mode == "constant" and fill is not None:
        index = jax.lax.broadcasted_iota(jnp.int32, extended.shape, axis)
        inside = (index >= before) & (index < before + image.shape[axis])
        extended = jnp.where(inside, extended, fill)
    return extended
