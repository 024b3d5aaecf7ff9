"""Losses that compare two images: pure functions of two images and of a weight for each pixel.

All of them are differentiable in both modes; batch with ``jax.vmap``. A pixel of weight 0 counts
for nothing, whatever its value, NaN included.
"""

import functools
import math
import typing
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from stn_jax import _checks
from stn_jax._types import AnyArray

Image = Shaped[AnyArray, "*space channels"]
Weights = Shaped[AnyArray, "*space"] | None
LossName = Literal[
    "cross_correlation", "mean_squared_error", "local_cross_correlation", "mutual_information"
]

# A window's correlation is drawn towards 0 if both of its variances are below about this share of
# the images' variances.
_FLAT = 1e-3
# Pixels whose Parzen weights are computed at once.
_CHUNK = 1 << 16


def mean_squared_error(first: Image, second: Image, *, weights: Weights = None) -> Float[Array, ""]:
    """The weighted mean of the squared differences.

    Args:
      first: Image ``[*space, channels]``.
      second: Image of the same shape.
      weights: Weight of each pixel, ``[*space]``, at least 0, or a mask; ``None``: all alike.

    Returns:
      ``Σ w (a − b)² / (channels Σ w)``, at least 0, in the square of the images' unit.

    Raises:
      ValueError: If the shapes differ.
      TypeError: If an image is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import registration
      >>> a, b = jnp.zeros((1, 4, 1)), jnp.arange(4.0).reshape(1, 4, 1)
      >>> registration.mean_squared_error(a, b).item()
      3.5
      >>> seen = jnp.array([[True, True, False, False]])
      >>> registration.mean_squared_error(a, b, weights=seen).item()
      0.5

    Reference:
      Szeliski, Computer Vision: Algorithms and Applications, section 9.1.
    """
    first, second, weights = _operands(first, second, weights)
    share = weights / _nonzero(jnp.sum(weights))
    return jnp.sum(share[..., None] * (first - second) ** 2) / first.shape[-1]


def cross_correlation(first: Image, second: Image, *, weights: Weights = None) -> Float[Array, ""]:
    """The normalised cross-correlation of two images: Pearson's coefficient over all pixels.

    Each channel's mean is subtracted. The result does not change with a positive gain of either
    image, nor with an offset of each channel.

    Args:
      first: As in :func:`mean_squared_error`.
      second: As in :func:`mean_squared_error`.
      weights: As in :func:`mean_squared_error`.

    Returns:
      From −1 to 1, and 1 for equal images. 0 if an image is constant.

    Raises:
      ValueError, TypeError: As :func:`mean_squared_error`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import registration
      >>> a = jnp.arange(12.0).reshape(3, 4, 1)
      >>> round(registration.cross_correlation(a, 5 * a + 1).item(), 6)
      1.0

    Reference:
      Lewis, Fast normalized cross-correlation, 1995.
    """
    first, second, weights = _operands(first, second, weights)
    a, b = (_normalized(each, weights)[0] for each in (first, second))
    return jnp.sum(a * b)


def local_cross_correlation(
    first: Image, second: Image, *, weights: Weights = None, window: int = 9
) -> Float[Array, ""]:
    """The mean of the squared cross-correlations of the windows around all pixels.

    It does not change with a gain and an offset that vary slowly over the image, nor if one image
    is inverted. A window holds the pixels up to ``(window − 1) / 2`` away along each axis that lie
    in the image. Where both images are nearly flat, a window's correlation is drawn towards 0.

    Args:
      first: As in :func:`mean_squared_error`.
      second: As in :func:`mean_squared_error`.
      weights: As in :func:`mean_squared_error`; it weights the pixels in each window, and then the
        windows by their central pixel.
      window: Side of a window in pixels, odd, at least 3.

    Returns:
      From 0 to 1.

    Raises:
      ValueError, TypeError: As :func:`mean_squared_error`, and if ``window`` is even or below 3.

    Example:
      A shade that varies over the image spoils the correlation of the whole image, not this:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from stn_jax import registration
      >>> a = jax.random.normal(jax.random.key(0), (32, 32, 1))
      >>> b = a + jnp.linspace(0, 10, 32)[:, None]
      >>> bool(registration.cross_correlation(a, b) < 0.4)
      True
      >>> bool(registration.local_cross_correlation(a, b, window=5) > 0.7)
      True

    Reference:
      Avants et al., Symmetric diffeomorphic image registration with cross-correlation, Medical
      Image Analysis 12(1), 2008; the squared form.
    """
    first, second, weights = _operands(first, second, weights)
    if _checks.positive("window", window) % 2 == 0 or window < 3:
        raise ValueError(
            f"window must be odd and at least 3, so that it has a centre; got {window}."
        )
    (a, whole_a), (b, whole_b) = (_centred(each, weights) for each in (first, second))
    weights = weights[..., None]
    share = weights / _nonzero(jnp.sum(weights))
    moments = [weights, weights * a, weights * b, weights * a * a, weights * b * b, weights * a * b]
    number, *sums = (_box_sums(each, window) for each in moments)
    mean_a, mean_b, square_a, square_b, product = (each / _nonzero(number) for each in sums)
    variance_a = jnp.maximum(square_a - mean_a**2, 0)
    variance_b = jnp.maximum(square_b - mean_b**2, 0)
    covariance = product - mean_a * mean_b
    floor = _FLAT**2 * whole_a * whole_b
    squares = covariance**2 / _nonzero(variance_a * variance_b + floor)
    return jnp.sum(share * squares) / first.shape[-1]


def mutual_information(
    first: Image,
    second: Image,
    *,
    weights: Weights = None,
    bins: int = 32,
    smooth: bool = True,
) -> Float[Array, ""]:
    """The mutual information of the values of two images, from their joint histogram.

    It is large where one image's value tells the other's, whatever the relation is. So it suits
    images of different kinds, such as CT and MRI. With several channels it is the mean over them.

    Args:
      first: As in :func:`mean_squared_error`.
      second: As in :func:`mean_squared_error`.
      weights: As in :func:`mean_squared_error`.
      bins: Number of bins of each image, at least 4, from its smallest to its largest value among
        pixels of positive weight.
      smooth: Whether a pixel counts for four neighbouring bins, by a cubic B-spline, so that the
        result has derivatives. Otherwise it counts for the nearest bin alone.

    Returns:
      A number of at least 0, up to rounding, in nats.

    Raises:
      ValueError, TypeError: As :func:`mean_squared_error`, and if ``bins`` is below 4.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import registration
      >>> a = jnp.tile(jnp.arange(4.0), 8).reshape(4, 8, 1)
      >>> b = (a - 1.5) ** 2  # two values of a have the same b: half of its two bits are left
      >>> round(registration.mutual_information(a, b, bins=4, smooth=False).item(), 3)
      0.693

    Reference:
      Mattes et al., PET-CT image registration in the chest using free-form deformations, IEEE
      TMI 22(1), 2003; here both images have the same kernel.
    """
    first, second, weights = _operands(first, second, weights)
    if _checks.positive("bins", bins) < 4:
        raise ValueError(f"bins must be at least 4; got {bins}.")
    _checks.known_sizes("first", first.shape[:-1])
    share = (weights / _nonzero(jnp.sum(weights))).ravel()
    places = [_bin_coordinates(each, share, bins, smooth) for each in (first, second)]
    joint = functools.partial(_joint_histogram, share=share, bins=bins, smooth=smooth)
    p = jax.vmap(joint)(*places)
    # The joint distribution that the two images would have if they were independent.
    independent = jnp.sum(p, axis=2, keepdims=True) * jnp.sum(p, axis=1, keepdims=True)
    filled = p > 0
    ratio = jnp.where(filled, p, 1) / jnp.where(filled, independent, 1)
    return jnp.sum(p * jnp.log(ratio)) / first.shape[-1]


class Projection(typing.NamedTuple):
    """The residuals of a loss, and their derivative with respect to the warped image.

    A change ``d`` of the warped image changes the residuals by ``gain · P (root · d)``, where P
    subtracts the projection onto ``directions``.

    Attributes:
      residuals: The residuals, ``[*space, channels]``; the sum of their squares is the loss.
      root: The root of each pixel's share of the weights, ``[*space]``.
      gain: A scalar factor.
      directions: Orthonormal vectors, ``[number, *space, channels]``; the number may be 0.
    """

    residuals: Array
    root: Array
    gain: Array
    directions: Array


class Measure(typing.NamedTuple):
    """A loss in ``MEASURES``: its value, and its ``Projection`` if it is a sum of squares."""

    value: Callable[[Array, Array, Array], Array]
    projection: Callable[[Array, Array, Array], Projection] | None = None


def _squared_error(first: Array, second: Array, weights: Array) -> Projection:
    root = _root(weights / _nonzero(jnp.sum(weights)) / first.shape[-1])
    residuals = root[..., None] * (second - first)
    none = jnp.zeros((0, *first.shape), first.dtype)
    return Projection(residuals, root, jnp.ones((), first.dtype), none)


def _one_minus_correlation(first: Array, second: Array, weights: Array) -> Projection:
    half = math.sqrt(0.5)
    (a, _), (b, gain) = (_normalized(each, weights) for each in (first, second))
    root = _root(weights / _nonzero(jnp.sum(weights)))
    # A change along these directions leaves the normalised image as it is: an offset of a channel,
    # which the subtracted mean removes, and a gain of the image, which the norm of 1 removes.
    means = root[None, ..., None] * jnp.eye(first.shape[-1], dtype=first.dtype).reshape(
        -1, *[1] * (first.ndim - 1), first.shape[-1]
    )
    directions = jnp.concatenate([means, b[None]])
    return Projection((b - a) * half, root, gain * half, directions)


def _mutual_information_loss(first: Array, second: Array, weights: Array) -> Array:
    # Take fewer bins for small images, so that each bin holds several pixels.
    bins = min(max(round(math.sqrt(weights.size) / 3), 8), 32)
    return -mutual_information(first, second, weights=weights, bins=bins)


MEASURES: dict[str, Measure] = {
    "cross_correlation": Measure(
        lambda a, b, w: 1 - cross_correlation(a, b, weights=w), _one_minus_correlation
    ),
    "mean_squared_error": Measure(
        lambda a, b, w: mean_squared_error(a, b, weights=w), _squared_error
    ),
    "local_cross_correlation": Measure(
        lambda a, b, w: 1 - local_cross_correlation(a, b, weights=w)
    ),
    "mutual_information": Measure(_mutual_information_loss),
}


def _operands(first: Image, second: Image, weights: Weights) -> tuple[Array, Array, Array]:
    """Checks two images and weights; pixels of weight 0 become 0, and the weights an array."""
    images = [_checks.floating(n, a) for n, a in (("first", first), ("second", second))]
    a, b = _checks.common_dtype(*images)
    if a.ndim < 2 or a.shape != b.shape or 0 in a.shape:
        raise ValueError(
            "first and second must both be [*space, channels] and not empty; got shapes "
            f"{a.shape} and {b.shape}. Warp one onto the other; batch with jax.vmap."
        )
    if weights is None:
        return a, b, jnp.ones(a.shape[:-1], a.dtype)
    weights = _checks.as_array("weights", weights)
    if weights.shape != a.shape[:-1]:
        raise ValueError(
            f"weights must have the images' spatial shape, {a.shape[:-1]}; got {weights.shape}."
        )
    weights = weights.astype(a.dtype)
    counts = weights[..., None] > 0
    return jnp.where(counts, a, 0), jnp.where(counts, b, 0), weights


def _normalized(image: Array, weights: Array) -> tuple[Array, Array]:
    """The image minus each channel's mean, times the root of the weights, with a norm of 1.

    Also returns the number by which it is multiplied to have that norm.
    """
    centred, squares = _centred(image, weights)
    size = jnp.sum(squares)
    scale = jnp.where(size > 0, jax.lax.rsqrt(_nonzero(size)), 0)
    root = _root(weights / _nonzero(jnp.sum(weights)))
    return root[..., None] * centred * scale, scale


def _centred(image: Array, weights: Array) -> tuple[Array, Array]:
    """The image minus each channel's mean, and each channel's mean square after that.

    A constant channel becomes 0 rather than the rounding error of its mean.
    """
    weights = weights[..., None]
    share = weights / _nonzero(jnp.sum(weights))
    space = tuple(range(image.ndim - 1))
    centred = image - jnp.sum(share * image, axis=space, keepdims=True)
    squares = jnp.sum(share * centred**2, axis=space, keepdims=True)
    rounding = (32 * jnp.finfo(image.dtype).eps) ** 2
    flat = squares <= rounding * jnp.sum(share * image**2, axis=space, keepdims=True)
    return jnp.where(flat, 0, centred), jnp.where(flat, 0, squares)


def _root(weights: Array) -> Array:
    """The square root, whose slope at 0 is 0."""
    positive = weights > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, weights, 1)), 0)


def _nonzero(value: Array) -> Array:
    """Replaces a divisor of 0 by 1; use it where the dividend is then 0, too."""
    return jnp.where(value > 0, value, 1)


def _box_sums(values: Array, window: int) -> Array:
    """Sums over windows of pixels, cut off at the image's edges; one axis after the other."""
    for axis in range(values.ndim - 1):
        sides = [window if k == axis else 1 for k in range(values.ndim)]
        zero = np.zeros((), values.dtype)
        values = jax.lax.reduce_window(values, zero, jax.lax.add, sides, [1] * values.ndim, "SAME")
    return values


def _bin_coordinates(image: Array, share: Array, bins: int, smooth: bool) -> Array:
    """Each pixel's value in units of bins, whole at a bin's centre: ``[channels, pixels]``."""
    values = image.reshape(-1, image.shape[-1]).T
    counts = share > 0
    low = jnp.min(jnp.where(counts, values, jnp.inf), axis=1, keepdims=True)
    high = jnp.max(jnp.where(counts, values, -jnp.inf), axis=1, keepdims=True)
    low, high = (jax.lax.stop_gradient(each) for each in (low, high))
    unit = (values - low) / _nonzero(high - low)
    # A cubic B-spline reaches over the next bin on either side.
    margin = 1 if smooth else 0
    place = jnp.clip(unit, 0, 1) * (bins - 1 - 2 * margin) + margin
    return place if smooth else jnp.round(place)


def _joint_histogram(
    first: Array, second: Array, share: Array, *, bins: int, smooth: bool
) -> Array:
    """The joint distribution ``[bins, bins]`` of two lists of bin coordinates."""
    weigh = _cubic_weights if smooth else _nearest_weights

    def histogram(first: Array, second: Array, share: Array) -> Array:
        a, b = weigh(first, bins), weigh(second, bins)
        return jnp.matmul((share[:, None] * a).T, b, precision=jax.lax.Precision.HIGHEST)

    chunks = -(-first.size // _CHUNK)
    if chunks == 1:
        return histogram(first, second, share)
    lists = [
        jnp.pad(each, (0, chunks * _CHUNK - each.size)).reshape(chunks, _CHUNK)
        for each in (first, second, share)
    ]
    # To save memory, the derivative of a chunk computes its weights again.
    add = jax.checkpoint(lambda total, parts: (total + histogram(*parts), None))
    return jax.lax.scan(add, jnp.zeros((bins, bins), share.dtype), lists)[0]


def _nearest_weights(place: Array, bins: int) -> Array:
    return (place[:, None] == jnp.arange(bins, dtype=place.dtype)[None]).astype(place.dtype)


def _cubic_weights(place: Array, bins: int) -> Array:
    """The cubic B-spline's weights of all bins, ``[pixels, bins]``."""
    t = jnp.abs(place[:, None] - jnp.arange(bins, dtype=place.dtype)[None])
    near = 2 / 3 - t**2 + t**3 / 2
    far = jnp.maximum(2 - t, 0) ** 3 / 6
    return jnp.where(t < 1, near, far)
