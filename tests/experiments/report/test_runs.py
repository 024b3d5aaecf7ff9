"""Run folders as they are read: names, tables, and what is missing or broken."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from run_samples import IMAGES, SNAPSHOTS

from experiments.report import build_report, error_table
from experiments.report.records import RunResult
from experiments.report.runs import read_run, run_names


def test_error_table_is_aligned(report: Path) -> None:
    runs = report.parents[1]
    results = [RunResult.read(runs / name / "result.json") for name in "abc"]
    lines = error_table(results).splitlines()
    assert len(lines) == 2 + len(results)
    assert len({len(line) for line in lines}) == 1
    column = lines[0].index("test error %") + len("test error %")
    assert [line[:column].split() for line in lines[2:]] == [
        ["fcn", "–", "3.00"],
        ["cnn", "–", "3.12"],
        ["st-cnn", "affine", "1.88"],
    ]
    assert "data" not in lines[0]
    results[0] = dataclasses.replace(results[0], distortion="RTS")
    assert "digits, RTS" in error_table(results)


def test_names_say_as_much_as_tells_runs_apart(st_run: Path) -> None:
    of_run = RunResult.read(st_run / "result.json")

    def result(model: str, transform: str | None = None, distortion: str = "R") -> RunResult:
        return dataclasses.replace(of_run, model=model, transform=transform, distortion=distortion)

    assert run_names([result("cnn"), result("st-cnn", "affine")]) == ["cnn", "st-cnn"]
    assert run_names([result("st", "affine"), result("st", "rigid")]) == ["st affine", "st rigid"]
    assert run_names([result("cnn"), result("cnn", None, "P")]) == ["cnn R", "cnn P"]
    assert len(set(run_names([result("cnn"), result("cnn")]))) == 2


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "result.json"])
@pytest.mark.parametrize("content", [None, "", '{"seed": 0', "[1, 2]"])
def test_missing_or_broken_file_is_named(st_run: Path, name: str, content: str | None) -> None:
    if content is None:
        (st_run / name).unlink()
    else:
        (st_run / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(str(st_run / name))):
        build_report(st_run / "report", [st_run])
    assert not (st_run / "report").exists()


def test_half_a_line_of_metrics_is_named_by_its_number(st_run: Path) -> None:
    path = st_run / "metrics.jsonl"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 30 "):
        read_run(st_run)


def test_missing_entry_is_named(st_run: Path) -> None:
    path = st_run / "result.json"
    result = json.loads(path.read_text())
    del result["mean"]
    path.write_text(json.dumps(result))
    with pytest.raises(ValueError, match=r"result\.json lacks mean"):
        read_run(st_run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "labels"),
        ({"outputs": None}, "outputs"),
        ({"theta": np.zeros((SNAPSHOTS, IMAGES, 5))}, r"theta must have shape \[5, 4, 1, 6\]"),
        ({"inputs": np.zeros((IMAGES, 8, 8, 1))}, "inputs must be uint8; got float64"),
        ({"steps": np.zeros(0, int)}, "steps must have shape"),
    ],
)
def test_pictures_that_do_not_fit_are_named(
    st_run: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    path = st_run / "pictures.npz"
    with np.load(path) as archive:
        arrays = {**archive, **change}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(ValueError, match=rf"pictures\.npz.*{message}"):
        read_run(st_run)


@pytest.mark.parametrize("keep", [0, 10, 400, -30])
def test_cut_off_pictures_are_named(st_run: Path, keep: int) -> None:
    path = st_run / "pictures.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"pictures\.npz"):
        read_run(st_run)


def test_unknown_transform_is_named(st_run: Path) -> None:
    path = st_run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "transform": "warp"}))
    with pytest.raises(ValueError, match=r"pictures\.npz.*'warp'"):
        read_run(st_run)


def test_no_runs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one run folder"):
        build_report(tmp_path, [])
