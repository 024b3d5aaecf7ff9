"""NumPy arrays that JAX refuses: in the byte order of other machines, and of other than numbers."""

from collections.abc import Callable

import chex
import jax
import numpy as np
import pytest
from flax import nnx

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


# Each is called with arrays of both byte orders, and with arrays that hold no numbers.
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
        lambda a: stn.sample_pixels(IMAGE, POINTS, kernel=stn.cubic(a=np.reshape(a, ()))),
        (np.array([-0.75]),),
    ),
    "spread": (
        lambda spread: jax.grad(
            lambda pixels: stn.sample_pixels(
                IMAGE, pixels, gradient=stn.Linearized(spread=np.reshape(spread, ()))
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


# Arrays of the same shape whose elements are no numbers.
NOT_NUMBERS: dict[str, Callable[[np.ndarray], object]] = {
    "objects": lambda array: array.astype(object),
    "strings": lambda array: array.astype(str),
    "bytes": lambda array: array.astype(bytes),
    "dates": lambda array: array.astype("datetime64[D]"),
    "structures": lambda array: array.astype([("value", "f4")]),
    "a list of strings": lambda array: np.full(array.shape, "one").tolist(),
}


WORLD = np.eye(3)
# Further entries, called with arrays that hold no numbers alone.
ENTRIES = CALLS | {
    "register": (lambda *images: stn.register(*images, stn.affine()), (IMAGE, IMAGE)),
    "masks": (lambda mask: stn.register(IMAGE, IMAGE, stn.affine(), fixed_mask=mask), (IMAGE[0],)),
    "start": (lambda theta: stn.register(IMAGE, IMAGE, stn.affine(), theta=theta), (THETA,)),
    "cross_correlation": (registration.cross_correlation, (IMAGE, IMAGE)),
    "weights": (
        lambda weights: registration.mean_squared_error(IMAGE, IMAGE, weights=weights),
        (IMAGE[..., 0],),
    ),
    "bending_energy": (
        lambda theta: registration.bending_energy(stn.affine(), theta, (4, 4)),
        (THETA,),
    ),
    "apply": (stn.affine().apply, (THETA, POINTS)),
    "invert": (stn.affine().invert, (THETA, POINTS)),
    "matrix": (stn.affine().matrix, (THETA,)),
    "normalized_from_pixels": (lambda p: stn.normalized_from_pixels(p, (6, 7)), (POINTS,)),
    "coverage": (lambda theta: diagnostics.coverage(stn.affine(), theta, (3, 3)), (THETA,)),
    "jacobian": (lambda *both: diagnostics.jacobian(stn.affine(), *both), (THETA, POINTS)),
    "crop_matrix": (geometry.crop_matrix, (np.array([-0.5, -0.5, 0.5, 0.25]),)),
    "affine_matrix": (lambda each: geometry.affine_matrix(center=each), (np.zeros(2),)),
    "expand_output": (lambda matrix: geometry.expand_output(matrix, (6, 7)), (MATRIX,)),
    "reverse_axes": (conversions.reverse_axes, (MATRIX,)),
    "projective_theta": (conversions.projective_theta, (WORLD,)),
    "matrix_from_box": (lambda box: conversions.matrix_from_box(box, (6, 7)), (np.arange(4.0),)),
    "box_from_matrix": (lambda matrix: conversions.box_from_matrix(matrix, (6, 7)), (MATRIX,)),
    "offsets_from_voxels": (conversions.offsets_from_voxels, (IMAGE,)),
    "offsets_from_optical_flow": (conversions.offsets_from_optical_flow, (IMAGE,)),
    "optical_flow_from_kitti": (conversions.optical_flow_from_kitti, (IMAGE,)),
    "world_from_itk": (conversions.world_from_itk, (np.ones(2), np.ones(2), np.eye(2))),
    "world_from_nibabel": (conversions.world_from_nibabel, (np.eye(4),)),
    "offsets_from_world": (conversions.offsets_from_world, (IMAGE, WORLD, WORLD)),
    "weights of pairs": (
        lambda weights: estimation.affine(LANDMARKS, LANDMARKS, weights=weights),
        (np.ones(5),),
    ),
    "radius": (lambda each: stn.bounded(stn.affine(), radius=each), (THETA + 2,)),
    "aspect": (lambda each: stn.isotropic(stn.affine(), aspect=each), (np.ones(1),)),
    "spread of an augmentation": (
        lambda each: augmentation.jitter(stn.affine(), (6, 7), spread=each),
        (THETA + 2,),
    ),
    "range": (lambda each: augmentation.random_affine((6, 7), angle=each), (np.arange(2.0),)),
    "monitor": (lambda theta: stnn.monitor(stn.affine(), theta, (3, 3)), (THETA[None],)),
    "gaussian_kl": (stnn.gaussian_kl, (THETA, THETA, THETA, THETA)),
    "identity": (
        lambda each: stn.Transform(
            name="own", ndim=2, identity=each, displacement=np.add, inverse=np.subtract
        ),
        (THETA,),
    ),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_arrays_of_other_than_numbers_are_named(name: str, no_runtime_types: None) -> None:
    call, arrays = ENTRIES[name]
    for kind, changed in NOT_NUMBERS.items():
        for place in range(len(arrays)):
            given = [changed(a) if k == place else a for k, a in enumerate(arrays)]
            with pytest.raises(TypeError, match=r"^\w+ (of scaled )?must be .*; got ") as caught:
                call(*given)
            assert type(caught.value) is TypeError, kind
