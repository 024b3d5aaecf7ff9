"""ResNet-50."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.backbones.base import Backbone
from experiments.models.backbones.layers import NormedConvolution, draw_kernels, max_pool_3x3

# Filters and number of the blocks of each layer.
_LAYERS = ((64, 3), (128, 4), (256, 6), (512, 3))
# A block's output has this many times as many maps as its filters.
_EXPANSION = 4
# Mean and deviation of each channel over ImageNet.
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ResNet50(Backbone):
    """ResNet-50 with the strides in the 3×3 convolutions, "v1.5", as torchvision and timm have it.

    Without published weights each block starts as the identity, so that activations do not grow
    from block to block.

    Args:
      rngs: Flax random state.
      dtype: The dtype of the convolutions.

    Reference:
      He et al., Deep Residual Learning for Image Recognition, arXiv:1512.03385; the strides:
      torchvision's documentation of ``resnet50``.
    """

    num_features = _EXPANSION * _LAYERS[-1][0]
    stride = 32
    heads = ("fc.",)

    def __init__(self, rngs: nnx.Rngs, *, dtype: Any = jnp.float32) -> None:
        self.dtype = dtype
        self.conv1 = NormedConvolution(3, 64, 7, stride=2, dtype=dtype)
        features, layers = 64, []
        for number, (filters, blocks) in enumerate(_LAYERS):
            layer = []
            for block in range(blocks):
                stride = 2 if number and not block else 1
                layer.append(Bottleneck(features, filters, stride=stride, dtype=dtype))
                features = _EXPANSION * filters
            layers.append(nnx.List(layer))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        draw_kernels(self, rngs)

    def features(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch rows columns features"]:
        """The maps before the last pooling, of RGB images with pixels in [0, 1]."""
        self.check_size(*images.shape[1:3])
        maps = self.conv1((images - jnp.array(_MEAN)) / jnp.array(_DEVIATION))
        maps = max_pool_3x3(maps, stride=2, padding=(1, 0))
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            for block in layer:
                maps = block(maps)
        return maps

    def tensor_name(self, path: tuple[str, ...]) -> str:
        """Such as ``layer1.0.conv2.weight``; ``layer1.0.downsample.1.bias``, a normalisation's."""
        *modules, unit, variable = [part for part in path if part != "norm"]
        normalises = "norm" in path
        if unit == "downsample":
            unit = f"downsample.{int(normalises)}"
        elif normalises:
            unit = unit.replace("conv", "bn")
        return super().tensor_name((*modules, unit, variable))


class Bottleneck(nnx.Module):
    """Convolutions 1×1, 3×3 and 1×1; their result is added to the input."""

    def __init__(self, in_features: int, filters: int, *, stride: int, dtype: Any) -> None:
        options: dict[str, Any] = {"dtype": dtype}
        features = _EXPANSION * filters
        self.conv1 = NormedConvolution(in_features, filters, 1, **options)
        self.conv2 = NormedConvolution(filters, filters, 3, stride=stride, **options)
        self.conv3 = NormedConvolution(filters, features, 1, rectified=False, scale=0.0, **options)
        reshapes = stride > 1 or in_features != features
        options |= {"stride": stride, "rectified": False}
        self.downsample = (
            NormedConvolution(in_features, features, 1, **options) if reshapes else None
        )

    def __call__(
        self, maps: Float[Array, "batch height width in_features"]
    ) -> Float[Array, "batch rows columns features"]:
        """The maps of a block."""
        added = self.conv3(self.conv2(self.conv1(maps)))
        return nnx.relu(added + (maps if self.downsample is None else self.downsample(maps)))
