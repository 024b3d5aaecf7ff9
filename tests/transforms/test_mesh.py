"""Transforms on a mesh of eight devices; ``mesh_laws.py`` runs in a new process."""

import subprocess
import sys

import conformance
import pytest
from families import MEMBERS
from mesh_laws import HOLDS, MODES
from processes import ROOT, environment

LAWS = ROOT / "tests" / "mesh_laws.py"


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_as_on_one_device(mode, request):
    members = [*MEMBERS, "networks"]
    command = [sys.executable, LAWS, mode, *members]
    result = subprocess.run(command, env=environment(8), capture_output=True, text=True)
    lines = result.stdout.splitlines()
    for member in members:
        conformance.tell(request.node, member, 0, f"{member}: {HOLDS}" in lines)
    assert result.returncode == 0, result.stdout + result.stderr
