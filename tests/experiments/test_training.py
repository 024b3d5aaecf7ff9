"""Models, distortions, the training functions and the statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
import scipy.stats
from flax import nnx

from experiments import models, statistics, train
from experiments.data.distortions import DISTORTIONS, distort_batch, distort_test_images, rotate

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
    for convolve in (models.convolve, jax.lax.conv_general_dilated):
        function = lambda x, k: convolve(x, k, (1, 1), "VALID", **options)  # noqa: B023, E731
        value, pull_back = jax.vjp(function, images, kernel)
        results.append((value, *pull_back(cotangent)))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_max_pool_is_flax_s(rng):
    maps = jnp.asarray(rng.normal(size=(2, 7, 6, 3)), jnp.float32)
    expected = nnx.max_pool(maps, (2, 2), strides=(2, 2))
    np.testing.assert_array_equal(models.max_pool(maps), expected)


def test_gradient_of_max_pool_goes_to_the_first_of_the_greatest():
    windows = [[[5, 1], [2, 3]], [[1, 5], [5, 3]], [[1, 2], [5, 5]], [[1, 2], [3, 5]]]
    maps = jnp.asarray(windows, jnp.float32).transpose(1, 0, 2).reshape(1, 2, 8, 1)
    maps = jnp.pad(maps, [(0, 0), (0, 1), (0, 1), (0, 0)])
    cotangent = jnp.arange(1.0, 5.0).reshape(1, 1, 4, 1)
    value, pull_back = jax.vjp(models.max_pool, maps)
    np.testing.assert_array_equal(value, jnp.full_like(value, 5))
    expected = [[1, 0, 0, 2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 3, 0, 0, 4, 0], [0] * 9]
    np.testing.assert_array_equal(pull_back(cotangent)[0][0, ..., 0], expected)
    _, tangent = jax.jvp(models.max_pool, (maps,), (2 * maps,))
    np.testing.assert_array_equal(tangent, 2 * value)


def test_rotation_is_scipy_s(digits):
    key = jax.random.key(3)
    angle = float(jax.random.uniform(key, minval=-np.pi / 2, maxval=np.pi / 2))
    image = digits[0].astype(np.float32) / 255
    expected = scipy.ndimage.rotate(
        image[..., 0], np.degrees(angle), reshape=False, order=1, mode="grid-constant"
    )
    ours = rotate(key, jnp.asarray(image))[..., 0]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("name", DISTORTIONS)
def test_distortions(name, digits):
    distortion = DISTORTIONS[name]
    batch = distort_batch(distortion, jax.random.key(0), jnp.asarray(digits))
    assert batch.shape == digits.shape
    assert batch.dtype == jnp.float32
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1
    changed = not np.allclose(batch, digits / 255, atol=1e-3)
    assert changed == (name != "none")


def test_the_test_set_is_one_draw_however_it_is_cut(digits):
    whole = distort_test_images(rotate, jnp.asarray(digits))
    parts = [distort_test_images(rotate, jnp.asarray(digits[i : i + 5]), i) for i in (0, 5, 10)]
    np.testing.assert_array_equal(whole, jnp.concatenate(parts))


@pytest.fixture(scope="module")
def trainer():
    create = lambda rngs: models.build("st-fcn", "rigid", (10, 10, 1), 3, rngs=rngs)  # noqa: E731
    return train.make_trainer(create, optax.adam(3e-3), DISTORTIONS["R"], batch_size=16)


@pytest.fixture
def stripes():
    """Three classes that rotation leaves apart: a bar, a cross and a blank."""
    images = np.zeros((3, 10, 10, 1), np.uint8)
    images[0, 4:6] = 255
    images[1, 4:6] = images[1, :, 4:6] = 255
    return jnp.asarray(images), jnp.arange(3)


def test_training_learns_and_dispatches_of_any_length_agree(trainer, stripes):
    images, labels = stripes
    key = jax.random.key(0)
    state, first = trainer.run(trainer.initial_state(0), images, labels, key, 40)
    state, last = trainer.run(state, images, labels, key, 40)
    assert float(last["loss"]) < 0.5 * float(first["loss"])
    again, _ = trainer.run(trainer.initial_state(0), images, labels, key, 80)
    assert int(again.step) == 80
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    wrong = train.misread(trainer, state, np.asarray(images), np.arange(3), copies=10)
    assert wrong.mean() < 0.2


def test_misread_looks_at_every_copy_of_every_image_once(trainer, rng):
    images = rng.integers(0, 256, (300, 10, 10, 1)).astype(np.uint8)
    state = trainer.initial_state(0)
    state, _ = trainer.run(state, jnp.asarray(images), jnp.zeros(300, int), jax.random.key(0), 3)
    labels = np.array(trainer.predict(state, images, 0))
    labels[[0, 255, 256, 299]] += 1
    wrong = train.misread(trainer, state, images, labels)
    np.testing.assert_array_equal(np.flatnonzero(wrong), [0, 255, 256, 299])
    copies = train.misread(trainer, state, images, labels, copies=2)
    np.testing.assert_array_equal(copies[0], wrong[0])
    second = np.asarray(trainer.predict(state, images, 300))
    np.testing.assert_array_equal(copies[1], second != labels)


def test_follow_shows_theta_and_outputs(trainer, rng):
    images = jnp.asarray(rng.uniform(size=(4, 10, 10, 1)), jnp.float32)
    seen = trainer.follow(trainer.initial_state(0), images)
    np.testing.assert_array_equal(seen["theta"], 0)
    np.testing.assert_array_equal(seen["outputs"], images)


def test_interval_of_one_seed_is_wilsons():
    wrong = np.zeros((1, 1, 10_000), bool)
    wrong[:, :, :100] = True
    expected = scipy.stats.binomtest(100, 10_000).proportion_ci(method="wilson")
    np.testing.assert_allclose(statistics.interval(wrong), np.multiply(100, expected))
    none = scipy.stats.binomtest(0, 10).proportion_ci(method="wilson")
    found = statistics.interval(np.zeros((1, 1, 10), bool))
    np.testing.assert_allclose(found, np.multiply(100, none), atol=1e-12)


@pytest.mark.parametrize("share_always", [0.0, 0.5, 1.0])
def test_interval_of_copies_holds_the_truth(share_always):
    """Of the hard images some are always misread, some by chance: 95 % of intervals hold 5 %."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        chance = np.where(rng.uniform(size=500) < share_always, rng.uniform(size=500) < 0.05, 0.05)
        low, high = statistics.interval(rng.uniform(size=(1, 8, 500)) < chance)
        held += low <= 5 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_interval_of_seeds_adds_their_spread():
    wrong = np.zeros((3, 1, 10_000), bool)
    for seed, count in enumerate((100, 200, 300)):
        wrong[seed, 0, 1000 * seed : 1000 * seed + count] = True
    students_t = 4.3027 * 1 / np.sqrt(3)
    low, high = statistics.interval(wrong)
    assert low == 0
    assert 2 + students_t < high < 2 + 1.05 * students_t
