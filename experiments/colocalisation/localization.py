"""The localization network: the expected place of a digit under a map over the canvas."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from experiments.colocalisation.scenes import REACH
from experiments.models.pooling import convolve

_KERNEL = 5
# Factor on the map before the softmax, so that the map becomes a peak in few steps.
_GAIN = 8.0


class SpatialSoftmaxLocalization(nnx.Module):
    """Convolutions without pooling, a softmax over all places, and the mean place under it.

    It is the same function at every place, so it cannot move the crops of all canvases to one
    place, as a fully connected layer can by its bias.

    Args:
      channels: Channels of the canvases.
      features: Number of filters of each convolution.
      downsample: Factor of the initial average-pooling.
      rngs: Flax random state.

    Reference:
      The mean place under a softmax: Levine et al., arXiv:1504.00702, section 4.2.
    """

    def __init__(
        self,
        channels: int,
        *,
        features: tuple[int, ...] = (8, 8),
        downsample: int = 4,
        rngs: nnx.Rngs,
    ) -> None:
        self.downsample = downsample
        convolutions = []
        for filters in features:
            convolutions.append(_convolution(channels, filters, rngs))
            channels = filters
        self.convolutions = nnx.List(convolutions)
        # An untrained map is constant, so all crops start in the middle.
        self.last = _convolution(channels, 1, rngs, kernel_init=nnx.initializers.zeros)

    def __call__(self, canvases: Float[Array, "batch h w c"]) -> Float[Array, "batch 2"]:
        """The centre ``(x, y)`` of each canvas's crop, which lies on the canvas."""
        batch, height, width, channels = canvases.shape
        by = self.downsample
        rows, columns = height // by, width // by
        cells = canvases[:, : rows * by, : columns * by].reshape(
            batch, rows, by, columns, by, channels
        )
        maps = cells.mean(axis=(2, 4))
        for convolution in self.convolutions:
            maps = nnx.relu(convolution(_padded(maps)))
        maps = _GAIN * self.last(_padded(maps))[..., 0].astype(jnp.float32)
        share = jax.nn.softmax(maps, axis=(1, 2))
        # Crops at places beyond the reach are not on the canvas.
        x, y = (jnp.clip((2 * jnp.arange(n) + 1) / n - 1, -REACH, REACH) for n in (columns, rows))
        return jnp.stack([share.sum(axis=1) @ x, share.sum(axis=2) @ y], axis=-1)


def _convolution(channels: int, filters: int, rngs: nnx.Rngs, **options: Any) -> nnx.Conv:
    kernel = (_KERNEL, _KERNEL)
    return nnx.Conv(
        channels,
        filters,
        kernel,
        padding="VALID",
        conv_general_dilated=convolve,
        rngs=rngs,
        **options,
    )


def _padded(maps: Array) -> Array:
    """The maps with zeros around, so that a convolution keeps their size."""
    margin = (_KERNEL // 2, _KERNEL // 2)
    return jnp.pad(maps, [(0, 0), margin, margin, (0, 0)])
