"""Public functions of arrays whose sizes are symbols, as in an export for any size.

Each works for every size, or says that its sizes must be numbers, and what to do.
"""

import inspect
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import stn_jax as stn
from stn_jax import (
    augmentation,
    conversions,
    diagnostics,
    estimation,
    fields,
    geometry,
    registration,
)
from stn_jax import nn as stnn

THETA = np.float32([0.9, 0.1, 0.2, -0.1, 0.8, 0.0])
MATRIX = THETA.reshape(2, 3)
BOX = np.float32([[0.5, 1.0, 3.0, 3.5]])
AFFINE = stn.affine()
WORLD = np.eye(3)
TURN = augmentation.random_affine((5, 6), angle=(-0.5, 0.5))
KEY = jax.random.key(0)

# Each is a function of an image ``[h, w, 2]``, whose sizes it may also use as a shape.
WORKS: dict[str, Callable] = {
    "regular_grid": lambda x: stn.regular_grid(x.shape[:2]),
    "pixels_from_normalized": lambda x: stn.pixels_from_normalized(x, x.shape[:2]),
    "normalized_from_pixels": lambda x: stn.normalized_from_pixels(x, x.shape[:2]),
    "affine_grid": lambda x: stn.affine_grid(MATRIX, x.shape[:2]),
    "grid_sample": lambda x: stn.grid_sample(x, x),
    "sample_pixels": lambda x: stn.sample_pixels(x, x, kernel="cubic"),
    "spline_coefficients": lambda x: stn.spline_coefficients(x),
    "warp": lambda x: stn.warp(x, AFFINE, THETA),
    "warp_points": lambda x: stn.warp_points(x, AFFINE, THETA, image_shape=x.shape[:2]),
    "warp_boxes": lambda x: stn.warp_boxes(BOX, AFFINE, THETA, image_shape=x.shape[:2]),
    "Transform.apply": lambda x: AFFINE.apply(THETA, x),
    "diagnostics.coverage": lambda x: diagnostics.coverage(AFFINE, THETA, x.shape[:2]),
    "diagnostics.fold_fraction": lambda x: diagnostics.fold_fraction(AFFINE, THETA, x.shape[:2]),
    "diagnostics.distance_from_identity": lambda x: diagnostics.distance_from_identity(
        AFFINE, THETA, x.shape[:2]
    ),
    "diagnostics.jacobian": lambda x: diagnostics.jacobian(AFFINE, THETA, x),
    "diagnostics.log_abs_det": lambda x: diagnostics.log_abs_det(AFFINE, THETA, x),
    "diagnostics.inverse_residual": lambda x: diagnostics.inverse_residual(AFFINE, THETA, x),
    "fields.from_transform": lambda x: fields.from_transform(AFFINE, THETA, x.shape[:2]),
    "conversions.pixel_matrix": lambda x: conversions.pixel_matrix(MATRIX, x.shape[:2], (4, 5)),
    "conversions.pixel_matrix, corners": lambda x: conversions.pixel_matrix(
        MATRIX, x.shape[:2], x.shape[:2], align_corners=True
    ),
    "conversions.matrix_from_pixels": lambda x: conversions.matrix_from_pixels(
        MATRIX, (4, 5), x.shape[:2], pixel_centers=0.5
    ),
    "conversions.change_alignment": lambda x: conversions.change_alignment(
        MATRIX, x.shape[:2], (4, 5), align_corners=False, to_align_corners=True
    ),
    "conversions.to_opencv": lambda x: conversions.to_opencv(MATRIX, x.shape[:2], x.shape[:2]),
    "conversions.from_opencv": lambda x: conversions.from_opencv(
        MATRIX, x.shape[:2], (4, 5), inverse_map=False
    ),
    "conversions.box_from_matrix": lambda x: conversions.box_from_matrix(MATRIX, x.shape[:2]),
    "conversions.offsets_from_voxels": lambda x: conversions.offsets_from_voxels(
        x, align_corners=True
    ),
    "conversions.voxels_from_offsets": lambda x: conversions.voxels_from_offsets(x),
    "conversions.offsets_from_optical_flow": lambda x: conversions.offsets_from_optical_flow(x),
    "conversions.optical_flow_from_offsets": lambda x: conversions.optical_flow_from_offsets(x),
    "conversions.kitti_from_optical_flow": lambda x: conversions.kitti_from_optical_flow(
        x, x[..., 0] > 0
    ),
    "registration.mean_squared_error": lambda x: registration.mean_squared_error(x, x[::-1]),
    "registration.cross_correlation": lambda x: registration.cross_correlation(x, x[::-1]),
    "registration.local_cross_correlation": lambda x: registration.local_cross_correlation(
        x, x[::-1], window=3
    ),
    "registration.inverse_consistency": lambda x: registration.inverse_consistency(
        AFFINE, THETA, THETA, x.shape[:2]
    ),
    "nn.monitor": lambda x: stnn.monitor(AFFINE, THETA[None], x.shape[:2]),
    "nn.identity_penalty": lambda x: stnn.identity_penalty(AFFINE, THETA[None], x.shape[:2]),
    "augmentation.move": lambda x: augmentation.move({"points": x}, TURN, THETA),
}

REFUSES: dict[str, Callable] = {
    "antialias": lambda x: stn.warp(x, AFFINE, THETA, output_shape=(3, 3), antialias=True),
    "displacement": lambda x: stn.displacement(x.shape[:2]),
    "flow": lambda x: stn.flow(x.shape[:2]),
    "stationary_velocity": lambda x: stn.stationary_velocity(x.shape[:2]),
    "diffeomorphic": lambda x: stn.diffeomorphic(x.shape[:2]),
    "cpab": lambda x: stn.cpab(x.shape[:2]),
    "thin_plate_spline": lambda x: stn.thin_plate_spline(x.shape[:2]),
    "control_points": lambda x: stn.thin_plate_spline(control_points=x[0]),
    "fields.compose": lambda x: fields.compose(x, x),
    "fields.inverse": lambda x: fields.inverse(x),
    "fields.exponential": lambda x: fields.exponential(x),
    "fields.jacobian": lambda x: fields.jacobian(x),
    "fields.log_abs_det": lambda x: fields.log_abs_det(x),
    "conversions.matrix_from_box": lambda x: conversions.matrix_from_box((0, 0, 2, 2), x.shape[:2]),
    "conversions.matrix_from_world": lambda x: conversions.matrix_from_world(
        MATRIX, WORLD, WORLD, x.shape[:2], (4, 5)
    ),
    "conversions.world_matrix": lambda x: conversions.world_matrix(
        MATRIX, WORLD, WORLD, (4, 5), x.shape[:2]
    ),
    "conversions.offsets_from_world": lambda x: conversions.offsets_from_world(x, WORLD, WORLD),
    "conversions.world_displacement": lambda x: conversions.world_displacement(
        x, WORLD, WORLD, (4, 5)
    ),
    "geometry.expand_output": lambda x: geometry.expand_output(MATRIX, x.shape[:2]),
    "registration.bending_energy": lambda x: registration.bending_energy(
        AFFINE, THETA, x.shape[:2]
    ),
    "registration.mutual_information": lambda x: registration.mutual_information(x, x[::-1]),
    "register": lambda x: stn.register(x, x, AFFINE).theta,
    "estimation.affine": lambda x: estimation.affine(x[0], x[0]),
    "estimation.rigid": lambda x: estimation.rigid(x[0], x[0]),
    "estimation.similarity": lambda x: estimation.similarity(x[0], x[0]),
    "estimation.homography": lambda x: estimation.homography(x[0], x[0]),
    "augmentation.random_affine": lambda x: augmentation.random_affine(x.shape[:2]),
    "augmentation.random_homography": lambda x: augmentation.random_homography(
        x.shape[:2], amplitude=0.5
    ),
    "augmentation.random_elastic": lambda x: augmentation.random_elastic(
        x.shape[:2], amplitude=0.5, spacing=3
    ),
    "augmentation.random_flip": lambda x: augmentation.random_flip(x.shape[:2]),
    "augmentation.random_crop": lambda x: augmentation.random_crop((9, 9), x.shape[:2]),
    "augmentation.random_resized_crop": lambda x: augmentation.random_resized_crop(
        (9, 9), x.shape[:2]
    ),
    "augmentation.jitter": lambda x: augmentation.jitter(AFFINE, x.shape[:2], spread=0.1),
    "augmentation.augment": lambda x: augmentation.augment(x, TURN, KEY),
}


IMAGE = jax.ShapeDtypeStruct((*export.symbolic_shape("h, w"), 2), jnp.float32)


def test_exported_for_any_size_they_give_what_the_plain_functions_give(no_runtime_types):
    def run(image):
        return {name: function(image) for name, function in WORKS.items()}

    plain = jax.jit(run)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        exported = export.export(plain)(IMAGE)
    for shape in ((5, 6), (7, 4)):
        image = np.random.default_rng(0).random((*shape, 2), np.float32)
        chex.assert_trees_all_close(exported.call(image), plain(image), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", REFUSES)
def test_sizes_that_must_be_numbers_are_named(name, no_runtime_types):
    with pytest.raises(ValueError, match=r"^\w+ must have sizes that are numbers.* one program"):
        jax.eval_shape(lambda image: REFUSES[name](image), IMAGE)


def test_every_public_function_that_takes_a_shape_is_listed():
    modules = {"": stn, "nn.": stnn, "augmentation.": augmentation, "registration.": registration}
    modules |= {
        f"{module.__name__.split('.')[-1]}.": module
        for module in (conversions, diagnostics, estimation, fields, geometry)
    }
    found = set()
    for prefix, module in modules.items():
        for name in getattr(module, "__all__", dir(module)):
            function = getattr(module, name)
            if not inspect.isfunction(function) or not function.__module__.startswith("stn_jax"):
                continue
            if any(each.endswith("shape") for each in inspect.signature(function).parameters):
                found.add(prefix + name)
    listed = {name.split(",")[0] for name in (*WORKS, *REFUSES)}
    assert "fields.from_transform" in found
    assert not {name for name in found if not name.split(".")[-1].startswith("_")} - listed
