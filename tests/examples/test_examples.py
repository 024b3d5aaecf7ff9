"""Every example in a small form: it runs, writes its picture, and its claims hold."""

import re

import jax
import jax.numpy as jnp
import matplotlib.image
import numpy as np
import pytest
from flax import nnx
from processes import ROOT

import stn_jax as stn
from examples import (
    augmentation,
    export_model,
    learned_registration,
    linen_model,
    many_devices,
    rectify_text,
    register_photos,
    resnet_nnx,
)

FOLDER = ROOT / "examples"


@pytest.fixture
def run(tmp_path, capsys):
    """Runs an example's command line; gives what it returns and what it printed."""

    def run(example, *arguments):
        picture = tmp_path / "folder" / "picture.png"
        result = example.main([*map(str, arguments), "--out", str(picture)])
        assert matplotlib.image.imread(picture).std() > 0.05
        return result, capsys.readouterr().out

    return run


@pytest.mark.slow
def test_registration_ends_within_a_tenth_of_a_pixel(run):
    (before, after), printed = run(register_photos, "--pairs", 2)
    np.testing.assert_allclose(before, 20, atol=1e-3)
    assert np.all(after < 0.1)
    assert "pair 1: 20.00" in printed


@pytest.mark.slow
def test_a_short_training_of_registration_harms_nothing_and_folds_nothing(run):
    (before, after, folds), printed = run(learned_registration, "--small")
    # A hundred steps are too few to gain much; they must not harm.
    assert before - 0.01 < after < 1
    assert folds < 0.001
    assert "held-out pairs before registration" in printed


def test_dice_counts_the_voxels_that_two_labels_share():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(learned_registration.TISSUES) + 1, (2, 5, 6, 7))
    each = [
        2 * np.sum((first == k) & (second == k)) / (np.sum(first == k) + np.sum(second == k))
        for k in range(1, len(learned_registration.TISSUES) + 1)
    ]
    found = learned_registration.dice(jnp.asarray(first), jnp.asarray(second))
    assert float(found) == pytest.approx(np.mean(each), abs=1e-6)
    assert float(learned_registration.dice(jnp.asarray(first), jnp.asarray(first))) == 1


def test_homography_sends_the_corners_where_it_was_told_to():
    theta = register_photos.random_homography(jax.random.key(3), 20.0)
    matrix = np.append(np.asarray(theta, np.float64), 1).reshape(3, 3)
    corners = np.hstack([register_photos.CORNERS, np.ones((4, 1))])
    moved = corners @ matrix.T
    moved = moved[:, :2] / moved[:, 2:]
    pixels = np.linalg.norm(moved - corners[:, :2], axis=-1) * register_photos.VIEW / 2
    np.testing.assert_allclose(pixels, 20, rtol=1e-4)


@pytest.mark.slow
def test_rectified_lines_are_straighter(run):
    (before, after), printed = run(rectify_text, "--steps", 100, "--batch-size", 16, "--lines", 64)
    assert before > 2
    assert after < 0.6 * before
    assert f"{before:.2f} pixels from straight" in printed


def test_deviation_is_that_of_an_oracle():
    """The deviation of a line shifted by three pixels and not straightened."""
    shift = np.float32(3 * 2 / rectify_text.SHAPE[0])
    identity = np.asarray(rectify_text.SPLINE.identity, np.float32).reshape(-1, 2)
    bent_by = (identity + np.array([0, shift], np.float32)).ravel()
    undone = (identity - np.array([0, shift], np.float32)).ravel()
    for theta, pixels in ((identity.ravel(), 3), (undone, 0)):
        found = float(rectify_text.deviation(jnp.asarray(theta), jnp.asarray(bent_by)))
        assert found == pytest.approx(pixels, abs=1e-3)


@pytest.mark.slow
def test_dots_and_keypoints_move_together_and_the_strength_is_found(run):
    (error, distance), _ = run(augmentation, "--samples", 3, "--distance", 9.0)
    assert 0 < error < 0.15
    assert distance == pytest.approx(9, abs=1e-3)


def test_dots_are_missed_where_keypoints_are_wrong():
    sample = augmentation.photograph()
    thetas = jnp.asarray(augmentation.bends(1.0).transform.identity[None], jnp.float32)
    found = sample._replace(keypoints=sample.keypoints[None])
    wrong = sample._replace(keypoints=sample.keypoints[None] + jnp.array([1.5, 2.0]))
    error = jax.jit(augmentation.dot_error)
    assert float(error(thetas, sample, found)) == pytest.approx(0, abs=0.01)
    assert float(error(thetas, sample, wrong)) == pytest.approx(2.5, abs=0.01)


@pytest.mark.slow
def test_linen_model_learns(run):
    (before, after), printed = run(linen_model, "--steps", 150)
    assert before < 30
    assert after > 60
    assert "transformer/localization/head/linear/kernel" in printed


def test_many_devices_may_be_one(capsys):
    """The page on devices compares several of them with one."""
    losses = many_devices.main(["--steps", "5", "--batch-size", "16"])
    assert losses == sorted(losses, reverse=True)
    assert f'"losses": [{losses[0]}' in capsys.readouterr().out


@pytest.mark.slow
def test_residual_networks_learn(run):
    options = ("--steps", 80, "--batch-size", 32)
    accuracies, printed = run(resnet_nnx, *options)
    assert min(accuracies.values()) > 50
    assert printed.count("accuracy on 797 rotated test digits") == 2


def test_residual_network_classifies_the_warped_input():
    """With theta set by hand it equals the model without transformer, on images turned before."""
    images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
    model = resnet_nnx.ResNet(4, with_transformer=True, rngs=nnx.Rngs(0))
    model.eval()
    turn = jnp.array([0.4, 0.1, 0.0])
    head = model.transformer.localization
    head.linear.bias[...] = turn / head.scale  # The identity of rigid maps is 0.
    run = nnx.jit(lambda model, images: model(images))
    logits = run(model, images)
    model.with_transformer = False
    turned = jax.vmap(lambda image: stn.warp(image, stn.rigid(), turn))(images)
    np.testing.assert_allclose(logits, run(model, turned), rtol=1e-5, atol=1e-5)
    assert np.abs(logits - run(model, images)).max() > 1e-3


def test_linen_model_starts_from_the_identity_and_obeys_its_parameters():
    images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
    model = linen_model.Classifier((28, 28, 1))
    params = model.init(jax.random.key(0), images)["params"]
    theta, straight = model.apply({"params": params}, images, method="straighten")
    np.testing.assert_array_equal(theta, np.zeros((2, 3)))
    np.testing.assert_array_equal(straight, images)
    bias = params["transformer"]["localization"]["head"]["linear"]["bias"]
    turn = jnp.array([0.4, 0.1, 0.0])
    by_hand = turn / 0.125  # The head's scale; the identity of rigid maps is 0.
    turned = jax.tree.map(lambda leaf: by_hand if leaf is bias else leaf, params)
    _, straight = model.apply({"params": turned}, images, method="straighten")
    expected = jax.vmap(lambda image: stn.warp(image, stn.rigid(), turn))(images)
    np.testing.assert_allclose(straight, expected, atol=1e-6)


def test_exported_model_gives_the_same_without_this_library(tmp_path, capsys):
    file = tmp_path / "folder" / "model.stablehlo"
    here, elsewhere = export_model.main(["--steps", "3", "--batch-size", "8", "--out", str(file)])
    assert here.shape == elsewhere.shape == (797, 10)
    assert here.std() > 0.1
    np.testing.assert_allclose(elsewhere, here, atol=1e-5)
    assert f"{file.stat().st_size:,} bytes" in capsys.readouterr().out


def test_every_example_is_in_the_documentation_with_its_command():
    page = (FOLDER.parent / "docs" / "experiments.md").read_text()
    names = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}
    assert set(re.findall(r"python -m examples\.(\w+)", page)) == names
    for name in names:
        assert f"``python -m examples.{name}``" in (FOLDER / f"{name}.py").read_text()
