"""Spatial Transformer Networks in JAX: transforms, sampling grids and differentiable sampling."""

import importlib
from types import ModuleType

from stn_jax.coordinates import normalized_from_pixels, pixels_from_normalized, regular_grid
from stn_jax.sampling import (
    Implementation,
    Kernel,
    Linearized,
    cubic,
    grid_sample,
    implementations,
)
from stn_jax.transforms import (
    Transform,
    affine,
    affine_grid,
    attention,
    bounded,
    chain,
    diffeomorphic,
    displacement,
    family,
    fixed,
    flow,
    inverse,
    projective,
    rigid,
    similarity,
    stationary_velocity,
    thin_plate_spline,
    translation,
)
from stn_jax.warp import warp, warp_boxes, warp_points

__version__ = "0.1.0"

__all__ = [
    "Implementation",
    "Kernel",
    "Linearized",
    "Transform",
    "affine",
    "affine_grid",
    "attention",
    "bounded",
    "chain",
    "cubic",
    "diffeomorphic",
    "displacement",
    "family",
    "fixed",
    "flow",
    "grid_sample",
    "implementations",
    "inverse",
    "normalized_from_pixels",
    "pixels_from_normalized",
    "projective",
    "regular_grid",
    "rigid",
    "similarity",
    "stationary_velocity",
    "thin_plate_spline",
    "translation",
    "warp",
    "warp_boxes",
    "warp_points",
]


def __getattr__(name: str) -> ModuleType:
    """Imports :mod:`stn_jax.nn`, and Flax with it, when it is first used."""
    if name == "nn":
        return importlib.import_module("stn_jax.nn")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
