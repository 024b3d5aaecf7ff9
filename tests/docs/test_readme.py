"""The README's Python examples run, and are short."""

import re

import pytest
from processes import ROOT

README = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_it_is_short_and_its_examples_are_two():
    assert len(README.split()) < 700
    assert len(EXAMPLES) == 2


@pytest.mark.parametrize("example", EXAMPLES)
def test_example(example):
    assert len(example.splitlines()) <= 12
    names = {"__name__": "readme"}
    exec(example, names)
    shape = (names.get("crops", names.get("logits"))).shape
    assert shape in ((8, 14, 14, 1), (8, 10))


def test_pictures_are_there():
    for name in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / name).is_file(), name
