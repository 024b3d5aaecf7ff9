"""The stability table: both recipes are trained alike, and failures are read off their metrics."""

import json

import numpy as np
import pytest

from experiments.report import figures
from experiments.report.runs import read_run
from experiments.stability import __main__ as stability
from experiments.stability.report import RecipeResult, findings, table

# These run whole commands with trainings.
pytestmark = pytest.mark.slow

HEALTHY = {"distance": 0.3, "scale": 0.9, "coverage": 0.9, "fold": 0.0, "nonfinite": 0.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Both recipes on two classes of noise that differ in brightness."""
    folder = tmp_path_factory.mktemp("stability")
    rng = np.random.default_rng(0)
    labels = np.arange(48) % 2
    images = rng.integers(0, 100, (48, 24, 24)) + 120 * labels[:, None, None]
    data = folder / "noise.npz"
    np.savez(data, x_train=images[:32], y_train=labels[:32], x_test=images[32:], y_test=labels[32:])
    arguments = [
        *("--data", f"npz:{data}", "--out", str(folder / "out"), "--seeds", "0", "1"),
        *("--steps", "8", "--steps-per-dispatch", "2", "--batch-size", "8", "--width", "0.1"),
        *("--localization-frozen-steps", "4"),
    ]
    assert stability.main(arguments) == 0
    return folder / "out", arguments


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_table_and_report(finished, capsys):
    out, arguments = finished
    rows = json.loads((out / "stability.json").read_text())["rows"]
    assert [row["recipe"] for row in rows] == ["plain", "kit"]
    for row in rows:
        result = json.loads((out / row["recipe"] / "result.json").read_text())
        assert row["test_errors"] == result["test_errors"]
        assert row["worst"] == max(result["test_errors"])
        assert row["failed"] == sum(map(bool, row["findings"].values()))
    page = (out / "report.html").read_text()
    assert all(f'data-label="run">{recipe}</td>' in page for recipe in ("plain", "kit"))
    assert (out / "training_stability.png").read_bytes().startswith(b"\x89PNG")
    # Done is done: resuming prints the same table.
    assert stability.main([*arguments, "--resume"]) == 0
    printed = capsys.readouterr().out
    assert table([RecipeResult.from_json(row) for row in rows]) in printed


@pytest.mark.slow
def test_recipes_differ_in_the_localization_network_alone(finished):
    out, _ = finished
    plain, kit = (json.loads((out / name / "config.json").read_text()) for name in ("plain", "kit"))
    differing = {key for key in plain if plain[key] != kit[key]}
    assert differing == {"localization_rate", "localization_frozen_steps", "identity_penalty"}


@pytest.mark.slow
def test_metrics_show_the_kit_at_work(finished):
    out, _ = finished
    for row in rows_of(out / "kit"):
        # Frozen for four steps, so at the identity, up to and in the fifth.
        assert (row["distance"] == 0) == (row["step"] <= 4)
    assert all(row["gradient_localization"] > 0 for row in rows_of(out / "kit"))
    assert any(row["distance"] > 0 for row in rows_of(out / "plain") if row["step"] == 4)


@pytest.mark.slow
def test_figure_draws_what_was_logged(finished):
    out, _ = finished
    figure = figures.training_stability(
        [read_run(out / "plain"), read_run(out / "kit")], ["a", "b"]
    )
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "", ""]
    for column, recipe in enumerate(("plain", "kit")):
        norms, errors = (
            [line.get_xydata().tolist() for line in figure.axes[column + below].lines]
            for below in (0, 2)
        )
        assert (len(norms), len(errors)) == (4, 6)
        result = json.loads((out / recipe / "result.json").read_text())
        for seed in (0, 1):
            rows = [row for row in rows_of(out / recipe) if row["seed"] == seed]
            for key, lines in (
                ("gradient_localization", norms),
                ("gradient_rest", norms),
                ("train_error", errors),
            ):
                assert [[row["step"], row[key]] for row in rows] in lines
            assert [[8, result["test_errors"][seed]]] in errors
    # Nothing was held out.
    assert all(text.get_text() != "validation" for text in figure.axes[3].get_legend().texts)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"distance": 0.0}, ["stuck at the identity"]),
        ({"scale": 0.01}, ["collapsed to a point"]),
        ({"coverage": 0.1}, ["left the image"]),
        ({"gradient_localization": 0.0, "gradient_rest": 1.0}, []),
    ],
)
def test_findings_are_those_of_the_last_records(tmp_path, change, found):
    wrong = HEALTHY | change
    rows = [{"seed": 0, **HEALTHY}] * 5 + [{"seed": 0, **wrong}] * 3 + [{"seed": 1, **HEALTHY}] * 3
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert findings(tmp_path, (0, 1)) == {0: found, 1: []}


def test_bad_input(capsys, tmp_path):
    with pytest.raises(SystemExit, match="2"):
        stability.main(["--out", str(tmp_path), "--identity-penalty", "-1"])
    assert "identity_penalty must not be negative; got -1.0" in capsys.readouterr().err
