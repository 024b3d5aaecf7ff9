"""The base class of all backbones."""

import abc
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Backbone(nnx.Module):
    """A network from an image to feature maps, and to their means, the description.

    Parameters and statistics are float32; a backbone computes in its ``dtype``. It normalises
    images itself, in the way its published weights need.

    Attributes:
      num_features: Number of feature maps, and length of a description.
      stride: The side of an image divided by the side of its feature maps; images must have sides
        that are multiples of it.
      heads: Prefixes of tensor names that a weight file may hold and that are not the backbone's.
      dtype: The dtype of convolutions and feature maps.
    """

    num_features: ClassVar[int]
    stride: ClassVar[int]
    heads: ClassVar[tuple[str, ...]] = ()
    dtype: Any

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch features"]:
        """The mean of each feature map, float32, for RGB images with pixels in [0, 1]."""
        return self.features(images).mean(axis=(1, 2), dtype=jnp.float32)

    @abc.abstractmethod
    def features(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch rows columns features"]:
        """The feature maps before the last pooling, for RGB images with pixels in [0, 1]."""

    def tensor_name(self, path: tuple[str, ...]) -> str:
        """The name that published weights have for the variable at this path of the module."""
        *modules, variable = path
        return ".".join([*modules, _TENSORS[variable]])

    def check_size(self, height: int, width: int) -> None:
        """Raises a ``ValueError`` if images of this size do not fit the stride."""
        if height % self.stride or width % self.stride:
            raise ValueError(
                f"images must have sides that are multiples of {self.stride}, the stride of "
                f"{type(self).__name__}; got {height}×{width}. Give another image or crop size."
            )


# PyTorch's names of variables, by Flax's.
_TENSORS = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}
