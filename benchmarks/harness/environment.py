"""The environment of a measurement: versions, device, processor and threads."""

import os
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

_PACKAGES = (
    "stn-jax-native",
    "stn-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "scipy",
    "torch",
    "kornia",
    "dm_pix",
    "opencv-python-headless",
    "opencv-python",
    "SimpleITK",
    "albumentations",
    "augmax",
    "keras",
)


def threads() -> int:
    """Number of CPU cores of this process; every library gets this many threads."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def environment() -> dict[str, Any]:
    """Versions and device."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "processor": _processor(),
        "threads": threads(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    """The CPU's name, if the system states it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
