"""The classifiers of the experiments, with or without a spatial transformer before them.

The layers follow the distorted-MNIST protocol of Jaderberg et al., arXiv:1506.02025, appendix A.4.
The FCN has two hidden layers; the CNN has convolutions 9×9 and 7×7, each followed by 2×2
max-pooling. The localization network of the ST-FCN has three layers of 32 units; that of the ST-CNN
has two 5×5 convolutions of 20 filters and a layer of 20 units, on the halved input. In sets RTS and
TC, and in the additions, the transformer's output is averaged 2×2. Each transform of a 2×ST-FCN has
a localization network of its own, and samples all channels.

A volume is flattened along its depth before the classifier. A spatial transformer of volumes comes
before that; its output has as many voxels as the digit's own cube, 28³ of 60³. Its localization
network is that of images, applied to three halved views of the volume.

Deviations from the paper. ``width=1`` means 256 and 256 units, or 32 and 64 filters. The
experiments choose the width for 400,000 parameters, localization network included. The paper also
uses about 400,000 parameters for every model, but its stated layer widths cannot add up to that; we
keep the total and choose the widths. In RTS the transformer's output has 56×56 pixels, not 42×42:
averaged 2×2, 42×42 becomes 21×21, which is too small for the convolutions, and 56×56 becomes 28×28,
the size of the digits. In the additions the output has 42×42 pixels before an FCN, and 56×56 before
a CNN, which the paper does not have there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import stn_jax as stn
from experiments.data.volumes import cube_shape
from experiments.engine.options import PrecisionName
from experiments.models import volumes
from experiments.models.deep_cnn import DeepClassifier
from experiments.models.heads import plain_head
from experiments.models.pooling import average_pool, convolve, max_pool
from stn_jax import nn as stnn

# Height and width of the classifier's input behind a transformer, after averaging 2×2.
_CROPS: dict[str, tuple[int, int]] = {"RTS": (28, 28), "TC": (30, 30), "addition": (21, 21)}
# Replaces crops that are too small for the convolutions: 28×28, the size of the digits.
_LEAST_CROP = 24
_CROP_OF_CONVOLUTIONS = (28, 28)
# Units of a fully connected layer, and filters of the second convolution, at width 1.
UNITS, FILTERS = 256, 64

ModelName = Literal[
    "fcn",
    "cnn",
    "st-fcn",
    "st-cnn",
    "2xst-fcn",
    "2xst-cnn",
    "deep-cnn",
    "st-deep-cnn",
    "st-deep-st-cnn",
]
TransformName = Literal[
    "translation",
    "rigid",
    "similarity",
    "attention",
    "affine",
    "projective",
    "thin_plate_spline",
]

TRANSFORMS: dict[str, Callable[..., stn.Transform]] = {
    "translation": stn.translation,
    "rigid": stn.rigid,
    "similarity": stn.similarity,
    "attention": stn.attention,
    "affine": stn.affine,
    "projective": stn.projective,
    "thin_plate_spline": stn.thin_plate_spline,
}
IN_3D = ("translation", "rigid", "similarity", "attention", "affine")


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
        features = images.reshape(images.shape[0], -1)
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
            raise ValueError(
                f"the CNN takes images of at least 24×24 pixels; got {in_shape}. Choose fcn or "
                "st-fcn, which take any size, or enlarge the images."
            )
        self.convolutions = nnx.List(convolutions)
        self.logits = nnx.Linear(height * width * channels, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Logits of each image."""
        return self.activations(images)[-1]

    def activations(
        self, images: Float[Array, "batch h w c"]
    ) -> list[Float[Array, "batch features"]]:
        """The outputs of the three layers, flattened; the last are the logits."""
        maps, flat = images, []
        for convolution in self.convolutions:
            # Pool before ReLU: the same result, with a quarter of the work.
            maps = nnx.relu(max_pool(convolution(maps)))
            flat.append(maps.reshape(maps.shape[0], -1))
        return [*flat, self.logits(flat[-1])]


class ThreeSidedLocalization(nnx.Module):
    """A localization network of images, applied to three halved views of a volume."""

    def __init__(self, localization: Callable[[Array], Array]) -> None:
        self.localization = localization

    def __call__(
        self, cubes: Float[Array, "batch side side side c"]
    ) -> Float[Array, "batch *parallel params"]:
        """Theta of each volume."""
        return self.localization(average_pool(volumes.three_views(cubes)))


class ParallelLocalizations(nnx.Module):
    """Localization networks that get the same images, one for each parallel transform."""

    def __init__(self, networks: Sequence[Callable[[Array], Array]]) -> None:
        self.networks = nnx.List(networks)

    def __call__(
        self, images: Float[Array, "batch h w c"]
    ) -> Float[Array, "batch transforms params"]:
        """Theta of each transform."""
        return jnp.stack([network(images) for network in self.networks], axis=1)


class Model(nnx.Module):
    """A classifier, with or without a spatial transformer before it.

    The outputs of parallel transforms are stacked along the channels. Between transformer and
    classifier there may be 2×2 average-pooling, and volumes are flattened.
    """

    def __init__(
        self,
        classifier: Callable[[Array], Array],
        transformer: stnn.SpatialTransformer | None = None,
        *,
        pooled: bool = False,
        flat: bool = False,
    ) -> None:
        self.classifier = classifier
        self.transformer = transformer
        self.pooled = pooled
        self.flat = flat

    def __call__(self, images: Float[Array, "batch *space c"]) -> Float[Array, "batch classes"]:
        """Logits of each image."""
        return self.forward(images)[0]

    def forward(
        self, images: Float[Array, "batch *space c"]
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch ..."] | None]:
        """Logits and theta of each image; theta is ``None`` without a spatial transformer."""
        theta = None
        if self.transformer is not None:
            images, theta = self.transformer(images, return_theta=True)
        return self.classify(images), theta

    def classify(self, images: Float[Array, "batch ..."]) -> Float[Array, "batch classes"]:
        """Logits of the spatial transformer's outputs.

        Args:
          images: ``[batch, h, w, c]``, or ``[batch, N, h, w, c]`` of N > 1 transforms; of volumes
            with their depth before the height.
        """
        if self.flat:
            images = volumes.flatten(images)
        if images.ndim == 5:
            images = jnp.moveaxis(images, 1, -2)
            images = images.reshape(*images.shape[:-2], -1)
        return self.classifier(average_pool(images) if self.pooled else images)


def build(
    name: ModelName,
    transform: TransformName,
    in_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: float = 1.0,
    crop: tuple[int, ...] | None = None,
    rngs: nnx.Rngs,
) -> Model:
    """Makes a model by its name.

    Args:
      name: With or without a spatial transformer, fully connected or convolutional.
      transform: Transform of the spatial transformer, if the model has one.
      in_shape: Height, width and channels of an image; for a volume the depth comes first.
      num_classes: Number of classes.
      width: Factor on the filters and units of the classifier.
      crop: Height and width of the classifier's input behind a spatial transformer, whose output
        has twice as many pixels along each axis and is averaged 2×2. If ``None``, the output has
        the shape of the image and is not averaged. For volumes: depth, height and width of the
        output, which is flattened and not averaged.
      rngs: Flax random state.

    Raises:
      ValueError: If images are too small for the network, or the transform has no form for volumes.
    """
    classifier: nnx.Module
    shape = input_shape(name, in_shape, crop)
    if is_deep(name):
        inner = TRANSFORMS[transform]() if "deep-st" in name else None
        options: dict[str, Any] = {"width": width, "transform": inner, "rngs": rngs}
        classifier = DeepClassifier(shape, num_classes, **options)
    elif is_convolutional(name):
        features = (math.ceil(FILTERS / 2 * width), math.ceil(FILTERS * width))
        classifier = ConvolutionalClassifier(shape, num_classes, features=features, rngs=rngs)
    else:
        hidden = math.ceil(UNITS * width)
        classifier = FullyConnectedClassifier(shape, num_classes, hidden=hidden, rngs=rngs)
    solid = _is_solid(in_shape)
    if not has_transformer(name):
        return Model(classifier, flat=solid)
    pooled = crop is not None and not solid
    output_shape = (2 * crop[0], 2 * crop[1]) if crop is not None and pooled else crop
    transformer = stnn.SpatialTransformer(
        localization(name, transform, in_shape, rngs),
        _family(transform, in_shape),
        output_shape=output_shape,
        num_transforms=num_transforms(name),
    )
    return Model(classifier, transformer, pooled=pooled, flat=solid)


def crop_of(task: str, name: ModelName, image_shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The ``crop`` for :func:`build`, from the task, the model and an undistorted image's shape."""
    if task == "volumes":
        return cube_shape(image_shape)
    crop = _CROPS.get(task)
    too_small = crop is not None and min(crop) < _LEAST_CROP and is_convolutional(name)
    return _CROP_OF_CONVOLUTIONS if too_small else crop


def input_shape(
    name: ModelName, in_shape: tuple[int, ...], crop: tuple[int, ...] | None
) -> tuple[int, ...]:
    """Height, width and channels of the classifier's input."""
    *space, channels = in_shape
    if not has_transformer(name):
        return (*space[-2:], channels)
    return (*(crop or space)[-2:], num_transforms(name) * channels)


def _is_solid(in_shape: tuple[int, ...]) -> bool:
    """Whether the shape is of a volume, not of an image."""
    return len(in_shape) == 4


def _family(transform: TransformName, in_shape: tuple[int, ...]) -> stn.Transform:
    if not _is_solid(in_shape):
        return TRANSFORMS[transform]()
    if transform not in IN_3D:
        raise ValueError(
            f"transform must be {' | '.join(IN_3D)} for volumes; got {transform!r}, which has no "
            "3-D form here. Choose one of these."
        )
    return TRANSFORMS[transform](ndim=3)


def localization(
    name: ModelName, transform: TransformName, in_shape: tuple[int, ...], rngs: nnx.Rngs
) -> Callable[[Array], Array]:
    """The localization network of a model."""
    family, solid = _family(transform, in_shape), _is_solid(in_shape)
    if solid:
        side = in_shape[0] // 2
        in_shape = (side, side, 3 * in_shape[-1])

    options: dict[str, Any] = {"head": plain_head, "rngs": rngs}

    def network() -> stnn.ConvolutionalLocalization | stnn.FullyConnectedLocalization:
        if is_convolutional(name):
            downsample = 1 if solid else 2
            return stnn.ConvolutionalLocalization(
                in_shape, family, downsample=downsample, **options
            )
        return stnn.FullyConnectedLocalization(in_shape, family, hidden=(32, 32, 32), **options)

    networks = [network() for _ in range(num_transforms(name))]
    whole = ParallelLocalizations(networks) if len(networks) > 1 else networks[0]
    return ThreeSidedLocalization(whole) if solid else whole


def compute_in(model: nnx.Module, precision: PrecisionName) -> None:
    """Sets the dtype that a model's layers compute in, except those that give theta and logits.

    Parameters stay float32, and so do layers without parameters on float32 inputs.
    """
    if precision == "float32":
        return
    for path, module in nnx.iter_modules(model):
        regresses = any(isinstance(part, str) and part in _REGRESSIONS for part in path)
        if isinstance(module, nnx.Linear | nnx.Conv) and not regresses:
            module.dtype = jnp.dtype(precision)


# Names of the layers that give theta and logits.
_REGRESSIONS = ("head", "logits")


def is_convolutional(name: ModelName) -> bool:
    """Whether a model's networks are convolutional."""
    return name.endswith("cnn")


def is_deep(name: ModelName) -> bool:
    """Whether a model's classifier is the deep CNN, for photographs."""
    return "deep" in name


def has_transformer(name: ModelName) -> bool:
    """Whether a model begins with a spatial transformer."""
    return name.startswith(("st-", "2xst-"))


def num_transforms(name: ModelName) -> int:
    """How many transforms a model's spatial transformer applies in parallel."""
    return 2 if name.startswith("2x") else 1
