"""Dense fields beside NumPy, and the laws of composition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

import stn_jax as stn
from stn_jax import fields

both_alignments = pytest.mark.parametrize("align_corners", [False, True])


def a_field(shape=(9, 8), size=0.03, seed=0):
    """Smooth, and small enough not to fold."""
    noise = np.random.default_rng(seed).normal(size=(*shape, len(shape)))
    smooth = ndimage.gaussian_filter(noise, [2] * len(shape) + [0], mode="nearest")
    return size * smooth / np.abs(smooth).std()


@both_alignments
def test_composition_by_interpolation(align_corners, x64):
    """SciPy's linear interpolation of the second field at the points of the first."""
    first, second = a_field(), a_field((6, 7), seed=1)
    found = fields.compose(first, second, align_corners=align_corners)
    points = np.asarray(stn.regular_grid((9, 8), align_corners=align_corners)) + first
    sizes = np.array([7, 6])
    pixels = (points + 1) / 2 * (sizes - 1) if align_corners else (points + 1) / 2 * sizes - 0.5
    places = np.moveaxis(pixels[..., ::-1], -1, 0)
    there = [
        ndimage.map_coordinates(second[..., k], places, order=1, mode="nearest") for k in (0, 1)
    ]
    np.testing.assert_allclose(found, first + np.stack(there, -1), atol=1e-13)


@pytest.mark.parametrize("shape", [(9, 8), (5, 4, 6)])
def test_inverse_and_exponential(shape, x64):
    field = a_field(shape, 0.02)
    back = jax.jit(fields.inverse)(field)
    np.testing.assert_allclose(fields.compose(back, field), 0, atol=1e-10)
    there, again = (fields.exponential(v) for v in (field, -field))
    # The fields are interpolated linearly, so they are inverse to each other up to that.
    assert np.abs(fields.compose(there, again)).max() < 0.1 * np.abs(field).max()
    assert np.abs(there - field).max() < 0.2 * np.abs(field).max()


@both_alignments
@pytest.mark.parametrize("shape", [(9, 8), (2, 4, 3)])
def test_jacobian_by_numpys_gradient(shape, align_corners, x64):
    """And by VoxelMorph's definition of the determinant, in pixels, which has no units."""
    field, n = a_field(shape), len(shape)
    sizes = np.array(shape[::-1]) - align_corners
    found = fields.jacobian(field, align_corners=align_corners)
    for i in range(n):
        for j in range(n):
            slope = np.gradient(field[..., i], axis=n - 1 - j) * sizes[j] / 2
            np.testing.assert_allclose(found[..., i, j], slope + (i == j), atol=1e-12)
    voxels = np.asarray(stn.conversions.voxels_from_offsets(field, align_corners=align_corners))
    moved = voxels + np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    matrices = np.stack([np.gradient(moved, axis=axis) for axis in range(n)], -1)
    np.testing.assert_allclose(
        fields.log_abs_det(field, align_corners=align_corners),
        np.log(np.abs(np.linalg.det(matrices))),
        atol=1e-11,
    )


def test_the_field_of_a_transform_warps_as_the_transform(rng):
    t, image = stn.thin_plate_spline((3, 3)), np.float32(rng.normal(size=(9, 8, 2)))
    theta = np.float32(t.identity + 0.1 * rng.normal(size=18))
    field = fields.from_transform(t, theta, (9, 8))
    found = stn.warp(image, stn.flow((9, 8)), field.ravel())
    np.testing.assert_allclose(found, stn.warp(image, t, theta), atol=1e-5)


def test_gradients_reach_every_field(x64):
    first, second = a_field((4, 5)), a_field((4, 5), seed=1)
    along = a_field((4, 5), seed=2), a_field((4, 5), seed=3)

    @jax.jit
    def loss(first, second):
        whole = fields.inverse(fields.compose(first, second))
        return jnp.sum(jnp.sin(whole)) + jnp.sum(fields.log_abs_det(whole))

    @jax.jit
    def slopes(first, second):
        both = jax.grad(loss, (0, 1))(first, second)
        reverse = sum(jnp.vdot(a, b) for a, b in zip(both, along, strict=True))
        return reverse, jax.jvp(loss, (first, second), along)[1]

    ends = [loss(first + s * along[0], second + s * along[1]) for s in (1e-6, -1e-6)]
    np.testing.assert_allclose(slopes(first, second), (ends[0] - ends[1]) / 2e-6, rtol=1e-5)


def test_errors(no_runtime_types):
    field = a_field()
    with pytest.raises(ValueError, match="same number of coordinates"):
        fields.compose(field, a_field((3, 3, 3)))
    with pytest.raises(ValueError, match=r"\[height, width, 2\].*got \(9, 8, 3\)"):
        fields.inverse(np.zeros((9, 8, 3)))
    with pytest.raises(ValueError, match="at least 2 pixels along each axis"):
        fields.jacobian(np.zeros((1, 8, 2)))
    with pytest.raises(TypeError, match="floating"):
        fields.exponential(np.zeros((4, 8, 2), int))
