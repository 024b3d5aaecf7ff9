"""The same bits whatever the number of threads.

XLA reads the size of its pool for the CPU from the environment variable ``PJRT_NPROC``.
"""

import os
import pathlib
import subprocess
import sys

import pytest


def run(threads):
    """Threads that ran, and digests of the results."""
    found = subprocess.run(
        [sys.executable, str(pathlib.Path(__file__).with_name("digests.py"))],
        env=os.environ | {"PJRT_NPROC": str(threads), "JAX_ENABLE_X64": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    count, *digests = found.stdout.split()
    return int(count), digests


@pytest.fixture(scope="module")
def digests_of_one():
    """By one thread."""
    return run(1)[1]


@pytest.mark.skipif(sys.platform != "linux", reason="Threads are counted in /proc.")
@pytest.mark.parametrize("threads", [2, 3, 16])
def test_same_bits(threads, digests_of_one):
    count, digests = run(threads)
    assert count >= threads
    assert digests == digests_of_one
