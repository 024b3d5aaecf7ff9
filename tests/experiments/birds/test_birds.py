"""The command of the birds: its files, resuming after a stop, bad input."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import environment

from experiments.birds import __main__ as birds
from experiments.birds import drawn as drawn_birds

ROOT = Path(__file__).parents[3]
TIMING = ("seconds", "images_per_second", "wall_time_s")
TINY = ["--side", "16", "--steps", "6", "--batch-size", "4", "--steps-per-line", "2"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("birds") / "drawn"
    drawn_birds.write(folder, train=24, test=8)
    return f"cub:{folder}"


@pytest.fixture(scope="module")
def finished(drawn, tmp_path_factory):
    """A run of both models and two seeds."""
    out = tmp_path_factory.mktemp("finished") / "run"
    assert birds.main([*TINY, "--data", drawn, "--seeds", "0", "1", "--out", str(out)]) == 0
    return out


def lines_of(out):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMING} for row in rows]


def result_of(out):
    result = json.loads((out / "result.json").read_text())
    return {k: v for k, v in result.items() if k not in TIMING}


def assert_same(made, expected):
    """Compares all entries, numbers up to rounding."""
    if isinstance(expected, dict):
        assert made.keys() == expected.keys()
        for key, value in expected.items():
            assert_same(made[key], value)
    elif isinstance(expected, list):
        assert len(made) == len(expected)
        for each, other in zip(made, expected, strict=True):
            assert_same(each, other)
    elif isinstance(expected, float):
        assert made == pytest.approx(expected, rel=1e-4, abs=1e-6)
    else:
        assert made == expected


@pytest.mark.slow
def test_what_a_run_leaves(finished, drawn, capsys):
    names = [f"{model}-seed-{seed}" for model in ("cnn", "2xst-cnn") for seed in (0, 1)]
    lines = lines_of(finished)
    assert [(row["training"], row["step"]) for row in lines] == [
        (name, step) for name in names for step in (2, 4, 6)
    ]
    for row in lines:
        assert np.isfinite(row["loss"])
        assert ("gradient_localization" in row) == row["training"].startswith("2xst")
        assert 0 <= row["validation_error"] <= 100
    result = result_of(finished)
    assert (result["images"], result["train_images"], result["num_classes"]) == (8, 20, 4)
    plain, parts = result["rows"]
    assert plain["held"] is None
    assert plain["paper"] is None
    for row in result["rows"]:
        assert row["accuracy"] == pytest.approx(np.mean(row["accuracies"]))
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
    assert len(parts["held"]) == 2
    for held in (*parts["held"], parts["held_by_first_crops"]):
        assert len(held["transformers"]) == 2
        for each in held["transformers"]:
            assert 0 <= each["overlap"] <= each["contained"] <= 1
            assert set(each["parts"]) == set(drawn_birds.PARTS)
            assert held["any"]["head"] >= each["head"]
    (middle,) = parts["held_in_the_middle"]["transformers"]
    assert 0 < middle["body"] < 1
    assert "data" not in result["settings"]
    assert result["settings"]["learning_rate"] == 2e-3
    page = (finished / "report.html").read_text()
    for words in ("What 2xst-cnn reads", "any first crop", "data:image/png"):
        assert words in page
    for picture in ("regions_2xst-cnn", "training_curves"):
        assert (finished / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
    # The same command again prints the finished result, and trains nothing.
    before = (finished / "metrics.jsonl").read_bytes()
    command = [*TINY, "--data", drawn, "--seeds", "0", "1", "--out", str(finished)]
    assert birds.main([*command, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "2xst-cnn" in printed
    assert "transformer 2" in printed
    assert (finished / "metrics.jsonl").read_bytes() == before
    assert birds.main(command) == 2
    assert "holds a run already" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_is_stopped_ends_like_one_that_never_was(finished, drawn, tmp_path):
    out = tmp_path / "run"
    command = [*TINY, "--data", drawn, "--seeds", "0", "1", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.birds", *command],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    log = out / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_text()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert "the same command with --resume goes on" in errors
    assert birds.main([*command, "--resume"]) == 0
    assert_same(lines_of(out), lines_of(finished))
    assert_same(result_of(out), result_of(finished))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [("--seeds-at-once", "2"), ("--accumulate", "2"), ("--early-stopping", "9", "--profile")],
    ids=lambda words: words[0],
)
def test_options_of_the_engine(more, finished, drawn, tmp_path):
    out = tmp_path / "run"
    command = [*TINY, "--data", drawn, "--seeds", "0", "1", "--out", str(out), *more]
    assert birds.main(command) == 0
    made, expected = (
        {(row["training"], row["step"]): row["loss"] for row in lines_of(folder)}
        for folder in (out, finished)
    )
    assert made == pytest.approx(expected, rel=1e-3)
    assert (out / "profile").is_dir() == ("--profile" in more)


def crops_on_parts(row):
    """Rates of the head and the body in their crops: of each seed, and at the start."""
    first = row["held_by_first_crops"]["transformers"]
    held = [
        [seed["transformers"][k][part] for k, part in enumerate(("head", "body"))]
        for seed in row["held"]
    ]
    return np.array(held), np.array([first[0]["head"], first[1]["body"]])


@pytest.mark.slow
def test_two_crops_read_what_the_whole_image_hides(tmp_path):
    """A small form of the result in experiments/results/birds_drawn.json."""
    words = ["--steps", "700", "--localization-frozen-steps", "200", "--seeds", "0"]
    assert birds.main([*words, "--out", str(tmp_path / "run")]) == 0
    plain, parts = result_of(tmp_path / "run")["rows"]
    assert parts["interval"][0] > plain["interval"][1] + 20
    found, first = crops_on_parts(parts)
    assert found.mean() > first.mean()


def test_the_result_that_is_kept_shows_parts_found():
    result = json.loads((ROOT / "experiments" / "results" / "birds_drawn.json").read_text())
    plain, parts = result["rows"]
    assert len(result["seeds"]) == 3
    assert min(parts["accuracies"]) > max(plain["accuracies"])
    assert parts["interval"][0] > plain["interval"][1]
    found, first = crops_on_parts(parts)
    assert (found > first).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--side", "20"], "multiple"),
        (["--batch-size", "0"], "batch_size must be at least 1; got 0"),
        (["--learning-rate", "0"], "learning_rate must be positive"),
        (["--localization-rate", "-1"], "localization_rate must not be negative"),
        (["--num-transforms", "2", "2"], "num_transforms must be one or more different"),
        (["--num-transforms", "-1"], "num_transforms must not be negative"),
        (["--on", "validation", "--validation", "0"], "needs images to be held out"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--workers", "-1"], "workers must not be negative"),
        (["--data", "cub:nowhere"], "nowhere: expected the folder of CUB-200-2011"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors is not a readable"),
        (["--data", "digits"], "one of drawn, cub:FOLDER"),
    ],
)
def test_bad_input(words, message, drawn, tmp_path, capsys):
    data = [] if "--data" in words else ["--data", drawn]
    try:
        status = birds.main([*words, *data, "--out", str(tmp_path / "run")])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert not (tmp_path / "run").exists()
