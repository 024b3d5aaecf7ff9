"""Invariance to rotation: states from checkpoints, test images turned, numbers of the figure."""

import dataclasses
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from experiments.classification import restore as trained
from experiments.classification import run
from experiments.classification.config import Run
from experiments.classification.step import error_mask
from experiments.data.datasets import Dataset, Split
from experiments.engine import prepare_folder
from experiments.invariance import __main__ as invariance
from experiments.invariance import measure
from experiments.invariance.config import Arguments
from experiments.invariance.report import InvarianceResult, table
from experiments.report import build_report, figures

# These run whole commands with trainings.
pytestmark = pytest.mark.slow

NAMES = ["CNN, upright digits", "CNN, turned digits", "ST-CNN, turned digits"]
FOLDERS = ["cnn-upright", "cnn-turned", "st-cnn-turned"]


def bars(rng, number):
    """A bar above, or a bar on the left; a quarter turn makes one of the other."""
    labels = np.arange(number) % 2
    images = rng.integers(0, 60, (number, 24, 24))
    images[labels == 0, 3:8] += 190
    images[labels == 1, :, 3:8] += 190
    return images, labels


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Bars in an NPZ file."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "bars.npz"
    parts = {name: bars(rng, number) for name, number in (("train", 64), ("test", 30))}
    np.savez(
        path,
        **{f"x_{name}": images for name, (images, _) in parts.items()},
        **{f"y_{name}": labels for name, (_, labels) in parts.items()},
    )
    return f"npz:{path}"


def words(data, out, *more):
    return [
        *("--data", data, "--out", str(out), "--width", "0.25", "--seeds", "0", "1"),
        *("--steps", "6", "--steps-per-dispatch", "3", "--batch-size", "8", "--validation", "0"),
        *("--seeds-at-once", "2", "--angle-step", "90", *more),
    ]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished comparison."""
    out = tmp_path_factory.mktemp("invariance")
    assert invariance.main(words(data, out)) == 0
    return out


@pytest.fixture(scope="module")
def grouped(data, tmp_path_factory):
    """A finished run of three seeds, two of them trained at once."""
    folder = tmp_path_factory.mktemp("grouped")
    settings = Run(
        **{"data": data, "model": "fcn", "distortion": "R", "seeds": (4, 2, 7), "steps": 6},
        **{"seeds_at_once": 2, "steps_per_dispatch": 3, "batch_size": 8, "width": 0.1},
    )
    dataset = run.load_dataset(settings)
    prepare_folder(settings, folder, resume=False, overwrite=False)
    run.execute(settings, folder, dataset)
    return settings, folder, dataset


def record_of(out):
    return json.loads((out / "invariance.json").read_text())


@pytest.mark.slow
def test_restored_states_make_the_errors_of_the_run(grouped):
    settings, folder, dataset = grouped
    classifier = run.build_classifier(settings, dataset)
    states = trained.trained_states(settings, folder, classifier)
    np.testing.assert_array_equal(states.step, [6, 6, 6])
    with np.load(folder / "misread.npz") as saved:
        assert saved["seeds"].tolist() == [4, 2, 7]
        for k, expected in enumerate(saved["wrong"]):
            own = jax.tree.map(lambda each, k=k: each[k : k + 1], states.params)
            (wrong,) = error_mask(classifier, own, dataset.test.images, dataset.test.labels)
            np.testing.assert_array_equal(wrong, expected)
    # The seeds differ, so a wrong order would be noticed.
    first, *others = (np.asarray(leaf) for leaf in jax.tree.leaves(states.params)[-1])
    assert not any(np.array_equal(first, other) for other in others)


@pytest.mark.slow
def test_states_of_what_is_not_finished_are_refused(grouped, tmp_path):
    settings, folder, dataset = grouped
    classifier = run.build_classifier(settings, dataset)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    with pytest.raises(ValueError, match=r"holds a run with other settings.*steps was 6, is 7"):
        trained.trained_states(dataclasses.replace(settings, steps=7), copy, classifier)
    last = copy / "checkpoints" / "seed-4-2"
    shutil.rmtree(last / "6")
    with pytest.raises(ValueError, match="seed-4-2 must hold a checkpoint of step 6"):
        trained.trained_states(settings, copy, classifier)
    shutil.rmtree(last)
    with pytest.raises(ValueError, match=r"seed-4-2 must hold.*the last is of None"):
        trained.trained_states(settings, copy, classifier)
    assert not last.exists()
    (copy / "result.json").unlink()
    with pytest.raises(ValueError, match=r"copy must hold a finished run; got no result.json"):
        trained.trained_states(settings, copy, classifier)


@pytest.mark.slow
def test_what_the_command_leaves(finished):
    record = record_of(finished)
    assert [model["name"] for model in record["models"]] == NAMES
    assert record["angles"] == [-90, 0, 90]
    assert np.shape(record["errors"]) == (3, 2, 3)
    assert all("data" not in settings for settings in record["settings"].values())
    assert {"versions", "device"} <= record.keys()
    # Unturned, a model that was trained and tested on upright images errs as its run says.
    with np.load(finished / "cnn-upright" / "misread.npz") as saved:
        expected = 100 * saved["wrong"].mean(axis=(1, 2))
    np.testing.assert_allclose(np.array(record["errors"])[0, :, 1], expected)
    page = (finished / "report.html").read_text()
    assert all(f'data-label="model">{name}</td>' in page for name in NAMES)
    assert (finished / "invariance.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_models_differ_in_what_is_compared_alone(finished):
    upright, turned, transformed = (
        json.loads((finished / name / "config.json").read_text()) for name in FOLDERS
    )
    assert {key for key in upright if upright[key] != turned[key]} == {"distortion"}
    assert {key for key in turned if turned[key] != transformed[key]} == {"model", "width"}


@pytest.mark.slow
def test_a_quarter_turn_is_that_of_numpy(finished, data):
    arguments = Arguments(
        **{"data": data, "width": 0.25, "seeds": (0, 1), "steps": 6, "steps_per_dispatch": 3},
        **{"batch_size": 8, "validation": 0.0, "seeds_at_once": 2, "angle_step": 90.0},
    )
    dataset = run.load_dataset(arguments)
    errors = np.array(record_of(finished)["errors"])
    seen = set()
    for k, settings in enumerate(measure.runs_of(arguments, dataset).values()):
        classifier = run.build_classifier(settings, dataset)
        states = trained.trained_states(settings, finished / FOLDERS[k], classifier)
        for column, turns in enumerate((-1, 0, 1)):
            turned = np.rot90(dataset.test.images, turns, axes=(1, 2)).copy()
            one = jax.vmap(classifier.forward, in_axes=(0, None))(
                states.params, turned / np.float32(255)
            )
            wrong = np.asarray(one["predictions"]) != dataset.test.labels
            np.testing.assert_allclose(errors[k, :, column], 100 * wrong.mean(axis=1))
            seen.add(tuple(wrong.sum(axis=1).tolist()))
    # Otherwise all turns would give the same errors.
    assert len(seen) > 2


@pytest.mark.slow
def test_what_is_measured_is_kept_and_what_is_not_is_measured(
    finished, data, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    expected = record_of(out)
    kept = out / "cnn-turned" / "turned.json"
    before = json.loads(kept.read_text())
    kept.write_text(json.dumps({"0": before["0"]}))
    measured, count = [], measure.count_errors

    def stopped(*args):
        measured.append(args[-1])
        os.kill(os.getpid(), signal.SIGINT)
        return count(*args)

    monkeypatch.setattr(measure, "count_errors", stopped)
    assert invariance.main(words(data, out)) == 130
    assert "stopped at CNN, turned digits, angle 90°; the same" in capsys.readouterr().err
    assert measured == [-90]
    monkeypatch.setattr(measure, "count_errors", count)
    assert invariance.main(words(data, out)) == 0
    assert json.loads(kept.read_text()) == before
    assert record_of(out) == expected
    assert invariance.main(words(data, out, "--learning-rate", "0.5")) == 2
    assert "learning_rate was 0.003, is 0.5" in capsys.readouterr().err


def test_numbers_of_the_table_and_of_the_figure():
    angles = [-60.0, -30.0, 0.0, 30.0, 60.0]
    errors = np.array([[[9, 5, 1, 3, 7], [11, 7, 3, 5, 9]], [[2, 2, 2, 2, 2], [4, 4, 4, 4, 8]]])
    about = {"model": "cnn", "transform": None, "distortion": "R", "test_errors": []}
    models = [{"name": "a", "num_parameters": 1234}, {"name": "b", "num_parameters": 5}]
    record = InvarianceResult.from_json(
        {
            **{"models": [each | about for each in models], "angles": angles, "seeds": [0, 1]},
            **{"errors": errors.tolist(), "dataset": "digits", "test_images": 8, "settings": {}},
            **{"versions": {}, "device": "cpu"},
        }
    )
    headings, rows = table(record)
    assert headings == ["model", "parameters", "0°", "±30°", "±60°", "all angles"]
    assert rows[0] == ["a", "1,234", "2.00", "5.00", "9.00", "6.00"]
    assert rows[1] == ["b", "5", "3.00", "3.00", "4.00", "3.40"]
    (axes,) = figures.errors_by_angle(["a", "b"], angles, errors).axes
    means = [[10, 6, 2, 4, 8], [3, 3, 3, 3, 5]]
    for line, mean in zip(axes.lines, means, strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([angles, mean]))
    for band, of_model in zip(axes.collections, errors, strict=True):
        corners = {tuple(point) for point in band.get_paths()[0].vertices}
        for edge in of_model:
            assert set(zip(angles, edge, strict=True)) <= corners


@pytest.mark.parametrize("width", [1.0, 0.5, 0.25])
def test_models_are_about_as_large(width):
    empty = Split(np.zeros((1, 28, 28, 1), np.uint8), np.zeros(1, np.int32))
    dataset = Dataset("empty", empty, empty, None, 10)
    runs = measure.runs_of(Arguments(width=width), dataset)
    cnn, _, st_cnn = (run.check_model(each, dataset) for each in runs.values())
    assert st_cnn == pytest.approx(cnn, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_angle": 0.0}, r"max_angle must be in \(0, 180\]; got 0.0"),
        ({"max_angle": 200.0}, "max_angle must be in"),
        ({"max_angle": float("nan")}, "max_angle must be in"),
        ({"angle_step": 0.0}, "angle_step must divide max_angle, 90; got 0"),
        ({"angle_step": -10.0}, "angle_step must divide"),
        ({"angle_step": 40.0}, "angle_step must divide"),
        ({"angle_step": 180.0}, "angle_step must divide"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Arguments(**options)


def test_too_narrow_models_are_refused(data, tmp_path, capsys):
    assert invariance.main([*words(data, tmp_path / "out"), "--width", "0.05"]) == 2
    assert "Take a larger --width" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_names_must_be_one_for_each_run(tmp_path):
    with pytest.raises(ValueError, match="names must be one for each of 1 runs; got"):
        build_report(tmp_path, [tmp_path], names=["a", "b"])
