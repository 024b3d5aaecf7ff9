"""Smaller images with the same outer edges, so that a theta holds for all of them."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def reduced_shape(shape: Sequence[int], factor: float | int) -> tuple[int, ...]:
    """The shape of a level: sides divided by the factor, down to 4 pixels; shorter sides stay."""
    return tuple(max(round(size / factor), min(size, 4)) for size in shape)


def reduced(
    image: Array, weights: Array | None, factor: float | int, align_corners: bool
) -> tuple[Array, Array | None]:
    """The image and the weights at a level; each pixel is a mean over the pixels that it covers.

    Args:
      image: ``[*space, channels]``.
      weights: ``[*space]`` or ``None``; pixels count in the means by their weights.
      factor: How many pixels become one along each axis.
      align_corners: Whether −1 and 1 are the centres of the corner pixels, of the image and of the
        level.
    """
    shape = image.shape[:-1]
    smaller = reduced_shape(shape, factor)
    if smaller == shape:
        return image, weights
    if weights is None:
        return _means(image, smaller, align_corners), None
    counts = _means(weights[..., None], smaller, align_corners)
    sums = _means(image * weights[..., None], smaller, align_corners)
    return sums / jnp.where(counts > 0, counts, 1), counts[..., 0]


def _means(image: Array, shape: tuple[int, ...], align_corners: bool) -> Array:
    for axis, (size, smaller) in enumerate(zip(image.shape[:-1], shape, strict=True)):
        if size != smaller:
            matrix = jnp.asarray(_mean_matrix(size, smaller, align_corners), image.dtype)
            product = jnp.tensordot(matrix, image, (1, axis), precision=jax.lax.Precision.HIGHEST)
            image = jnp.moveaxis(product, 0, axis)
    return image


def _mean_matrix(size: int, smaller: int, align_corners: bool) -> np.ndarray:
    """``[smaller, size]``: row ``i`` holds the share of each pixel in larger pixel ``i``."""
    if align_corners:
        width = (size - 1) / max(smaller - 1, 1)
        centres = np.arange(smaller) * width if smaller > 1 else np.array([(size - 1) / 2])
    else:
        width = size / smaller
        centres = (np.arange(smaller) + 0.5) * width - 0.5
    # With ``align_corners`` the outermost boxes are centred on the corner pixels and reach beyond
    # the image. Mirror the image there, so that each mean belongs to the centre of its box.
    beyond = np.arange(-size, 2 * size)
    low, high = centres[:, None] - width / 2, centres[:, None] + width / 2
    overlap = np.minimum(high, beyond + 0.5) - np.maximum(low, beyond - 0.5)
    period = 2 * max(size - 1, 1)
    folded = np.abs((beyond + size - 1) % period - (size - 1)) if align_corners else beyond
    matrix = np.zeros((smaller, size))
    inside = (folded >= 0) & (folded < size)
    np.add.at(matrix.T, folded[inside], np.clip(overlap, 0, None).T[inside])
    return matrix / matrix.sum(axis=1, keepdims=True)
