"""A small backbone for small images, without published weights."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.models.backbones.base import Backbone
from experiments.models.deep_cnn import standardised
from experiments.models.pooling import max_pool

_FILTERS = (16, 32, 64)


class Small(Backbone):
    """Three 3×3 convolutions without normalisation, each followed by 2×2 max-pooling.

    It is for trials and tests, and takes images of at least 8×8 pixels. Each image is first
    standardised to mean 0 and deviation 1.

    Args:
      rngs: Flax random state.
      dtype: The dtype of the convolutions.
    """

    num_features = _FILTERS[-1]
    stride = 2 ** len(_FILTERS)

    def __init__(self, rngs: nnx.Rngs, *, dtype: Any = jnp.float32) -> None:
        channels = 3
        convolutions = []
        for filters in _FILTERS:
            convolutions.append(
                nnx.Conv(
                    channels,
                    filters,
                    (3, 3),
                    kernel_init=nnx.initializers.he_normal(),
                    dtype=dtype,
                    rngs=rngs,
                )
            )
            channels = filters
        self.convolutions = nnx.List(convolutions)
        self.dtype = dtype

    def features(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch rows columns features"]:
        """The maps before the last pooling, of RGB images with pixels in [0, 1]."""
        self.check_size(*images.shape[1:3])
        maps = jax.vmap(standardised)(images)
        for convolution in self.convolutions:
            maps = nnx.relu(max_pool(convolution(maps)))
        return maps
