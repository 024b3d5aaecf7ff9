"""Traffic signs: the deeper network, the augmentation, the command and its confusions."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from flax import nnx

from experiments import models
from experiments.data import distortions
from experiments.models.deep_cnn import standardised
from experiments.traffic_signs import __main__ as traffic_signs
from experiments.traffic_signs.confusion import worst_classes

# These run whole commands with trainings.
pytestmark = pytest.mark.slow

IN_SHAPE = (32, 32, 3)
# Counted by hand from the layers that deep_cnn states: 32 → 28 → 14 → 10 → 5 → 3.
PLAIN = (
    *(75 * 32 + 32, 25 * 32 * 64 + 64, 9 * 64 * 128 + 128),
    *(9 * 128 * 256 + 256, 256 * 43 + 43),
)
# Two 5×5 convolutions of 20 filters, a layer of 20, six parameters, on 16×16×3 and on 14×14×32.
OUTER = (75 * 20 + 20, 25 * 20 * 20 + 20, 20 * 20 + 20, 20 * 6 + 6)


def build(name, in_shape=IN_SHAPE, width=1.0):
    return models.build(name, "affine", in_shape, 43, width=width, rngs=nnx.Rngs(0))


def test_deep_models_have_the_layers_that_are_stated():
    assert models.count_parameters(build("deep-cnn")) == sum(PLAIN)
    outer = models.count_parameters(build("st-deep-cnn").transformer)
    assert models.count_parameters(build("st-deep-cnn")) == sum(PLAIN) + outer
    assert outer == sum(OUTER)
    both = build("st-deep-st-cnn")
    inner = models.count_parameters(both.classifier.transformer)
    assert models.count_parameters(both) == sum(PLAIN) + outer + inner
    assert models.width_for(400_000, "deep-cnn", "affine", IN_SHAPE, 43) == 1
    with pytest.raises(ValueError, match="at least 24×24 pixels"):
        build("deep-cnn", (23, 32, 3))
    build("st-deep-st-cnn", (24, 24, 3), width=0.05)


def test_untrained_transformers_change_nothing(rng):
    images = jnp.asarray(rng.uniform(size=(3, *IN_SHAPE)), jnp.float32)
    model = build("st-deep-st-cnn", width=0.1)
    with_both, theta = model.forward(images)
    np.testing.assert_array_equal(theta, np.tile([1, 0, 0, 0, 1, 0], (3, 1)))
    model.transformer = model.classifier.transformer = None
    np.testing.assert_allclose(model(images), with_both, rtol=1e-5, atol=1e-6)


def test_light_and_contrast_are_taken_out(rng):
    image = rng.uniform(size=(8, 6, 3))
    found = np.asarray(standardised(jnp.asarray(image, jnp.float32)))
    deviation = np.sqrt(image.var() + 0.05**2)
    np.testing.assert_allclose(found, (image - image.mean()) / deviation, atol=1e-5)
    brighter = np.asarray(standardised(jnp.asarray(image + 3, jnp.float32)))
    np.testing.assert_allclose(brighter, found, atol=1e-5)
    assert float(jnp.abs(standardised(jnp.full((4, 4, 3), 0.7))).max()) < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_augmentation_is_scipy_s_resampling(rng, seed):
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(24, 24, 2)), (2, 2, 0))
    image = 0.3 + 0.4 * (noise - noise.min()) / np.ptp(noise)
    key = jax.random.key(seed)
    keys = jax.random.split(key, 5)

    def uniform(number, low, high, shape=()):
        return np.asarray(jax.random.uniform(keys[number], shape, minval=low, maxval=high))

    angle, scale = uniform(0, -np.pi / 18, np.pi / 18), uniform(1, 0.9, 1.1)
    shift = uniform(2, -0.16, 0.16, (2,)) * 12
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    pixels = np.stack(np.meshgrid(np.arange(24.0), np.arange(24.0)), axis=-1) - 11.5
    source = pixels @ turn.T + shift + 11.5
    seen = np.stack(
        [
            scipy.ndimage.map_coordinates(
                image[..., channel], np.moveaxis(source[..., ::-1], -1, 0), order=1, mode="nearest"
            )
            for channel in range(2)
        ],
        axis=-1,
    )
    expected = seen.mean() + uniform(3, 0.7, 1.3) * (seen - seen.mean()) + uniform(4, -0.1, 0.1)
    found = distortions.vary(key, jnp.asarray(image, jnp.float32))
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-4)


def test_worst_classes_are_those_misread_most_often():
    counts = np.zeros((12, 12), int)
    np.fill_diagonal(counts, 100)
    counts[3, 3], counts[3, 5], counts[3, 0] = 80, 15, 5
    counts[7, 7], counts[7, 3] = 99, 1
    counts[11] = 0
    assert worst_classes(counts) == [
        ["3", "100", "20.00", "5 (15.0 %), 0 (5.0 %)"],
        ["7", "100", "1.00", "3 (1.0 %)"],
    ]
    many = 1 + np.eye(12, dtype=int)
    assert len(worst_classes(many)) == 8


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes of colours, in tracks of four frames."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 16)
    images = rng.integers(0, 60, (48, 24, 24, 3)) + 60 * np.eye(3, dtype=int)[labels][:, None, None]
    arrays = {"x_train": images, "y_train": labels, "x_test": images[::2], "y_test": labels[::2]}
    path = tmp_path_factory.mktemp("data") / "signs.npz"
    np.savez(path, **arrays, track_train=np.tile(np.repeat(np.arange(4), 4), 3))
    return path


def options(data, out, *more):
    return [
        *("--data", f"npz:{data}", "--out", str(out), "--seeds", "0", "1", "--steps", "4"),
        *("--steps-per-dispatch", "2", "--batch-size", "4", "--width", "0.03"),
        *("--validation", "0.25", *more),
    ]


@pytest.mark.slow
def test_the_command_leaves_a_table_and_confusions(data, tmp_path, capsys):
    out = tmp_path / "signs"
    assert traffic_signs.main(options(data, out)) == 0
    printed = capsys.readouterr().out
    entries = json.loads((out / "table.json").read_text())
    assert [(e["model"], e["paper"]) for e in entries] == [
        ("deep-cnn", 1.15),
        ("st-deep-cnn", 0.54),
        ("st-deep-st-cnn", 0.33),
    ]
    assert "st-deep-st-cnn affine: classes misclassified most often" in printed
    confusions = json.loads((out / "confusions.json").read_text())
    with np.load(data) as arrays:
        test, labels = arrays["x_test"].astype(np.uint8), arrays["y_test"]
    for entry, counts in zip(entries, confusions.values(), strict=True):
        counts = np.array(counts)
        np.testing.assert_array_equal(counts.sum(axis=1), 2 * np.bincount(labels))
        wrong = 1 - np.trace(counts) / counts.sum()
        assert 100 * wrong == pytest.approx(np.mean(entry["test_errors"]))
        # Test images are not augmented.
        assert entry["test_sha256"] == hashlib.sha256(test.tobytes()).hexdigest()
    page = (out / "report.html").read_text()
    assert "Classes misclassified most often" in page
    assert "0.33" in page
    before = (out / "table.json").read_text()
    assert traffic_signs.main(options(data, out)) == 0
    assert (out / "table.json").read_text() == before


def test_data_must_be_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        traffic_signs.main(["--out", str(tmp_path / "new")])
    assert "--data" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
