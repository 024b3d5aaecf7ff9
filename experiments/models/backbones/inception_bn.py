"""Inception with batch normalisation, "BN-Inception"."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.backbones.base import Backbone
from experiments.models.backbones.layers import (
    NormedConvolution,
    average_pool_3x3,
    draw_kernels,
    max_pool_3x3,
)


class _Block(NamedTuple):
    """Filters of a block's branches. A block without ``single`` and ``pooled`` halves the maps."""

    single: int
    simple: tuple[int, int]
    double: tuple[int, int]
    pooled: int


_BLOCKS = {
    "3a": _Block(64, (64, 64), (64, 96), 32),
    "3b": _Block(64, (64, 96), (64, 96), 64),
    "3c": _Block(0, (128, 160), (64, 96), 0),
    "4a": _Block(224, (64, 96), (96, 128), 128),
    "4b": _Block(192, (96, 128), (96, 128), 128),
    "4c": _Block(160, (128, 160), (128, 160), 128),
    "4d": _Block(96, (128, 192), (160, 192), 128),
    "4e": _Block(0, (128, 192), (192, 256), 0),
    "5a": _Block(352, (192, 320), (160, 224), 128),
    "5b": _Block(352, (192, 320), (192, 224), 128),
}
# Only this block has max-pooling without halving; the others have average-pooling.
_LAST = "5b"
# Means of the channels, blue, green, red, of pixels from 0 to 255.
_MEAN = (104.0, 117.0, 128.0)


class InceptionBN(Backbone):
    """Ioffe and Szegedy's Inception, the backbone in the paper on spatial transformers.

    The paper's own weights were never published. Weights trained in Caffe were; ``bninception`` in
    Cadene's pretrainedmodels has them for PyTorch. A file for this class needs the names used
    there: ``conv1_7x7_s2.weight``, ``conv1_7x7_s2_bn.weight``,
    ``inception_3a_double_3x3_reduce.weight`` and so on. Neither torchvision nor timm has this
    network.

    Args:
      rngs: Flax random state.
      dtype: The dtype of the convolutions.

    Reference:
      Ioffe and Szegedy, Batch Normalization, arXiv:1502.03167, figure 5; the names, the paddings
      and the normalisation of images: https://github.com/Cadene/pretrained-models.pytorch.
    """

    num_features = 1024
    stride = 32
    heads = ("last_linear.",)

    def __init__(self, rngs: nnx.Rngs, *, dtype: Any = jnp.float32) -> None:
        units: dict[str, NormedConvolution] = {}

        def add(name: str, in_features: int, features: int, size: int, stride: int = 1) -> None:
            units[name] = NormedConvolution(
                in_features, features, size, stride=stride, biased=True, dtype=dtype
            )

        add("conv1_7x7_s2", 3, 64, 7, stride=2)
        add("conv2_3x3_reduce", 64, 64, 1)
        add("conv2_3x3", 64, 192, 3)
        features = 192
        for name, block in _BLOCKS.items():
            prefix, stride = f"inception_{name}", 1 if block.single else 2
            reduced, simple = block.simple
            double_reduced, double = block.double
            if block.single:
                add(f"{prefix}_1x1", features, block.single, 1)
            add(f"{prefix}_3x3_reduce", features, reduced, 1)
            add(f"{prefix}_3x3", reduced, simple, 3, stride)
            add(f"{prefix}_double_3x3_reduce", features, double_reduced, 1)
            add(f"{prefix}_double_3x3_1", double_reduced, double, 3)
            add(f"{prefix}_double_3x3_2", double, double, 3, stride)
            if block.pooled:
                add(f"{prefix}_pool_proj", features, block.pooled, 1)
            features = block.single + simple + double + (block.pooled or features)
        self.units = nnx.Dict(units)
        draw_kernels(self, rngs)
        self.dtype = dtype

    def features(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch rows columns features"]:
        """The maps before the last pooling, of RGB images with pixels in [0, 1]."""
        self.check_size(*images.shape[1:3])
        maps = self._pass(255 * images[..., ::-1] - jnp.array(_MEAN), "conv1_7x7_s2")
        maps = _halved(maps)
        maps = _halved(self._pass(maps, "conv2_3x3_reduce", "conv2_3x3"))
        for name in _BLOCKS:
            maps = self._block(maps, name)
        return maps

    def tensor_name(self, path: tuple[str, ...]) -> str:
        """Such as ``inception_3a_1x1.weight`` and ``inception_3a_1x1_bn.running_mean``."""
        _, unit, *_, variable = path
        return super().tensor_name((f"{unit}_bn" if "norm" in path else unit, variable))

    def _pass(self, maps: Array, *names: str) -> Array:
        """Applies some layers one after the other."""
        for name in names:
            maps = self.units[name](maps)
        return maps

    def _block(self, maps: Array, name: str) -> Array:
        prefix, block = f"inception_{name}", _BLOCKS[name]
        double = (f"{prefix}_double_3x3_{each}" for each in ("reduce", "1", "2"))
        branches = [
            self._pass(maps, f"{prefix}_3x3_reduce", f"{prefix}_3x3"),
            self._pass(maps, *double),
        ]
        if not block.single:
            return jnp.concatenate([*branches, _halved(maps)], axis=-1)
        if name == _LAST:
            pooled = max_pool_3x3(maps, stride=1, padding=(1, 1))
        else:
            pooled = average_pool_3x3(maps)
        single = self._pass(maps, f"{prefix}_1x1")
        projected = self._pass(pooled, f"{prefix}_pool_proj")
        return jnp.concatenate([single, *branches, projected], axis=-1)


def _halved(maps: Array) -> Array:
    return max_pool_3x3(maps, stride=2, padding=(0, 1))
