"""The classifiers: their layers, their sizes, and pooling and convolution in fast forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from flax import nnx

from experiments import models
from experiments.data.distortions import DISTORTIONS, distorted_shape
from experiments.models import pooling

IN_SHAPE = (28, 28, 1)


@pytest.fixture
def digits(rng):
    """Smooth blobs in uint8."""
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(12, *IN_SHAPE)), (0, 3, 3, 0))
    return np.uint8(255 * (noise - noise.min()) / np.ptp(noise))


# Counted by hand from the layers that experiments.models states.
PARAMETERS = {
    "fcn": 784 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10,
    "cnn": 81 * 32 + 32 + 49 * 32 * 64 + 64 + 2 * 2 * 64 * 10 + 10,
}
PARAMETERS["st-fcn"] = PARAMETERS["fcn"] + 784 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 6 + 6
PARAMETERS["st-cnn"] = PARAMETERS["cnn"] + 25 * 20 + 20 + 25 * 400 + 20 + 400 + 20 + 20 * 6 + 6


@pytest.mark.parametrize("name", PARAMETERS)
def test_models(name, digits):
    model = models.build(name, "affine", IN_SHAPE, 10, rngs=nnx.Rngs(0))
    assert models.count_parameters(model) == PARAMETERS[name]
    assert model(jnp.asarray(digits / 255)).shape == (12, 10)


SETS = ("R", "RTS", "P", "E", "TC")
EIGHT = [("fcn", "affine"), ("cnn", "affine")] + [
    (name, transform)
    for name in ("st-fcn", "st-cnn")
    for transform in ("affine", "projective", "thin_plate_spline")
]


@pytest.mark.parametrize(
    "distortion",
    [pytest.param(each, marks=[pytest.mark.slow] * (each not in ("R", "TC"))) for each in SETS],
)
def test_all_eight_models_have_as_many_parameters(distortion):
    in_shape = distorted_shape(DISTORTIONS[distortion], IN_SHAPE)
    counts = []
    for kind in EIGHT:
        options = {"crop": models.crop_of(distortion, kind[0], IN_SHAPE)}
        width = models.width_for(models.PARAMETERS, *kind, in_shape, 10, **options)
        create = lambda: models.build(*kind, in_shape, 10, width=width, rngs=nnx.Rngs(0), **options)  # noqa: B023, E731
        model = nnx.eval_shape(create)
        counts.append(models.count_parameters(model))
        logits = nnx.eval_shape(lambda m: m(jnp.zeros((2, *in_shape))), model)
        assert logits.shape == (2, 10)
    # Within 5 % of 400,000 was asked for.
    assert np.abs(np.array(counts) / 400_000 - 1).max() < 0.01
    assert np.ptp(counts) / min(counts) < 0.02


def test_width_for_a_number_of_parameters():
    def built(width, *model):
        return nnx.eval_shape(lambda: models.build(*model, width=width, rngs=nnx.Rngs(0)))

    model = ("st-fcn", "affine", (12, 14, 1), 10)
    for parameters in (20_000, 400_000):
        width = models.width_for(parameters, *model)
        miss = abs(models.count_parameters(built(width, *model)) - parameters)
        assert miss < 0.02 * parameters
        # One unit more or less is farther away.
        for units in (-1, 1):
            other = built(width + units / 256, *model)
            assert abs(models.count_parameters(other) - parameters) >= miss
    # Half the width is half the filters.
    cnn = ("cnn", "affine", IN_SHAPE, 10)
    width = models.width_for(400_000, *cnn)
    whole, half = (built(each, *cnn).classifier.convolutions for each in (width, width / 2))
    for large, small in zip(whole, half, strict=True):
        assert small.kernel.shape[-1] == -(-large.kernel.shape[-1] // 2)


def test_what_a_transformer_passes_on_is_averaged():
    options = {"crop": (28, 28), "rngs": nnx.Rngs(0)}
    model = models.build("st-fcn", "affine", (42, 42, 1), 10, **options)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 42, 42, 1)), jnp.float32)
    read = model.transformer(images)
    assert read.shape == (2, 56, 56, 1)
    halves = np.asarray(read).reshape(2, 28, 2, 28, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(model(images), model.classifier(jnp.asarray(halves)), atol=1e-5)


@pytest.mark.parametrize("transform", models.TRANSFORMS)
def test_transforms_by_name(transform):
    model = models.build("st-fcn", transform, (8, 8, 1), 4, rngs=nnx.Rngs(0))
    assert model.transformer.transform.name == transform


def test_an_image_too_small_for_the_cnn():
    with pytest.raises(ValueError, match=r"24×24.*\(20, 30, 1\)"):
        models.build("cnn", "affine", (20, 30, 1), 10, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("width", [8, 27])
def test_convolution_as_a_product_has_the_same_numbers(rng, width):
    images = jnp.asarray(rng.normal(size=(2, 9, width, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(4, 3, 3, 5)), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=(2, 6, width - 2, 5)), jnp.float32)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    results = []
    for convolve in (pooling.convolve, jax.lax.conv_general_dilated):
        function = lambda x, k: convolve(x, k, (1, 1), "VALID", **options)  # noqa: B023, E731

        @jax.jit
        def value_and_slopes(images, kernel, cotangent, function=function):
            value, pull_back = jax.vjp(function, images, kernel)
            return value, *pull_back(cotangent)

        results.append(value_and_slopes(images, kernel, cotangent))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_max_pool_is_flax_s(rng):
    maps = jnp.asarray(rng.normal(size=(2, 7, 6, 3)), jnp.float32)
    expected = nnx.max_pool(maps, (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(pooling.max_pool(maps), expected)


def test_gradient_of_max_pool_goes_to_the_first_of_the_greatest():
    windows = [[[5, 1], [2, 3]], [[1, 5], [5, 3]], [[1, 2], [5, 5]], [[1, 2], [3, 5]]]
    maps = jnp.asarray(windows, jnp.float32).transpose(1, 0, 2).reshape(1, 2, 8, 1)
    maps = jnp.pad(maps, [(0, 0), (0, 1), (0, 1), (0, 0)])
    cotangent = jnp.arange(1.0, 5.0).reshape(1, 1, 4, 1)
    value, pull_back = jax.vjp(pooling.max_pool, maps)
    np.testing.assert_array_equal(value, jnp.full_like(value, 5))
    expected = [[1, 0, 0, 2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 3, 0, 0, 4, 0], [0] * 9]
    np.testing.assert_array_equal(pull_back(cotangent)[0][0, ..., 0], expected)
    _, tangent = jax.jvp(pooling.max_pool, (maps,), (2 * maps,))
    np.testing.assert_array_equal(tangent, 2 * value)
