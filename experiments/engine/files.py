"""Files that are written whole or not at all, and read with the name of what is wrong."""

import json
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from experiments.engine.devices import is_first

_PARTIAL = ".partial"


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Calls ``write`` on a file beside ``path``, then renames it into place.

    Of several processes the first does; the others write nothing.
    """
    if not is_first():
        return
    partial = path.with_name(f".{path.stem}{_PARTIAL}{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def is_partial(path: Path) -> bool:
    """Whether a file is one that :func:`write_atomically` was killed at."""
    return path.name.startswith(".") and path.stem.endswith(_PARTIAL)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically."""
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))


def read_json(path: Path) -> Any:
    """Reads JSON; a ``ValueError`` names the file that is corrupt."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def environment() -> dict[str, Any]:
    """Versions and device, for the record beside every result."""
    packages = ("stn-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "device": f"{device.device_kind} ({device.platform}, {jax.device_count()} device(s), "
        f"{os.cpu_count()} CPU core(s))",
    }
