"""Antialiasing equals supersampling, and changes nothing where the map does not reduce."""

import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import stn_jax as stn
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS

every_padding = pytest.mark.parametrize("padding", PADDINGS)
pytestmark = pytest.mark.cross_section(8)


def a_picture(size, seed=0):
    """Noise of every frequency, and an edge."""
    image = np.random.default_rng(seed).normal(size=(size, size, 1))
    image[:, size // 3 :] += 2
    return image


def similarity(scale, angle=0.0):
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return jnp.asarray([c, -s, 0.01, s, c, -0.02], jnp.float32)


def supersampled(image, transform, theta, shape, probes, **options):
    """Means of samples, ``probes`` along each axis of an output pixel."""
    h, w = shape

    def means(image, **options):
        grid = transform.apply(theta, stn.regular_grid((h * probes, w * probes)))
        values = stn.grid_sample(image, grid, **options)
        return values.reshape(h, probes, w, probes, -1).mean(axis=(1, 3))

    if options.get("padding") != "renormalized":
        return means(image, **options)
    outside = {"padding": "constant"}
    centres = transform.apply(theta, stn.regular_grid(shape))
    inside = jnp.all(jnp.abs(centres) <= 1, axis=-1, keepdims=True)
    weights = jnp.where(inside, means(jnp.ones_like(image), **outside), 1)
    return jnp.where(inside, means(image, **outside) / weights, options["fill_value"])


def signal_to_noise(found, expected):
    return -10 * np.log10(np.mean((np.asarray(found) - np.asarray(expected)) ** 2))


@every_padding
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


@pytest.mark.parametrize("t", [stn.affine(ndim=3), stn.thin_plate_spline((3, 3)), stn.projective()])
@pytest.mark.parametrize("align_corners", [False, True])
def test_volumes_and_other_families_are_unchanged_at_the_identity(t, align_corners):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(*[6, 5, 4][: t.ndim], 2)))
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
    np.testing.assert_allclose(reduced, mean, atol=1e-6)


def block_means(image, shape):
    """The mean over the pixels of each block, where the image is cut into so many along an axis."""
    h, w = shape
    height, width, channels = image.shape
    return image.reshape(h, height // h, w, width // w, channels).mean(axis=(1, 3))


@every_padding
def test_an_axis_that_is_not_made_smaller_is_not_blurred(padding):
    """One axis reduced by 2, 4 or 8: exact means along it, also in the first and last row."""
    image = np.random.default_rng(4).normal(size=(8, 16, 2))
    shapes, identity = ((8, 8), (8, 2), (2, 16), (1, 16)), jnp.asarray(stn.affine().identity)
    turned = jnp.asarray([0.0, -1, 0, 1, 0, 0], jnp.float32)

    @jax.jit
    def reduced(image):
        options = {"padding": padding, "fill_value": 3.0, "antialias": True}
        upright = [
            stn.warp(image, stn.affine(), identity, output_shape=shape, **options)
            for shape in shapes
        ]
        quarter = stn.warp(image, stn.affine(), turned, output_shape=(4, 8), **options)
        return upright, quarter

    upright, quarter = reduced(jnp.asarray(image, jnp.float32))
    for found, shape in zip(upright, shapes, strict=True):
        expected = block_means(image, shape)
        np.testing.assert_allclose(found, expected, atol=2e-6)
        h, w = shape
        area = cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(found, area, atol=2e-6)
    # Rows of the output run down the image: its columns are the axis that is made smaller.
    expected = np.rot90(block_means(image, (8, 4)), 1)
    np.testing.assert_allclose(quarter, expected, atol=2e-5)


def test_nothing_comes_in_from_outside_along_an_axis_that_is_not_made_smaller():
    t, identity = stn.affine(), jnp.asarray(stn.affine().identity)
    ones = stn.warp(jnp.ones((40, 40, 1)), t, identity, output_shape=(40, 10), antialias=True)
    np.testing.assert_array_equal(ones, jnp.ones((40, 10, 1)))
    row = jnp.zeros((8, 32, 1)).at[3].set(1)
    options = {"antialias": True, "padding": "border"}
    found = stn.warp(row, t, identity, output_shape=(8, 4), **options)
    np.testing.assert_array_equal(found, row[:, :4])
    # A volume that is made smaller along x alone.
    t = stn.affine(ndim=3)
    volume = np.random.default_rng(5).normal(size=(3, 4, 8, 1))
    identity = jnp.asarray(t.identity, jnp.float32)
    found = stn.warp(
        jnp.asarray(volume, jnp.float32), t, identity, output_shape=(3, 4, 2), antialias=True
    )
    expected = volume.reshape(3, 4, 2, 4, 1).mean(axis=3)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("angle", [0.3, 0.8])
def test_a_long_footprint_that_is_turned(angle):
    """Six pixels by one and a half, turned: nearer to supersampling than a square's mean is."""
    image, t, shape = jnp.asarray(a_picture(96), jnp.float32), stn.affine(), (40, 10)
    c, s = np.cos(angle), np.sin(angle)
    x, y = 6 * 10 / 96, 1.5 * 40 / 96
    theta = jnp.asarray([x * c, -y * s, 0, x * s, y * c, 0], jnp.float32)
    best = supersampled(image, t, theta, shape, 16, padding="reflection")
    plain, antialiased = (
        stn.warp(image, t, theta, output_shape=shape, padding="reflection", antialias=each)
        for each in (False, True)
    )
    assert signal_to_noise(antialiased, best) > signal_to_noise(plain, best) + 8


@every_padding
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


@pytest.mark.parametrize("padding", ["dst1", "dst2"])
def test_clip_keeps_means_of_mirrored_negatives_in_the_range(padding):
    image = jnp.asarray(a_picture(16) ** 2 + 1, jnp.float32)
    warped = [
        stn.warp(
            image, stn.affine(), similarity(3.0), output_shape=(6, 6), padding=padding,
            antialias=True, clip=clip,
        )
        for clip in (False, True)
    ]  # fmt: skip
    assert warped[0].min() < image.min()
    np.testing.assert_array_equal(warped[1], jnp.clip(warped[0], image.min(), image.max()))


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
def test_gradients_in_both_modes(padding, kernel, x64):
    image, t = jnp.asarray(a_picture(24)), stn.affine()
    weights = np.random.default_rng(2).normal(size=(5, 5, 1))
    options = {"kernel": kernel, "padding": padding, "output_shape": (5, 5), "antialias": True}

    @jax.jit
    def loss(theta, image):
        return jnp.sum(stn.warp(image, t, theta, **options) * weights)

    @jax.jit
    def gradients(theta, image):
        return *jax.grad(loss, (0, 1))(theta, image), jax.jacfwd(loss)(theta, image)

    for scale in (1.3, 2.6, 7.0):
        theta = np.asarray(similarity(scale * 5 / 24, 0.3), np.float64)
        expected = reference.central_differences(lambda v: np.asarray(loss(v, image)), theta, 1e-6)
        theta_bar, image_bar, forward = gradients(theta, image)
        for slopes in (theta_bar, forward):
            np.testing.assert_allclose(slopes, expected, rtol=2e-5, atol=2e-5)
        # The adjoint, by its definition; the warp is linear in the image, and 0 in the fill value.
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
