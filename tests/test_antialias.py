"""Antialiasing equals supersampling, and changes nothing where the map does not reduce."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import stn_jax as stn
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS


def a_picture(size, seed=0):
    """Noise of every frequency, and an edge."""
    image = np.random.default_rng(seed).normal(size=(size, size, 1))
    image[:, size // 3 :] += 2
    return image


def similarity(scale, angle=0.0):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return jnp.asarray([c, -s, 0.01, s, c, -0.02], jnp.float32)


def supersampled(image, transform, theta, shape, probes, **options):
    grid = stn.regular_grid(tuple(n * probes for n in shape))
    values = stn.grid_sample(image, transform.apply(theta, grid), **options)
    h, w = shape
    return values.reshape(h, probes, w, probes, -1).mean(axis=(1, 3))


def signal_to_noise(found, expected):
    return -10 * np.log10(np.mean((np.asarray(found) - np.asarray(expected)) ** 2))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_is_not_made_smaller_is_unchanged_bit_for_bit(kernel, padding, dtype):
    image = jnp.asarray(a_picture(11), dtype)
    t = stn.affine()
    options = {"kernel": kernel, "padding": padding}
    warp_both = jax.jit(
        lambda theta: [
            stn.warp(image, t, theta, antialias=each, **options) for each in (False, True)
        ]
    )
    for theta in (jnp.asarray(t.identity, jnp.float32), similarity(0.6, 0.7)):
        plain, antialiased = warp_both(theta)
        np.testing.assert_array_equal(antialiased, plain)
    np.testing.assert_array_equal(warp_both(jnp.asarray(t.identity, jnp.float32))[1], image)


def test_volumes_and_other_families_are_unchanged_at_the_identity():
    for t in (stn.affine(ndim=3), stn.thin_plate_spline((3, 3)), stn.projective()):
        image = jnp.asarray(np.random.default_rng(0).normal(size=(*[6, 5, 4][: t.ndim], 2)))
        for align_corners in (False, True):
            theta = jnp.asarray(t.identity, jnp.float32)
            warped = stn.warp(image, t, theta, antialias=True, align_corners=align_corners)
            np.testing.assert_array_equal(warped, image)


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_whole_reduction_is_the_mean_over_the_pixels(level, ndim, x64):
    factor, out = 2**level, 3
    image = np.random.default_rng(1).normal(size=(*[factor * out] * ndim, 2))
    t = stn.affine(ndim=ndim)
    reduced = stn.warp(
        jnp.asarray(image), t, jnp.asarray(t.identity), output_shape=[out] * ndim, antialias=True
    )
    blocks = image.reshape(*itertools.chain(*[(out, factor)] * ndim), 2)
    mean = blocks.mean(axis=tuple(range(1, 2 * ndim, 2)))
    # A footprint slightly larger than a pixel gets half a pixel too little blur.
    np.testing.assert_allclose(reduced, mean, atol=0.02 if level == 1 else 1e-4)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("angle", [0.0, 0.4])
@pytest.mark.parametrize("scale", [3.0, 5.0, 8.0])
def test_loses_less_than_supersampling_with_as_many_probes(scale, angle, padding):
    image, t, shape = jnp.asarray(a_picture(96), jnp.float32), stn.affine(), (12, 12)
    theta = similarity(scale * shape[0] / 96, angle)
    options = {"padding": padding, "fill_value": 1.0}
    best = supersampled(image, t, theta, shape, 16, **options)
    probed = supersampled(image, t, theta, shape, 2, **options)
    plain = stn.warp(image, t, theta, output_shape=shape, **options)
    antialiased = stn.warp(image, t, theta, output_shape=shape, antialias=True, **options)
    assert signal_to_noise(antialiased, best) > signal_to_noise(probed, best) + 3
    assert signal_to_noise(antialiased, best) > signal_to_noise(plain, best) + 10


def test_the_footprint_differs_from_pixel_to_pixel_in_perspective():
    image, t, shape = jnp.asarray(a_picture(96), jnp.float32), stn.projective(), (24, 24)
    theta = jnp.asarray([0.5, 0.0, 0.0, 0.0, 0.9, 0.5, 0.0, 0.6], jnp.float32)
    best = supersampled(image, t, theta, shape, 16, padding="border")
    plain, antialiased = (
        stn.warp(image, t, theta, output_shape=shape, padding="border", antialias=each)
        for each in (False, True)
    )
    assert signal_to_noise(antialiased, best) > signal_to_noise(plain, best) + 8


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
@pytest.mark.parametrize("padding", ["constant", "wrap"])
@pytest.mark.parametrize("scale", [1.3, 2.6, 7.0])
def test_gradients_in_both_modes(scale, padding, kernel, x64):
    image, t = jnp.asarray(a_picture(24)), stn.affine()
    weights = np.random.default_rng(2).normal(size=(5, 5, 1))
    theta = np.asarray(similarity(scale * 5 / 24, 0.3), np.float64)
    options = {"kernel": kernel, "padding": padding, "output_shape": (5, 5), "antialias": True}

    @jax.jit
    def loss(theta, image):
        return jnp.sum(stn.warp(image, t, theta, **options) * weights)

    expected = reference.central_differences(lambda v: np.asarray(loss(v, image)), theta, 1e-6)
    for differentiate in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(
            jax.jit(differentiate(loss))(jnp.asarray(theta), image), expected, rtol=2e-5, atol=2e-5
        )
    # The adjoint, by its definition; the warp is linear in the image, and 0 in the fill value.
    image_bar = jax.jit(jax.grad(loss, argnums=1))(jnp.asarray(theta), image)
    other = jnp.asarray(a_picture(24, seed=3))
    np.testing.assert_allclose(jnp.sum(image_bar * other), loss(theta, other), rtol=1e-9)


def test_the_scale_receives_a_gradient_that_the_plain_warp_does_not_give(x64):
    """On a board of the pixels' own frequency the mean falls as the footprint grows."""
    image = jnp.asarray(np.indices((32, 32)).sum(axis=0)[..., None] % 2, float)
    t = stn.attention()

    def contrast(scale, antialias):
        theta = jnp.stack([scale, 0.0, 0.0])
        warped = stn.warp(image, t, theta, output_shape=(8, 8), antialias=antialias)
        return jnp.var(warped)

    slopes = [jax.grad(contrast)(0.4, antialias) for antialias in (True, False)]
    assert slopes[0] < 0
    assert np.isfinite(slopes).all()


def test_points_that_are_not_finite():
    image, t = jnp.asarray(a_picture(16), jnp.float32), stn.flow((4, 4))
    field = jnp.zeros((4, 4, 2)).at[0, 0].set(jnp.nan).at[3, 3].set(jnp.inf)

    def warp(image, theta):
        return stn.warp(image, t, theta, output_shape=(4, 4), antialias=True)

    warped = jax.jit(warp)(image, field.ravel())
    assert bool(jnp.isnan(warped[0, 0]).all())
    assert bool(jnp.isfinite(warped[2, :2]).all())
    image_bar = jax.jit(jax.grad(lambda image: jnp.nansum(warp(image, field.ravel()))))(image)
    assert bool(jnp.isfinite(image_bar).all())
    behind = jnp.asarray([1.0, 0.1, 0.0, 0.2, 1.0, 0.0, -2.0, 0.0])
    loss = lambda v: jnp.sum(stn.warp(image, stn.projective(), v, antialias=True) ** 2)  # noqa: E731
    assert bool(jnp.isfinite(jax.jit(jax.grad(loss))(behind)).all())


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="floating dtype to be antialiased"):
        stn.warp(
            jnp.ones((4, 4, 1), jnp.uint8), stn.affine(), jnp.ones(6), kernel="nearest",
            antialias=True,
        )  # fmt: skip
