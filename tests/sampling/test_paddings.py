"""Clipped samples; what paddings that change weights refuse, and mean for splines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from skimage import transform as skimage_transform

import stn_jax as stn
from stn_jax.sampling.padding import PADDINGS


def an_image(seed=0):
    return np.random.default_rng(seed).normal(size=(6, 7, 2))


def a_grid(seed=1):
    return np.random.default_rng(seed).uniform(-1.5, 1.5, (40, 2))


def test_clipped_samples_are_in_the_range_of_the_image_and_of_what_fills(x64):
    """The range is that of all channels; NaN is no part of it, and stays."""
    image, grid = an_image() + 5, a_grid()

    @jax.jit
    def both(image):
        return {
            (padding, fill): [
                stn.grid_sample(image, grid, padding=padding, fill_value=fill, clip=each, **options)
                for each in (False, True)
            ]
            for padding, fill in (("border", 0.0), ("constant", 0.0), ("constant", 5.0))
        }

    options = {"kernel": "cubic"}
    clipped = 0
    for (padding, fill), (plain, found) in both(image).items():
        values = [*image.ravel(), *[fill] * (padding == "constant")]
        np.testing.assert_array_equal(found, np.clip(plain, min(values), max(values)))
        clipped += np.sum(found != plain)
    assert clipped > 3
    image[2, 3, 0] = np.nan
    plain, found = both(image)["border", 0.0]
    assert np.isnan(plain).any()
    np.testing.assert_array_equal(found, np.clip(plain, np.nanmin(image), np.nanmax(image)))


def test_clipped_as_in_scikit_image():
    image = np.random.default_rng(2).integers(0, 2, (9, 8)).astype(float)
    matrix = np.array([[0.5, 0.3, 1.4], [-0.2, 0.6, 2.3], [0, 0, 1]])
    theirs = skimage_transform.warp(image, matrix, order=3, mode="edge", output_shape=(6, 7))
    theta = stn.conversions.matrix_from_pixels(matrix[:2], (9, 8), (6, 7)).ravel()
    options = {"kernel": "cubic", "padding": "border", "output_shape": (6, 7)}
    plain, ours = (
        stn.warp(jnp.float32(image)[..., None], stn.affine(), theta, clip=each, **options)[..., 0]
        for each in (False, True)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert np.abs(plain - theirs).max() > 1e-3


def test_derivatives_of_clipped_samples(x64):
    """Away from the limits those of the sample; at them those of the limit, one pixel."""
    image, grid = an_image(), a_grid()

    @jax.jit
    def loss(image, grid):
        return jnp.sum(jnp.sin(stn.grid_sample(image, grid, kernel="cubic", clip=True)))

    @jax.jit
    def slopes(image, grid):
        return jax.grad(loss, (0, 1))(image, grid), jax.jacfwd(loss)(image, grid)

    (image_bar, grid_bar), forward = slopes(image, grid)
    expected = reference.central_differences(lambda v: np.asarray(loss(v, grid)), image, 1e-6)
    np.testing.assert_allclose(image_bar, expected, atol=1e-7)
    np.testing.assert_allclose(forward, expected, atol=1e-7)
    assert bool(jnp.isfinite(grid_bar).all())
    still = jax.grad(
        lambda image: stn.grid_sample(image, stn.regular_grid((6, 7)), clip=True).sum()
    )
    np.testing.assert_array_equal(still(image), 1)


@pytest.mark.parametrize("padding", ["dst1", "dst2"])
def test_splines_of_antisymmetric_images(padding, x64):
    """The spline passes through the continued image: 0 at the centres, or at the edges, between."""
    image = np.random.default_rng(3).normal(size=(9, 1))
    extended = reference.extend(image, 10, padding, 0, False)[:, 0]
    options = {"kernel": "bspline3", "padding": padding}
    found = stn.sample_pixels(image, np.arange(-10.0, 19)[:, None], **options)[:, 0]
    np.testing.assert_allclose(found, extended, atol=1e-12)
    between = {"dst1": [-1.0, 9.0], "dst2": [-0.5, 8.5]}[padding]
    zeros = stn.sample_pixels(image, np.array(between)[:, None], **options)
    np.testing.assert_allclose(zeros, 0, atol=1e-12)


def test_errors(no_runtime_types):
    image, grid = np.float32(an_image()), np.float32(a_grid())
    for name in ("dst1", "dst2"):
        assert PADDINGS[name].sign is not None
        with pytest.raises(TypeError, match=f"floating dtype with padding='{name}'.*got uint8"):
            stn.grid_sample(np.uint8(image), grid, kernel="nearest", padding=name)
    for call in (
        lambda: stn.grid_sample(image, grid, kernel="bspline3", padding="renormalized"),
        lambda: stn.spline_coefficients(image, padding="renormalized"),
    ):
        with pytest.raises(
            ValueError, match=r"pixels outside a value for a spline.*'renormalized'"
        ):
            call()
