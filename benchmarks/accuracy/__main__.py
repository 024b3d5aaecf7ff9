"""Measures how exact the library is; prints a table and a verdict for each question.

``python -m benchmarks.accuracy`` measures how much an identity changes images; how far values,
first and second derivatives are from PyTorch's, and values from OpenCV's and SciPy's; how far
sampled positions are from the exact ones; and the errors of half precision. The module of each
table states its method. Without PyTorch its tables are left out. ``--save FILE.json`` also writes
all numbers, with versions and the device.
"""

import dataclasses
import functools
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import jax
import numpy as np
import scipy
import tyro

import stn_jax as stn
from benchmarks.accuracy import (
    against_opencv,
    against_pytorch,
    against_scipy,
    half_precision,
    identity,
    positions,
)
from benchmarks.accuracy.geometry import pytorch
from benchmarks.accuracy.tables import Table
from benchmarks.harness import unfinished

TableName = Literal["identity", "pytorch", "opencv", "scipy", "positions", "half"]
TABLES: dict[TableName, Callable[[int], Table]] = {
    "identity": lambda trials: identity.table(),
    "pytorch": against_pytorch.table,
    "opencv": against_opencv.table,
    "scipy": against_scipy.table,
    "positions": lambda trials: positions.table(),
    "half": half_precision.table,
}
NEED_PYTORCH = ("pytorch", "half")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      trials: Random operands for each row, alignment and padding.
      tables: Which tables to print.
      save: File to write all numbers to, as JSON. Tables are kept beside it as they are measured;
        if the command is stopped, the same command goes on with the others.
    """

    trials: int = 10
    tables: tuple[TableName, ...] = get_args(TableName)
    save: Path | None = None


def environment() -> dict[str, Any]:
    """Versions and the device."""
    torch, device = pytorch(), jax.devices()[0]
    return {
        "stn_jax": stn.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "cv2": cv2.__version__,
        "torch": torch.__version__ if torch else None,
        "python": platform.python_version(),
        "device": f"{device.platform} {device.device_kind}",
        "machine": platform.machine(),
    }


def main(command_line: list[str] | None = None) -> None:
    """Prints the tables; saves them if ``--save`` is given."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    setting = environment()
    print(", ".join(f"{name} {version}" for name, version in setting.items()), end="\n\n")
    settings = {"trials": arguments.trials, "tables": arguments.tables}
    origin = {"environment": setting, "settings": settings}
    with unfinished.alone(arguments.save):
        before = unfinished.read(arguments.save, origin)
        rows, seconds = unfinished.measure(
            list(_plan(arguments)), origin, save=arguments.save, before=before
        )
        print(f"{seconds:.0f} s")
        if arguments.save:
            tables = {row.pop("table"): row for row in rows}
            record = {"environment": setting, "trials": arguments.trials, "seconds": seconds}
            unfinished.finish(arguments.save, record | {"tables": tables})


def _plan(arguments: Arguments) -> Iterator[unfinished.Planned]:
    for name in arguments.tables:
        if name in NEED_PYTORCH and pytorch() is None:
            print(f"PyTorch is not installed; table {name!r} is left out.\n")
            continue
        show = functools.partial(_show, TABLES[name], arguments.trials)
        yield unfinished.Planned({"table": name}, show)


def _show(make: Callable[[int], Table], trials: int) -> dict[str, Any]:
    shown = make(trials).show()
    jax.clear_caches()  # Free hundreds of compiled programs that are not needed any more.
    return shown


if __name__ == "__main__":
    main()
