"""What each augmentation draws: ranges, places, probabilities, and maps that do not fold."""

import math

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmentations import KEY, SHAPE, draws, keys
from hypothesis import given
from hypothesis import strategies as st

from stn_jax import augmentation as aug

pytestmark = pytest.mark.cross_section(4)


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 2**31 - 1))
def test_two_flips_change_no_bit(shape, seed):
    flip = aug.random_flip(shape, axes=(0, 1))
    image = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    theta = flip.draw(jax.random.key(seed))
    once = aug.move(image, flip, theta)
    signs = np.asarray(theta)[[0, 4]]
    np.testing.assert_array_equal(once, image[:: int(signs[1]), :: int(signs[0])])
    np.testing.assert_array_equal(aug.move(once, flip, theta), image)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**31 - 1),
)
def test_a_crop_is_a_slice_of_the_padded_image(shape, output, seed):
    margin = max(0, *(math.ceil((o - s) / 2) for o, s in zip(output, shape, strict=True))) + 1
    crop = aug.random_crop(shape, output, margin=margin)
    image = np.random.default_rng(seed).normal(size=(*shape, 1)).astype(np.float32)
    theta = np.asarray(crop.draw(jax.random.key(seed)), np.float64).reshape(2, 3)
    part = np.asarray(aug.move(image, crop, theta.ravel().astype(np.float32)))
    # The centre of the output's first pixel, in pixels of the input.
    first = [
        round((theta[k, k] * (1 / output[1 - k] - 1) + theta[k, 2] + 1) * shape[1 - k] / 2 - 0.5)
        for k in (0, 1)
    ]
    padded = np.pad(image, [(margin, margin), (margin, margin), (0, 0)])
    x, y = (each + margin for each in first)
    assert x >= 0
    assert y >= 0
    np.testing.assert_array_equal(part, padded[y : y + output[0], x : x + output[1]])


def test_all_places_of_a_crop_are_equally_likely():
    crop = aug.random_crop((1, 6), (1, 3))
    image = np.arange(1.0, 7)[None, :, None]
    moved = jax.jit(jax.vmap(lambda key: aug.augment(image, crop, key)))(keys(1200))
    seen, counts = np.unique(np.asarray(moved)[:, 0, 1, 0], return_counts=True)
    np.testing.assert_array_equal(seen, [2, 3, 4, 5])
    assert counts.min() > 240
    assert counts.max() < 360


_ANGLES = st.floats(-3, 3)


@given(
    st.tuples(st.integers(2, 80), st.integers(2, 80)),
    st.tuples(_ANGLES, st.floats(0, 0.1)),
    st.tuples(st.floats(0.3, 3), st.floats(1, 2)),
    st.tuples(st.floats(-9, 9), st.floats(0, 9)),
)
def test_an_affine_draw_keeps_to_its_ranges(shape, turns, factors, shifts):
    angle = (turns[0], turns[0] + turns[1])
    scale = (factors[0], factors[0] * factors[1])
    shift = (shifts[0], shifts[0] + shifts[1])
    affine = aug.random_affine(shape, angle=angle, scale=scale, translation=shift)
    half = np.array(shape[::-1]) / 2
    for theta in np.asarray(draws(affine, keys(16)), np.float64):
        matrix = np.vstack([theta.reshape(2, 3), [0, 0, 1]])
        stretch = np.diag([*half, 1])
        # How content moves, in pixels from the centre.
        forward = np.linalg.inv(stretch @ matrix @ np.linalg.inv(stretch))
        factor = np.sqrt(np.linalg.det(forward[:2, :2]))
        turned = forward[:2, :2] / factor
        # A rotation of pixels, also where the image is not square.
        np.testing.assert_allclose(turned @ turned.T, np.eye(2), atol=1e-4)
        found = np.arctan2(turned[1, 0], turned[0, 0])
        off = (found - angle[0] + np.pi) % (2 * np.pi) - np.pi
        assert -1e-4 <= off <= angle[1] - angle[0] + 1e-4
        assert scale[0] * (1 - 1e-4) <= factor <= scale[1] * (1 + 1e-4)
        assert (forward[:2, 2] >= shift[0] - 1e-3).all()
        assert (forward[:2, 2] <= shift[1] + 1e-3).all()


def test_an_affine_draw_is_that_of_opencv(rng):
    angle, scale, shift = 0.4, 1.3, (5.0, -3.0)
    affine = aug.random_affine(
        SHAPE,
        angle=(angle, angle),
        scale=(scale, scale),
        translation=np.array(shift)[:, None] * [1.0, 1.0],
    )
    centre = (SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2
    # OpenCV's positive angles turn the other way.
    matrix = cv2.getRotationMatrix2D(centre, -np.degrees(angle), scale)
    matrix[:, 2] += shift
    points = rng.uniform(0, 40, (9, 2))
    moved = aug.augment({"points": points.astype(np.float32)}, affine, KEY)["points"]
    np.testing.assert_allclose(moved, points @ matrix[:, :2].T + matrix[:, 2], atol=5e-4)
    image = cv2.GaussianBlur(rng.uniform(size=SHAPE), (0, 0), 2).astype(np.float32)
    found = aug.augment(image[..., None], affine, KEY)[..., 0]
    np.testing.assert_allclose(found, cv2.warpAffine(image, matrix, SHAPE[::-1]), atol=0.04)


def test_a_turn_of_a_volume_has_its_angle():
    shape = (10, 20, 30)
    turn = aug.random_affine(shape, angle=(0.7, 0.7))
    half = np.diag(np.array(shape[::-1]) / 2)
    axes = []
    for theta in np.asarray(draws(turn, keys(400)), np.float64):
        rotation = half @ theta.reshape(3, 4)[:, :3] @ np.linalg.inv(half)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.trace(rotation) == pytest.approx(1 + 2 * np.cos(0.7), abs=1e-5)
        skew = rotation - rotation.T
        axes.append(np.array([skew[2, 1], skew[0, 2], skew[1, 0]]) / (2 * np.sin(0.7)))
    # The axes are uniform on the sphere: their mean is 0 and their covariance 1/3.
    np.testing.assert_allclose(np.mean(axes, axis=0), 0, atol=0.12)
    np.testing.assert_allclose(np.cov(np.transpose(axes)), np.eye(3) / 3, atol=0.07)


@given(st.tuples(st.integers(8, 60), st.integers(8, 60)), st.floats(0, 0.99))
def test_a_homography_is_that_of_opencv(shape, share):
    amplitude = share * min(shape) / 4
    tilt = aug.random_homography(shape, amplitude=amplitude)
    theta = tilt.draw(KEY)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    source = np.asarray(tilt.transform.apply(theta, corners))
    off = np.abs(source - corners) * np.array(shape[::-1]) / 2
    assert off.max() <= amplitude * (1 + 1e-4) + 1e-4
    expected = cv2.getPerspectiveTransform(corners, source)
    np.testing.assert_allclose(np.append(theta, 1).reshape(3, 3), expected, atol=1e-3)
    # The region is convex, so no point of the output lies behind the camera.
    assert (np.abs(theta[6]) + np.abs(theta[7])) < 1


@pytest.mark.parametrize("shape", [(40, 72), (12, 16, 20)])
def test_an_elastic_draw_keeps_to_its_amplitude_and_never_folds(shape, x64):
    spacing = 12 if len(shape) == 2 else 6
    largest = 0.98 * min(s / round(s / spacing) for s in shape) / (1.5 * len(shape))
    bend = aug.random_elastic(shape, amplitude=largest, spacing=spacing)
    half = np.array(shape[::-1]) / 2
    points = jnp.asarray(np.random.default_rng(0).uniform(-1.2, 1.2, (300, len(shape))))
    thetas = draws(bend, keys(40))
    displaced = jax.jit(jax.vmap(lambda theta: bend.transform.displacement(theta, points)))
    moved = np.asarray(displaced(thetas)) * half
    assert np.abs(moved).max() <= largest
    inside = np.abs(np.asarray(points)).max(axis=-1) < 0.7
    root_mean_square = np.sqrt(np.mean(moved[:, inside] ** 2)) / largest
    assert root_mean_square == pytest.approx({2: 0.277, 3: 0.192}[len(shape)], rel=0.1)
    there = jax.jit(lambda theta: bend.transform.apply(theta, bend.transform.invert(theta, points)))
    for theta in thetas[:3]:
        np.testing.assert_allclose(there(theta), points, atol=1e-9)


def test_an_elastic_draw_is_a_spline_of_noise(x64):
    """The field is smooth: SciPy's cubic spline through every second value gives the others."""
    from scipy.interpolate import RectBivariateSpline

    bend = aug.random_elastic((128, 128), amplitude=8.0, spacing=32)
    field = np.asarray(bend.draw(KEY)).reshape(16, 16, 2)[..., 0] * 64
    rows = np.arange(16)
    coarse = RectBivariateSpline(rows[::2], rows[::2], field[::2, ::2])
    assert np.abs(coarse(rows[2:13], rows[2:13]) - field[2:13, 2:13]).max() < 0.3
    assert field.std() > 1


@given(
    st.tuples(st.integers(4, 80), st.integers(4, 80)),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
def test_a_resized_crop_keeps_to_its_ranges(shape, areas, aspects):
    area, aspect = sorted(areas), sorted(aspects)
    crop = aug.random_resized_crop(shape, (8, 8), area=area, aspect=aspect)
    for theta in np.asarray(draws(crop, keys(24)), np.float64):
        sx, zero, tx, other, sy, ty = theta
        assert zero == other == 0
        assert abs(tx) + sx <= 1 + 1e-5
        assert abs(ty) + sy <= 1 + 1e-5
        assert area[0] - 1e-4 <= sx * sy <= area[1] + 1e-4
        found, own = sx / sy * shape[1] / shape[0], shape[1] / shape[0]
        fits = np.log([own * sx * sy, own / (sx * sy)])
        low, high = np.clip(np.log(aspect), *fits)
        assert low - 1e-3 <= np.log(found) <= high + 1e-3


def test_a_resized_crop_without_a_fitting_aspect_takes_the_nearest():
    crop = aug.random_resized_crop((10, 100), (8, 8), area=(0.5, 0.5))
    sx, _, _, _, sy, _ = np.asarray(crop.draw(KEY))
    assert sy == pytest.approx(1, abs=1e-5)
    assert sx == pytest.approx(0.5, abs=1e-5)


def test_probabilities_are_kept():
    flip = aug.random_flip(SHAPE, axes=(0, 1), probability=0.3)
    signs = np.asarray(draws(flip, keys(2000)))[:, [0, 4]]
    np.testing.assert_allclose((signs < 0).mean(axis=0), 0.3, atol=0.04)
    assert abs(np.corrcoef(signs.T)[0, 1]) < 0.08
    shift = aug.sometimes(aug.random_affine(SHAPE, translation=(1, 2)), probability=0.8)
    moved = np.asarray(draws(shift, keys(2000)))[:, 2] != 0
    assert moved.mean() == pytest.approx(0.8, abs=0.04)
