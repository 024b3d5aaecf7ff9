"""Every package that a file imports without a condition is one that ``pyproject.toml`` names.

A package that only happens to be there, in one environment, fails on a fresh machine.
"""

import ast
import importlib.metadata
import re
import sys
import tomllib

import pytest
from processes import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOLDERS = {
    "": ["stn_jax"],
    "experiments": ["experiments", "examples"],
    "docs": ["docs", "benchmarks"],
    "dev": ["tests"],
}
# Imported only where matplotlib and PyTorch were found.
CONDITIONAL = {
    "stn_jax/visualize/checkerboard.py",
    "stn_jax/visualize/drawing.py",
    "stn_jax/visualize/pictures.py",
    "tests/torch_backbones.py",
    "tests/torch_stn.py",
}


def required(extra):
    """The names of all distributions that an extra installs, extras of ours followed."""
    extras = PROJECT["optional-dependencies"]
    lines, waiting = list(PROJECT["dependencies"]), [extra] if extra in extras else []
    while waiting:
        for line in extras[waiting.pop()]:
            ours = re.fullmatch(r"stn-jax\[(.*)\]", line)
            waiting += ours[1].split(",") if ours else []
            lines += [] if ours else [line]
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in lines}


def imported(path):
    """The top names of the modules that a file imports at its top level, not within ``try``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("extra", FOLDERS)
def test_imports_are_declared(extra):
    owners = importlib.metadata.packages_distributions()
    declared = required(extra)
    helpers = {path.stem for path in (ROOT / "tests").glob("*.py")}
    ours = {folder for folders in FOLDERS.values() for folder in folders} | {"angles"}
    known = sys.stdlib_module_names | helpers | ours
    missing = {}
    for folder in FOLDERS[extra]:
        for path in (ROOT / folder).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            for module in set() if name in CONDITIONAL else set(imported(path)) - known:
                distributions = {name.lower().replace("_", "-") for name in owners.get(module, [])}
                if not distributions & declared:
                    missing.setdefault(module, []).append(name)
    assert not missing, "pyproject.toml does not name the packages of these modules"
