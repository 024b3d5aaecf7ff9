"""Findings have the form that CONTRIBUTING states, and a line in their list."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "findings"


@pytest.mark.parametrize("script", sorted(FOLDER.glob("*.sh")), ids=lambda script: script.stem)
def test_form(script):
    text = script.read_text()
    assert script.stat().st_mode & 0o111, "must be executable"
    head, _, rest = text.partition("set -euo pipefail\n")
    assert head.startswith("#!/usr/bin/env bash\n# ")
    assert "# Output seen: " in head
    assert re.search(r"pip\" install --quiet (\S+==\S+ ?)+$", rest, re.MULTILINE)
    assert "trap 'rm -rf \"$folder\"' EXIT" in rest
    (program,) = re.findall(r"<<'PYTHON'\n(.*?)^PYTHON$", rest, re.DOTALL | re.MULTILINE)
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(program)))
    assert "stn_jax" not in program


def test_list():
    listed = re.findall(r"^\| `(\w+\.sh)` \|", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert listed == sorted(script.name for script in FOLDER.glob("*.sh"))
