"""B-spline interpolation: the coefficients of the spline that passes through an image.

A weighted sum of pixels by a B-spline of order 2 or more smooths the image. To interpolate, the
weights multiply coefficients in place of pixels. The coefficients are the image, filtered by the
inverse of the B-spline sampled at whole numbers. The response of this filter falls by a constant
factor per pixel; it is cut off where it falls below the rounding error of the dtype. Outside the
image the filter reads the padding.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.sampling.backends.cpu_loops import isolate_loop
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS, PaddingName

# Values of the B-spline of each order at 0, 1, 2.
_AT_WHOLE_NUMBERS = {
    2: (3 / 4, 1 / 8),
    3: (2 / 3, 1 / 6),
    4: (115 / 192, 19 / 96, 1 / 384),
    5: (11 / 20, 13 / 60, 1 / 120),
}


def spline_coefficients(
    image: Float[AnyArray, "*space channels"],
    order: int = 3,
    *,
    padding: PaddingName = "reflection",
    fill_value: ArrayLike = 0.0,
    align_corners: bool = False,
) -> Float[Array, "*space channels"]:
    """The coefficients of the B-spline that passes through an image.

    ``kernel="bspline3"`` of :func:`grid_sample` and :func:`warp` computes them at every call. To
    sample one image many times, compute them once and sample the coefficients with
    ``b_spline(order, prefilter=False)``.

    Args:
      image: Floating ``[*space, channels]`` with one to three spatial axes; batch with
        ``jax.vmap``. A NaN or infinite pixel makes the coefficients around it NaN.
      order: Degree of the spline's pieces, 2 to 5; 3 is the cubic spline.
      padding: Values of the pixels outside the image, as in :func:`grid_sample`.
      fill_value: Value of ``"constant"`` padding, scalar or ``[channels]``.
      align_corners: As in :func:`grid_sample`; it decides where ``"reflection"`` mirrors.

    Returns:
      ``[*space, channels]`` in the image's dtype. With ``"reflection"``, ``"wrap"``, ``"dst1"`` and
      ``"dst2"`` the coefficients outside follow the same padding, so sampling them with it is exact
      everywhere.
      With ``"constant"`` and ``"border"`` it is inexact near the border: the true coefficients
      outside differ from the padding within a few pixels.

    Raises:
      ValueError: If ``order`` or ``padding`` is unknown, or ``fill_value`` does not fit.
      TypeError: If ``image`` is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.array([0.0, 0.0, 6.0, 0.0, 0.0])[None, :, None]
      >>> coefficients = stn.spline_coefficients(image)
      >>> (coefficients.ravel()[1:4] @ jnp.array([1 / 6, 2 / 3, 1 / 6])).round(5).item()
      6.0

    Reference:
      Unser, Aldroubi and Eden, B-Spline Signal Processing, IEEE Transactions on Signal Processing
      41(2), 1993.
    """
    if order not in _AT_WHOLE_NUMBERS:
        orders = ", ".join(map(str, _AT_WHOLE_NUMBERS))
        raise ValueError(f"order must be one of {orders}; got {order!r}.")
    options = SampleOptions.create("linear", padding, align_corners, "exact", False, None)
    image = _checks.as_array("image", image)
    image = options.check_image(image, image.ndim - 1)
    fill = options.check_fill_value(fill_value, image)
    coefficients = _coefficients(image, fill, order, 0, padding, bool(align_corners))
    return coefficients.astype(image.dtype)


def prefiltered(
    image: Array, pixels: Sequence[Array], fill: Array | None, options: SampleOptions
) -> tuple[Array, list[Array], SampleOptions]:
    """Replaces the image by its spline coefficients, if the kernel needs them.

    Returns:
      The image or the coefficients, the pixel coordinates in that array, and the options to sample
      it with.
    """
    order = options.kernel.prefilter
    if order is None:
        return image, list(pixels), options
    # Under a padding that repeats the image, the coefficients repeat too. Under the others they
    # approach those of a constant image; keep a margin until the difference is below rounding.
    repeats = PADDINGS[options.padding].period is not None
    margin = 0 if repeats else _length(order, image.dtype)
    padding, aligned = options.padding, options.align_corners
    coefficients = _coefficients(image, fill, order, margin, padding, aligned)
    weights = dataclasses.replace(options.kernel, prefilter=None)
    return coefficients, [pixel + margin for pixel in pixels], options.replaced(kernel=weights)


@functools.partial(jax.jit, static_argnums=range(2, 6))
def _coefficients(
    image: Array, fill: Array | None, order: int, margin: int, padding: str, align_corners: bool
) -> Array:
    rule, image = PADDINGS[padding], image.astype(_checks.widest(image.dtype))
    if rule.renormalized:
        raise ValueError(
            f"padding must give the pixels outside a value for a spline through the image; got "
            f'{padding!r}. Use "border", or a kernel that is no spline.'
        )
    response = _response(order, image.dtype)
    reach = len(response) - 1
    # The coefficients of a constant image are the image itself. So filter the difference from the
    # fill value, whose padding is 0, and add the fill value at the end.
    value = jnp.zeros((), image.dtype)
    if rule.filled and fill is not None:
        value = fill.astype(image.dtype)
    image = image - value
    *shape, channels = image.shape
    if channels == 1:
        # XLA does not vectorize a loop whose last axis has one entry.
        image = image[..., 0]
    for axis, size in enumerate(shape):
        outside = jnp.arange(reach + margin)
        sides = []
        for index in (outside - reach - margin, outside + size):
            side = rule.pixels(image, index, axis, align_corners)
            sides.append(jnp.zeros_like(side) if rule.filled else side)
        parts = sides[0], image, sides[1]
        wide = isolate_loop(functools.partial(jnp.concatenate, axis=axis), parts)
        image = _filtered(wide, response, axis, size + 2 * margin)
    return image.reshape(*image.shape[: len(shape)], channels) + value


def _filtered(wide: Array, response: Sequence[float], axis: int, size: Any) -> Array:
    """Filters ``size`` entries along an axis; ``wide`` holds the filter's reach on each side."""
    reach = len(response) - 1

    def at(offset: int) -> Array:
        return jax.lax.slice_in_dim(wide, reach + offset, reach + offset + size, axis=axis)

    pairs = [response[k] * (at(-k) + at(k)) for k in range(reach, 0, -1)]
    return functools.reduce(jnp.add, pairs) + response[0] * at(0)


def _length(order: int, dtype: jnp.dtype) -> int:
    """The number of pixels after which the filter's response is below the dtype's rounding."""
    precision = float(jnp.finfo(_checks.widest(dtype)).eps) / 4
    return math.ceil(math.log(precision) / math.log(max(np.abs(_poles(order)))))


@functools.cache
def _poles(order: int) -> np.ndarray:
    """The filter's poles inside the unit circle; they are real, between −1 and 0."""
    half = _AT_WHOLE_NUMBERS[order]
    roots = np.roots([*half[:0:-1], *half]).real
    return roots[np.abs(roots) < 1]


@functools.cache
def _response(order: int, dtype: jnp.dtype) -> tuple[float, ...]:
    """The inverse filter's response r at 0, 1, 2, …: ``Σ b(k) r(n − k)`` is 1 at n = 0, else 0.

    By the sum of residues: each pole contributes a multiple of its powers.
    """
    half, poles = _AT_WHOLE_NUMBERS[order], _poles(order)
    powers = poles[:, None] ** np.arange(_length(order, dtype) + 1)
    # 1 / (half[-1] Π (z − p)(z − 1/p)), times z^degree.
    amplitudes = []
    for pole in poles:
        others = poles[poles != pole]
        rest = np.prod((pole - others) * (pole - 1 / others)) * (pole - 1 / pole) * half[-1]
        amplitudes.append(pole ** (len(poles) - 1) / rest)
    return tuple((np.array(amplitudes) @ powers).tolist())
