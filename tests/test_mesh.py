"""Transforms on a mesh of eight devices; ``mesh_laws.py`` runs in a new process."""

import subprocess
import sys
from pathlib import Path

import pytest
from families import MEMBERS
from processes import environment

LAWS = Path(__file__).with_name("mesh_laws.py")
# One of each kind of code; all of them with the slow tests.
KINDS = ("rigid 3-D", "projective", "spline of own points", "flow", "diffeomorphic", "chain of any")


def run(mode, *members):
    command = [sys.executable, LAWS, mode, *members]
    result = subprocess.run(command, env=environment(8), capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["explicit", "shard_map"])
def test_kinds_of_transforms(mode):
    run(mode, *KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["explicit", "auto", "shard_map"])
def test_every_transform(mode):
    run(mode, *MEMBERS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["explicit", "shard_map"])
def test_localization_networks(mode):
    run(mode, "networks")
