"""Families of transforms: records of pure functions from a flat θ and points to points."""

from stn_jax.transforms.base import Transform
from stn_jax.transforms.linear import (
    affine,
    affine_grid,
    attention,
    projective,
    rigid,
    similarity,
    translation,
)

__all__ = [
    "Transform",
    "affine",
    "affine_grid",
    "attention",
    "projective",
    "rigid",
    "similarity",
    "translation",
]
