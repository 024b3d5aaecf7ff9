"""Rows that are saved as they are measured, so that a measurement that was stopped can go on.

They lie in a file beside the one that ``--save`` names, until all are there; see :func:`path_of`.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness.files import read_json, write_json

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

Row = dict[str, Any]
# What differs between two starts of the same command on the same machine.
_OF_A_START = ("time", "load_at_start", "omp_wait_policy", "went_on")


class Planned(NamedTuple):
    """A row that is to be measured.

    Attributes:
      labels: What tells it from the other rows.
      measure: Measures and prints it; the row may hold the labels or not.
    """

    labels: Mapping[str, Any]
    measure: Callable[[], Row]


class Measured(NamedTuple):
    """All rows of a plan, in its order, and the seconds that they took in all starts."""

    rows: list[Row]
    seconds: float


def path_of(save: Path) -> Path:
    """The file that holds the rows until all are there."""
    return save.with_name(f"{save.name}.unfinished")


@contextlib.contextmanager
def alone(save: Path | None) -> Iterator[None]:
    """Locks the file that a command is to write; ends a second command that is to write it, too.

    The second one would take rows from the first one's unfinished record, and replace it. The
    system releases the lock of a process that was killed. Windows has no such lock, so nothing is
    checked there.
    """
    if save is None or fcntl is None:
        yield
        return
    path = save.with_name(f"{save.name}.lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, another command may have ended and removed the file.
            is_there = os.path.samestat(path.stat(), os.fstat(lock.fileno()))
        except (BlockingIOError, FileNotFoundError):
            is_there = False
        if not is_there:
            lock.seek(0)
            raise SystemExit(
                f"{save} is being written by another command, process {lock.read() or 'unknown'}. "
                "Wait for it, or name another file with --save."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        try:
            yield
        finally:
            path.unlink()


def read(save: Path | None, origin: Mapping[str, Any]) -> dict[str, Any] | None:
    """The unfinished record of the same command, if there is one.

    Args:
      save: The file that the command is to write.
      origin: The command, its settings and its environment. If the record has others, or cannot
        be read, a line on stderr says so, and the measurement starts over.
    """
    if save is None or not path_of(save).is_file():
        return None
    try:
        record = read_json(path_of(save))
    except ValueError as error:
        tell(f"{error} All rows are measured anew.")
        return None
    changed = list(_changes(record if isinstance(record, dict) else {}, as_json(origin)))
    if changed:
        tell(f"{path_of(save)} has other {', '.join(changed)}: all rows are measured anew.")
        return None
    return record


def measure(
    plan: Sequence[Planned],
    origin: Mapping[str, Any],
    *,
    save: Path | None = None,
    before: Mapping[str, Any] | None = None,
) -> Measured:
    """Measures the rows of a plan, and saves each; those of ``before`` are taken from there.

    A line on stderr tells before each row which it is, and how long the others will take at the
    mean speed so far.

    Args:
      plan: The rows.
      origin: What is saved beside the rows.
      save: The file that the command is to write at the end.
      before: An unfinished record, from :func:`read`.
    """
    kept = before["rows"] if before else []
    seconds = before["seconds"] if before else 0.0
    rows: list[Row] = []
    if kept:
        tell(f"{len(kept)} of {len(plan)} rows are taken from {path_of(save or Path())}.")
    done = len(kept)
    for number, planned in enumerate(plan, start=1):
        labels = as_json(planned.labels)
        found = [row for row in kept if labels.items() <= row.items()]
        if found:
            rows += found[:1]
            continue
        left = f", about {_in_words(seconds / done * (len(plan) - done))} left" if done else ""
        tell(f"row {number} of {len(plan)}{left}")
        start = time.perf_counter()
        rows.append(dict(planned.labels) | planned.measure())
        seconds, done = seconds + time.perf_counter() - start, done + 1
        if save is not None:
            write_json(path_of(save), {**origin, "seconds": seconds, "rows": rows})
    return Measured(rows, seconds)


def finish(save: Path, record: Mapping[str, Any]) -> None:
    """Writes the record of all rows, and removes the unfinished one."""
    write_json(save, record)
    path_of(save).unlink(missing_ok=True)


def as_json(value: Any) -> Any:
    """A value as it comes back from a file: tuples as lists, paths as text."""
    return json.loads(json.dumps(value, default=str))


def tell(line: str) -> None:
    """Prints a line for whoever waits, apart from the results."""
    print(line, file=sys.stderr, flush=True)


def _changes(record: Mapping[str, Any], origin: Mapping[str, Any], inside: str = "") -> Any:
    """The names of values that a record and an origin have differently."""
    for name, expected in origin.items():
        found = record.get(name)
        if isinstance(expected, dict) and isinstance(found, dict):
            # A package that is installed by now, or no longer, is a change, too.
            both = dict.fromkeys(found) | expected
            yield from _changes(found, both, f"{inside}{name}.")
        elif name not in _OF_A_START and found != expected:
            yield f"{inside}{name}"


def _in_words(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
