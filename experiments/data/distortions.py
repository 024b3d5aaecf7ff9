"""The distortions of the experiments: pure functions of a key and an image, made with stn_jax."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

import stn_jax as stn

DistortionName = Literal["none", "R"]
Distortion = Callable[[PRNGKeyArray, Array], Array]

# The test set is one fixed draw, whatever the seed of a run.
_TEST_SEED = 1506_02025


def keep(key: PRNGKeyArray, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """No distortion."""
    del key
    return image


def rotate(key: PRNGKeyArray, image: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """Set R: rotation by an angle from U(−90°, 90°) around the centre, black outside."""
    angle = jax.random.uniform(key, minval=-math.pi / 2, maxval=math.pi / 2)
    return stn.warp(image, stn.rigid(), jnp.stack([angle, 0.0, 0.0]))


DISTORTIONS: dict[str, Distortion] = {"none": keep, "R": rotate}


def distort_batch(
    distortion: Distortion, key: PRNGKeyArray, images: Array
) -> Float[Array, "batch h w c"]:
    """Distorts a batch of uint8 images with a fresh draw each; pixels in [0, 1]."""
    keys = jax.random.split(key, len(images))
    return jax.vmap(distortion)(keys, images.astype(jnp.float32) / 255)


def distort_test_images(
    distortion: Distortion, images: Array, first: Array | int = 0
) -> Float[Array, "batch h w c"]:
    """Distorts test images by draws that depend on nothing but each image's number.

    Args:
      distortion: One of :data:`DISTORTIONS`.
      images: Part of a test set, uint8 ``[batch, h, w, c]``.
      first: The number of its first image.

    Returns:
      Images with pixels in [0, 1], the same whatever the parts the set is cut into.
    """
    numbers = first + jnp.arange(len(images))
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(_TEST_SEED), numbers)
    return jax.vmap(distortion)(keys, images.astype(jnp.float32) / 255)
