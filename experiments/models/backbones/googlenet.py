"""GoogLeNet with batch normalisation, as in torchvision."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.backbones.base import Backbone
from experiments.models.backbones.layers import NormedConvolution, draw_kernels, max_pool_3x3
from experiments.models.pooling import max_pool

# Filters of each block's branches: 1×1; 1×1, 3×3; 1×1, 3×3; and 1×1 after the pooling.
_BLOCKS = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
_EPSILON = 1e-3


class GoogLeNet(Backbone):
    """The first Inception network, with batch normalisation, as in torchvision.

    The third branch of each block has 3×3 filters, not 5×5, as torchvision's published weights do.

    Args:
      rngs: Flax random state.
      dtype: The dtype of the convolutions.

    Reference:
      Szegedy et al., Going Deeper with Convolutions, arXiv:1409.4842; the filters:
      https://github.com/pytorch/vision/issues/906.
    """

    num_features = 1024
    stride = 32
    heads = ("fc.", "aux1.", "aux2.")

    def __init__(self, rngs: nnx.Rngs, *, dtype: Any = jnp.float32) -> None:
        options: dict[str, Any] = {"epsilon": _EPSILON, "dtype": dtype}
        self.dtype = dtype
        self.conv1 = NormedConvolution(3, 64, 7, stride=2, **options)
        self.conv2 = NormedConvolution(64, 64, 1, **options)
        self.conv3 = NormedConvolution(64, 192, 3, **options)
        features, blocks = 192, {}
        for name, filters in _BLOCKS.items():
            blocks[f"inception{name}"] = block = Inception(features, *filters, **options)
            features = block.num_features
        self.blocks = nnx.Dict(blocks)
        draw_kernels(self, rngs)

    def features(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch rows columns features"]:
        """The maps before the last pooling, of RGB images with pixels in [0, 1]."""
        self.check_size(*images.shape[1:3])
        maps = _reduced(self.conv1(2 * images - 1))
        maps = _reduced(self.conv3(self.conv2(maps)))
        for name in _BLOCKS:
            if name == "4a":
                maps = _reduced(maps)
            elif name == "5a":
                maps = max_pool(maps)
            maps = self.blocks[f"inception{name}"](maps)
        return maps

    def tensor_name(self, path: tuple[str, ...]) -> str:
        """Such as ``inception3a.branch2.0.conv.weight``, ``inception3a.branch2.0.bn.bias``."""
        *modules, variable = [part for part in path if part not in ("blocks", "norm")]
        # In the last branch PyTorch numbers the pooling as layer 0.
        modules = ["branch4.1" if part == "branch4" else part for part in modules]
        return super().tensor_name((*modules, "bn" if "norm" in path else "conv", variable))


class Inception(nnx.Module):
    """Four branches; their feature maps are concatenated."""

    def __init__(
        self,
        in_features: int,
        first: int,
        second: tuple[int, int],
        third: tuple[int, int],
        fourth: int,
        **options: Any,
    ) -> None:
        self.branch1 = NormedConvolution(in_features, first, 1, **options)
        self.branch2, self.branch3 = (
            nnx.List(
                [
                    NormedConvolution(in_features, reduced, 1, **options),
                    NormedConvolution(reduced, filters, 3, **options),
                ]
            )
            for reduced, filters in (second, third)
        )
        self.branch4 = NormedConvolution(in_features, fourth, 1, **options)
        self.num_features = first + second[1] + third[1] + fourth

    def __call__(
        self, maps: Float[Array, "batch height width in_features"]
    ) -> Float[Array, "batch height width features"]:
        """The maps of a block."""
        branches = [self.branch1(maps)]
        for reduce, convolve in (self.branch2, self.branch3):
            branches.append(convolve(reduce(maps)))
        branches.append(self.branch4(max_pool_3x3(maps, stride=1, padding=(1, 1))))
        return jnp.concatenate(branches, axis=-1)


def _reduced(maps: Array) -> Array:
    return max_pool_3x3(maps, stride=2, padding=(0, 1))
