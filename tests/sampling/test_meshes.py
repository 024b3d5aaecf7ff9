"""The sampler on eight simulated devices gives what one device gives, without an exchange."""

import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

import stn_jax as stn

ENGINES = [each.name for each in stn.implementations() if each.available and each.name != "dense"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_eight_devices_are_as_one(engine):
    script = Path(__file__).with_name("mesh_laws.py")
    found = subprocess.run(
        [sys.executable, script, engine], env=environment(8), capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    rows = [[cell.strip() for cell in line.split("|")] for line in found.stdout.splitlines()]
    assert len(rows) == 3 * (6 + 5 + 5 + 2) + 2
    for kernel, name, mesh, collectives, error in rows:
        case = f"{kernel}, {name}, {mesh}: {collectives or 'no collective'}, {error}"
        # Second derivatives are sums of terms that cancel.
        assert float(error) < (1e-3 if name == "second gradient" else 1e-5), case
        # A shared image's gradient is a sum over the devices; nothing else needs one.
        assert collectives in ("", "all-reduce" if name == "gradient of one image" else ""), case
