"""Localization networks: from images to the parameters of a transform."""

import itertools
import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax.transforms import Transform


class RegressionHead(nnx.Module):
    """The linear regression that ends a localization network.

    Its weights start at zero and its bias at the identity, so that an untrained spatial
    transformer passes its input on unchanged.

    Args:
      in_features: Number of features of an example.
      transform: The family whose parameters are regressed.
      num_transforms: Number of parallel transforms.
      rngs: Flax random state; nothing random is drawn, but every Flax layer takes it.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> head = stnn.RegressionHead(16, stn.attention(), rngs=nnx.Rngs(0))
      >>> head(jnp.ones((2, 16))).tolist()
      [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.1.
    """

    def __init__(
        self, in_features: int, transform: Transform, *, num_transforms: int = 1, rngs: nnx.Rngs
    ) -> None:
        _checks.positive("num_transforms", num_transforms)
        self.num_transforms = num_transforms
        identity = jnp.tile(jnp.asarray(transform.identity, jnp.float32), num_transforms)
        self.linear = nnx.Linear(
            in_features,
            len(identity),
            kernel_init=nnx.initializers.zeros,
            bias_init=lambda key, shape, dtype: identity.astype(dtype),
            rngs=rngs,
        )

    def __call__(
        self, features: Float[Array, "batch features"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Regresses theta: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        theta = self.linear(features)
        if self.num_transforms == 1:
            return theta
        return theta.reshape(len(theta), self.num_transforms, -1)


class FullyConnectedLocalization(nnx.Module):
    """A localization network of fully connected layers, the paper's ST-FCN.

    Args:
      in_shape: Shape of one image, ``(height, width, channels)``.
      transform: The family whose parameters are regressed.
      hidden: Widths of the hidden layers.
      num_transforms: Number of parallel transforms.
      rngs: Flax random state.

    Raises:
      ValueError: At the call, if the images are not of shape ``[batch, *in_shape]``.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> localization = stnn.FullyConnectedLocalization(
      ...     (28, 28, 1), stn.affine(), rngs=nnx.Rngs(0)
      ... )
      >>> localization(jnp.ones((5, 28, 28, 1))).shape
      (5, 6)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, appendix A.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        transform: Transform,
        *,
        hidden: Sequence[int] = (32, 32),
        num_transforms: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_shape = tuple(in_shape)
        widths = [math.prod(self.in_shape), *hidden]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.head = RegressionHead(widths[-1], transform, num_transforms=num_transforms, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Theta of each image: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        _checks.batch_of("images", images, self.in_shape)
        features = images.reshape(len(images), -1)
        for layer in self.layers:
            features = nnx.relu(layer(features))
        return self.head(features)


class ConvolutionalLocalization(nnx.Module):
    """A localization network of convolutions, the paper's ST-CNN.

    The images are average-pooled, then pass convolutions without padding, each followed by
    ``relu`` and, while the map is large enough to be halved and seen by a next layer, by 2×2
    max-pooling; then one hidden fully connected layer and the regression head.

    Args:
      in_shape: Shape of one image, ``(height, width, channels)``.
      transform: The family whose parameters are regressed.
      features: Number of filters of each convolution.
      kernel_size: Side of the square filters.
      hidden: Width of the fully connected layer.
      downsample: Factor of the average-pooling at the entrance.
      num_transforms: Number of parallel transforms.
      rngs: Flax random state.

    Raises:
      ValueError: If the images are too small for the convolutions, or, at the call, not of shape
        ``[batch, *in_shape]``.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> localization = stnn.ConvolutionalLocalization(
      ...     (28, 28, 1), stn.affine(), rngs=nnx.Rngs(0)
      ... )
      >>> localization(jnp.ones((5, 28, 28, 1))).shape
      (5, 6)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, appendix A.
    """

    def __init__(
        self,
        in_shape: Sequence[int],
        transform: Transform,
        *,
        features: Sequence[int] = (20, 20),
        kernel_size: int = 5,
        hidden: int = 20,
        downsample: int = 2,
        num_transforms: int = 1,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_shape = tuple(in_shape)
        self.downsample = downsample
        height, width, channels = self.in_shape
        height, width = height // downsample, width // downsample
        convolutions, pools = [], []
        for index, filters in enumerate(features):
            height, width = height - kernel_size + 1, width - kernel_size + 1
            if min(height, width) < 1:
                raise ValueError(
                    f"in_shape {self.in_shape} is too small for {len(features)} convolutions of "
                    f"{kernel_size}×{kernel_size} after {downsample}× downsampling: the map is "
                    f"used up at number {index + 1}. Take fewer or smaller filters, or a smaller "
                    "downsample."
                )
            convolutions.append(
                nnx.Conv(channels, filters, (kernel_size, kernel_size), padding="VALID", rngs=rngs)
            )
            channels = filters
            is_last = index == len(features) - 1
            pools.append(min(height, width) // 2 >= (1 if is_last else kernel_size))
            if pools[-1]:
                height, width = height // 2, width // 2
        self.convolutions = nnx.List(convolutions)
        self.pools = tuple(pools)
        self.hidden = nnx.Linear(height * width * channels, hidden, rngs=rngs)
        self.head = RegressionHead(hidden, transform, num_transforms=num_transforms, rngs=rngs)

    def __call__(
        self, images: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Theta of each image: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        _checks.batch_of("images", images, self.in_shape)
        maps = _windows(images, self.downsample).mean(axis=(2, 4))
        for convolution, pool in zip(self.convolutions, self.pools, strict=True):
            maps = nnx.relu(convolution(maps))
            if pool:
                maps = _windows(maps, 2).max(axis=(2, 4))
        features = nnx.relu(self.hidden(maps.reshape(len(maps), -1)))
        return self.head(features)


def _windows(maps: Array, size: int) -> Array:
    """Splits maps into windows, ``[batch, rows, size, columns, size, channels]``, to pool over.

    Pooling by a reduction over axes has a far faster gradient on the CPU than ``reduce_window``.
    """
    batch, height, width, channels = maps.shape
    rows, columns = height // size, width // size
    maps = maps[:, : rows * size, : columns * size]
    return maps.reshape(batch, rows, size, columns, size, channels)
