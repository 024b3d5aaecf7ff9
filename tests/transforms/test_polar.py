"""Polar coordinates against OpenCV and scikit-image; turns and scales become shifts."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage import transform

import stn_jax as stn

H, W, h, w = 48, 64, 30, 20
CENTRE, RADIUS = (30.0, 22.0), 18.0  # in pixels


def read(image, t):
    """The image at what the other libraries read: they count from the border, not from centres."""
    u, v = np.meshgrid(2 * np.arange(w) / w - 1, 2 * np.arange(h) / h - 1)
    theta = stn.normalized_from_pixels(jnp.array(CENTRE), (H, W))
    points = jnp.asarray(np.stack([u, v], axis=-1), jnp.float32)
    return stn.grid_sample(jnp.asarray(image), t.apply(theta, points))


@pytest.fixture
def image(rng):
    return cv2.GaussianBlur(rng.uniform(size=(H, W, 3)).astype(np.float32), (0, 0), 3)


def test_polar_images_are_those_of_opencv_and_scikit_image(image):
    ours = read(image, stn.polar(radius=RADIUS / (H / 2), aspect=W / H))
    theirs = cv2.warpPolar(image, (w, h), CENTRE, RADIUS, cv2.INTER_LINEAR)
    np.testing.assert_allclose(ours, theirs, atol=3e-3)  # OpenCV rounds to 1/32 of a pixel
    options = {"center": CENTRE[::-1], "radius": RADIUS, "output_shape": (h, w), "channel_axis": -1}
    np.testing.assert_allclose(ours, transform.warp_polar(image, **options), atol=1e-5)


def test_log_polar_images_are_those_of_scikit_image(image):
    t = stn.log_polar(inner=1 / (H / 2), radius=RADIUS / (H / 2), aspect=W / H)
    options = {"center": CENTRE[::-1], "radius": RADIUS, "output_shape": (h, w), "channel_axis": -1}
    theirs = transform.warp_polar(image, scaling="log", **options)
    np.testing.assert_allclose(read(image, t), theirs, atol=1e-5)


def test_turns_and_sizes_are_shifts(rng):
    t, theta = stn.log_polar(inner=0.1, radius=1.6), jnp.array([0.2, -0.1])
    points = jnp.asarray(rng.uniform(-0.5, 0.5, (20, 2)), jnp.float32)
    turn = jnp.array([1.3, 0.4, 0.0, 0.0])
    about = theta + stn.similarity().apply(turn, t.apply(theta, points) - theta)
    shift = jnp.array([2 * np.log(1.3) / np.log(16), 0.4 / np.pi], jnp.float32)
    np.testing.assert_allclose(t.apply(theta, points + shift), about, atol=1e-5)


def test_the_centre_has_no_direction_and_finite_slopes():
    for t in (stn.polar(), stn.log_polar()):
        slopes = jax.jacrev(t.invert, (0, 1))(jnp.zeros(2), jnp.zeros((1, 2)))
        assert all(bool(jnp.isfinite(each).all()) for each in slopes)
    assert stn.polar().invert(jnp.zeros(2), jnp.zeros(2)).tolist() == [-1.0, -1.0]
    assert stn.log_polar().invert(jnp.zeros(2), jnp.zeros(2))[0] == -jnp.inf


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: stn.polar(radius=0), r"radius must be a positive number; got 0"),
        (lambda: stn.log_polar(inner=-1.0), r"inner must be a positive number; got -1.0"),
        (lambda: stn.log_polar(inner=1.0), r"inner must be below radius"),
        (lambda: stn.polar(aspect=-1), r"aspect must be positive.*got -1"),
    ],
)
def test_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()
