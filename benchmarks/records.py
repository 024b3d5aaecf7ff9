"""What every command shares: its options, the record it saves, and how numbers are printed."""

import dataclasses
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import jax
import tyro

from benchmarks.peers import openmp
from benchmarks.timing import Budget
from experiments.engine.files import write_json

Row = dict[str, Any]

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
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """How to measure.

    Attributes:
      small: Small shapes and a few rounds; seconds in all.
      seconds: Time for the rounds of one row, all contenders together.
      rounds: Most rounds of a row.
      seed: Of the operands and of the order in the rounds.
      save: JSON file to write.
    """

    small: bool = False
    seconds: float = 10.0
    rounds: int = 100
    seed: int = 0
    save: Path | None = None

    @property
    def budget(self) -> Budget:
        """When a row is done."""
        if self.small:
            return Budget(seconds=0.2, rounds=3, least=3)
        return Budget(seconds=self.seconds, rounds=self.rounds, pause=openmp.pause())


SomeOptions = TypeVar("SomeOptions", bound=Options)


def threads() -> int:
    """CPU cores that this process may use; every library is given as many threads."""
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


def run_command(
    benchmark: str,
    arguments_type: type[SomeOptions],
    description: str | None,
    measure: Callable[[SomeOptions], list[Row]],
    command_line: Sequence[str] | None,
) -> list[Row]:
    """Parses the command line, measures, and saves the rows if asked to.

    The file is written whole or not at all, with versions and device.
    """
    arguments = tyro.cli(arguments_type, args=command_line, description=description)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    policy = openmp.choose_policy(threads(), try_both=not arguments.small)
    rows = measure(arguments)
    if arguments.save is not None:
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        record = {"benchmark": benchmark, "small": arguments.small, "seed": arguments.seed}
        where = environment() | {"load_at_start": load, "omp_wait_policy": policy}
        write_json(arguments.save, record | {"environment": where, "rows": rows})
    return rows


def milliseconds(spread: dict[str, float]) -> str:
    """Median and half the middle half, which one round does not have."""
    if spread["rounds"] == 1:
        return _digits(1e3 * spread["median"])
    half = (spread["third_quartile"] - spread["first_quartile"]) / 2
    return f"{_digits(1e3 * spread['median'])} ± {_digits(1e3 * half)}"


def times(spread: dict[str, float]) -> str:
    """A ratio with its middle half, which one round does not have."""
    if spread["rounds"] == 1:
        return _digits(spread["median"])
    low, high = (_digits(spread[each]) for each in ("first_quartile", "third_quartile"))
    return f"{_digits(spread['median'])} [{low}, {high}]"


def megabytes(size: int | None) -> str:
    """A number of bytes."""
    return "–" if size is None else _digits(size / 1e6)


def shape_name(shape: tuple[int, ...]) -> str:
    """``256×28×28×1``."""
    return "×".join(map(str, shape))


def _digits(value: float) -> str:
    """Three digits or so, never with an exponent."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{places}f}"


def _processor() -> str:
    """The CPU's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
