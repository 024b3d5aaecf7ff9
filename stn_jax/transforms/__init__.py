"""Families of transforms: records of pure functions that map points, given a flat vector θ."""

from stn_jax.transforms.base import Transform, family
from stn_jax.transforms.combinators import bounded, chain, fixed, inverted, isotropic
from stn_jax.transforms.displacement import (
    diffeomorphic,
    displacement,
    flow,
    stationary_velocity,
)
from stn_jax.transforms.exponential import exponential
from stn_jax.transforms.linear import (
    affine,
    affine_grid,
    attention,
    projective,
    rigid,
    similarity,
    translation,
)
from stn_jax.transforms.newton import newton_inverse
from stn_jax.transforms.piecewise_affine import cpab
from stn_jax.transforms.polar import log_polar, polar
from stn_jax.transforms.thin_plate_spline import thin_plate_spline

__all__ = [
    "Transform",
    "affine",
    "affine_grid",
    "attention",
    "bounded",
    "chain",
    "cpab",
    "diffeomorphic",
    "displacement",
    "exponential",
    "family",
    "fixed",
    "flow",
    "inverted",
    "isotropic",
    "log_polar",
    "newton_inverse",
    "polar",
    "projective",
    "rigid",
    "similarity",
    "stationary_velocity",
    "thin_plate_spline",
    "translation",
]
