"""Augmentation as pure functions of a key: one draw moves images, masks, points and boxes alike."""

from stn_jax.augmentation.apply import Boxes, Image, Kind, Mask, Points, augment, move
from stn_jax.augmentation.base import Augmentation, compose, jitter, sometimes
from stn_jax.augmentation.crops import random_crop, random_flip, random_resized_crop
from stn_jax.augmentation.deformations import random_affine, random_elastic, random_homography

__all__ = [
    "Augmentation",
    "Boxes",
    "Image",
    "Kind",
    "Mask",
    "Points",
    "augment",
    "compose",
    "jitter",
    "move",
    "random_affine",
    "random_crop",
    "random_elastic",
    "random_flip",
    "random_homography",
    "random_resized_crop",
    "sometimes",
]
