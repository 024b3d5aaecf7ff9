"""The obvious code: what counts as a failure, and a small run of the whole command."""

import json

import numpy as np
import pytest

from experiments.stability import __main__ as stability
from experiments.stability.obvious import ObviousResult, _row, table


def test_a_seed_fails_by_its_accuracy_its_coverage_or_a_number_that_is_none():
    measured = {
        "accuracy": np.array([90.0, 70.0, 90.0, np.nan, 80.0]),
        "coverage": np.array([1.0, 1.0, 0.4, 1.0, 0.5]),
        "distance": np.array([0.1, 0.2, 3.0, 0.3, 0.4]),
    }
    row = _row("affine", "nnx", "adam 0.03", "plain", measured, least=80.0)
    assert (row.seeds, row.failed, row.distance) == (5, 3, 0.3)
    assert table((row,))[1][0][4] == "3 of 5"


@pytest.mark.slow
def test_every_kind_is_trained_and_kept(tmp_path, capsys):
    words = ["--seeds", "2", "--steps", "2", "--transforms", "affine", "--out", str(tmp_path)]
    assert stability.main(["obvious", *words]) == 0
    result = ObviousResult.from_json(json.loads((tmp_path / "obvious.json").read_text()))
    kinds = [(row.framework, row.optimizer, row.transform, row.head) for row in result.rows]
    heads = [("none", "–"), ("affine", "plain"), ("affine", "scaled")]
    rates = ("adam 0.03", "sgd 0.1")
    assert kinds == [
        (framework, rate, *head)
        for framework in ("nnx", "linen")
        for rate in rates
        for head in heads
    ]
    plain, scaled = result.rows[1:3]
    assert plain.distance > scaled.distance > 0  # after two steps
    assert "2" in capsys.readouterr().out
    assert stability.main(["obvious", "--seeds", "0"]) == 2
