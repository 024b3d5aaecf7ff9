"""Differentiable sampling of an image at arbitrary points, and its derivative rule."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float, Shaped

from stn_jax import _checks
from stn_jax._loops import materialize
from stn_jax._types import AnyArray
from stn_jax.coordinates import pixels_from_grid
from stn_jax.sampling.gradients import GradientName, Linearized
from stn_jax.sampling.kernels import Kernel, KernelName
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PaddingName
from stn_jax.sampling.weighted_sum import (
    is_wide,
    of_channel,
    weighted_sum,
    weighted_windows,
)

# Pixel coordinates from which float32 has no digits left for a fraction: nothing depends smoothly
# on them.
_FAR = 2.0**23
# Channels up to which a coordinate's slopes are taken one by one.
_FEW_CHANNELS = 4


def grid_sample(
    image: Shaped[AnyArray, "*space channels"],
    grid: Float[AnyArray, "*out n"],
    *,
    kernel: KernelName | Kernel = "linear",
    padding: PaddingName = "constant",
    fill_value: ArrayLike = 0.0,
    align_corners: bool = False,
    gradient: GradientName | Linearized = "exact",
    deterministic: bool = False,
) -> Shaped[Array, "*out channels"]:
    """Samples an image at the points of a grid.

    Args:
      image: ``[height, width, channels]`` or ``[depth, height, width, channels]``; batch with
        ``jax.vmap``. Integer and boolean images are sampled with the nearest kernel only.
      grid: Source points ``[..., n]`` in normalised coordinates, ``(x, y)`` or ``(x, y, z)`` on
        the last axis; usually ``[out_height, out_width, 2]``.
      kernel: ``"nearest"``, ``"linear"``, ``"cubic"`` (Keys' with a = −0.5), ``"lanczos3"``
        (weights normalised to sum to 1) or a :class:`Kernel`.
      padding: What pixels outside the image hold. ``"constant"``: ``fill_value``; with 0 this is
        PyTorch's ``zeros``. ``"border"``: the nearest pixel of the image. ``"reflection"``: its
        mirror image, about the outer edges, or with ``align_corners`` about the centres of the
        corner pixels. ``"wrap"``: its repetition.
      fill_value: Scalar, or one value per channel ``[channels]``.
      align_corners: Whether −1 and 1 are the centres of the corner pixels rather than the outer
        edges of the image.
      gradient: The derivative with respect to the coordinates. ``"exact"``; or ``"linearized"``, a
        local linear fit that reaches farther, or :class:`Linearized` with a reach of your own.
      deterministic: Whether the image's gradient, a sum that runs in parallel on accelerators, is
        to have the same bits on every run. It then costs about three times as much.

    Returns:
      ``[..., channels]`` in the image's dtype. Coordinates and weights are computed in float32 at
      least. Infinite and far coordinates are outside the image. A NaN coordinate gives NaN (in an
      integer image: the pixel at index 0), and all its derivatives are zero.

    Raises:
      ValueError: If shapes do not fit, or an option is unknown.
      TypeError: If ``grid`` is not floating, or ``image`` is neither floating nor sampled with the
        nearest kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.array([[0.0, 10.0], [20.0, 30.0]])[..., None]
      >>> stn.grid_sample(image, jnp.array([[0.0, 0.0], [0.5, -0.5]])).tolist()
      [[15.0], [10.0]]

    Note:
      The derivative with respect to the coordinates is exact. At a kink, such as a whole pixel
      coordinate of the linear kernel, it is the sub-gradient of the cell to the right, as in
      PyTorch.

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equations 3 to 7.
    """
    grid = _checks.floating("grid", grid)
    ndim = grid.shape[-1] if grid.ndim else 0
    if ndim not in (1, 2, 3):
        raise ValueError(
            "grid must have 1, 2 or 3 coordinates on its last axis, (x, y) for an image; "
            f"got shape {grid.shape}."
        )
    options = SampleOptions.create(kernel, padding, align_corners, gradient, deterministic)
    image = options.check_image(image, ndim)
    return _grid_sample(image, grid, options.check_fill_value(fill_value, image), options)


@functools.partial(jax.jit, static_argnames="options")
def _grid_sample(image: Array, grid: Array, fill: Array | None, options: SampleOptions) -> Array:
    pixels = pixels_from_grid(grid, image.shape[:-1], align_corners=options.align_corners)
    return sample_pixels(image, pixels, fill, options)


def sample_pixels(
    image: Array, pixels: Sequence[Array], fill: Array | None, options: SampleOptions
) -> Array:
    """Samples ``image`` at pixel coordinates, one array ``[*out]`` per coordinate, x first."""
    dtype = image.dtype

    def filled(dtype: Any) -> Array | None:
        return None if fill is None else fill.astype(dtype)

    if not jnp.issubdtype(dtype, jnp.floating):
        return weighted_sum(options, (0,) * len(pixels), image, filled(dtype), (), *pixels)
    # Sums of bfloat16 and float16, here and in the image's gradient, are kept in float32.
    pixels = _checks.common_dtype(*pixels)
    wide = jnp.promote_types(dtype, pixels[0].dtype)
    pixels = [pixel.astype(wide) for pixel in pixels]
    # What the kernel's weight closes over becomes an argument, so that it can be differentiated.
    weight, phi = jax.closure_convert(options.kernel.weight, pixels[0])
    options = options._replace(kernel=dataclasses.replace(options.kernel, weight=weight))
    orders = (0,) * len(pixels)
    value = _sample(options, orders, None, image.astype(wide), filled(wide), tuple(phi), *pixels)
    return value.astype(dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _sample(
    options: SampleOptions,
    orders: tuple[int, ...],
    channel: int | None,
    image: Array,
    fill: Array | None,
    phi: tuple[Array, ...],
    *pixels: Array,
) -> Array:
    """The sample, or its derivative of the given order with respect to each coordinate.

    Of one channel, or of all when ``None``.
    """
    return weighted_sum(options, orders, image, fill, phi, *pixels, channel=channel)


@functools.partial(_sample.defjvp, symbolic_zeros=True)
def _sample_jvp(
    options: SampleOptions,
    orders: tuple[int, ...],
    channel: int | None,
    primals: Any,
    tangents: Any,
) -> tuple[Array, Array]:
    """Linear in image and fill; along a coordinate, the same sum with the derived weights.

    Everything here is plain and transposable, so forward, reverse and higher derivatives all
    follow, each coordinate's is a pass of its own that XLA can fuse, and an input that is not
    differentiated costs nothing.
    """
    image, fill, phi, *pixels = primals
    image_dot, fill_dot, phi_dot, *pixels_dot = tangents
    value = _sample(options, orders, channel, *primals)
    terms = []
    if not (_is_zero(image_dot) and _is_zero(fill_dot)):
        # Its transpose, the image's gradient, is what it is most often wanted for.
        linear_sum = weighted_sum if options.deterministic else weighted_windows
        image_part = of_channel(_instantiate(image_dot), channel)
        fill_part = None if fill is None else of_channel(_instantiate(fill_dot), channel)
        terms.append(linear_sum(options, orders, image_part, fill_part, phi, *pixels))
    tangent_along = _fitted_tangent if options.gradient else _tangent
    for axis, pixel_dot in enumerate(pixels_dot):
        if not _is_zero(pixel_dot):
            terms.append(tangent_along(options, orders, channel, primals, axis, pixel_dot))
    if not all(_is_zero(each) for each in phi_dot):

        def of_phi(*phi: Array) -> Array:
            return weighted_sum(options, orders, image, fill, phi, *pixels, channel=channel)

        terms.append(jax.jvp(of_phi, phi, tuple(_instantiate(each) for each in phi_dot))[1])
    return value, sum(terms, start=jnp.zeros_like(value))


def _tangent(
    options: SampleOptions,
    orders: tuple[int, ...],
    channel: int | None,
    primals: Any,
    axis: int,
    pixel_dot: Array,
) -> Array:
    """Along a coordinate: the sample, one order higher, times the coordinate's own tangent."""
    raised = tuple(order + (each == axis) for each, order in enumerate(orders))
    image, fill, phi, *pixels = primals
    pixels = materialize(pixels)
    primals = image, fill, phi, *pixels
    pixel_dot = jnp.where(jnp.abs(pixels[axis]) < _FAR, pixel_dot, 0)
    channels = image.shape[-1]
    narrow = channels <= _FEW_CHANNELS and not is_wide(options, len(pixels))
    if channel is None and narrow:
        # Channel by channel the transpose, a sum over them, is fused with the sums of pixels.
        slopes = [_sample(options, raised, each, *primals) for each in range(channels)]
        return jnp.concatenate([slope * pixel_dot[..., None] for slope in slopes], axis=-1)
    slope = _sample(options, raised, channel, *primals)
    return slope * _spread(pixel_dot, slope.shape[-1])


def _fitted_tangent(
    options: SampleOptions,
    orders: tuple[int, ...],
    channel: int | None,
    primals: Any,
    axis: int,
    pixel_dot: Array,
) -> Array:
    """The same with the slope of a linear fit to samples around each point.

    Least squares over offsets whose mean is 0 and whose covariance is a multiple of the identity:
    ``slopeₖ = Σ offsetₖ · sample / Σ offsetₖ²``.
    """
    assert options.gradient is not None
    image, fill, phi, *pixels = primals
    offsets = options.gradient.offsets(len(pixels))

    def sample_at(offset: Array) -> Array:
        moved = [pixel + each for pixel, each in zip(pixels, offset, strict=True)]
        return _sample(options, orders, channel, image, fill, phi, *moved)

    # Not a scan: second derivatives would lose the rule of what is inside.
    samples = jax.vmap(sample_at)(jnp.asarray(offsets, pixels[0].dtype))
    pixel_dot = jnp.where(jnp.abs(pixels[axis]) < _FAR, pixel_dot, 0)
    weights = jnp.asarray(offsets[:, axis] / np.sum(offsets[:, axis] ** 2), samples.dtype)
    slope = jnp.tensordot(weights, samples, axes=1, precision=jax.lax.Precision.HIGHEST)
    return slope * _spread(pixel_dot, slope.shape[-1])


def _is_zero(tangent: Any) -> bool:
    return tangent is None or isinstance(tangent, SymbolicZero)


def _instantiate(tangent: Any) -> Array:
    """A tangent as an array."""
    return jnp.zeros(tangent.shape, tangent.dtype) if _is_zero(tangent) else tangent


def _spread(tangent: Array, channels: int) -> Array:
    """Repeats ``[...]`` over channels; its transpose, a sum over them, is a matrix product.

    XLA on the CPU runs a reduction over a short last axis far slower than the product.
    """
    if channels == 1:
        return tangent[..., None]
    ones = jnp.ones((1, channels), tangent.dtype)
    product = jnp.matmul(tangent.reshape(-1, 1), ones, precision=jax.lax.Precision.HIGHEST)
    return product.reshape(*tangent.shape, channels)
