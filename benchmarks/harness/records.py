"""Common options of the commands, their saved records, and the format of printed numbers."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from benchmarks.harness import openmp
from benchmarks.harness.environment import environment, threads
from benchmarks.harness.files import write_json
from benchmarks.harness.timing import Budget

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every measurement.

    Attributes:
      small: Small shapes and a few rounds; takes seconds.
      seconds: Time for the rounds of one row, all contenders together.
      rounds: At most this many rounds for a row.
      seed: Seed of the operands and of the order in the rounds.
      save: JSON file to write.
    """

    small: bool = False
    seconds: float = 10.0
    rounds: int = 100
    seed: int = 0
    save: Path | None = None

    @property
    def budget(self) -> Budget:
        """The end of a row's rounds."""
        if self.small:
            return Budget(seconds=0.2, rounds=3, least=3)
        return Budget(seconds=self.seconds, rounds=self.rounds, pause=openmp.pause())


SomeOptions = TypeVar("SomeOptions", bound=Options)


def run_command(
    benchmark: str,
    arguments_type: type[SomeOptions],
    description: str | None,
    measure: Callable[[SomeOptions], list[Row]],
    command_line: Sequence[str] | None,
) -> list[Row]:
    """Parses the command line, measures, and saves the rows if ``--save`` is given.

    The file is written whole or not at all, with versions and device.
    """
    arguments = tyro.cli(arguments_type, args=command_line, description=description)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    policy = openmp.choose_policy(threads(), try_both=not arguments.small)
    rows = measure(arguments)
    if arguments.save is not None:
        record = {"benchmark": benchmark, "small": arguments.small, "seed": arguments.seed}
        where = environment() | {"load_at_start": load, "omp_wait_policy": policy}
        write_json(arguments.save, record | {"environment": where, "rows": rows})
    return rows


def milliseconds(spread: dict[str, float]) -> str:
    """Median ± half the middle half in milliseconds; one round has only a median."""
    if spread["rounds"] == 1:
        return _digits(1e3 * spread["median"])
    half = (spread["third_quartile"] - spread["first_quartile"]) / 2
    return f"{_digits(1e3 * spread['median'])} ± {_digits(1e3 * half)}"


def times(spread: dict[str, float]) -> str:
    """A ratio with its middle half; one round has only the ratio."""
    if spread["rounds"] == 1:
        return _digits(spread["median"])
    low, high = (_digits(spread[each]) for each in ("first_quartile", "third_quartile"))
    return f"{_digits(spread['median'])} [{low}, {high}]"


def megabytes(size: int | None) -> str:
    """A number of bytes, as text."""
    return "–" if size is None else _digits(size / 1e6)


def shape_name(shape: tuple[int, ...]) -> str:
    """``256×28×28×1``."""
    return "×".join(map(str, shape))


def _digits(value: float) -> str:
    """About three digits, never with an exponent."""
    places = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{places}f}"
