"""Fixtures and settings of all tests."""

import os
from pathlib import Path

import conformance
import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest
import selection
from conformance import pytest_runtest_call  # noqa: F401
from selection import pytest_collection_modifyitems  # noqa: F401

# Helpers without tests that need PyTorch; the collection of doctests would import them.
collect_ignore = ["torch_backbones.py", "torch_stn.py"]

# Cache compilations between runs, since they take most of the time of this suite.
_cache = Path(__file__).parent.parent / ".cache" / "jax"
jax.config.update("jax_compilation_cache_dir", os.environ.get("STN_JAX_TEST_CACHE", str(_cache)))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, print_blob=True, max_examples=10
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("STN_JAX_HYPOTHESIS_PROFILE", "default"))

# A worker that keeps each program of a whole suite compiled would need more than ten GiB.
_STATM = Path("/proc/self/statm")
_MOST_GROWTH = 2 * 2**30
_after_clearing = 0


def pytest_addoption(parser):
    conformance.pytest_addoption(parser)
    selection.pytest_addoption(parser)


def pytest_terminal_summary(terminalreporter, config):
    conformance.pytest_terminal_summary(terminalreporter, config)
    selection.pytest_terminal_summary(terminalreporter, config)


def pytest_runtest_teardown():
    """Forgets compiled programs when the process has grown much, where Linux tells its size."""
    global _after_clearing
    if _STATM.exists() and _resident() - _after_clearing > _MOST_GROWTH:
        jax.clear_caches()
        _after_clearing = _resident()


def _resident():
    """The memory that the process occupies, in bytes."""
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def rng():
    """A seeded NumPy generator."""
    return np.random.default_rng(0)


@pytest.fixture
def no_runtime_types():
    """Turns jaxtyping's checks off, so that a test meets the library's own errors."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """Float64 throughout a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def data_folder():
    """The folder of real data sets."""
    folder = os.environ.get("STN_JAX_DATA")
    if not folder:
        pytest.skip("STN_JAX_DATA names no folder of real data sets")
    return Path(folder)
