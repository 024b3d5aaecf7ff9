"""The classifiers of the experiments, with or without a spatial transformer before them.

Layers follow the distorted-MNIST protocol of Jaderberg et al., arXiv:1506.02025, appendix A.4: FCN
two hidden layers; CNN convolutions 9×9 and 7×7, each followed by 2×2 max-pooling; localization of
ST-FCN three layers of 32 units, of ST-CNN two 5×5 convolutions of 20 filters and a layer of 20 on
the halved input; in sets RTS and TC what the transformer passes on is averaged 2×2.

Deviations. The widths, 256 and 256 units or 32 and 64 filters at ``width=1``, are multiplied in the
experiments by what :func:`width_for` finds for 400,000 parameters, localization network included:
the paper has about as many, equal in all models, with fewer units and filters than that takes
under three weight layers. In RTS a transformer reads 56×56 pixels, not 42×42, since what is left
of 42 after averaging, 21, is too small for the convolutions; 28×28 is the digits' own size.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import stn_jax as stn
from stn_jax import nn as stnn
from stn_jax._loops import apart

PARAMETERS = 400_000
# Height and width of what the classifier sees behind a transformer, if it is averaged 2×2.
CROPS: dict[str, tuple[int, int]] = {"RTS": (28, 28), "TC": (30, 30)}
_UNITS = 256
_FILTERS = 64
_MOST_UNITS = 8192
# Columns of a convolution that are computed in one matrix product.
_COLUMNS_AT_ONCE = 10

ModelName = Literal["fcn", "cnn", "st-fcn", "st-cnn"]
TransformName = Literal[
    "translation",
    "rigid",
    "similarity",
    "attention",
    "affine",
    "projective",
    "thin_plate_spline",
]

TRANSFORMS: dict[str, Callable[[], stn.Transform]] = {
    "translation": stn.translation,
    "rigid": stn.rigid,
    "similarity": stn.similarity,
    "attention": stn.attention,
    "affine": stn.affine,
    "projective": stn.projective,
    "thin_plate_spline": stn.thin_plate_spline,
}


class FullyConnectedClassifier(nnx.Module):
    """Two hidden fully connected layers and a linear one."""

    def __init__(
        self, in_shape: tuple[int, ...], num_classes: int, *, hidden: int, rngs: nnx.Rngs
    ) -> None:
        self.layers = nnx.List(
            [
                nnx.Linear(math.prod(in_shape), hidden, rngs=rngs),
                nnx.Linear(hidden, hidden, rngs=rngs),
            ]
        )
        self.logits = nnx.Linear(hidden, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Logits of each image."""
        features = images.reshape(len(images), -1)
        for layer in self.layers:
            features = nnx.relu(layer(features))
        return self.logits(features)


class ConvolutionalClassifier(nnx.Module):
    """Convolutions 9×9 and 7×7, each followed by 2×2 max-pooling, and a linear layer."""

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        features: tuple[int, int],
        rngs: nnx.Rngs,
    ) -> None:
        height, width, channels = in_shape
        convolutions = []
        for filters, size in zip(features, (9, 7), strict=True):
            convolutions.append(
                nnx.Conv(
                    channels,
                    filters,
                    (size, size),
                    padding="VALID",
                    conv_general_dilated=convolve,
                    rngs=rngs,
                )
            )
            channels, height, width = filters, (height - size + 1) // 2, (width - size + 1) // 2
        if min(height, width) < 1:
            raise ValueError(f"the CNN takes images of at least 24×24 pixels; got {in_shape}.")
        self.convolutions = nnx.List(convolutions)
        self.logits = nnx.Linear(height * width * channels, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Logits of each image."""
        return self.activations(images)[-1]

    def activations(
        self, images: Float[Array, "batch h w c"]
    ) -> list[Float[Array, "batch features"]]:
        """What each of the three layers makes of images, flattened; the last are the logits."""
        maps, flat = images, []
        for convolution in self.convolutions:
            # The other way round the numbers are the same, and four times as many.
            maps = nnx.relu(max_pool(convolution(maps)))
            flat.append(maps.reshape(len(maps), -1))
        return [*flat, self.logits(flat[-1])]


class Model(nnx.Module):
    """A classifier, and the spatial transformer that its input passes first, if it has one.

    Between the two there may be 2×2 average-pooling.
    """

    def __init__(
        self,
        classifier: Callable[[Array], Array],
        transformer: stnn.SpatialTransformer | None = None,
        *,
        pooled: bool = False,
    ) -> None:
        self.classifier = classifier
        self.transformer = transformer
        self.pooled = pooled

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Logits of each image."""
        return self.look(images)[0]

    def look(
        self, images: Float[Array, "batch h w c"]
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch params"] | None]:
        """Logits and theta of each image; no theta without a spatial transformer."""
        theta = None
        if self.transformer is not None:
            images, theta = self.transformer(images, return_theta=True)
        return self.classify(images), theta

    def classify(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Logits of images that have passed the spatial transformer."""
        return self.classifier(_in_windows(images).mean(axis=(2, 4)) if self.pooled else images)


def build(
    name: ModelName,
    transform: TransformName,
    in_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: float = 1.0,
    crop: tuple[int, int] | None = None,
    rngs: nnx.Rngs,
) -> Model:
    """A model by name.

    Args:
      name: With or without a spatial transformer, fully connected or convolutional.
      transform: That of the spatial transformer, if the model has one.
      in_shape: Height, width and channels of an image.
      num_classes: Number of classes.
      width: Factor on the filters and units of the classifier.
      crop: Height and width of what the classifier sees behind a spatial transformer, which reads
        twice as many pixels along each axis, averaged 2×2. If ``None`` it reads as many as the
        image has, and the classifier sees them all.
      rngs: Flax random state.
    """
    classifier: nnx.Module
    seen = _seen_shape(name, in_shape, crop)
    if is_convolutional(name):
        features = (math.ceil(_FILTERS / 2 * width), math.ceil(_FILTERS * width))
        classifier = ConvolutionalClassifier(seen, num_classes, features=features, rngs=rngs)
    else:
        hidden = math.ceil(_UNITS * width)
        classifier = FullyConnectedClassifier(seen, num_classes, hidden=hidden, rngs=rngs)
    if not has_transformer(name):
        return Model(classifier)
    shape = None if crop is None else (2 * crop[0], 2 * crop[1])
    transformer = stnn.SpatialTransformer(
        _localization(name, transform, in_shape, rngs),
        TRANSFORMS[transform](),
        output_shape=shape,
    )
    return Model(classifier, transformer, pooled=crop is not None)


def width_for(
    parameters: int,
    name: ModelName,
    transform: TransformName,
    in_shape: tuple[int, ...],
    num_classes: int,
    *,
    crop: tuple[int, int] | None = None,
) -> float:
    """The width at which :func:`build` gives a model as near as can be to a size.

    Args:
      parameters: The wanted number of parameters, localization network included.
      name, transform, in_shape, num_classes, crop: As in :func:`build`.

    Returns:
      A width at which all numbers of units and filters are whole.
    """
    if has_transformer(name):
        create = lambda: _localization(name, transform, in_shape, nnx.Rngs(0))  # noqa: E731
        parameters -= count_parameters(nnx.eval_shape(create))
    seen = _seen_shape(name, in_shape, crop)
    units = np.arange(1, _MOST_UNITS)
    if is_convolutional(name):
        sizes, base = _size_of_convolutional(seen, num_classes, units), _FILTERS
    else:
        sizes, base = _size_of_fully_connected(seen, num_classes, units), _UNITS
    return float(units[np.abs(sizes - parameters).argmin()] / base)


def _seen_shape(
    name: ModelName, in_shape: tuple[int, ...], crop: tuple[int, int] | None
) -> tuple[int, ...]:
    """Height, width and channels of what the classifier sees."""
    return in_shape if crop is None or not has_transformer(name) else (*crop, in_shape[-1])


def _localization(
    name: ModelName, transform: TransformName, in_shape: tuple[int, ...], rngs: nnx.Rngs
) -> stnn.ConvolutionalLocalization | stnn.FullyConnectedLocalization:
    family = TRANSFORMS[transform]()
    if is_convolutional(name):
        return stnn.ConvolutionalLocalization(in_shape, family, rngs=rngs)
    return stnn.FullyConnectedLocalization(in_shape, family, hidden=(32, 32, 32), rngs=rngs)


def _size_of_fully_connected(
    in_shape: tuple[int, ...], num_classes: int, units: np.ndarray
) -> np.ndarray:
    """Number of parameters for each number of units."""
    return (math.prod(in_shape) + 1 + units + 1 + num_classes) * units + num_classes


def _size_of_convolutional(
    in_shape: tuple[int, ...], num_classes: int, filters: np.ndarray
) -> np.ndarray:
    """Number of parameters for each number of filters of the second convolution."""
    height, width, channels = in_shape
    first = (filters + 1) // 2
    pixels = math.prod(((side - 8) // 2 - 6) // 2 for side in (height, width))
    convolutions = (9 * 9 * channels + 1) * first + (7 * 7 * first + 1) * filters
    return convolutions + (max(pixels, 0) * filters + 1) * num_classes


def is_convolutional(name: ModelName) -> bool:
    """Whether a model's networks are convolutional."""
    return name.endswith("cnn")


def has_transformer(name: ModelName) -> bool:
    """Whether a model holds a spatial transformer."""
    return name.startswith("st-")


def count_parameters(model: nnx.Module) -> int:
    """Number of trained numbers in a model."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@jax.custom_jvp
def max_pool(maps: Float[Array, "batch h w c"]) -> Float[Array, "batch h//2 w//2 c"]:
    """2×2 max-pooling, in the form whose gradient XLA runs fast on the CPU.

    Of equal pixels the first has the gradient, as in PyTorch.
    """
    return _in_windows(maps).max(axis=(2, 4))


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    windows = _in_windows(primals[0])
    a, b, c, d = (windows[:, :, y, :, x] for y in range(2) for x in range(2))
    upper, lower = jnp.maximum(a, b), jnp.maximum(c, d)
    first = jnp.where(lower > upper, jnp.where(d > c, 3, 2), jnp.where(b > a, 1, 0))

    def chosen(tangent: Array, first: Array) -> Array:
        place = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
        here = first[:, :, None, :, None] == place
        return jnp.where(here, _in_windows(tangent), 0).sum(axis=(2, 4))

    # Its transpose would otherwise be computed anew in each of the two products that use it.
    tangent = apart(chosen, tangents[0], first.astype(jnp.int8))
    return jnp.maximum(upper, lower), tangent


def _in_windows(maps: Array) -> Array:
    """``[batch, rows, 2, columns, 2, channels]``; odd rows and columns at the end are left out."""
    batch, height, width, channels = maps.shape
    maps = maps[:, : height // 2 * 2, : width // 2 * 2]
    return maps.reshape(batch, height // 2, 2, width // 2, 2, channels)


def convolve(inputs: Array, kernel: Array, *args: Any, **options: Any) -> Array:
    """``lax.conv_general_dilated``, on the CPU as one matrix product for a few columns at once.

    XLA on the CPU runs the input gradient of a convolution with a large kernel through a naive
    loop; the product's gradient is another product. A product for each column by itself would
    need every pixel as often as the kernel is wide; one for some neighbouring columns multiplies
    by zeros instead, which is faster. Only for plain convolutions without padding.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.conv_general_dilated(inputs, kernel, *args, **options)
    size_y, size_x, channels, filters = kernel.shape
    batch, *space, _ = inputs.shape
    height, width = space[0] - size_y + 1, space[1] - size_x + 1
    tiles = math.ceil(width / _COLUMNS_AT_ONCE)
    columns = math.ceil(width / tiles)
    span = columns + size_x - 1
    # Without the barrier XLA computes whatever made the inputs anew for every window.
    rows = jax.lax.optimization_barrier(inputs)
    rows = jnp.pad(rows, [(0, 0), (0, 0), (0, tiles * columns - width), (0, 0)])
    tiled = jnp.stack([rows[:, :, x * columns :][:, :, :span] for x in range(tiles)], axis=2)
    tiled = tiled.reshape(batch, -1, tiles, span * channels)
    windows = jnp.concatenate([tiled[:, y : y + height] for y in range(size_y)], axis=-1)
    # Which of the kernel's columns weighs which of the window's for which of the outputs.
    place = np.arange(span)[:, None, None] == (
        np.arange(columns)[:, None] + np.arange(size_x)[None, :]
    )
    matrix = jnp.einsum(
        "sok,ykif->ysiof", place.astype(kernel.dtype), kernel, precision=jax.lax.Precision.HIGHEST
    )
    outputs = windows @ matrix.reshape(-1, columns * filters)
    return outputs.reshape(batch, height, tiles * columns, filters)[:, :, :width]
