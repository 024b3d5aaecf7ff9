"""Imports between the packages of the experiments."""

import ast
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
# Allowed imports of each shared package; an experiment may import all of them, but no other
# experiment.
SHARED = {
    "engine": set(),
    "data": set(),
    "models": {"data", "engine"},
    "report": {"data", "engine", "models"},
    "classification": {"data", "engine", "models", "report"},
}
PACKAGES = sorted(path.parent.name for path in EXPERIMENTS.glob("*/__init__.py"))


def imports_of(package):
    """The other packages of the experiments that a package imports."""
    found = set()
    for path in (EXPERIMENTS / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "experiments":
                names = [f"experiments.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found |= {name.split(".")[1] for name in names if name.startswith("experiments.")}
    return found - {package}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    assert imports_of(package) <= SHARED.get(package, set(SHARED))


@pytest.mark.parametrize("package", sorted(set(PACKAGES) - set(SHARED)))
def test_a_room_has_what_a_room_has(package):
    room = EXPERIMENTS / package
    assert (room / "__main__.py").is_file()
    assert f"python -m experiments.{package}" in (room / "README.md").read_text()
    assert (Path(__file__).parent / package).is_dir()
