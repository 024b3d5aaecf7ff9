"""Typed records: to JSON and back, older and newer files, and errors about broken files."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from experiments.birds.records import BirdsResult
from experiments.classification.recipe_comparison import RecipesResult
from experiments.colocalisation.records import ColocalisationResult
from experiments.engine.records import Record
from experiments.invariance.report import InvarianceResult
from experiments.report.records import TableEntry, cell_from_json
from experiments.stability.obvious import ObviousResult
from experiments.stability.report import StabilityResult

RESULTS = Path(__file__).parents[3] / "experiments" / "results"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part(Record):
    name: str
    sizes: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Whole(Record):
    VERSION: ClassVar[int] = 3

    parts: tuple[Part, ...]
    pair: tuple[float, float]
    best: Part | None
    by_name: Mapping[str, tuple[str, ...]]
    anything: Any = None


WHOLE = Whole(
    parts=(Part(name="a", sizes=(1, 2)), Part(name="b")),
    pair=(0.5, 1.5),
    best=None,
    by_name={"x": ("y", "z")},
    anything=[{"k": 1}],
)


def test_through_json_and_back():
    text = json.dumps(WHOLE.to_json())
    assert Whole.from_json(json.loads(text)) == WHOLE
    assert json.loads(text)["version"] == 3
    assert "version" not in json.loads(text)["parts"][0]


def test_older_and_newer_files():
    data = WHOLE.to_json()
    del data["version"], data["anything"]
    assert Whole.from_json(data) == dataclasses.replace(WHOLE, anything=None)
    assert Whole.from_json(data | {"of another time": 1}).pair == (0.5, 1.5)
    (first, second) = Whole.from_json(data | {"pair": [1, 2]}).pair
    assert isinstance(first, float)
    assert (first, second) == (1, 2)
    with pytest.raises(ValueError, match="the file is of version 4 and this program knows Whole"):
        Whole.from_json(data | {"version": 4}, "the file")


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "whole.json"
    for content, message in (
        ("[1]", "must hold a JSON object; got list"),
        ("{", "is not valid JSON"),
        ('{"parts": [], "pair": [1, 2]}', "lacks best, by_name"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"whole.json {message}"):
            Whole.read(path)


KINDS = {
    "birds_drawn": BirdsResult,
    "colocalisation": ColocalisationResult,
    "invariance": InvarianceResult,
    "obvious": ObviousResult,
    "recipes": RecipesResult,
    "stability": StabilityResult,
}


def without_new_fields(data):
    """JSON as of a file that was written before: without versions and fields that are ``None``."""
    if isinstance(data, dict):
        kept = {k: v for k, v in data.items() if k != "version" and v is not None}
        return {k: without_new_fields(v) for k, v in kept.items()}
    return [without_new_fields(each) for each in data] if isinstance(data, list) else data


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_results_that_are_kept_are_read_whole(path):
    data = json.loads(path.read_text())
    if path.stem in KINDS:
        record = KINDS[path.stem].read(path)
        assert without_new_fields(record.to_json()) == without_new_fields(data)
    else:
        cells = [cell_from_json(entry) for entry in data]
        assert all(isinstance(cell, TableEntry) for cell in cells)
        made = [cell.to_json() for cell in cells]
        assert without_new_fields(made) == without_new_fields(data)
