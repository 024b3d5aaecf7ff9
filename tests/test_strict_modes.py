"""JAX's strict modes of promotion, in which Flax, optax and JAX run their own tests."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import stn_jax as stn
from stn_jax import augmentation, conversions, estimation, fields, geometry, registration

rng = np.random.default_rng(0)
SHAPE = (6, 7)
IMAGE = rng.random((*SHAPE, 2)).astype(np.float32)
FIELD = (0.1 * IMAGE).astype(np.float32)
POINTS = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
BOXES = np.array([[0, 1, 3, 4], [1, 1, 2, 5]], np.float32)
THETA = np.array([0.9, 0.1, 0.2, -0.1, 0.8, 0], np.float32)
AFFINE = stn.affine()


def augmented(image: Any) -> Any:
    turn = augmentation.random_affine(SHAPE, angle=(-0.5, 0.5))
    sample = {"image": image, "points": POINTS, "boxes": BOXES}
    return augmentation.augment(sample, turn, jax.random.key(0))


CALLS: dict[str, tuple[Callable, np.ndarray]] = {
    "normalized_from_pixels": (lambda points: stn.normalized_from_pixels(points, SHAPE), POINTS),
    "pixels_from_normalized": (lambda points: stn.pixels_from_normalized(points, SHAPE), POINTS),
    "warp_points": (
        lambda points: stn.warp_points(points, AFFINE, THETA, image_shape=SHAPE),
        POINTS,
    ),
    "warp_boxes": (lambda boxes: stn.warp_boxes(boxes, AFFINE, THETA, image_shape=SHAPE), BOXES),
    "augmentation": (augmented, IMAGE),
    "offsets_from_voxels": (conversions.offsets_from_voxels, FIELD),
    "voxels_from_offsets": (conversions.voxels_from_offsets, FIELD),
    "offsets_from_optical_flow": (conversions.offsets_from_optical_flow, FIELD),
    "optical_flow_from_offsets": (conversions.optical_flow_from_offsets, FIELD),
    "from_opencv": (lambda m: conversions.from_opencv(m, SHAPE, SHAPE), THETA.reshape(2, 3)),
    "crop_matrix": (geometry.crop_matrix, np.array([-0.5, -0.5, 0.5, 0.25], np.float32)),
    "estimation": (lambda points: estimation.homography(points, 2 * points), POINTS),
    "fields.compose": (lambda field: fields.compose(field, field), FIELD),
    "fields.inverse": (fields.inverse, FIELD),
    "fields.log_abs_det": (fields.log_abs_det, FIELD),
    "mutual_information": (lambda a: registration.mutual_information(a, a), IMAGE),
    "local_cross_correlation": (lambda a: registration.local_cross_correlation(a, a), IMAGE),
    "register": (
        lambda a: stn.register(a, a, stn.rigid(), search=False, iterations=2).theta,
        IMAGE,
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_nothing_is_promoted_implicitly(name: str) -> None:
    call, array = CALLS[name]
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        jax.eval_shape(call, array)
