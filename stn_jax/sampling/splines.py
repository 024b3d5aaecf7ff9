"""B-spline interpolation: the coefficients of the spline that passes through an image.

A B-spline of order 2 or more smooths what it weights. To interpolate, its weights multiply
coefficients in place of pixels. The coefficients are the image filtered by the inverse of the
B-spline at whole numbers. That filter's response falls by a constant factor per pixel, so it is
cut where it is below the rounding error of the dtype; the image outside is that of the padding.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

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

    ``kernel="bspline3"`` of :func:`grid_sample` and :func:`warp` computes them itself. Compute them
    once where one image is sampled many times, and sample them with
    ``b_spline(order, prefilter=False)``.

    Args:
      image: Floating ``[*space, channels]`` with one to three spatial axes; batch with
        ``jax.vmap``. A pixel that is not finite spoils the coefficients around it.
      order: Degree of the spline's pieces, 2 to 5; 3 is the cubic spline.
      padding: What pixels outside the image hold, as in :func:`grid_sample`.
      fill_value: Value of ``"constant"`` padding, scalar or ``[channels]``.
      align_corners: As in :func:`grid_sample`; it tells where ``"reflection"`` mirrors.

    Returns:
      ``[*space, channels]`` in the image's dtype. With ``"reflection"`` and ``"wrap"`` the
      coefficients outside follow the same padding, so sampling them is exact everywhere; with
      ``"constant"`` and ``"border"`` those outside differ from the padding within a few pixels.

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
    image = options.check_image(image, jnp.ndim(image) - 1)
    fill = options.check_fill_value(fill_value, image)
    coefficients = _coefficients(image, fill, order, 0, padding, bool(align_corners))
    return coefficients.astype(image.dtype)


def prefiltered(
    image: Array, pixels: Sequence[Array], fill: Array | None, options: SampleOptions
) -> tuple[Array, list[Array], SampleOptions]:
    """What the weights of the kernel multiply: the image, or the coefficients of its spline.

    Returns:
      The image or the coefficients, the pixel coordinates in it, and the options to sample it with.
    """
    order = options.kernel.prefilter
    if order is None:
        return image, list(pixels), options
    # Coefficients outside go on as the image does where that repeats. Elsewhere they approach
    # those of a constant image, and are kept until the difference is below rounding.
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
    response = _response(order, image.dtype)
    reach = len(response) - 1
    # A constant image is its own coefficients, so what is filled is 0 around the difference.
    value = jnp.zeros((), image.dtype)
    if rule.filled and fill is not None:
        value = fill.astype(image.dtype)
    image = image - value
    *shape, channels = image.shape
    if channels == 1:
        # XLA's loop over a last axis of one entry is not vectorized.
        image = image[..., 0]
    for axis, size in enumerate(shape):
        outside = jnp.arange(reach + margin)
        sides = [
            jnp.take(image, rule.inside(index, size, align_corners), axis, mode="clip")
            for index in (outside - reach - margin, outside + size)
        ]
        if rule.filled:
            sides = [jnp.zeros_like(side) for side in sides]
        parts = sides[0], image, sides[1]
        wide = isolate_loop(functools.partial(_joined, axis), *parts)
        image = _filtered(wide, response, axis, size + 2 * margin)
    return image.reshape(*image.shape[: len(shape)], channels) + value


def _joined(axis: int, *parts: Array) -> Array:
    return jnp.concatenate(parts, axis)


def _filtered(wide: Array, response: Sequence[float], axis: int, size: int) -> Array:
    """The symmetric filter along an axis, of an array with as many further entries on each side."""
    reach = len(response) - 1

    def at(offset: int) -> Array:
        return jax.lax.slice_in_dim(wide, reach + offset, reach + offset + size, axis=axis)

    pairs = [response[k] * (at(-k) + at(k)) for k in range(reach, 0, -1)]
    return functools.reduce(jnp.add, pairs) + response[0] * at(0)


def _length(order: int, dtype: jnp.dtype) -> int:
    """Pixels after which the filter's response has fallen below the dtype's rounding error."""
    precision = float(jnp.finfo(_checks.widest(dtype)).eps) / 4
    return math.ceil(math.log(precision) / math.log(max(np.abs(_poles(order)))))


@functools.cache
def _poles(order: int) -> np.ndarray:
    """The poles inside the unit circle: real, between −1 and 0."""
    half = _AT_WHOLE_NUMBERS[order]
    roots = np.roots([*half[:0:-1], *half]).real
    return roots[np.abs(roots) < 1]


@functools.cache
def _response(order: int, dtype: jnp.dtype) -> tuple[float, ...]:
    """The inverse filter's response at 0, 1, 2, …, in which ``Σ b(k) r(n − k)`` is 1 at 0 only.

    The sum of residues: each pole contributes its powers.
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
