"""Co-localisation: loss, boxes and canvases against NumPy; the command, resuming and bad input."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data_samples import two_classes_of_noise
from flax import nnx
from processes import environment

import stn_jax as stn
from experiments.colocalisation import __main__ as colocalisation
from experiments.colocalisation import model, run, scenes
from experiments.colocalisation.localization import SpatialSoftmaxLocalization
from experiments.engine.metrics import MetricsLog

# These run whole commands with trainings.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
TIMING = ("seconds", "wall_time_s", "images_per_second")


def loss_by_hand(found, random, margin):
    """The mean hinge over pairs and random crops, term by term in float64."""
    terms = []
    for crops in random.astype(np.float64):
        for n, anchor in enumerate(found.astype(np.float64)):
            for m, other in enumerate(found.astype(np.float64)):
                if m != n:
                    near, far = (((anchor - each) ** 2).sum() for each in (other, crops[n]))
                    terms.append(max(0.0, near - far + margin))
    return np.mean(terms)


def overlap_by_hand(box, other):
    """Intersection over union, by counting the cells of a fine grid."""
    at = (np.arange(400) + 0.5) / 10
    inside = [
        ((at >= b[1]) & (at < b[3]))[:, None] & ((at >= b[0]) & (at < b[2]))[None]
        for b in (box, other)
    ]
    return (inside[0] & inside[1]).sum() / (inside[0] | inside[1]).sum()


@pytest.mark.parametrize("margin", [1.0, 4.0])
def test_loss_is_the_mean_of_its_terms(rng, margin):
    found = rng.normal(size=(5, 3)).astype(np.float32)
    random = rng.normal(size=(2, 5, 3)).astype(np.float32)
    made = model.triplet_loss(
        jnp.asarray(found), jnp.asarray(found), jnp.asarray(random), margin=margin
    )
    expected = loss_by_hand(found, random, margin)
    assert expected > 0
    np.testing.assert_allclose(made, expected, rtol=1e-5)


def test_loss_is_zero_where_crops_are_alike_and_random_ones_are_far():
    found = jnp.zeros((3, 2))
    far = jnp.full((1, 3, 2), 10.0)
    assert model.triplet_loss(found, found, far) == 0
    # Empty crops among empty random ones cost the margin.
    assert model.triplet_loss(found, found, jnp.zeros((1, 3, 2))) == 1


def test_a_constant_target_leaves_the_anchors_gradient(rng):
    found = jnp.asarray(rng.normal(size=(4, 3)).astype(np.float32))
    random = jnp.asarray(rng.normal(size=(1, 4, 3)).astype(np.float32))
    # A margin so large that every hinge is active, so the gradient has a closed form.
    loss = functools.partial(model.triplet_loss, margin=100.0)
    gradient = jax.grad(lambda x: loss(x, found, random))(found)
    others = (np.asarray(found).sum(axis=0) - found) / 3
    np.testing.assert_allclose(gradient, 2 * (random[0] - others) / 4, rtol=1e-4, atol=1e-5)


def test_the_crop_most_unlike_the_others(rng):
    random = rng.normal(size=(5, 3, 4)).astype(np.float32)
    for image, crop in enumerate([2, 0, 4]):
        random[crop, image] += 20
    places = rng.normal(size=(5, 3, 2)).astype(np.float32)
    made = model.most_unlike(jnp.asarray(random), jnp.asarray(places))
    np.testing.assert_array_equal(made, places[[2, 0, 4], [0, 1, 2]])


def test_overlap_counts_common_area():
    boxes = np.array([[0, 0, 10, 10], [2, 3, 12, 23], [0, 0, 10, 10], [5, 5, 6, 6]], np.float32)
    others = np.array([[0, 0, 10, 10], [7, 1, 17, 21], [20, 0, 30, 10], [0, 0, 20, 10]], np.float32)
    made = scenes.intersection_over_union(jnp.asarray(boxes), jnp.asarray(others))
    expected = [overlap_by_hand(a, b) for a, b in zip(boxes, others, strict=True)]
    np.testing.assert_allclose(made, expected, rtol=1e-6)
    assert made[0] == 1
    assert made[2] == 0


def test_a_digit_lies_in_its_box_and_a_crop_there_reads_it(rng):
    images = rng.integers(1, 256, (6, 8, 10, 1), dtype=np.uint8)
    canvases, boxes = scenes.draw_held_out(np.arange(6), jnp.asarray(images), patches=0)
    assert canvases.shape == (6, 24, 30, 1)
    places = scenes.places_of(boxes, canvases.shape[1:])
    crop = scenes.crop()
    for image, canvas, box, theta in zip(images, canvases, np.asarray(boxes), places, strict=True):
        x0, y0, x1, y1 = box.astype(int)
        assert (x1 - x0, y1 - y0) == (10, 8)
        expected = np.zeros(canvas.shape)
        expected[y0:y1, x0:x1] = image / 255
        np.testing.assert_allclose(canvas, expected, atol=1e-6)
        read = stn.warp(canvas, crop, theta, output_shape=(8, 10))
        np.testing.assert_allclose(read, image / 255, atol=1e-4)
    assert len({tuple(box) for box in np.asarray(boxes).tolist()}) > 3


def test_clutter_adds_patches_and_moves_nothing(rng):
    images = jnp.asarray(rng.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8))
    key = jax.random.key(3)
    plain, box = scenes.draw_canvas(key, images[0], images, patches=0)
    cluttered, same_box = scenes.draw_canvas(key, images[0], images, patches=16)
    np.testing.assert_array_equal(box, same_box)
    assert (cluttered >= plain).all()
    added = np.asarray(cluttered > plain).sum()
    assert 0 < added <= 16 * 6 * 6


@pytest.mark.parametrize("theta", [[0.0, 0.0], [0.3, -0.2], [2 / 3, -2 / 3]])
def test_boxes_of_crops(theta):
    (box,) = np.asarray(scenes.crop_boxes(jnp.array([theta]), (24, 36, 1)), np.float64)
    centre = (np.array(theta) + 1) / 2 * np.array([36, 24])
    half = np.array([6, 4])
    np.testing.assert_allclose(box, np.concatenate([centre - half, centre + half]), atol=1e-4)


@pytest.fixture(scope="module")
def localization():
    return SpatialSoftmaxLocalization(1, rngs=nnx.Rngs(0))


def test_untrained_crops_lie_in_the_middle(localization, rng):
    canvases = jnp.asarray(rng.uniform(size=(3, 86, 70, 1)), jnp.float32)
    np.testing.assert_allclose(localization(canvases), np.zeros((3, 2)), atol=1e-6)


def test_crops_follow_a_bright_place_and_stay_on_the_canvas(localization):
    """A map that is the brightness itself has its peak at the one bright cell."""
    brightness = nnx.clone(localization)
    for convolution in (*brightness.convolutions, brightness.last):
        kernel = np.zeros(convolution.kernel.shape, np.float32)
        kernel[2, 2, 0, 0] = 10
        convolution.kernel[...] = kernel
    at = np.array([[40, 40], [8, 60], [0, 80]])  # (x, y) of the cell's first pixel
    canvases = np.zeros((3, 84, 84, 1), np.float32)
    for canvas, (x, y) in zip(canvases, at, strict=True):
        canvas[y : y + 4, x : x + 4] = 1
    expected = np.clip((at + 2) / 42 - 1, -scenes.REACH, scenes.REACH)
    np.testing.assert_allclose(brightness(jnp.asarray(canvases)), expected, atol=1e-3)


def test_a_row_counts_detections():
    def found(overlap):
        return run.Measured(np.zeros((4, 4)), np.zeros((4, 2)), np.array(overlap))

    first, second = found([0.9, 0.51, 0.5, 0.1]), found([0.9, 0.8, 0.7, 0.6])
    row = run.result_of("T", [3], [[first, second]])
    assert row.correct == (50.0, 100.0)
    assert row.mean == 75
    assert row.interval[0] <= 75 <= row.interval[1]
    assert row.canvases == 4
    both = run.result_of("TC", [3, 4], [[first], [second]])
    assert (both.mean, both.canvases, both.paper) == (75, 8, (75, 94))
    embedded = run.result_of("TC", [3], [[first]], comparable=False)
    assert embedded.paper is None


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes of noise that differ in brightness."""
    return two_classes_of_noise(tmp_path_factory.mktemp("data"), 60, 40, 24)


def arguments(data, out, *more):
    return [
        *("--data", data, "--out", str(out), "--validation", "0", "--sets", "TC"),
        *("--steps", "6", "--steps-per-dispatch", "2", "--batch-size", "4"),
        *("--encoder-steps", "4", "--random-crops", "1"),
        *more,
    ]


def kept(folder):
    """The results that must not depend on an interruption."""
    result = json.loads((folder / "result.json").read_text())
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in each.items() if k not in TIMING} for each in (result, *rows)]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert colocalisation.main(arguments(data, out)) == 0
    return out


@pytest.mark.slow
def test_what_a_run_leaves(data, finished, capsys):
    result = json.loads((finished / "result.json").read_text())
    assert [(row["set"], row["digits"]) for row in result["rows"]] == [("TC", [0]), ("TC", [1])]
    assert [row["canvases"] for row in result["rows"]] == [10, 10]
    assert result["sets"][0]["canvases"] == 20
    assert "npz:" not in json.dumps(result)
    assert json.loads((finished / "config.json").read_text())["data"] == data
    for name in ("found_TC.png", "moving_TC.gif", "report.html"):
        assert (finished / name).stat().st_size > 1000
    page = (finished / "report.html").read_text()
    assert page.count('src="data:image/') == 2
    assert "http" not in page.replace("http-equiv", "")
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    names = ["encoder-seed-0", "TC-digit-0-seed-0", "TC-digit-1-seed-0"]
    assert list(dict.fromkeys(row["training"] for row in rows)) == names
    assert all((finished / "checkpoints" / name).is_dir() for name in names)
    # After six steps all crops are still in the middle.
    assert "diagnose finds problems in 2 of 2 trainings" in page
    assert "same for every image" in page
    # The localization network learns, though the loss has no places.
    with np.load(finished / "snapshots" / "TC-digit-0.npz") as saved:
        assert saved["steps"].tolist() == [0, 2, 4, 6]
        first, *_, last = saved["theta"]
    np.testing.assert_allclose(first, np.zeros((6, 2)), atol=1e-6)
    assert np.abs(last).max() > 1e-4
    # A finished run is not trained again.
    assert colocalisation.main(arguments(data, finished, "--resume")) == 0
    assert f"{result['sets'][0]['mean']:.1f}" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_and_resumed_is_the_same(data, finished, tmp_path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "experiments.colocalisation", *arguments(data, out)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    log = out / "metrics.jsonl"
    deadline = time.monotonic() + 300
    # Somewhere in the training of the first class.
    while not (log.exists() and "TC-digit-0" in log.read_text()):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "result.json").exists()
    assert colocalisation.main(arguments(data, out, "--resume")) == 0
    assert kept(out) == kept(finished)


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same(data, finished, tmp_path, monkeypatch, capsys):
    out = tmp_path / "stopped"
    append = MetricsLog.append

    def append_and_stop(log, row):
        append(log, row)
        if (row["training"], row["step"]) == ("TC-digit-1-seed-0", 2):
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(MetricsLog, "append", append_and_stop)
        assert colocalisation.main(arguments(data, out)) == 130
    assert "stopped at TC-digit-1, seed 0, step 4 of 6" in capsys.readouterr().err
    assert colocalisation.main(arguments(data, out)) == 2
    assert "--resume goes on" in capsys.readouterr().err
    assert colocalisation.main(arguments(data, out, "--resume")) == 0
    assert kept(out) == kept(finished)


@pytest.mark.slow
def test_seeds_at_once_end_as_each_by_itself(data, tmp_path):
    losses = []
    for at_once in ("1", "2"):
        out = tmp_path / at_once
        more = ("--digits", "1", "--seeds", "0", "1", "--seeds-at-once", at_once)
        assert colocalisation.main(arguments(data, out, *more)) == 0
        _, *rows = kept(out)
        losses.append({(row["training"], row["step"]): row["loss"] for row in rows})
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_two_devices_end_as_one(data, tmp_path):
    losses = []
    for number in (1, 2):
        out = tmp_path / str(number)
        words = arguments(data, out, "--digits", "1")
        command = [sys.executable, "-m", "experiments.colocalisation", *words]
        done = subprocess.run(
            command, cwd=ROOT, env=environment(number), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        _, *rows = kept(out)
        losses.append({(row["training"], row["step"]): row["loss"] for row in rows})
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@pytest.mark.slow
def test_a_training_stops_early(data, tmp_path):
    out = tmp_path / "run"
    words = arguments(
        data, out, "--digits", "1", "--early-stopping", "1", "--learning-rate", "1e-9"
    )
    words[words.index("--validation") + 1] = "0.25"
    assert colocalisation.main(words) == 0
    result, *rows = kept(out)
    assert result["settings"]["early_stopping"] == 1
    assert all(0 <= row["validation_error"] <= 100 for row in rows)
    # The first measurement is the best, and the second is not better.
    assert max(row["step"] for row in rows) == 4


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--steps", "0"), "steps must be at least 1; got 0"),
        (("--batch-size", "1"), "batch_size must be at least 2; got 1"),
        (("--random-crops", "0"), "random_crops must be at least 1; got 0"),
        (("--learning-rate", "0"), "learning_rate must be positive; got 0.0"),
        (("--margin", "0"), "margin must be positive"),
        (("--guidance", "-1"), "guidance not negative; got 3000.0 and -1.0"),
        (("--seeds", "1", "1"), "seeds must be one or more different"),
        (("--digits", "7"), "digits must be classes of"),
        (("--resume", "--overwrite"), "exclude each other"),
        (("--on", "validation"), "needs images to be held out"),
        (("--sets", "R"), "invalid choice"),
    ],
)
def test_bad_options(data, tmp_path, capsys, more, message):
    try:
        status = colocalisation.main(arguments(data, tmp_path / "out", *more))
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_images_that_are_too_small(tmp_path, capsys):
    path = tmp_path / "small.npz"
    images, labels = np.zeros((4, 12, 12), np.uint8), np.arange(4) % 2
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert colocalisation.main(arguments(f"npz:{path}", tmp_path / "out")) == 2
    assert "at least 24×24 pixels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
