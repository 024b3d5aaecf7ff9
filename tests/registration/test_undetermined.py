"""Parameters that the images do not determine keep their start."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import gaussian_filter1d, shift

import stn_jax as stn

# A line and the same line 3.2 pixels to the left; 0.1 in normalised units of 64 pixels.
LINE = gaussian_filter1d(np.random.default_rng(0).random(64), 2.0)
MOVED = shift(LINE, -3.2, order=1, mode="nearest")
ADAM = {"optimizer": optax.adam(0.1), "iterations": 80}


def image(line, copies, axis):
    """Copies of a line along an axis: an image of one row or column, or of stripes."""
    return np.repeat(np.expand_dims(line, axis), copies, axis)[..., None].astype(np.float32)


@pytest.mark.parametrize(
    ("transform", "copies", "axis", "options"),
    [
        pytest.param(stn.affine(), 1, 0, {}, id="a row"),
        pytest.param(stn.translation(), 1, 1, {"search": True}, id="a column, searched"),
        pytest.param(stn.affine(), 8, 0, {}, id="stripes"),
        pytest.param(stn.translation(), 1, 0, ADAM, id="a row, by Adam"),
        pytest.param(stn.rigid(), 8, 1, {"loss": "mean_squared_error"}, id="stripes, by squares"),
    ],
)
def test_they_keep_their_start_and_the_others_are_found(transform, copies, axis, options):
    images = [image(line, copies, axis) for line in (MOVED, LINE)]
    start = transform.identity.astype(np.float32)
    still = 1 - axis  # The coordinate along which all pixels are equal, of (x, y).
    options = {"theta": start, "search": False} | options
    found = stn.register(*images, transform, **options)
    moved = transform.apply(found.theta, jnp.zeros(2))
    np.testing.assert_allclose(moved, 0.1 * (np.arange(2) != still), atol=1e-3)
    corners = np.float32([[-1, -1], [1, -1], [-1, 1], [1, 1]])
    displaced = transform.apply(found.theta, corners) - corners
    assert np.abs(displaced[:, still]).max() < 1e-4


def test_traced_images_without_any_contrast_keep_the_start():
    flat = jnp.full((12, 16, 1), 0.3)
    start = jnp.array([1.1, 0.05, 0.1, 0.0, 0.9, -0.1])
    register = jax.jit(lambda a, b: stn.register(a, b, stn.affine(), theta=start).theta)
    np.testing.assert_array_equal(register(flat, flat), start)
    with pytest.raises(ValueError, match="fixed must not be constant"):
        stn.register(flat, flat, stn.affine())
