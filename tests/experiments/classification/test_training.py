"""The training of a classifier on the device: steps, seeds together, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from experiments import models
from experiments.classification.step import error_mask, make_classifier
from experiments.data.distortions import rotate
from experiments.data.tasks import TASKS
from experiments.engine.devices import all_devices
from experiments.engine.step import initial_states, make_program, make_run, make_step

IN_SHAPE = (28, 28, 1)


@pytest.fixture
def digits(rng):
    """Smooth blobs in uint8."""
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(12, *IN_SHAPE)), (0, 3, 3, 0))
    return np.uint8(255 * (noise - noise.min()) / np.ptp(noise))


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
def classifier():
    create = lambda rngs: models.build("st-fcn", "rigid", (10, 10, 1), 3, rngs=rngs)  # noqa: E731
    return make_classifier(create, optax.adam(3e-3), TASKS["R"], batch_size=16)


@pytest.fixture(scope="module")
def program(classifier):
    return make_program(classifier.problem, all_devices("jit", 16))


@pytest.fixture
def stripes():
    """Three classes that stay different under rotation: a bar, a cross and a blank."""
    images = np.zeros((3, 10, 10, 1), np.uint8)
    images[0, 4:6] = 255
    images[1, 4:6] = images[1, :, 4:6] = 255
    return jnp.asarray(images), jnp.arange(3)


def keys_of(seeds):
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def trained(problem, program, data, steps, seeds=(0,)):
    """The states of some seeds after some steps, and the metrics."""
    states, constants = initial_states(problem, seeds)
    return program.run(states, constants, data, keys_of(seeds), steps)


def test_training_learns_and_dispatches_of_any_length_agree(classifier, program, stripes):
    images, _ = stripes
    states, first = trained(classifier.problem, program, stripes, 40)
    states, last = program.run(states, (), stripes, keys_of([0]), 40)
    assert float(last["loss"][0]) < 0.5 * float(first["loss"][0])
    again, _ = trained(classifier.problem, program, stripes, 80)
    assert int(again.step[0]) == 80
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    wrong = error_mask(classifier, states.params, np.asarray(images), np.arange(3), copies=10)
    assert wrong.mean() < 0.2


def test_errors_are_those_of_every_copy_of_every_image_once(classifier, program, rng):
    images = rng.integers(0, 256, (300, 10, 10, 1)).astype(np.uint8)
    states, _ = trained(classifier.problem, program, (images, np.zeros(300, int)), 3)
    own = jax.tree.map(lambda each: each[0], states.params)
    labels = np.array(classifier.predict(own, images, jnp.arange(300)))
    labels[[0, 255, 256, 299]] += 1
    (wrong,) = error_mask(classifier, states.params, images, labels)
    np.testing.assert_array_equal(np.flatnonzero(wrong), [0, 255, 256, 299])
    (copies,) = error_mask(classifier, states.params, images, labels, copies=2)
    np.testing.assert_array_equal(copies[0], wrong[0])
    second = np.asarray(classifier.predict(own, images, 300 + jnp.arange(300)))
    np.testing.assert_array_equal(copies[1], second != labels)


@pytest.mark.slow
def test_seeds_at_once_end_as_each_by_itself(classifier, program, stripes, rng):
    seeds = (3, 0, 5)
    states, metrics = trained(classifier.problem, program, stripes, 30, seeds)
    test = rng.integers(0, 256, (20, 10, 10, 1)).astype(np.uint8)
    wrong = error_mask(classifier, states.params, test, np.zeros(20), copies=2)
    assert wrong.shape == (3, 2, 20)
    for k, seed in enumerate(seeds):
        alone, own = trained(classifier.problem, program, stripes, 30, (seed,))
        for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[k], b[0], rtol=1e-4, atol=1e-5)
        for name, value in own.items():
            np.testing.assert_allclose(metrics[name][k], value[0], rtol=1e-4, atol=1e-4)
        (expected,) = error_mask(classifier, alone.params, test, np.zeros(20), copies=2)
        np.testing.assert_array_equal(wrong[k], expected)


@pytest.mark.slow
def test_convolutions_of_several_seeds_run_one_after_the_other_on_accelerators(rng):
    images = jnp.asarray(rng.integers(0, 256, (6, 24, 24, 1)).astype(np.uint8))
    data, seeds = (images, jnp.arange(6) % 3), (4, 1)
    create = lambda rngs: models.build(  # noqa: E731
        "cnn", "affine", (24, 24, 1), 3, width=0.1, rngs=rngs
    )
    problem = make_classifier(create, optax.adam(3e-3), TASKS["R"], batch_size=4).problem
    devices = all_devices("jit", 4)
    expected, _ = trained(problem, make_program(problem, devices), data, 3, seeds)
    program = make_program(problem, devices._replace(platform="gpu"))
    states, constants = initial_states(problem, seeds)
    traced = program.run.trace(states, constants, data, keys_of(seeds), 3)
    # Compiled for a GPU, convolutions take the form of accelerators, too.
    lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
    one = lambda state, key: make_run(make_step(problem, devices))(state, (), data, key, 3)  # noqa: E731
    batched = jax.jit(jax.vmap(one)).trace(states, keys_of(seeds))
    batched = batched.lower(lowering_platforms=("cuda",)).as_text()
    assert "feature_group_count = 2" in batched
    assert "feature_group_count = 2" not in lowered
    found, _ = trained(problem, program, data, 3, seeds)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_forward_gives_theta_and_outputs(classifier, program, rng):
    images = jnp.asarray(rng.uniform(size=(4, 10, 10, 1)), jnp.float32)
    params, _ = classifier.problem.init(0)
    seen = classifier.forward(params, images)
    np.testing.assert_array_equal(seen["theta"], 0)
    np.testing.assert_array_equal(seen["outputs"], images)
