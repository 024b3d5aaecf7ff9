"""Spatial Transformer Networks in JAX: transforms, sampling grids and differentiable sampling."""

import importlib
from types import ModuleType

from stn_jax.coordinates import normalized_from_pixels, pixels_from_normalized, regular_grid
from stn_jax.sampling import Kernel, grid_sample
from stn_jax.transforms import (
    Transform,
    affine,
    affine_grid,
    attention,
    projective,
    rigid,
    similarity,
    translation,
)
from stn_jax.warp import warp

__version__ = "0.1.0"

__all__ = [
    "Kernel",
    "Transform",
    "affine",
    "affine_grid",
    "attention",
    "grid_sample",
    "normalized_from_pixels",
    "pixels_from_normalized",
    "projective",
    "regular_grid",
    "rigid",
    "similarity",
    "translation",
    "warp",
]


def __getattr__(name: str) -> ModuleType:
    """Imports :mod:`stn_jax.nn`, and Flax with it, when it is first used."""
    if name == "nn":
        return importlib.import_module("stn_jax.nn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
