"""The command: the files of a run, resuming, and bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_samples import two_classes_of_noise
from processes import environment

from experiments.distorted_mnist import __main__ as distorted_mnist
from experiments.engine.metrics import MetricsLog

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two classes of noise that differ in brightness."""
    return two_classes_of_noise(tmp_path_factory.mktemp("data"), 120, 80, 10)


def arguments(data, out, *more, model=("st-fcn",), seeds=(0, 1)):
    return [
        *("--model", *model),
        *("--data", data),
        *("--out", str(out)),
        *("--seeds", *map(str, seeds)),
        *("--steps", "12", "--steps-per-dispatch", "3", "--batch-size", "8"),
        *more,
    ]


def result_of(folder):
    """The results that must not depend on an interruption."""
    result = json.loads((folder / "result.json").read_text())
    result.pop("wall_time_s")
    timing = ("seconds", "images_per_second")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in row.items() if k not in timing} for row in rows]
    with np.load(folder / "pictures.npz") as pictures:
        arrays = {name: pictures[name].tolist() for name in pictures.files}
    return result, metrics, arrays


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """An uninterrupted run."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert distorted_mnist.main(arguments(data, out)) == 0
    return out


def test_what_a_run_leaves(finished):
    result, metrics, pictures = result_of(finished)
    assert result["model"] == "st-fcn"
    assert result["transform"] == "affine"
    assert result["seeds"] == [0, 1]
    assert len(result["test_errors"]) == 2
    assert result["mean"] == pytest.approx(np.mean(result["test_errors"]))
    assert result["interval"][0] <= result["mean"] <= result["interval"][1]
    assert result["test_images"] == 40
    assert {"jax", "flax", "optax", "numpy", "stn-jax", "python"} <= set(result["versions"])
    assert "CPU core" in result["device"]
    assert [(row["seed"], row["step"]) for row in metrics] == [
        (seed, step) for seed in (0, 1) for step in (3, 6, 9, 12)
    ]
    assert all(0 <= row["validation_error"] <= 100 for row in metrics)
    assert pictures["steps"] == [0, 3, 6, 9, 12]
    assert np.shape(pictures["theta"]) == (5, 2, 6)
    np.testing.assert_array_equal(pictures["theta"][0], 2 * [[1, 0, 0, 0, 1, 0]])
    config = json.loads((finished / "config.json").read_text())
    assert config["steps"] == 12
    for name in ("report.html", "training_curves.png", "before_after.png", "theta.gif"):
        assert (finished / name).stat().st_size > 1000, name
    assert {path.name for path in (finished / "checkpoints").iterdir()} == {"seed-0", "seed-1"}


# A line is written while the next dispatch runs, and that dispatch is completed.
@pytest.mark.parametrize(
    ("at", "stops"),
    [
        pytest.param((0, 3), 6, marks=pytest.mark.slow),
        pytest.param((0, 12), 12, marks=pytest.mark.slow),
        ((1, 6), 9),
    ],
)
def test_ctrl_c_saves_and_resume_ends_with_the_same_numbers(
    at, stops, finished, data, tmp_path, monkeypatch, capsys
):
    append = MetricsLog.append

    def append_and_interrupt(log, row):
        append(log, row)
        if (row["seed"], row["step"]) == at:
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", append_and_interrupt)
        assert distorted_mnist.main(arguments(data, out)) == 130
    assert f"seed {at[0]}, step {stops} of 12" in capsys.readouterr().err
    assert not (out / "result.json").exists()
    assert distorted_mnist.main(arguments(data, out, "--resume")) == 0
    assert result_of(out) == result_of(finished)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(finished, data, tmp_path):
    """SIGKILL during a training, between checkpoints, with a line cut short."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "experiments.distorted_mnist", *arguments(data, out)]
    process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("\n") >= 5):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.wait()
    with metrics.open("a") as file:
        file.write('{"seed": 1, "st')
    assert distorted_mnist.main(arguments(data, out, "--resume")) == 0
    assert result_of(out) == result_of(finished)


def test_a_finished_run_resumes_to_itself(finished, data, capsys):
    before = result_of(finished)
    assert distorted_mnist.main(arguments(data, finished, "--resume")) == 0
    assert result_of(finished) == before
    assert "st-fcn" in capsys.readouterr().out


@pytest.mark.slow
def test_several_models_share_a_report(data, tmp_path, capsys):
    out = tmp_path / "both"
    options = arguments(data, out, model=("fcn", "st-fcn"), seeds=(0,))
    assert distorted_mnist.main(options) == 0
    table = capsys.readouterr().out
    html = (out / "report.html").read_text()
    for model in ("fcn", "st-fcn"):
        result = json.loads((out / model / "result.json").read_text())
        assert f"{result['mean']:.2f}" in table
        assert f"{result['mean']:.2f}" in html
    assert (out / "theta.gif").exists()


def test_an_output_folder_that_exists(finished, data, capsys):
    before = result_of(finished)
    assert distorted_mnist.main(arguments(data, finished)) == 2
    message = capsys.readouterr().err
    assert "--resume" in message
    assert "--overwrite" in message
    changed = arguments(data, finished, "--resume", "--learning-rate", "0.1")
    assert distorted_mnist.main(changed) == 2
    assert "learning_rate was 0.003, is 0.1" in capsys.readouterr().err
    assert result_of(finished) == before


def test_an_output_folder_that_is_no_run(data, tmp_path, capsys):
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    for option in ((), ("--resume",), ("--overwrite",)):
        assert distorted_mnist.main(arguments(data, tmp_path, *option)) == 2
        assert "is not a run" in capsys.readouterr().err
    assert precious.read_text() == "years of work"


def test_overwrite_starts_anew(finished, data, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    (out / "result.json").unlink()
    (out / "metrics.jsonl").write_text('{"seed": 0, "step": 3}\n')
    assert distorted_mnist.main(arguments(data, out, "--overwrite")) == 0
    assert result_of(out) == result_of(finished)


@pytest.mark.slow
def test_corrupt_files_are_named(data, tmp_path, capsys):
    out = tmp_path / "run"
    assert distorted_mnist.main(arguments(data, out, seeds=(0,))) == 0
    (out / "result.json").unlink()
    for file in (out / "checkpoints" / "seed-0").rglob("*"):
        if file.is_file() and file.parent.name == "d":
            os.truncate(file, file.stat().st_size // 2)
    # In a new process: after a failed read Orbax leaves callbacks, which on Python 3.13 run during
    # later tests.
    resume = arguments(data, out, "--resume", seeds=(0,))
    command = [sys.executable, "-m", "experiments.distorted_mnist", *resume]
    resumed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert resumed.returncode == 2
    assert str(out / "checkpoints" / "seed-0" / "12") in resumed.stderr
    (out / "config.json").write_text("{")
    assert distorted_mnist.main(resume) == 2
    assert "config.json is not valid JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--data", "cifar"), "cifar"),
        (("--data", "idx:nowhere"), "nowhere"),
        (("--steps", "0"), "steps must be at least 1"),
        (("--batch-size", "-1"), "batch_size must be at least 1"),
        (("--learning-rate", "0"), "learning_rate must be positive"),
        (("--seeds", "1", "1"), "seeds must be one or more different"),
        (("--model", "cnn"), "24×24"),
        (("--validation", "1"), r"[0, 1)"),
        (("--resume", "--overwrite"), "exclude each other"),
    ],
)
def test_bad_options(options, message, data, tmp_path, capsys):
    try:
        status = distorted_mnist.main(arguments(data, tmp_path / "run", *options))
    except SystemExit as stopped:  # Errors that the command line's parser finds.
        status = stopped.code
    assert status == 2
    captured = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in captured
    assert not (tmp_path / "run").exists()
    assert "Traceback" not in captured


@pytest.mark.slow
def test_real_digits_are_learnt(data_folder, tmp_path):
    """A few steps on the original MNIST files: far from chance."""
    out = tmp_path / "run"
    options = ("--steps", "100", "--batch-size", "64", "--learning-rate", "3e-3")
    specification = f"idx:{data_folder / 'mnist'}"
    assert distorted_mnist.main(arguments(specification, out, *options, seeds=(0,))) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["test_images"] == 10_000
    assert result["mean"] < 30
