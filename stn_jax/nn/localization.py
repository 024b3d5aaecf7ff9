"""Localization networks: from images to the parameters of a transform."""

import itertools
import math
import typing
from collections.abc import Callable, Sequence
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.nn.heads import RegressionHead
from stn_jax.nn.initializers import InitialTheta
from stn_jax.transforms import Transform


@typing.runtime_checkable
class Head(typing.Protocol):
    """A function that makes the head of a localization network: a callable, features to theta.

    It may also take ``initial_theta``, the theta of an untrained network.
    """

    def __call__(
        self, in_features: int, transform: Transform, *, num_transforms: int, rngs: nnx.Rngs
    ) -> Callable[[Array], Array]:
        """Makes the head of a network with ``in_features`` features."""
        ...


class FullyConnectedLocalization(nnx.Module):
    """A localization network of fully connected layers, the paper's ST-FCN.

    Args:
      in_shape: Shape of one image, ``(height, width, channels)``, or of a volume.
      transform: The family whose parameters are regressed.
      hidden: Widths of the hidden layers.
      num_transforms: Number of parallel transforms.
      initial_theta: Theta of the untrained network, as in :class:`RegressionHead`; ``None`` takes
        the head's default, the identity.
      head: Function that makes the head, called as
        ``head(in_features, transform, num_transforms=N, rngs=rngs)``, with ``initial_theta`` if
        that is given.
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
        num_transforms: SupportsIndex = 1,
        initial_theta: InitialTheta | None = None,
        head: Head = RegressionHead,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_shape = _checks.image_shape("in_shape", in_shape)
        widths = [math.prod(self.in_shape), *hidden]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.head = _make_head(head, widths[-1], transform, num_transforms, initial_theta, rngs)

    def __call__(
        self, images: Float[AnyArray, "batch *space channels"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Theta of each image: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        return self.head(self.features(images))

    def features(
        self, images: Float[AnyArray, "batch *space channels"]
    ) -> Float[Array, "batch features"]:
        """The input of the head, ``[batch, in_features]``."""
        images = _checks.batch_of("images", images, self.in_shape)
        features = _flat(images)
        for layer in self.layers:
            features = nnx.relu(layer(features))
        return features


class ConvolutionalLocalization(nnx.Module):
    """A localization network of convolutions, the paper's ST-CNN.

    The images are average-pooled, then pass convolutions without padding. After each convolution
    come ``relu`` and 2×2 max-pooling; the pooling is left out where the maps would become too small
    for the next layer. One hidden fully connected layer and the head follow.

    Args:
      in_shape: Shape of one image, ``(height, width, channels)``.
      transform: The family whose parameters are regressed.
      features: Number of filters of each convolution.
      kernel_size: Side of the square filters.
      hidden: Width of the fully connected layer.
      downsample: Factor of the initial average-pooling.
      num_transforms: Number of parallel transforms.
      initial_theta: Theta of the untrained network, as in :class:`RegressionHead`; ``None`` takes
        the head's default, the identity.
      head: Function that makes the head, called as
        ``head(in_features, transform, num_transforms=N, rngs=rngs)``, with ``initial_theta`` if
        that is given.
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
        num_transforms: SupportsIndex = 1,
        initial_theta: InitialTheta | None = None,
        head: Head = RegressionHead,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_shape = _checks.image_shape("in_shape", in_shape, 2)
        self.downsample = downsample
        height, width, channels = self.in_shape
        height, width = height // downsample, width // downsample
        convolutions, pools = [], []
        for index, filters in enumerate(features):
            height, width = height - kernel_size + 1, width - kernel_size + 1
            if min(height, width) < 1:
                raise ValueError(
                    f"in_shape {self.in_shape} is too small for {len(features)} convolutions of "
                    f"{kernel_size}×{kernel_size} after {downsample}× downsampling: no pixel is "
                    f"left after convolution number {index + 1}. Use fewer convolutions, a smaller "
                    "kernel_size or a smaller downsample."
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
        self.head = _make_head(head, hidden, transform, num_transforms, initial_theta, rngs)

    def __call__(
        self, images: Float[AnyArray, "batch height width channels"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Theta of each image: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        return self.head(self.features(images))

    def features(
        self, images: Float[AnyArray, "batch height width channels"]
    ) -> Float[Array, "batch features"]:
        """The input of the head, ``[batch, in_features]``."""
        images = _checks.batch_of("images", images, self.in_shape)
        maps = _pooled(images, self.downsample, jnp.mean)
        for convolution, pool in zip(self.convolutions, self.pools, strict=True):
            maps = nnx.relu(convolution(maps))
            if pool:
                maps = _pooled(maps, 2, jnp.max)
        return nnx.relu(self.hidden(_flat(maps)))


class FeatureLocalization(nnx.Module):
    """A localization network on the features of a given network, such as a pre-trained backbone.

    Args:
      features: Any callable from images to maps or vectors, ``[batch, ...]``, which are flattened.
      in_features: Number of features of an image, flattened.
      transform: The family whose parameters are regressed.
      hidden: Widths of fully connected layers between the features and the head.
      num_transforms: Number of parallel transforms.
      initial_theta: Theta of the untrained network, as in :class:`RegressionHead`; ``None`` takes
        the head's default, the identity.
      head: Function that makes the head, called as
        ``head(in_features, transform, num_transforms=N, rngs=rngs)``, with ``initial_theta`` if
        that is given.
      rngs: Flax random state.

    Raises:
      TypeError: If ``features`` is not callable.
      ValueError: At the call, if there are not ``in_features`` features.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> backbone = nnx.Conv(3, 8, (3, 3), strides=2, rngs=nnx.Rngs(0))
      >>> localization = stnn.FeatureLocalization(
      ...     backbone, 4 * 4 * 8, stn.attention(), hidden=(32,), rngs=nnx.Rngs(1)
      ... )
      >>> localization(jnp.ones((5, 8, 8, 3))).shape
      (5, 3)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 4.3.
    """

    def __init__(
        self,
        features: Callable[[Array], Array],
        in_features: int,
        transform: Transform,
        *,
        hidden: Sequence[int] = (),
        num_transforms: SupportsIndex = 1,
        initial_theta: InitialTheta | None = None,
        head: Head = RegressionHead,
        rngs: nnx.Rngs,
    ) -> None:
        if not callable(features):
            raise TypeError(
                f"features must be callable, from images to features; got {features!r}."
            )
        self.backbone = features
        self.in_features = in_features
        widths = [in_features, *hidden]
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in itertools.pairwise(widths)])
        self.head = _make_head(head, widths[-1], transform, num_transforms, initial_theta, rngs)

    def __call__(
        self, images: Float[AnyArray, "batch *space channels"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Theta of each image: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        return self.head(self.features(images))

    def features(
        self, images: Float[AnyArray, "batch *space channels"]
    ) -> Float[Array, "batch features"]:
        """The input of the head, ``[batch, features]``."""
        maps = self.backbone(_checks.as_array("images", images))
        if math.prod(maps.shape[1:]) != self.in_features:
            raise ValueError(
                f"features must return {self.in_features} features per image, as in_features says; "
                f"got shape {maps.shape}, {math.prod(maps.shape[1:])} per image."
            )
        features = _flat(maps)
        for layer in self.layers:
            features = nnx.relu(layer(features))
        return features


def _make_head(
    head: Head,
    in_features: int,
    transform: Transform,
    num_transforms: SupportsIndex,
    initial_theta: InitialTheta | None,
    rngs: nnx.Rngs,
) -> Callable[[Array], Array]:
    """Makes the head; passes ``initial_theta`` only if it is given, since a head may lack it."""
    start: dict[str, typing.Any] = {} if initial_theta is None else {"initial_theta": initial_theta}
    number = _checks.positive("num_transforms", num_transforms)
    return head(in_features, transform, num_transforms=number, rngs=rngs, **start)


def _flat(maps: Array) -> Array:
    """Flattens to ``[batch, features]``; the batch may be empty."""
    return maps.reshape(maps.shape[0], math.prod(maps.shape[1:]))


def _pooled(maps: Array, size: int, reduction: Callable[..., Array]) -> Array:
    """Pools maps ``[batch, height, width, channels]`` over square windows.

    A reduction over axes has a far faster gradient on a CPU than ``reduce_window``.
    """
    for axis in (1, 2):
        # One axis at a time: JAX has no sharding rule for a reshape that splits two axes.
        number = maps.shape[axis] // size
        maps = jax.lax.slice_in_dim(maps, 0, number * size, axis=axis)
        windows = maps.reshape(*maps.shape[:axis], number, size, *maps.shape[axis + 1 :])
        maps = reduction(windows, axis=axis + 1)
    return maps
