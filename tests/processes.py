"""The environment of processes that tests start."""

import os
from pathlib import Path

import jax

ROOT = Path(__file__).parent.parent


def environment(devices=None):
    """This environment, with the project's modules, the compilation cache and simulated devices.

    JAX fixes the number of devices when it starts, so it has to be set in the environment.
    """
    given = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "JAX_COMPILATION_CACHE_DIR": str(jax.config.jax_compilation_cache_dir or ""),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    if devices is not None:
        flag = f"--xla_force_host_platform_device_count={devices}"
        given |= {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"}
    return given
