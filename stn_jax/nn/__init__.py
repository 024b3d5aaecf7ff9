"""Flax NNX modules around the pure functions, and tools for training them."""

import importlib
from typing import Any

from stn_jax._renames import new_name
from stn_jax.nn.diagnosis import Diagnosis, Finding, diagnose
from stn_jax.nn.heads import Gaussian, GaussianHead, RegressionHead, gaussian_kl
from stn_jax.nn.initializers import exact_identity, perturbed_identity, tiled
from stn_jax.nn.localization import (
    ConvolutionalLocalization,
    FeatureLocalization,
    FullyConnectedLocalization,
)
from stn_jax.nn.monitor import gradient_norms, monitor
from stn_jax.nn.optim import identity_penalty, localization_labels, localization_rate
from stn_jax.nn.pytorch import from_pytorch
from stn_jax.nn.spatial_transformer import SpatialTransformer

__all__ = [
    "ConvolutionalLocalization",
    "Diagnosis",
    "FeatureLocalization",
    "Finding",
    "FullyConnectedLocalization",
    "Gaussian",
    "GaussianHead",
    "RegressionHead",
    "SpatialTransformer",
    "diagnose",
    "exact_identity",
    "from_pytorch",
    "gaussian_kl",
    "gradient_norms",
    "identity_penalty",
    "localization_labels",
    "localization_rate",
    "monitor",
    "perturbed_identity",
    "tiled",
]


_RENAMED = {"identity": "exact_identity"}


def __getattr__(name: str) -> Any:
    """Imports :mod:`stn_jax.nn.linen` when it is first used."""
    renamed = new_name(__name__, name, _RENAMED)
    if renamed is not None:
        return globals()[renamed]
    if name == "linen":
        return importlib.import_module("stn_jax.nn.linen")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
