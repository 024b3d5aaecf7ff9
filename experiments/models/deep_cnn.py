"""A deeper classifier for photographs, with or without a spatial transformer between its layers.

Convolutions 5×5, 5×5 and 3×3, the first two followed by 2×2 max-pooling, and two fully connected
layers. Each image is first standardised to mean 0 and deviation 1, since photographs of signs
differ most in brightness and contrast.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

import stn_jax as stn
from experiments.models.heads import plain_head
from experiments.models.pooling import convolve, max_pool
from stn_jax import nn as stnn

# Filters of each convolution, and units, at width 1.
_FILTERS, _UNITS = (32, 64, 128), 256
_SIZES = (5, 5, 3)
# Added in quadrature to the deviation, so that noise in a uniform image stays small.
_LEAST_DEVIATION = 0.05


class DeepClassifier(nnx.Module):
    """Three convolutions and two fully connected layers.

    Args:
      in_shape: Height, width and channels of an image.
      num_classes: Number of classes.
      width: Factor on the filters and units.
      transform: Transform of a spatial transformer behind the first pooling, which warps all
        feature maps the same way; ``None`` for no transformer.
      rngs: Flax random state.

    Raises:
      ValueError: If images are smaller than 24×24.
    """

    def __init__(
        self,
        in_shape: tuple[int, ...],
        num_classes: int,
        *,
        width: float,
        transform: stn.Transform | None,
        rngs: nnx.Rngs,
    ) -> None:
        *space, channels = in_shape
        convolutions, maps = [], []
        for number, (filters, size) in enumerate(zip(_FILTERS, _SIZES, strict=True)):
            convolutions.append(
                nnx.Conv(
                    channels,
                    channels := math.ceil(filters * width),
                    (size, size),
                    padding="VALID",
                    conv_general_dilated=convolve,
                    rngs=rngs,
                )
            )
            space = [(side - size + 1) // (1 if number == 2 else 2) for side in space]
            maps.append((*space, channels))
        if min(space) < 1:
            raise ValueError(
                f"the deep CNN takes images of at least 24×24 pixels; got {in_shape}. Choose fcn "
                "or st-fcn, which take any size, or enlarge the images."
            )
        self.convolutions = nnx.List(convolutions)
        transformer = None
        if transform is not None:
            locate = stnn.ConvolutionalLocalization(
                maps[0], transform, downsample=1, head=plain_head, rngs=rngs
            )
            transformer = stnn.SpatialTransformer(locate, transform)
        self.transformer = transformer
        units = math.ceil(_UNITS * width)
        self.hidden = nnx.Linear(math.prod(maps[-1]), units, rngs=rngs)
        self.logits = nnx.Linear(units, num_classes, rngs=rngs)

    def __call__(self, images: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Logits of each image."""
        first, second, third = self.convolutions
        maps = nnx.relu(max_pool(first(jax.vmap(standardised)(images))))
        if self.transformer is not None:
            maps = self.transformer(maps)
        maps = nnx.relu(max_pool(second(maps)))
        maps = nnx.relu(third(maps))
        return self.logits(nnx.relu(self.hidden(maps.reshape(maps.shape[0], -1))))


def standardised(image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """The image with mean 0 and deviation 1 over all pixels and channels."""
    centred = image - image.mean()
    return centred / jnp.sqrt((centred**2).mean() + _LEAST_DEVIATION**2)
