"""Several devices, or processes, give the losses of one device; each case runs in new processes."""

import functools
import json
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from processes import environment

from experiments.engine import devices

ROOT = Path(__file__).parents[3]
SCRIPT = Path(__file__).parent / "parallel_losses.py"
STEPS = 50
# The effect of another order of a sum after this many steps.
TOLERANCE = 2e-6


def start(number, *words):
    """A process with simulated devices that prints losses."""
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, words)],
        cwd=ROOT,
        env=environment(number),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result_of(process):
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


@functools.cache
def expected(task):
    """On one device."""
    result = result_of(start(1, "jit", task, STEPS))
    assert result["devices"] == 1
    assert result["collectives"] == []
    assert len(set(result["losses"])) == STEPS
    return result["losses"]


# Clutter, and the second digits of the additions, come from images of other devices.
@pytest.mark.slow
@pytest.mark.parametrize(("form", "task"), [("jit", "TC"), ("jit", "addition"), ("pmap", "TC")])
def test_eight_devices_end_as_one(form, task):
    result = result_of(start(8, form, task, STEPS))
    assert result["devices"] == 8
    np.testing.assert_allclose(result["losses"], expected(task), rtol=TOLERANCE)
    # One sum of all gradients, and nothing else.
    assert result["collectives"] == (["all-reduce"] if form == "jit" else [])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["jit", "pmap"])
def test_two_processes_end_as_one(form):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    both = [start(2, form, "TC", STEPS, coordinator, 2, number) for number in range(2)]
    for result in map(result_of, both):
        assert result["devices"] == 4
        np.testing.assert_allclose(result["losses"], expected("TC"), rtol=TOLERANCE)


@pytest.mark.parametrize("form", ["jit", "pmap"])
def test_a_batch_that_does_not_divide_is_refused(form, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    with pytest.raises(ValueError, match=r"over the 8 devices; got 20\. Take 16 or 24\."):
        devices.all_devices(form, 20)
    with pytest.raises(ValueError, match=r"got 3\. Take 8\."):
        devices.all_devices(form, 3)
