"""The number of parameters of a classifier, and the width that gives such a number."""

import math
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.models.classifiers import (
    FILTERS,
    UNITS,
    ModelName,
    TransformName,
    has_transformer,
    input_shape,
    is_convolutional,
    is_deep,
    localization,
)

# Number of parameters of every model of digits.
PARAMETERS = 400_000
_MOST_UNITS = 8192


def width_for(
    parameters: int,
    name: ModelName,
    transform: TransformName,
    in_shape: tuple[int, ...],
    num_classes: int,
    *,
    crop: tuple[int, ...] | None = None,
) -> float:
    """The width at which :func:`build` makes the model whose size is nearest to a given one.

    Args:
      parameters: The number of parameters, with the localization network.
      name, transform, in_shape, num_classes, crop: As in :func:`build`.

    Returns:
      A width at which all numbers of units and filters are whole; 1 for deep networks, whose size
      is fixed.
    """
    if is_deep(name):
        return 1.0
    if has_transformer(name):
        create = lambda: localization(name, transform, in_shape, nnx.Rngs(0))  # noqa: E731
        abstract: Any = nnx.eval_shape(create)
        parameters -= count_parameters(abstract)
    shape = input_shape(name, in_shape, crop)
    units = np.arange(1, _MOST_UNITS)
    if is_convolutional(name):
        sizes, base = _size_of_convolutional(shape, num_classes, units), FILTERS
    else:
        sizes, base = _size_of_fully_connected(shape, num_classes, units), UNITS
    return float(units[np.abs(sizes - parameters).argmin()] / base)


def count_parameters(model: nnx.Module) -> int:
    """Number of parameters of a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def _size_of_fully_connected(
    in_shape: tuple[int, ...], num_classes: int, units: np.ndarray
) -> np.ndarray:
    """Number of parameters of a fully connected model, for each number of units."""
    return (math.prod(in_shape) + 1 + units + 1 + num_classes) * units + num_classes


def _size_of_convolutional(
    in_shape: tuple[int, ...], num_classes: int, filters: np.ndarray
) -> np.ndarray:
    """Number of parameters of a CNN, for each number of filters of the second convolution."""
    height, width, channels = in_shape
    first = (filters + 1) // 2
    pixels = math.prod(((side - 8) // 2 - 6) // 2 for side in (height, width))
    convolutions = (9 * 9 * channels + 1) * first + (7 * 7 * first + 1) * filters
    return convolutions + (max(pixels, 0) * filters + 1) * num_classes
