"""A classifier of photographs; spatial transformers crop the parts that it looks at.

The architecture is that of Jaderberg et al., arXiv:1506.02025, section 4.3 and appendix A, for
birds. One localization network is shared by all N transformers: a backbone without its last
pooling, a 1×1 convolution to 128 maps, a fully connected layer of 128 units and the regression of
the N centres. The crops have a fixed scale, half of the image, and at first tile the image. A
smooth bound keeps their centres on the image; without it, untrained networks move crops off the
image. Each crop has a backbone of its own. A linear layer classifies the concatenated features of
the crops.

Assumptions where the paper is silent: the input of the localization network is the whole image,
reduced to the size of a crop, so that its maps are 7×7 where crops have 224×224 pixels; ``relu``
and a normalisation follow its 1×1 convolution; two crops begin one above the other; dropout acts on
the concatenated features.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

import stn_jax as stn
from experiments.models.backbones import BACKBONES, Backbone, BackboneName
from experiments.models.heads import plain_head
from stn_jax import nn as stnn

# Side of a crop as a share of the image's.
SCALE = 0.5
DROPOUT = 0.7
# Maps of the convolution and units of the layer behind the localization network's backbone.
_UNITS = 128


class PartModel(nnx.Module):
    """N crops with a backbone each, and one to localize them; or one for the whole image.

    The trained variables are the ``nnx.Param``; the statistics of backbones are ``nnx.BatchStat``
    and never change.

    Args:
      backbone: Name of the backbone.
      image_size: Side of the square images, in pixels.
      num_classes: Number of classes.
      num_transforms: Number N of crops; with 0 the model classifies the whole image, reduced.
      crop_size: Side of a backbone's input, in pixels; half the image's when ``None``.
      dropout: Dropout rate of the features in training.
      dtype: The dtype of the convolutions; parameters, theta and the warp are float32.
      remat: Whether the backward pass recomputes each backbone, so that only one backbone's
        activations are in memory at a time. Only for accelerators: XLA on the CPU merges both
        passes.
      rngs: Flax random state.

    Raises:
      ValueError: If a number is out of range, or the backbone does not take crops of that size.
    """

    def __init__(
        self,
        backbone: BackboneName,
        image_size: int,
        num_classes: int,
        *,
        num_transforms: int,
        crop_size: int | None = None,
        dropout: float = DROPOUT,
        dtype: Any = jnp.float32,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        if num_transforms < 0:
            raise ValueError(f"num_transforms must not be negative; got {num_transforms}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must be in [0, 1); got {dropout!r}.")
        if backbone not in BACKBONES:
            raise ValueError(f"backbone must be {' | '.join(BACKBONES)}; got {backbone!r}.")
        create = lambda: BACKBONES[backbone](rngs, dtype=dtype)  # noqa: E731
        self.image_size = image_size
        self.crop_size = image_size // 2 if crop_size is None else crop_size
        self.dropout = nnx.Dropout(dropout)
        self.remat = remat
        self.describers = nnx.List([create() for _ in range(max(num_transforms, 1))])
        self.describers[0].check_size(self.crop_size, self.crop_size)
        transformer = None
        if num_transforms:
            # At least three quarters of each side of a crop stay on the image.
            centred = stn.bounded(stn.attention(), radius=(1.0, 1 - SCALE / 2, 1 - SCALE / 2))
            transform = stn.fixed(centred, {0: _unbounded(SCALE)})
            maps = ReducedMaps(create(), self.crop_size, remat=remat, rngs=rngs)
            localization = stnn.FeatureLocalization(
                maps,
                maps.num_features,
                transform,
                hidden=(_UNITS,),
                num_transforms=num_transforms,
                initial_theta=stnn.tiled(grid=_rows_and_columns(num_transforms), scale=SCALE),
                head=plain_head,
                rngs=rngs,
            )
            transformer = stnn.SpatialTransformer(
                localization,
                transform,
                output_shape=(self.crop_size, self.crop_size),
                num_transforms=num_transforms,
                antialias=SCALE * image_size > self.crop_size,
            )
        self.transformer = transformer
        num_features = len(self.describers) * self.describers[0].num_features
        self.logits = nnx.Linear(num_features, num_classes, rngs=rngs)

    @property
    def backbones(self) -> list[Backbone]:
        """All backbones, including the localization network's, to load weights into."""
        return [each for _, each in nnx.iter_modules(self) if isinstance(each, Backbone)]

    def __call__(
        self,
        images: Float[Array, "batch height width 3"],
        key: PRNGKeyArray | None = None,
    ) -> Float[Array, "batch classes"]:
        """Logits of each image."""
        return self.forward(images, key)[0]

    def forward(
        self,
        images: Float[Array, "batch height width 3"],
        key: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch transforms 2"] | None]:
        """Logits and the centres ``(x, y)`` of the crops of each image.

        Args:
          images: RGB with pixels in [0, 1].
          key: Random key of the dropout; without a key there is none.

        Returns:
          Logits, and theta of each crop; theta is ``None`` if there are no crops.

        Raises:
          ValueError: If images are of another size.
        """
        _, height, width, _ = images.shape
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"images must be {self.image_size}×{self.image_size}, the image_size of this "
                f"model; got {height}×{width}."
            )
        theta = None
        if self.transformer is None:
            crops = [reduce(images, self.crop_size)]
        else:
            read, theta = self.transformer(images, return_theta=True)
            crops = [read] if len(self.describers) == 1 else list(jnp.moveaxis(read, 1, 0))
            transform = self.transformer.transform
            centre = jax.vmap(lambda each: transform.apply(each, jnp.zeros(2)))
            theta = centre(theta.reshape(-1, 2)).reshape(len(images), -1, 2)
        described = jnp.concatenate(
            [
                run(Backbone.__call__, describer, crop, remat=self.remat)
                for describer, crop in zip(self.describers, crops, strict=True)
            ],
            axis=-1,
        )
        if key is not None:
            described = self.dropout(described, deterministic=False, rngs=key)
        return self.logits(described), theta


def _rows_and_columns(num_tiles: int) -> tuple[int, int]:
    """The most nearly square grid. Two tiles lie one above the other, as most heads are on top."""
    columns = max(k for k in range(1, math.isqrt(num_tiles) + 1) if num_tiles % k == 0)
    return num_tiles // columns, columns


def _unbounded(scale: float) -> float:
    """The parameter whose bounded value, with radius 1, is this scale."""
    return 1 + math.atanh(scale - 1)


class ReducedMaps(nnx.Module):
    """Reduces a backbone's maps to the input of the localization network's dense layers.

    The mean over the image is subtracted from each map, unless a map is a single cell, and all maps
    are divided by their common norm: the result tells images apart by where things are. Without
    this, the maps are positive and nearly the same for all images. Then a step of the next layers
    moves the crops of all images the same way, off the image, before any crop follows its own
    image.
    """

    def __init__(self, backbone: Backbone, size: int, *, remat: bool, rngs: nnx.Rngs) -> None:
        self.backbone = backbone
        self.size = size
        self.remat = remat
        self.reduction = nnx.Conv(backbone.num_features, _UNITS, (1, 1), rngs=rngs)
        self.num_features = (size // backbone.stride) ** 2 * _UNITS

    def __call__(
        self, images: Float[Array, "batch height width 3"]
    ) -> Float[Array, "batch rows columns maps"]:
        """Feature maps of each image, which is first reduced."""
        seen = reduce(images, self.size)
        maps = run(type(self.backbone).features, self.backbone, seen, remat=self.remat)
        maps = nnx.relu(self.reduction(maps.astype(jnp.float32)))
        if maps.shape[1] > 1:
            maps -= maps.mean(axis=(1, 2), keepdims=True)
        power = jnp.square(maps).mean(axis=(1, 2, 3), keepdims=True)
        return maps * jax.lax.rsqrt(power + 1e-6)


def run(
    method: Callable[[Any, Array], Array],
    backbone: Backbone,
    images: Float[Array, "batch height width 3"],
    *,
    remat: bool,
) -> Float[Array, "batch ..."]:
    """Calls a backbone's method; with ``remat`` the backward pass recomputes it."""
    if not remat:
        return method(backbone, images)
    graph, state = nnx.split(backbone)
    return jax.checkpoint(lambda state, images: method(nnx.merge(graph, state), images))(
        state, images
    )


def reduce(
    images: Float[Array, "batch height width c"], size: int
) -> Float[Array, "batch size size c"]:
    """Resizes images with antialiasing; images of that size stay the same bits."""
    batch, height, width, channels = images.shape
    factor = height // size
    if (height, width) == (factor * size, factor * size):
        # An identity warp gives the same pixels, but compiles to a much larger program.
        blocks = images.reshape(batch, size, factor, size, factor, channels)
        return blocks.mean(axis=(2, 4))
    whole = stn.attention()
    shrink = lambda image: stn.warp(  # noqa: E731
        image, whole, whole.identity, output_shape=(size, size), antialias=True
    )
    return jax.vmap(shrink)(images)
