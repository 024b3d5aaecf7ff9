"""MNIST addition: its images and their sums, two transforms in parallel, the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from PIL import Image

from experiments import models
from experiments.classification.step import error_mask, make_classifier
from experiments.data.distortions import (
    distort_batch,
    distort_test_images,
    distorted_shape,
    pair,
    rotate_scale_translate,
)
from experiments.data.tasks import TASKS, sums
from experiments.engine.devices import all_devices
from experiments.engine.step import initial_states, make_program
from experiments.mnist_addition import __main__ as mnist_addition

# These run whole commands with trainings.
pytestmark = pytest.mark.slow

ADDITION = TASKS["addition"]


def plates(labels):
    """Images of 28×28 pixels whose brightness encodes their label."""
    labels = np.asarray(labels)
    return np.broadcast_to(20 * (1 + labels)[:, None, None, None], (len(labels), 28, 28, 1)).astype(
        np.uint8
    )


def read(images):
    """The label of each channel of distorted plates: their middle is as bright as the plate."""
    return np.rint(255 * np.asarray(images).max(axis=(1, 2)) / 20).astype(int) - 1


def test_each_channel_is_a_digit_by_itself(rng):
    image, other, *more = jnp.asarray(rng.uniform(size=(4, 28, 28, 1)), jnp.float32)
    key = jax.random.key(3)
    both = pair(key, image, jnp.stack([other, *more]))
    assert both.shape == (42, 42, 2) == distorted_shape(pair, (28, 28, 1))
    for channel, (one, own_key) in enumerate(
        zip((image, other), jax.random.split(key), strict=True)
    ):
        expected = rotate_scale_translate(own_key, one)
        np.testing.assert_allclose(both[..., channel : channel + 1], expected, atol=1e-6)
    with pytest.raises(ValueError, match="others must hold the image to be added"):
        pair(key, image)


def test_targets_are_the_sums_of_what_is_seen(rng):
    labels = rng.integers(0, 10, 7)
    images = jnp.asarray(plates(labels))
    batch = distort_batch(ADDITION.distortion, jax.random.key(0), images)
    np.testing.assert_array_equal(read(batch)[:, 0], labels)
    np.testing.assert_array_equal(read(batch).sum(axis=1), sums(jnp.asarray(labels)))
    # Two copies of a test set, in two parts.
    parts = [
        read(distort_test_images(ADDITION.distortion, images, numbers))
        for numbers in (jnp.arange(5), 5 + jnp.arange(9))
    ]
    seen = np.concatenate(parts).sum(axis=1)
    np.testing.assert_array_equal(seen, np.tile(ADDITION.targets(labels), 2))
    assert isinstance(ADDITION.targets(labels), np.ndarray)
    assert ADDITION.num_classes(10) == 19


class Adder(nnx.Module):
    """Reads the sum off the brightness of plates."""

    transformer = None

    def __init__(self):
        self.scale = nnx.Param(jnp.array(255 / 20))

    def forward(self, images):
        total = (images.max(axis=(1, 2)) * self.scale[...] - 1).sum(axis=1)
        return -jnp.abs(total[:, None] - jnp.arange(19)), None

    def __call__(self, images):
        return self.forward(images)[0]


def test_errors_are_by_the_sums(rng):
    labels = rng.integers(0, 10, 30)
    classifier = make_classifier(lambda _: Adder(), optax.sgd(0.0), ADDITION, batch_size=8)
    program = make_program(classifier.problem, all_devices("jit", 8))
    images = plates(labels)
    states, constants = initial_states(classifier.problem, [0])
    assert not error_mask(classifier, states.params, images, labels, copies=2).any()
    wrong = labels.copy()
    wrong[4] += 1
    (found,) = error_mask(classifier, states.params, images, wrong)
    np.testing.assert_array_equal(np.flatnonzero(found), [3, 4])
    resident = jnp.asarray(images), jnp.asarray(labels)
    keys = jnp.stack([jax.random.key(0)])
    _, metrics = program.run(states, constants, resident, keys, 3)
    assert float(metrics["train_error"][0]) == 0


@pytest.mark.parametrize(("name", "side"), [("2xst-fcn", 21), ("2xst-cnn", 28)])
def test_two_transforms_are_stacked_along_the_channels(name, side, rng):
    in_shape, crop = (42, 42, 2), models.crop_of("addition", name, (28, 28, 1))
    kind = (name, "affine", in_shape, 19)
    width = models.width_for(models.PARAMETERS, *kind, crop=crop)
    create = lambda: models.build(*kind, width=width, crop=crop, rngs=nnx.Rngs(0))  # noqa: E731
    count = models.count_parameters(nnx.eval_shape(create))
    assert abs(count / models.PARAMETERS - 1) < 0.015
    model = models.build(*kind, width=0.05, crop=crop, rngs=nnx.Rngs(0))
    images = jnp.asarray(rng.uniform(size=(3, *in_shape)), jnp.float32)
    seen = []
    model.classifier = lambda maps: seen.append(maps) or jnp.zeros((len(maps), 19))
    _, theta = model.forward(images)
    assert theta.shape == (3, 2, 6)
    assert seen[0].shape == (3, side, side, 4)
    # Untrained, both transforms give the same; the first two of four channels are the first one's.
    np.testing.assert_array_equal(seen[0][..., :2], seen[0][..., 2:])
    outputs = model.transformer(images)
    model.classify(outputs.at[:, 1].set(0))
    assert float(jnp.abs(seen[1][..., 2:]).max()) == 0
    np.testing.assert_array_equal(seen[1][..., :2], seen[0][..., :2])


@pytest.mark.slow
def test_the_command_trains_goes_on_and_shows_what_is_read(tmp_path, capsys):
    out = tmp_path / "addition"
    options = [
        *("--models", "2xst-fcn", "--transforms", "affine", "--seeds", "0", "--out", str(out)),
        *("--steps", "6", "--steps-per-dispatch", "3", "--batch-size", "4", "--width", "0.05"),
        *("--validation", "0"),
    ]
    assert mnist_addition.main(options) == 0
    assert "addition  2xst-fcn" in capsys.readouterr().out
    (entry,) = json.loads((out / "table.json").read_text())
    assert (entry["distortion"], entry["paper"], entry["verdict"]) == ("addition", 9.0, None)
    folder = out / "addition" / "2xst-fcn-affine" / "seeds-0"
    with np.load(folder / "pictures.npz") as pictures:
        assert pictures["theta"].shape == (3, 10, 2, 6)
        assert pictures["outputs"].shape == (3, 10, 2, 42, 42, 2)
        # Ten different sums are followed.
        assert len(set(pictures["labels"])) == 10
    page = (out / "report.html").read_text()
    assert "MNIST addition" in page
    with Image.open(out / "before_after_addition_2xst-fcn_affine.png") as picture:
        pixels = np.asarray(picture.convert("RGB"), float)
    # Red and cyan, where one digit is alone.
    red, green = pixels[..., 0], pixels[..., 1]
    assert (red - green > 100).any()
    assert (green - red > 100).any()
    # A row of inputs and one for each transform.
    assert pixels.shape[0] > 0.3 * pixels.shape[1]
    assert mnist_addition.main(options) == 0
    assert json.loads((out / "table.json").read_text()) == [entry]


def test_a_batch_of_one_has_nothing_to_add(tmp_path, capsys):
    options = ["--models", "fcn", "--batch-size", "1", "--out", str(tmp_path / "new")]
    assert mnist_addition.main(options) == 2
    assert "batch_size must be at least 2 for addition" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
