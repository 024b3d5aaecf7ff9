"""Files are written whole or not at all; reading errors name the file."""

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

    Of several processes only the first writes.
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
    """Whether a kill during :func:`write_atomically` left this file."""
    return path.name.startswith(".") and path.stem.endswith(_PARTIAL)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically."""
    write_atomically(path, lambda p: p.write_text(json.dumps(value, indent=2) + "\n"))


def read_json(path: Path) -> Any:
    """Reads JSON; a ``ValueError`` names a corrupt file."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}.") from error


def environment() -> dict[str, Any]:
    """The versions of the packages and the device, which every result holds."""
    packages = ("stn-jax", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in packages},
        "device": f"{device.device_kind} ({device.platform}, {jax.device_count()} device(s), "
        f"{os.cpu_count()} CPU core(s))",
    }
