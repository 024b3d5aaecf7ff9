"""Common options of the commands, their saved records, and the format of printed numbers."""

import dataclasses
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from benchmarks.harness import openmp, unfinished
from benchmarks.harness.environment import environment, threads
from benchmarks.harness.timing import Budget
from benchmarks.harness.unfinished import Planned

Row = unfinished.Row


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every measurement.

    Attributes:
      small: Small shapes and a few rounds; takes seconds.
      seconds: Time for the rounds of one row, all contenders together.
      rounds: At most this many rounds for a row.
      seed: Seed of the operands and of the order in the rounds.
      save: JSON file to write. Rows are kept beside it as they are measured; if the command is
        stopped, the same command goes on with the others.
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


# Options that change no row.
_OUTPUTS = ("save", "picture")
SomeOptions = TypeVar("SomeOptions", bound=Options)


def run_command(
    benchmark: str,
    arguments_type: type[SomeOptions],
    description: str | None,
    plan: Callable[[SomeOptions], Iterable[Planned]],
    command_line: Sequence[str] | None,
    finish: Callable[[SomeOptions, list[Row]], object] = lambda arguments, rows: None,
) -> list[Row]:
    """Parses the command line, measures row by row, and saves the rows if ``--save`` is given.

    The file is written whole or not at all, with versions and device. If the command was stopped,
    the same command on the same machine goes on where it was; see :mod:`.unfinished`. While it
    runs, another command that is to write the same file ends with an error.

    Args:
      benchmark: Its name in the file.
      arguments_type: Its options.
      description: What ``--help`` says.
      plan: Gives the rows that are to be measured.
      command_line: The words; those of the process by default.
      finish: What else is made of all rows.
    """
    arguments = tyro.cli(arguments_type, args=command_line, description=description)
    with unfinished.alone(arguments.save):
        rows = _measured(benchmark, arguments, plan)
    finish(arguments, rows)
    return rows


def _measured(
    benchmark: str, arguments: SomeOptions, plan: Callable[[SomeOptions], Iterable[Planned]]
) -> list[Row]:
    """Measures the rows of a plan, and saves them if ``--save`` is given."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    given = dataclasses.asdict(arguments)
    settings = {name: given[name] for name in given if name not in _OUTPUTS}
    settings["omp_wait_policy given"] = openmp.given()
    origin: dict[str, Any] = {"benchmark": benchmark, "small": arguments.small}
    origin |= {"seed": arguments.seed, "settings": settings, "environment": environment()}
    before = unfinished.read(arguments.save, origin)
    policy = openmp.choose_policy(
        threads(),
        try_both=not arguments.small,
        earlier=before["environment"]["omp_wait_policy"] if before else None,
    )
    if before:
        starts = [
            *before["environment"].get("went_on", []),
            {"time": origin["environment"]["time"], "load": load},
        ]
        origin["environment"] = before["environment"] | {"went_on": starts}
    else:
        origin["environment"] |= {"load_at_start": load, "omp_wait_policy": policy}
    try:
        rows, seconds = unfinished.measure(
            list(plan(arguments)), origin, save=arguments.save, before=before
        )
    except KeyboardInterrupt:
        kept = arguments.save is not None and unfinished.path_of(arguments.save).is_file()
        unfinished.tell("Stopped; the same command goes on." if kept else "Stopped.")
        raise SystemExit(130) from None
    if arguments.save is not None:
        unfinished.finish(arguments.save, origin | {"seconds": seconds, "rows": rows})
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
