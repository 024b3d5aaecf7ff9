"""Models, distortions, the training functions and the statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage
import scipy.stats
from flax import nnx

from experiments import models
from experiments.classification import step as train
from experiments.data.distortions import DISTORTIONS, distorted_shape, rotate
from experiments.data.tasks import TASKS
from experiments.engine import intervals as statistics
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


@pytest.mark.parametrize("distortion", SETS)
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
        value, pull_back = jax.vjp(function, images, kernel)
        results.append((value, *pull_back(cotangent)))
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


def test_rotation_is_scipy_s(digits):
    key = jax.random.key(3)
    angle = float(jax.random.uniform(key, minval=-np.pi / 2, maxval=np.pi / 2))
    image = digits[0].astype(np.float32) / 255
    expected = scipy.ndimage.rotate(
        image[..., 0], np.degrees(angle), reshape=False, order=1, mode="grid-constant"
    )
    ours = rotate(key, jnp.asarray(image))[..., 0]
    np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.fixture(scope="module")
def trainer():
    create = lambda rngs: models.build("st-fcn", "rigid", (10, 10, 1), 3, rngs=rngs)  # noqa: E731
    return train.make_trainer(create, optax.adam(3e-3), TASKS["R"], batch_size=16)


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
    labels = np.array(trainer.predict(state, images, jnp.arange(300)))
    labels[[0, 255, 256, 299]] += 1
    wrong = train.misread(trainer, state, images, labels)
    np.testing.assert_array_equal(np.flatnonzero(wrong), [0, 255, 256, 299])
    copies = train.misread(trainer, state, images, labels, copies=2)
    np.testing.assert_array_equal(copies[0], wrong[0])
    second = np.asarray(trainer.predict(state, images, 300 + jnp.arange(300)))
    np.testing.assert_array_equal(copies[1], second != labels)


def test_seeds_at_once_end_as_each_by_itself(trainer, stripes, rng):
    images, labels = stripes
    together, seeds = train.at_once(trainer), (3, 0, 5)
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])
    states, metrics = together.run(together.initial_state(seeds), images, labels, keys, 30)
    test = rng.integers(0, 256, (20, 10, 10, 1)).astype(np.uint8)
    wrong = train.misread(together, states, test, np.zeros(20), copies=2)
    assert wrong.shape == (3, 2, 20)
    for k, seed in enumerate(seeds):
        alone, own = trainer.run(trainer.initial_state(seed), images, labels, keys[k], 30)
        for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=1e-4, atol=1e-5)
        for name, value in own.items():
            np.testing.assert_allclose(metrics[name][k], value, rtol=1e-4, atol=1e-4)
        expected = train.misread(trainer, alone, test, np.zeros(20), copies=2)
        np.testing.assert_array_equal(wrong[k], expected)


def test_convolutions_of_several_seeds_run_one_after_the_other_on_accelerators(
    stripes, rng, monkeypatch
):
    images = jnp.asarray(rng.integers(0, 256, (6, 24, 24, 1)).astype(np.uint8))
    labels, seeds = jnp.arange(6) % 3, (4, 1)
    create = lambda rngs: models.build(  # noqa: E731
        "cnn", "affine", (24, 24, 1), 3, width=0.1, rngs=rngs
    )
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])

    def trained():
        trainer = train.make_trainer(create, optax.adam(3e-3), TASKS["R"], batch_size=4)
        together = train.at_once(trainer)
        states = together.initial_state(seeds)
        program = together.run.lower(states, images, labels, keys, 3).as_text()
        one = lambda state, key: trainer.steps(state, images, labels, key, 3)  # noqa: E731
        batched = jax.jit(jax.vmap(one)).lower(states, keys).as_text()
        return program, batched, together.run(states, images, labels, keys, 3)

    *_, expected = trained()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program, batched, found = trained()
    assert "feature_group_count = 2" in batched
    assert "feature_group_count = 2" not in program
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


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
