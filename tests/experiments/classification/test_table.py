"""The table: its files, skipped runs, kills, and the paper's numbers."""

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from data_samples import two_classes_of_noise
from PIL import Image
from processes import environment

from experiments.classification import run, table
from experiments.classification.config import TableArguments
from experiments.data import benchmarks
from experiments.distorted_mnist import __main__ as distorted_mnist
from experiments.distorted_mnist.published import PAPER
from experiments.engine import intervals
from experiments.engine.metrics import MetricsLog
from experiments.report import comparison_markdown, comparison_text, order, verdict
from experiments.report.comparison import in_words
from experiments.report.records import TableCell, TableEntry

# These run whole commands with trainings.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# All but the runs' folders.
TABLE = ("table.json", "table.txt", "table.md")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Two classes of noise that differ in brightness."""
    return two_classes_of_noise(tmp_path_factory.mktemp("data"), 120, 80, 10)


def arguments(data, out, *more, seeds=(0, 1), distortions=("none", "R")):
    """Options with the model that compiles fastest."""
    return [
        "table",
        *("--models", "fcn", "--distortions", *distortions),
        *("--data", data, "--out", str(out), "--seeds", *map(str, seeds)),
        *("--steps", "12", "--steps-per-dispatch", "3", "--batch-size", "8", "--width", "0.1"),
        *more,
    ]


@pytest.fixture(scope="session")
def finished(data, tmp_path_factory):
    """An uninterrupted table."""
    out = tmp_path_factory.mktemp("tables") / "finished"
    assert distorted_mnist.main(arguments(data, out)) == 0
    return out


def table_of(folder):
    """The bytes of the table, in all its forms; of the page without its command and its times."""
    page = (folder / "report.html").read_bytes()
    page = re.sub(rb'(?s)<pre class="command">.*?</pre>', b"", page)
    page = re.sub(rb"(?s)<h2>Time by part of a run</h2>.*?<h2>", b"<h2>", page)
    return {name: (folder / name).read_bytes() for name in TABLE} | {"report.html": page}


def test_what_a_table_leaves(finished):
    entries = json.loads((finished / "table.json").read_text())
    assert [(e["distortion"], e["paper"]) for e in entries] == [("none", None), ("R", 2.1)]
    for entry, folder in zip(entries, ("none/fcn", "R/fcn"), strict=True):
        result = json.loads((finished / folder / "seeds-0-1" / "result.json").read_text())
        assert entry["test_errors"] == result["test_errors"]
        assert entry["validation_errors"] == result["validation_errors"]
        assert all(0 <= error <= 100 for error in result["validation_errors"])
        assert entry["mean"] == pytest.approx(np.mean(result["test_errors"]))
        assert entry["interval"] == result["interval"]
        assert re.fullmatch("[0-9a-f]{64}", entry["test_sha256"])
        with np.load(finished / folder / "seeds-0-1" / "misread.npz") as archive:
            wrong = archive["wrong"]
        assert wrong.shape == (2, 1, 40)
        np.testing.assert_allclose(100 * wrong.mean(axis=(1, 2)), entry["test_errors"])
    text, page = (finished / "table.txt").read_text(), (finished / "report.html").read_text()
    for entry in entries:
        line = next(line for line in text.splitlines() if line.startswith(entry["distortion"]))
        assert f"{entry['mean']:.2f}" in line
        assert (entry["verdict"] or "–") in line
        assert f"{entry['mean']:.2f}" in page
    for name in ("training_curves_R.png", "distortions.png"):
        assert np.asarray(Image.open(finished / name).convert("L")).std() > 5


def test_the_same_command_again_trains_nothing(finished, data, monkeypatch, capsys):
    before = table_of(finished)
    monkeypatch.setattr(table, "execute", lambda *_: pytest.fail("trained again"))
    assert distorted_mnist.main(arguments(data, finished)) == 0
    assert table_of(finished) == before
    assert (finished / "table.txt").read_text().strip() in capsys.readouterr().out


def test_seeds_and_columns_are_added_to_what_is_there(data, tmp_path, finished):
    out = tmp_path / "table"
    assert distorted_mnist.main(arguments(data, out, seeds=(0,), distortions=("R",))) == 0
    assert distorted_mnist.main(arguments(data, out)) == 0
    folders = {str(path.parent.relative_to(out)) for path in out.glob("*/*/*/result.json")}
    assert folders == {"R/fcn/seeds-0", "R/fcn/seeds-1", "none/fcn/seeds-0-1"}
    entries = json.loads((out / "table.json").read_text())
    together = json.loads((finished / "table.json").read_text())
    assert entries[0] == together[0]
    # Seeds that were trained one by one have the interval of those trained together.
    np.testing.assert_allclose(entries[1]["test_errors"], together[1]["test_errors"], atol=5)
    wrong = [np.load(out / f"R/fcn/seeds-{seed}/misread.npz")["wrong"] for seed in (0, 1)]
    expected = intervals.interval(np.concatenate(wrong))
    np.testing.assert_allclose(entries[1]["interval"], expected)
    # With --resume alone it is the table of the last command.
    before = table_of(out)
    assert distorted_mnist.main(["table", "--out", str(out), "--resume"]) == 0
    assert table_of(out) == before
    # A part of the finished cells is a table, too.
    assert distorted_mnist.main(arguments(data, out, seeds=(1,), distortions=("R",))) == 0
    (part,) = json.loads((out / "table.json").read_text())
    assert part["test_errors"] == entries[1]["test_errors"][1:]


def test_interrupted_it_goes_on_to_the_same_table(finished, data, tmp_path, monkeypatch, capsys):
    """In the first cell, then in the second one."""
    append, written = MetricsLog.append, []

    def append_and_interrupt(log, row):
        append(log, row)
        written.append(row)
        if len(written) in (4, 12):
            signal.raise_signal(signal.SIGINT)

    out = tmp_path / "table"
    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "append", append_and_interrupt)
        for cell in ("none", "R"):
            assert distorted_mnist.main(arguments(data, out)) == 130
            printed = capsys.readouterr()
            assert f"{cell}/fcn" in printed.out
            assert ("R/fcn" in printed.out) == (cell == "R")
            assert "fcn, seeds 0, 1, step 9 of 12; the same command goes on" in printed.err
            assert (out / "table.txt").exists() == (cell == "R")
    assert "Pending: 1 of 2 cells." in (out / "table.txt").read_text()
    assert distorted_mnist.main(arguments(data, out)) == 0
    assert table_of(out) == table_of(finished)


def test_a_kill_before_the_first_file_is_whole(data, tmp_path):
    folder = tmp_path / "R" / "fcn" / "seeds-0"
    folder.mkdir(parents=True)
    (folder / ".config.partial.json").write_text('{"da')
    assert distorted_mnist.main(arguments(data, tmp_path, seeds=(0,), distortions=("R",))) == 0
    assert (folder / "result.json").exists()


@pytest.mark.slow
def test_killed_it_goes_on_to_the_same_table(finished, data, tmp_path):
    """SIGKILL after this many lines of metrics; the last at a random moment."""
    out = tmp_path / "table"
    command = [sys.executable, "-m", "experiments.distorted_mnist", *arguments(data, out)]
    waits = np.random.default_rng().uniform(0, 0.3, size=2)
    for lines, wait in zip((3, 10), waits, strict=True):
        process = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 240
        while sum(path.read_text().count("\n") for path in out.rglob("metrics.jsonl")) < lines:
            assert process.poll() is None, "the table was done before it was killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(wait)
        process.kill()
        process.wait()
    assert distorted_mnist.main(arguments(data, out)) == 0
    assert table_of(out) == table_of(finished)


def test_other_settings_are_refused(finished, data, capsys):
    before = table_of(finished)
    assert distorted_mnist.main(arguments(data, finished, "--recipe", "paper")) == 2
    message = capsys.readouterr().err
    assert "recipe was 'smooth', is 'paper'" in message
    assert "learning_rate was 0.003, is 0.01" in message
    assert table_of(finished) == before


def test_a_recipe_is_chosen_on_held_out_images(finished, data, tmp_path):
    out = tmp_path / "table"
    options = ("--on", "validation", "--recipe", "paper", "--batch-size", "16")
    assert distorted_mnist.main(arguments(data, out, *options, distortions=("none",))) == 0
    (entry,) = json.loads((out / "table.json").read_text())
    assert entry["test_errors"] == entry["validation_errors"]
    assert entry["test_images"] == 8
    assert entry["dataset"] == "noise, held out"
    assert (entry["settings"]["recipe"], entry["batch_size"]) == ("paper", 16)
    assert entry["settings"]["learning_rate"] == 0.01
    assert "data" not in entry["settings"]
    (before,) = json.loads((finished / "table.json").read_text())[:1]
    assert entry["test_sha256"] != before["test_sha256"]


def test_rates_of_the_recipes():
    def rates(arguments, steps):
        cell = table.Cell("R", "fcn", None)
        settings = cell.run(arguments, (0,))
        optimizer = run.make_optimizer(settings)
        state, sizes = optimizer.init(np.ones(())), []
        for _ in range(steps):
            update, state = optimizer.update(np.ones((), np.float32), state)
            sizes.append(-float(update))
        return settings, sizes

    paper, sizes = rates(TableArguments(recipe="paper", steps=9), 9)
    np.testing.assert_allclose(sizes, 3 * [1e-2] + 3 * [1e-3] + 3 * [1e-4], rtol=1e-5)
    assert (paper.batch_size, paper.learning_rate) == (256, 0.01)
    smooth, sizes = rates(TableArguments(steps=40), 40)
    # Of a constant gradient Adam's step is the rate.
    expected = 3e-3 * np.concatenate([[0, 0.5], 1 - np.arange(38) / 38])
    np.testing.assert_allclose(sizes, expected, rtol=1e-3)
    assert (smooth.batch_size, smooth.learning_rate) == (128, 0.003)
    adam, sizes = rates(TableArguments(recipe="adam", steps=4), 4)
    np.testing.assert_allclose(sizes, 0.5e-3 * (1 + np.cos(np.pi * np.arange(4) / 4)), rtol=1e-3)
    assert (adam.batch_size, adam.learning_rate) == (128, 0.001)
    given, _ = rates(TableArguments(recipe="paper", learning_rate=0.1, batch_size=8), 1)
    assert (given.batch_size, given.learning_rate) == (8, 0.1)


SETTINGS = {"recipe": "adam", "learning_rate": 0.001, "width": 1.0}


def entry(distortion, model, transform, mean, paper, interval):
    """A cell as in table.json."""
    values = {
        **{"distortion": distortion, "model": model, "transform": transform, "paper": paper},
        **{"mean": mean, "interval": interval, "interval_method": "Wilson", "seeds": [0, 1]},
        "verdict": None if paper is None else verdict(mean, interval, paper),
        **{"test_errors": [mean - 0.05, mean + 0.05], "validation_errors": [None, mean]},
        **{"num_parameters": 399_999, "settings": SETTINGS, "dataset": "mnist", "steps": 5000},
        **{"test_images": 10_000, "batch_size": 128, "versions": {"jax": "1.2"}, "device": "<tpu>"},
        "test_sha256": 64 * distortion[0].lower(),
    }
    return TableEntry.from_json(values)


ENTRIES = [
    entry("R", "cnn", None, 1.31, 1.2, [1.15, 1.49]),
    entry("R", "st-cnn", "affine", 0.7, 0.7, [0.55, 0.9]),
    entry("E", "cnn", None, 1.71, 1.4, [1.55, 1.89]),
    TableCell(distortion="E", model="st-cnn", transform="affine", paper=1.2),
]


def test_verdicts():
    assert verdict(0.7, (0.5, 0.9), 0.7) == "at or below"
    assert verdict(0.71, (0.5, 0.9), 0.7) == "within the interval"
    assert verdict(0.91, (0.71, 1.1), 0.7) == "above"


def test_table_as_text():
    lines = comparison_text(ENTRIES).splitlines()
    rows = [re.split(r"  +", line.strip()) for line in lines[2:6]]
    assert rows[0][:8] == [
        *("R", "cnn", "–", "1.2", "1.31", "1.15 to 1.49", "within the interval", "1.26, 1.36")
    ]
    assert rows[1][3:7] == ["0.7", "0.70", "0.55 to 0.90", "at or below"]
    assert rows[2][6] == "above"
    assert rows[0][8:] == ["–, 1.31", "399,999"]
    assert rows[3][:6] == ["E", "st-cnn", "affine", "1.2", "…", "…"]
    rest = "\n".join(lines[6:])
    assert "mnist, 10,000 images" in rest
    assert "recipe adam from a rate of 0.001, 5,000 steps of 128 images" in rest
    assert "width" not in rest
    assert "Pending: 1 of 4 cells." in rest
    assert "R rrrrrrrrrrrrrrrr, E eeeeeeeeeeeeeeee" in rest
    assert "jax 1.2 on <tpu>" in rest


def test_the_order_of_models_is_held_against_the_paper_s():
    cells = [
        entry("R", "fcn", None, 4.0, 2.1, [3.9, 4.1]),
        entry("R", "cnn", None, 1.5, 1.2, [1.4, 1.6]),
        entry("R", "st-fcn", "affine", 1.6, 1.3, [1.4, 1.8]),
        entry("R", "st-cnn", "affine", 1.55, 0.9, [1.4, 1.8]),
        entry("E", "cnn", None, 0.1, 1.4, [0.0, 0.2]),
        TableCell(distortion="R", model="st-cnn", transform="rigid", paper=0.1),
    ]
    # No order between errors that differ by 0.1 points, models on other sets, or pending cells.
    pairs, swapped = order(cells)
    assert pairs == 5
    assert swapped == ["R: st-cnn affine 1.55 (paper 0.9), cnn 1.50 (1.2)"]
    text = comparison_text(cells)
    assert "of 5 pairs" in text
    assert "4 stand the same way; not so R: st-cnn affine 1.55" in text
    assert order([dataclasses.replace(cells[0], verdict=None), cells[1]]) == (0, [])


def test_table_in_words():
    assert in_words(ENTRIES) == [
        "3 of 4 cells are done.",
        "Beside the paper's errors, of 3 cells: 1 at or below, 1 above but with an interval that "
        "reaches down to it, 1 above.",
        "R: st-cnn affine errs least, 0.70 %.",
    ]
    near = [*ENTRIES[:2], entry("R", "fcn", None, 0.8, None, [0.6, 1.0])]
    assert in_words(near)[-1] == (
        "R: st-cnn affine errs least, 0.70 %; its 95 % interval overlaps that of fcn."
    )
    assert in_words([ENTRIES[3]]) == ["0 of 1 cells are done."]


def test_table_as_markdown():
    lines = comparison_markdown(ENTRIES).splitlines()
    assert lines[:4] == [
        "| model | R | E |",
        "| --- | --- | --- |",
        "| cnn | 1.31 (1.15–1.49) ≈ 1.2 | 1.71 (1.55–1.89) > 1.4 |",
        "| st-cnn affine | 0.70 (0.55–0.90) ≤ 0.7 | … 1.2 |",
    ]


def test_the_paper_s_numbers():
    """Its table has 32, and the text four of TC."""
    cells = table.cells_of(TableArguments())
    assert len(cells) == 40
    assert all(PAPER.error(cell) is not None for cell in cells)
    columns = {
        name: [PAPER.error(c) for c in cells if c.distortion == name] for name in PAPER.errors
    }
    assert columns["R"] == [2.1, 1.2, 1.2, 1.3, 1.1, 0.7, 0.8, 0.7]
    assert columns["E"] == [3.2, 1.4, 2.7, 2.6, 2.4, 1.2, 1.3, 1.1]
    assert columns["TC"] == [13.2, 3.5, 2.0, 2.0, 2.0, 1.7, 1.7, 1.7]
    assert PAPER.error(table.Cell("none", "cnn", None)) is None
    assert len({cell.folder for cell in cells}) == 40


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_data_that_are_no_benchmark_have_no_verdict(data, tmp_path, name):
    """The benchmark does not depend on the file's name."""
    out, file = tmp_path / "table", tmp_path / f"{name}.npz"
    shutil.copy(data.removeprefix("npz:"), file)
    options = ("--steps", "3", "--validation", "0")
    command = arguments(f"npz:{file}", out, *options, seeds=(0,), distortions=("R",))
    assert distorted_mnist.main(command) == 0
    (cell,) = json.loads((out / "table.json").read_text())
    assert cell["verdict"] is None
    assert cell["validation_errors"] == [None]
    assert "no verdict" in (out / "table.txt").read_text()


def test_the_benchmark_has_a_verdict(data, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "recognise", lambda *_: "mnist")
    options = ("--steps", "3", "--validation", "0")
    command = arguments(data, tmp_path, *options, seeds=(0,), distortions=("none", "R"))
    assert distorted_mnist.main(command) == 0
    plain, turned = json.loads((tmp_path / "table.json").read_text())
    assert plain["verdict"] is None
    assert turned["verdict"] in ("above", "at or below", "within the interval")
    result = json.loads((tmp_path / "R" / "fcn" / "seeds-0" / "result.json").read_text())
    assert result["benchmark"] == "mnist"


def test_pictures(data, tmp_path, capsys):
    options = ["--images", "3", "--distortions", "none", "R", "--data", data]
    options += ["--out", str(tmp_path / "new")]
    assert distorted_mnist.main(["pictures", *options]) == 0
    assert "distortions.png" in capsys.readouterr().out
    with Image.open(tmp_path / "new" / "distortions.png") as picture:
        pixels = np.asarray(picture.convert("L"), float)
    assert pixels.std() > 20
    assert min(pixels.shape) > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--models", "fcn", "fcn"), "models must be one or more different values"),
        (("--transforms", "affine", "affine"), "transforms must be one or more different values"),
        (("--distortions", "Q"), "Q"),
        (("--seeds-at-once", "0"), "seeds_at_once must be at least 1"),
        (("--models", "cnn", "--distortions", "R"), "24×24"),
        (("--batch-size", "1", "--distortions", "TC"), "batch_size must be at least 2 for TC"),
        (("--on", "validation", "--validation", "0"), "--validation 0"),
        (("--recipe", "best"), "best"),
    ],
)
def test_bad_options(options, message, data, tmp_path, capsys):
    try:
        status = distorted_mnist.main(arguments(data, tmp_path / "table", *options))
    except SystemExit as stopped:  # Errors that the command line's parser finds.
        status = stopped.code
    assert status == 2
    captured = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert message in captured
    assert not (tmp_path / "table").exists()
    assert "Traceback" not in captured
