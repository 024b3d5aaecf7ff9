"""Flax NNX modules around the pure functions."""

from stn_jax.nn.localization import (
    ConvolutionalLocalization,
    FullyConnectedLocalization,
    RegressionHead,
)
from stn_jax.nn.spatial_transformer import SpatialTransformer

__all__ = [
    "ConvolutionalLocalization",
    "FullyConnectedLocalization",
    "RegressionHead",
    "SpatialTransformer",
]
