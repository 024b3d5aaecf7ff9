"""Spatial Transformer Networks in JAX: transforms, sampling grids and differentiable sampling."""

import importlib
from typing import Any

from stn_jax._renames import new_name
from stn_jax.coordinates import (
    Coverage,
    normalized_from_pixels,
    pixels_from_normalized,
    regular_grid,
)
from stn_jax.registration import register
from stn_jax.sampling import (
    Implementation,
    Kernel,
    Linearized,
    b_spline,
    cubic,
    grid_sample,
    implementations,
    sample_pixels,
    spline_coefficients,
)
from stn_jax.transforms import (
    Transform,
    affine,
    affine_grid,
    attention,
    bounded,
    chain,
    cpab,
    diffeomorphic,
    displacement,
    exponential,
    family,
    fixed,
    flow,
    inverted,
    isotropic,
    log_polar,
    newton_inverse,
    polar,
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
    "Coverage",
    "Implementation",
    "Kernel",
    "Linearized",
    "Transform",
    "affine",
    "affine_grid",
    "attention",
    "b_spline",
    "bounded",
    "chain",
    "cpab",
    "cubic",
    "diffeomorphic",
    "displacement",
    "exponential",
    "family",
    "fixed",
    "flow",
    "grid_sample",
    "implementations",
    "inverted",
    "isotropic",
    "log_polar",
    "newton_inverse",
    "normalized_from_pixels",
    "pixels_from_normalized",
    "polar",
    "projective",
    "register",
    "regular_grid",
    "rigid",
    "sample_pixels",
    "similarity",
    "spline_coefficients",
    "stationary_velocity",
    "thin_plate_spline",
    "translation",
    "warp",
    "warp_boxes",
    "warp_points",
]


_MODULES = (
    "augmentation",
    "conversions",
    "diagnostics",
    "estimation",
    "fields",
    "geometry",
    "nn",
    "visualize",
)
_RENAMED = {"inverse": "inverted"}


def __getattr__(name: str) -> Any:
    """Imports a submodule when it is first used: ``nn`` needs Flax, ``visualize`` matplotlib."""
    renamed = new_name(__name__, name, _RENAMED)
    if renamed is not None:
        return globals()[renamed]
    if name in _MODULES:
        return importlib.import_module(f"stn_jax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
