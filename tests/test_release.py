"""Requirements of a release: one version, workflows for all supported versions, a changelog."""

import re
import subprocess
import tomllib
from pathlib import Path

import stn_jax

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = {path.stem: path.read_text() for path in (ROOT / ".github/workflows").glob("*.yml")}


def lower_bounds():
    return dict(
        re.fullmatch(r"([\w-]+)>=([\d.]+)", each).groups()
        for each in PROJECT["project"]["dependencies"]
    )


def test_version_stands_in_one_place():
    assert "version" in PROJECT["project"]["dynamic"]
    holders = [
        path
        for pattern in ("*.py", "*.toml", "*.cff", "docs/*.py", "stn_jax/**/*.py")
        for path in ROOT.glob(pattern)
        if f'"{stn_jax.__version__}"' in path.read_text()
    ]
    assert holders == [ROOT / "stn_jax" / "__init__.py"]


def test_changelog_begins_with_the_version():
    heading = re.search(r"^## (\S+) \((.+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heading[1] == stn_jax.__version__
    assert heading[2] == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", heading[2])


def test_the_check_of_the_oldest_versions_reads_the_lower_bounds():
    script = (ROOT / ".ci" / "oldest").read_text()
    command = next(line for line in script.splitlines() if line.startswith("bounds=$(sed"))
    read = subprocess.run(
        ["bash", "-c", f'{command}; echo "$bounds"'],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert dict(line.split("==") for line in read.stdout.split()) == lower_bounds()
    assert ".ci/oldest" in WORKFLOWS["tests"]
    assert ".ci/oldest" in (ROOT / ".ci" / "run").read_text()


def test_workflow_runs_every_python_that_is_declared():
    prefix = "Programming Language :: Python :: 3."
    declared = [
        each.rpartition(" ")[2]
        for each in PROJECT["project"]["classifiers"]
        if each.startswith(prefix)
    ]
    (listed,) = re.findall(r"python: \[(.*)\]", WORKFLOWS["tests"])
    assert re.findall(r'"([\d.]+)"', listed) == declared
    assert PROJECT["project"]["requires-python"] == f">={declared[0]}"


def test_workflows_call_what_there_is():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for text in WORKFLOWS.values():
        for target in re.findall(r"run: make (\S+)", text):
            assert target in targets
        for script in re.findall(r"python (\S+\.py)", text):
            assert (ROOT / script).is_file()


def test_the_page_of_versions_names_the_lower_bounds():
    rows = dict(
        re.findall(r"^\| (\w+) \| ([\d.]+) \|$", (ROOT / "docs/versions.md").read_text(), re.M)
    )
    bounds = lower_bounds()
    expected = {name: bounds[name.lower()] for name in ("JAX", "Flax", "NumPy")}
    assert rows == expected | {"Python": PROJECT["project"]["requires-python"].removeprefix(">=")}


def test_forms_for_issues_ask_for_what_a_report_needs():
    bug = (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()
    (command,) = re.findall(r'python -c "(.*?)"', " ".join(bug.split()))
    exec(command.replace("jax.print_environment_info();", ""), {})
