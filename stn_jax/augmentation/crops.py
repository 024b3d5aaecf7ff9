"""Random crops and flips."""

from collections.abc import Callable, Sequence
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from stn_jax import _checks, _records
from stn_jax._types import AnyArray
from stn_jax.augmentation.base import (
    Augmentation,
    Range,
    between,
    checked_probability,
    checked_range,
    uniform_numbers,
)
from stn_jax.augmentation.deformations import checked_shape
from stn_jax.transforms.linear import affine


def random_flip(
    image_shape: Sequence[int],
    *,
    axes: Sequence[int] = (0,),
    probability: ArrayLike = 0.5,
) -> Augmentation:
    """Mirrors each of some axes with a probability.

    Args:
      image_shape: ``(height, width)`` or ``(depth, height, width)``.
      axes: Coordinates to mirror: 0 is x, left to right; 1 is y; 2 is z. Each has a decision of its
        own.
      probability: From 0 to 1; a JAX scalar may be traced.

    Returns:
      The augmentation, of the family :func:`stn_jax.affine`. Pixels are moved exactly.

    Raises:
      ValueError: If an axis does not exist or is named twice, or ``probability`` is not one
        number from 0 to 1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from stn_jax import augmentation as aug
      >>> flip = aug.random_flip((1, 3), probability=1.0)
      >>> image = jnp.array([[[1.0], [2.0], [3.0]]])
      >>> aug.augment(image, flip, jax.random.key(0)).ravel().tolist()
      [3.0, 2.0, 1.0]

    Reference:
      Krizhevsky et al., ImageNet classification with deep convolutional neural networks, NIPS 2012,
      section 4.1.
    """
    shape = checked_shape(image_shape)
    mirrored = tuple(axes)
    if not set(mirrored) <= set(range(len(shape))) or len(set(mirrored)) < max(1, len(mirrored)):
        raise ValueError(
            f"axes must name coordinates from 0, x, to {len(shape) - 1}, each once; got {axes!r}."
        )
    return _random_flip(shape, mirrored, checked_probability(probability))


def random_crop(
    image_shape: Sequence[int], output_shape: Sequence[int], *, margin: SupportsIndex = 0
) -> Augmentation:
    """Cuts out a part of an image at a random whole pixel, without resampling.

    Args:
      image_shape: ``(height, width)`` or ``(depth, height, width)``.
      output_shape: Shape of the part.
      margin: Pixels by which the part may reach beyond the image, at every side; they are padded.

    Returns:
      The augmentation, of the family :func:`stn_jax.affine`. All places are equally likely.

    Raises:
      ValueError: If the part does not fit into the image and its margin.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from stn_jax import augmentation as aug
      >>> crop = aug.random_crop((1, 5), (1, 3))
      >>> image = jnp.arange(5.0).reshape(1, 5, 1)
      >>> part = aug.augment(image, crop, jax.random.key(1)).ravel()
      >>> (part - part[0]).tolist()
      [0.0, 1.0, 2.0]

    Reference:
      Krizhevsky et al., ImageNet classification with deep convolutional neural networks, NIPS 2012,
      section 4.1. With a margin: He et al., Deep residual learning, arXiv:1512.03385, section 4.2.
    """
    shape = checked_shape(image_shape)
    ndim = len(shape)
    output = _checks.spatial_shape("output_shape", output_shape, ndim, may_be_symbolic=False)
    beyond = _checks.positive("margin", margin) if margin else 0
    if any(out > size + 2 * beyond for out, size in zip(output, shape, strict=True)):
        raise ValueError(
            f"output_shape must fit into the image and its margin of {beyond} pixels; got {output} "
            f"from {shape}. Take a larger margin, or random_resized_crop."
        )
    return _random_crop(shape, output, beyond)


def random_resized_crop(
    image_shape: Sequence[int],
    output_shape: Sequence[int],
    *,
    area: Range = (0.08, 1.0),
    aspect: Range = (3 / 4, 4 / 3),
) -> Augmentation:
    """Shows a random rectangle of an image at a fixed size.

    Args:
      image_shape: ``(height, width)``.
      output_shape: ``(height, width)``.
      area: Range of the rectangle's share of the image's area, in (0, 1].
      aspect: Range of its width over its height, in pixels, positive.

    Returns:
      The augmentation, of the family :func:`stn_jax.affine`. The area is uniform. The logarithm of
      the aspect is uniform where a rectangle of that area fits into the image; if there is no such
      aspect in the range, it is the nearest one that fits. The place is uniform. With
      ``area=(1, 1)`` the whole image is shown. Where a crop is larger than the output, use
      :class:`Image` with ``antialias=True``.

    Raises:
      ValueError: If a shape has not 2 axes, or ``area`` or ``aspect`` is not a valid range.

    Example:
      >>> import jax
      >>> from stn_jax import augmentation as aug
      >>> crop = aug.random_resized_crop((300, 400), (224, 224), area=(0.25, 1.0))
      >>> crop.output_shape
      (224, 224)

    Reference:
      Szegedy et al., Going deeper with convolutions, arXiv:1409.4842, section 6.
    """
    shape = _checks.spatial_shape("image_shape", image_shape, 2, may_be_symbolic=False)
    output = _checks.spatial_shape("output_shape", output_shape, 2, may_be_symbolic=False)
    share = checked_range("area", area, positive=True)
    if not isinstance(share, jax.core.Tracer) and share[1] > 1:
        raise ValueError(f"area must be a share of the image, at most 1; got {area!r}.")
    return _random_resized_crop(
        shape, output, share, checked_range("aspect", aspect, positive=True)
    )


@_records.maker
def _random_flip(
    shape: tuple[int, ...], axes: tuple[int, ...], probability: AnyArray
) -> Augmentation:
    ndim = len(shape)
    may_flip = np.isin(np.arange(ndim), axes)

    def draw(key: Array) -> Array:
        flips = uniform_numbers(key, ndim) < probability
        signs = jnp.where(flips & may_flip, -1.0, 1.0)
        return _scale_and_shift(signs, jnp.zeros_like(signs))

    return _of_affine("random_flip", draw, shape, shape)


@_records.maker
def _random_crop(shape: tuple[int, ...], output: tuple[int, ...], margin: int) -> Augmentation:
    sizes, outs = np.array(shape[::-1]), np.array(output[::-1])

    def draw(key: Array) -> Array:
        first = jax.random.randint(key, (len(shape),), -margin, sizes - outs + margin + 1)
        dtype = jax.dtypes.canonicalize_dtype(float)
        # The distance of the crop's centre from the image's, in units of half the image.
        shift = (2 * first + (outs - sizes)).astype(dtype) / jnp.asarray(sizes, dtype)
        return _scale_and_shift(jnp.asarray(outs / sizes, dtype), shift)

    return _of_affine("random_crop", draw, shape, output)


@_records.maker
def _random_resized_crop(
    shape: tuple[int, ...], output: tuple[int, ...], area: AnyArray, aspect: AnyArray
) -> Augmentation:
    own = np.log(shape[1] / shape[0])

    def draw(key: Array) -> Array:
        drawn = uniform_numbers(key, 4)
        share = between(drawn[0], area)
        # ``ratio`` is the logarithm of the crop's aspect divided by the image's. The crop's sides,
        # as shares of the image's, are ``exp((log_share ± ratio) / 2)``; none exceeds 1.
        log_share = jnp.log(share)
        limits = jnp.log(jnp.asarray(aspect, share.dtype)) - own
        ratio = between(drawn[1], jnp.clip(limits, log_share, -log_share))
        sides = jnp.exp((log_share + ratio * np.array([1, -1], share.dtype)) / 2)
        sides = jnp.minimum(sides, 1)
        place = 2 * drawn[2:] - 1
        return _scale_and_shift(sides, (1 - sides) * place)

    return _of_affine("random_resized_crop", draw, shape, output)


def _scale_and_shift(scale: Array, shift: Array) -> Array:
    """The ``theta`` of an affine map that acts on each axis alone."""
    linear = jnp.eye(len(scale), dtype=scale.dtype) * scale[None]
    return jnp.concatenate([linear, shift[:, None]], axis=1).ravel()


def _of_affine(
    name: str, draw: Callable[[Array], Array], shape: tuple[int, ...], output: tuple[int, ...]
) -> Augmentation:
    return Augmentation(
        name=name,
        transform=affine(ndim=len(shape)),
        draw=draw,
        image_shape=shape,
        output_shape=output,
    )
