"""The clock of every benchmark: contenders in one process, in turns, compared round by round.

A contender is a function without arguments that blocks until its result is there. In every round
each has one turn, in a newly shuffled order, so that other work of the machine affects all alike.
Ratios are taken within a round. The first call, which compiles, is not timed.
"""

import dataclasses
import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

Run = Callable[[], object]
Clock = Callable[[], float]

# A turn of a short function repeats the call until this many seconds have passed.
_SHORTEST_TURN = 5e-3
# A call shorter than this is first made once untimed, to fill the caches.
_LONGEST_UNTIMED = 50e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """Stops after ``rounds``, or earlier once ``seconds`` have passed.

    Attributes:
      seconds: Time for the rounds, all contenders together.
      rounds: Most rounds.
      least: Rounds that are always run, however long they take.
      pause: Seconds before a turn, in which threads of the previous contender go to sleep.
    """

    seconds: float = 10.0
    rounds: int = 100
    least: int = 5
    pause: float = 0.0

    def goes_on(self, rounds: int, seconds: float) -> bool:
        """Whether there is another round, after this many rounds and seconds."""
        return rounds < self.least or (rounds < self.rounds and seconds < self.seconds)

    def allows_another(self, seconds_per_call: float, fastest: float) -> bool:
        """Whether a contender takes part after the first round, given its seconds per call there.

        A contender that alone would use up the budget stops, if another is far faster.
        """
        return self.least * seconds_per_call < self.seconds or seconds_per_call < 10 * fastest


class Spread(NamedTuple):
    """Median, minimum and middle half of some numbers."""

    median: float
    minimum: float
    first_quartile: float
    third_quartile: float
    rounds: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Spread":
        """The spread of a flat array."""
        first, median, third = np.quantile(values, [0.25, 0.5, 0.75])
        return cls(float(median), float(values.min()), float(first), float(third), len(values))

    @property
    def interquartile(self) -> float:
        """Length of the middle half."""
        return self.third_quartile - self.first_quartile


def measure(
    contenders: Mapping[str, Run],
    budget: Budget,
    *,
    seed: int = 0,
    warm_up: bool = True,
    clock: Clock = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Measures the seconds of a call, for every contender and round.

    Args:
      contenders: Functions that block until their result is there, by name.
      budget: When to stop.
      seed: Seed of the order within the rounds.
      warm_up: Whether to run each contender once untimed, and short ones several times in a turn.
        Otherwise a turn is one call, for functions that behave differently the second time.
      clock: Gives the time in seconds.

    Returns:
      ``[rounds]`` for each contender; an index is the same round for all. A contender that
      :meth:`Budget.allows_another` stops has one number.
    """
    turns = {
        name: _Turn.warmed_up(run, clock) if warm_up else _Turn(run, calls=1, untimed=False)
        for name, run in contenders.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names, rng = list(contenders), np.random.default_rng(seed)
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        start, rounds = clock(), 0
        while budget.goes_on(rounds, clock() - start):
            for index in rng.permutation(len(names)):
                time.sleep(budget.pause)
                seconds[names[index]].append(turns[names[index]].seconds_per_call(clock))
            rounds += 1
            fastest = min(each[0] for each in seconds.values())
            names = [name for name in names if budget.allows_another(seconds[name][0], fastest)]
    finally:
        if collects:
            gc.enable()
    return {name: np.array(values) for name, values in seconds.items()}


def ratio(theirs: np.ndarray, ours: np.ndarray) -> Spread:
    """Their seconds divided by ours, round by round."""
    rounds = min(len(theirs), len(ours))
    return Spread.of(theirs[:rounds] / ours[:rounds])


def best_of(seconds: Mapping[str, np.ndarray], names: list[str]) -> str | None:
    """The contender among ``names`` with the smallest median."""
    return min(names, key=lambda name: np.median(seconds[name]), default=None)


def compare(
    seconds: Mapping[str, np.ndarray], ours: str, *, apart: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The record of a comparison.

    Args:
      seconds: The result of :func:`measure`.
      ours: The contender that is compared.
      apart: Contenders that are not peers, such as the copy.

    Returns:
      ``seconds``, a :class:`Spread` for each contender; ``ratios``, each peer's time over ours;
      and ``best_peer``, the name of the fastest, or ``None``.
    """
    peers = [name for name in seconds if name != ours and name not in apart]
    return {
        "seconds": {name: Spread.of(values)._asdict() for name, values in seconds.items()},
        "ratios": {name: ratio(seconds[name], seconds[ours])._asdict() for name in peers},
        "best_peer": best_of(seconds, peers),
    }


def copy_fraction(
    seconds: Mapping[str, np.ndarray], ours: str, bytes_moved: int, copy: str, copied: int
) -> dict[str, Any]:
    """Bytes moved per second, as a share of those of a copy, round by round.

    Args:
      seconds: The result of :func:`measure`.
      ours: The contender in question.
      bytes_moved: The bytes that ``ours`` must read and write at least.
      copy: The contender that copies.
      copied: The bytes that the copy reads and writes.
    """
    return ratio(seconds[copy] / copied, seconds[ours] / bytes_moved)._asdict()


class _Turn(NamedTuple):
    """The calls of a contender in its turn."""

    run: Run
    calls: int
    untimed: bool

    @classmethod
    def warmed_up(cls, run: Run, clock: Clock) -> "_Turn":
        """Runs it, to compile and to see how long a call takes."""
        run()
        start = clock()
        run()
        seconds = max(clock() - start, 1e-9)
        calls = max(1, int(_SHORTEST_TURN / seconds))
        return cls(run, calls, seconds < _LONGEST_UNTIMED)

    def seconds_per_call(self, clock: Clock) -> float:
        if self.untimed:
            self.run()
        start = clock()
        for _ in range(self.calls):
            self.run()
        return (clock() - start) / self.calls
