"""NumPy arrays in the byte order of other machines, as files in FITS, TIFF and NIfTI are read."""

from collections.abc import Callable

import chex
import jax
import numpy as np
import pytest
from flax import nnx

import stn_jax as stn
from stn_jax import augmentation, conversions, estimation, fields
from stn_jax import nn as stnn

rng = np.random.default_rng(0)
IMAGE = rng.random((6, 7, 2))
THETA = np.array([0.9, 0.1, 0.2, -0.1, 0.8, 0.0])
POINTS = rng.uniform(-1, 1, (3, 2))
MATRIX = THETA.reshape(2, 3)
LANDMARKS = np.array([[-1.0, -1], [1, -1], [0, 0], [-1, 1], [1, 1]])


def module(images: np.ndarray) -> jax.Array:
    localization = stnn.FullyConnectedLocalization((6, 7, 2), stn.affine(), rngs=nnx.Rngs(0))
    return stnn.SpatialTransformer(localization, stn.affine())(images)


def augmented(image: np.ndarray, points: np.ndarray) -> object:
    turn = augmentation.random_affine((6, 7), angle=(-0.5, 0.5))
    return augmentation.augment({"image": image, "points": points}, turn, jax.random.key(0))


@stn.family
def scaled(by: np.ndarray) -> stn.Transform:
    return stn.Transform(
        name="scaled",
        ndim=2,
        identity=np.zeros(2),
        displacement=lambda theta, points: by * theta + 0 * points,
        inverse=lambda theta, points: points - by * theta,
    )


# Each is called with arrays of both byte orders.
CALLS: dict[str, tuple[Callable, tuple[np.ndarray, ...]]] = {
    "warp": (lambda image, theta: stn.warp(image, stn.affine(), theta), (IMAGE, THETA)),
    "nearest": (
        lambda labels, theta: stn.warp(labels, stn.affine(), theta, kernel="nearest"),
        (np.arange(84, dtype=np.int32).reshape(6, 7, 2), THETA),
    ),
    "fill_value": (
        lambda image, fill: stn.warp(image, stn.affine(), 2 * THETA, fill_value=fill),
        (IMAGE, np.array([0.5, 0.25])),
    ),
    "grid_sample": (stn.grid_sample, (IMAGE, POINTS)),
    "sample_pixels": (stn.sample_pixels, (IMAGE, POINTS)),
    "spline_coefficients": (stn.spline_coefficients, (IMAGE,)),
    "affine_grid": (lambda matrix: stn.affine_grid(matrix, (4, 5)), (MATRIX,)),
    "warp_points": (
        lambda points, theta: stn.warp_points(points, stn.affine(), theta),
        (POINTS, THETA),
    ),
    "warp_boxes": (
        lambda boxes, theta: stn.warp_boxes(boxes, stn.affine(), theta),
        (np.array([[-0.5, -0.5, 0.5, 0.25]]), THETA),
    ),
    "control points": (
        lambda control, theta: stn.thin_plate_spline(control_points=control).apply(theta, POINTS),
        (LANDMARKS, 0.9 * LANDMARKS.ravel()),
    ),
    "pixel_matrix": (lambda matrix: conversions.pixel_matrix(matrix, (6, 7), (4, 5)), (MATRIX,)),
    "from_opencv": (lambda matrix: conversions.from_opencv(matrix, (6, 7), (4, 5)), (MATRIX,)),
    "pixels_from_normalized": (
        lambda points: stn.pixels_from_normalized(points, (6, 7)),
        (POINTS,),
    ),
    "estimation": (estimation.affine, (LANDMARKS, 0.9 * LANDMARKS + 0.1)),
    "fields": (fields.compose, (0.1 * IMAGE, 0.2 * IMAGE)),
    "augmentation": (augmented, (IMAGE, POINTS)),
    "module": (module, (IMAGE[None],)),
    "a kernel's parameter": (
        lambda a: stn.sample_pixels(IMAGE, POINTS, kernel=stn.cubic(a=a.reshape(()))),
        (np.array([-0.75]),),
    ),
    "spread": (
        lambda spread: jax.grad(
            lambda pixels: stn.sample_pixels(
                IMAGE, pixels, gradient=stn.Linearized(spread=spread.reshape(()))
            ).sum()
        )(2 + POINTS),
        (np.array([1.5]),),
    ),
    "a family's own numbers": (
        lambda by: stn.warp(IMAGE, scaled(by), np.ones(2)),
        (np.array([0.25, 0.5]),),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_either_byte_order_gives_the_same(name: str) -> None:
    call, arrays = CALLS[name]
    arrays = tuple(each.astype("f4" if each.dtype.kind == "f" else "i4") for each in arrays)
    swapped = [each.astype(each.dtype.newbyteorder()) for each in arrays]
    assert not any(each.dtype.isnative for each in swapped)
    want, got = call(*arrays), call(*swapped)
    chex.assert_trees_all_equal(got, want)
