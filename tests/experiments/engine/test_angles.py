"""An experiment of under 80 lines gets everything from the engine."""

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import environment

from experiments.engine.metrics import MetricsLog

SCRIPT = Path(__file__).with_name("angles.py")
TIMING = ("seconds", "images_per_second")


@pytest.fixture(scope="module")
def angles():
    spec = importlib.util.spec_from_file_location("angles", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def finished(angles, tmp_path_factory):
    """An uninterrupted run of two seeds, one after the other."""
    out = tmp_path_factory.mktemp("angles") / "run"
    assert angles.main(["--seeds", "0", "1", "--out", str(out)]) == 0
    return out


def kept(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in TIMING} for row in rows]
    return rows, json.loads((out / "result.json").read_text())


def losses(out):
    return [row["loss"] for row in kept(out)[0]]


def test_it_is_short():
    assert len(SCRIPT.read_text().splitlines()) < 80


def test_it_learns_and_leaves_a_report(finished):
    rows, result = kept(finished)
    assert [(row["seed"], row["step"]) for row in rows] == [
        (seed, step) for seed in (0, 1) for step in range(5, 41, 5)
    ]
    assert max(result["errors"]) < 0.5 * rows[0]["validation_error"] + 0.1
    assert "<h1>Angles</h1>" in (finished / "report.html").read_text()
    assert list((finished / "tensorboard").iterdir())


def test_stopped_and_resumed_it_ends_with_the_same_numbers(angles, finished, tmp_path, monkeypatch):
    out, append = tmp_path / "run", MetricsLog.append

    def append_and_interrupt(log, row):
        append(log, row)
        if (row["seed"], row["step"]) == (1, 15):
            signal.raise_signal(signal.SIGINT)

    words = ["--seeds", "0", "1", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", append_and_interrupt)
        assert angles.main(words) == 130
    assert not (out / "result.json").exists()
    assert angles.main([*words, "--resume"]) == 0
    assert kept(out) == kept(finished)


@pytest.mark.parametrize(
    "more",
    [["--seeds-at-once", "2"], ["--accumulate", "2"], ["--profile"], ["--early-stopping", "99"]],
    ids=lambda words: words[0],
)
def test_options_of_the_engine(more, angles, finished, tmp_path):
    out = tmp_path / "run"
    assert angles.main(["--seeds", "0", "1", "--out", str(out), *more]) == 0
    by_place = {(row["seed"], row["step"]): row["loss"] for row in kept(out)[0]}
    expected = {(row["seed"], row["step"]): row["loss"] for row in kept(finished)[0]}
    assert by_place.keys() == expected.keys()
    for place, loss in expected.items():
        assert by_place[place] == pytest.approx(loss, rel=1e-3, abs=1e-6)


def test_a_training_stops_early(angles, tmp_path):
    # The rate has fallen to zero long before the last step, so the error no longer falls.
    words = ["--early-stopping", "1", "--steps", "400", "--out", str(tmp_path / "run")]
    assert angles.main(words) == 0
    rows, _ = kept(tmp_path / "run")
    assert rows[-1]["step"] < 400


@pytest.mark.parametrize("form", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_several_devices_end_as_one(form, finished, tmp_path):
    out = tmp_path / "run"
    words = ["--seeds", "0", "1", "--parallel", form, "--out", str(out)]
    command = [sys.executable, str(SCRIPT), *words]
    done = subprocess.run(command, env=environment(4), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(out), losses(finished), rtol=1e-3, atol=1e-6)


def test_bad_options_touch_no_folder(angles, tmp_path, capsys):
    assert angles.main(["--accumulate", "3", "--out", str(tmp_path / "run")]) == 2
    assert "accumulate must divide the batch size, 8; got 3" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
