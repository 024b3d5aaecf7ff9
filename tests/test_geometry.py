"""Matrices beside those of OpenCV, scikit-image, SciPy; crops beside ROI align and TensorFlow's."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import ndimage
from skimage import transform

import stn_jax as stn
from stn_jax import conversions, geometry


def test_a_rotation_about_a_centre_is_that_of_opencv(x64):
    ours = geometry.affine_matrix(angle=-np.deg2rad(25), scale=1.3, center=np.array([31.5, 20.0]))
    np.testing.assert_allclose(ours, cv2.getRotationMatrix2D((31.5, 20.0), 25, 1.3), atol=1e-12)


def test_scale_shear_and_rotation_are_those_of_scikit_image(x64):
    ours = geometry.affine_matrix(
        angle=0.4, scale=np.array([1.5, 0.7]), shear=0.3, translation=np.array([3.0, -2.0])
    )
    theirs = transform.AffineTransform(
        scale=(1.5, 0.7), rotation=0.4, shear=(-np.arctan(0.3), 0), translation=(3, -2)
    )
    np.testing.assert_allclose(ours, theirs.params[:2], atol=1e-12)


def test_volumes_are_scaled_sheared_turned_and_moved(x64):
    angle, scale, center = np.array([0.3, -0.5, 0.2]), np.array([1.1, 0.9, 2.0]), np.arange(3.0)
    ours = geometry.affine_matrix(
        angle=angle, scale=scale, shear=np.array([0.1, 0.2, 0.3]), center=center, translation=2.0,
        ndim=3,
    )  # fmt: skip
    shear = np.array([[1, 0.1, 0.2], [0, 1, 0.3], [0, 0, 1]])
    linear = reference.rotation(angle) @ shear @ np.diag(scale)
    np.testing.assert_allclose(ours[:, :3], linear, atol=1e-12)
    np.testing.assert_allclose(ours @ np.append(center, 1), center + 2, atol=1e-12)
    np.testing.assert_array_equal(geometry.affine_matrix(ndim=3), np.eye(3, 4))


def test_its_derivatives_are_those_of_the_formula(x64):
    @jax.jit
    def matrix(v):
        return geometry.affine_matrix(angle=v[0], scale=v[1:3], shear=v[3], center=v[4:])

    at = np.array([0.4, 1.2, 0.8, 0.3, 2.0, 1.0])
    expected = reference.central_differences(matrix, at)
    for mode in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(mode(matrix)(at), expected, atol=1e-8)


def torchvision_shape(matrix, shape):
    """The size of the expanded output of torchvision, from corners about the centre."""
    height, width = shape
    corners = np.array(
        [[-width / 2, -height / 2], [-width / 2, height / 2], [width / 2, height / 2],
         [width / 2, -height / 2]]
    )  # fmt: skip
    moved = corners @ np.linalg.inv(matrix[:, :2]).T
    low, high = (np.trunc(each / 1e-4) * 1e-4 for each in (moved.min(0), moved.max(0)))
    return tuple((np.ceil(high) - np.floor(low)).astype(int)[::-1].tolist())


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 137])
def test_the_whole_image_is_held(degrees):
    shape = (20, 33)
    matrix = geometry.affine_matrix(angle=np.deg2rad(degrees), scale=0.9, shear=0.2)
    whole = geometry.expand_output(matrix, shape)
    edges = np.array([[x, y] for x in (-0.5, 32.5) for y in (-0.5, 19.5)])
    places = reference.act(np.linalg.inv(np.vstack([whole.matrix, [0, 0, 1]])), edges)
    limits = np.array(whole.output_shape[::-1]) - 0.5
    assert (places > -0.5 - 1e-3).all()
    assert (places < limits + 1e-3).all()
    assert (np.ptp(places, axis=0) > limits - 0.5 - 1e-3).all(), "a pixel less would not hold it"
    theirs = torchvision_shape(np.asarray(matrix), shape)
    assert all(abs(a - b) <= 1 for a, b in zip(whole.output_shape, theirs, strict=True))


def test_a_rotation_holds_what_that_of_scipy_holds():
    image = np.random.default_rng(0).uniform(size=(12, 17)).astype(np.float32)
    theirs = ndimage.rotate(image, 30, order=1)
    turn = geometry.affine_matrix(angle=np.deg2rad(30))
    whole = geometry.expand_output(turn, image.shape)
    matrix = conversions.matrix_from_pixels(whole.matrix, image.shape, whole.output_shape)
    ours = stn.warp(
        jnp.asarray(image)[..., None], stn.affine(), matrix.ravel(), output_shape=whole.output_shape
    )
    assert ours.shape[:2] == theirs.shape
    # SciPy reads nothing from beyond the outer centres, and we half a pixel more.
    inner = ndimage.rotate(np.ones_like(image), 30, order=1) == 1
    np.testing.assert_allclose(ours[..., 0][inner], theirs[inner], atol=1e-5)


def test_a_homography_and_a_volume_are_held():
    homography = np.array([[1.0, 0.1, 2.0], [0.0, 1.1, -1.0], [0.004, 0.002, 1.0]])
    whole = geometry.expand_output(homography, (20, 30))
    edges = np.array([[x, y] for x in (-0.5, 29.5) for y in (-0.5, 19.5)])
    places = reference.act(np.linalg.inv(whole.matrix), edges)
    assert (places > -0.5 - 1e-3).all()
    assert (places < np.array(whole.output_shape[::-1]) - 0.5 + 1e-3).all()
    volume = geometry.expand_output(geometry.affine_matrix(scale=0.5, ndim=3), (2, 3, 4))
    assert volume.output_shape == (4, 6, 8)


def roi_align(image, box, shape, samples):
    """Mask R-CNN's, as torchvision's with ``aligned=True``: means of bilinear samples in a bin."""
    height, width = image.shape[:2]
    left, top, right, bottom = np.asarray(box) - 0.5
    out = np.zeros((*shape, image.shape[-1]))
    for i, j in np.ndindex(shape):
        for a, b in np.ndindex(samples, samples):
            y = top + (i + (a + 0.5) / samples) * (bottom - top) / shape[0]
            x = left + (j + (b + 0.5) / samples) * (right - left) / shape[1]
            y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
            y0, x0 = min(int(y), height - 2), min(int(x), width - 2)
            for dy, dx in np.ndindex(2, 2):
                weight = abs(1 - dy - (y - y0)) * abs(1 - dx - (x - x0))
                out[i, j] += weight * image[y0 + dy, x0 + dx] / samples**2
    return out


def test_roi_align_is_a_crop_and_a_mean(rng):
    image = rng.uniform(size=(11, 13, 2)).astype(np.float32)
    box = np.array([1.3, 0.2, 9.7, 8.4], np.float32)  # (x0, y0, x1, y1), from the outer edges on
    normalized = 2 * box / np.array([13, 11, 13, 11], np.float32) - 1
    theta = geometry.crop_matrix(normalized).ravel()
    options = {"output_shape": (3 * 2, 4 * 2), "padding": "border"}
    samples = stn.warp(jnp.asarray(image), stn.affine(), theta, **options)
    ours = samples.reshape(3, 2, 4, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(ours, roi_align(image, box, (3, 4), 2), atol=1e-5)


def test_crop_and_resize_is_a_crop_with_aligned_corners(rng):
    """TensorFlow's formula: row ``i`` of ``h`` reads ``(y0 + i (y1 − y0) / (h − 1)) (H − 1)``."""
    image = rng.uniform(size=(11, 13, 2)).astype(np.float32)
    x0, y0, x1, y1 = box = np.array([0.1, 0.25, 0.8, 0.95], np.float32)
    theta = geometry.crop_matrix(2 * box - 1).ravel()
    ours = stn.warp(
        jnp.asarray(image), stn.affine(), theta, output_shape=(5, 7), align_corners=True
    )
    y, x = np.linspace(y0, y1, 5) * 10, np.linspace(x0, x1, 7) * 12
    index = np.stack(np.meshgrid(y, x, indexing="ij"))
    expected = [ndimage.map_coordinates(image[..., c], index, order=1) for c in range(2)]
    np.testing.assert_allclose(ours, np.stack(expected, axis=-1), atol=1e-5)


def test_a_box_of_a_volume():
    matrix = geometry.crop_matrix(np.array([-1.0, -0.5, 0.0, 1.0, 0.5, 0.5]))
    corners = reference.act(np.vstack([matrix, [0, 0, 0, 1]]), np.array([[-1.0] * 3, [1.0] * 3]))
    np.testing.assert_allclose(corners, [[-1, -0.5, 0], [1, 0.5, 0.5]], atol=1e-7)


TURN = np.eye(2, 3)
ERRORS = {
    "four axes": (lambda: geometry.affine_matrix(ndim=4), r"2 and 3; got 4"),
    "a number turns no volume": (
        lambda: geometry.affine_matrix(angle=0.3, ndim=3),
        r"angle must be a vector of 3; got shape \(\)",
    ),
    "centre of three": (
        lambda: geometry.affine_matrix(center=np.zeros(3)),
        r"center must be a number or a vector of 2.*\(3,\)",
    ),
    "box of two": (lambda: geometry.crop_matrix(np.zeros(2)), r"\(4,\).*got shape \(2,\)"),
    "traced shape": (
        lambda: jax.jit(lambda m: geometry.expand_output(m, (3, 3)).matrix)(TURN),
        r"matrix must be known.*outside of jit",
    ),
    "singular": (lambda: geometry.expand_output(0 * TURN, (3, 3)), r"inverse"),
    "volume's matrix": (lambda: geometry.expand_output(np.eye(4), (3, 3)), r"\(2, 3\) or \(3, 3\)"),
    "horizon": (
        lambda: geometry.expand_output(np.array([[1, 0, 0], [0, 1, 0], [0.5, 0, 1.0]]), (9, 9)),
        r"horizon",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error(case, no_runtime_types):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
