"""What a contender is, and whether it computes what the first one does."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.harness.timing import Run

# Where a point lies between two cells, rounding chooses between two slopes; and θ's gradient is a
# sum whose terms cancel.
TOLERANCE_OF_SLOPES = 2e-2


class Contender(NamedTuple):
    """One way to compute a case.

    Attributes:
      name: In tables.
      run: Blocks until the result is there.
      results: Runs it and gives NumPy arrays: ``value`` and, if differentiated, ``d theta`` and
        ``d image``, laid out as the operands.
      memory: Bytes at the peak; ``None`` where they cannot be told.
      tolerance: Factor on the tolerance of what its results may differ.
      units: Units of work in one call, such as training steps; times are for one.
      expected: What it is held against, where that is not what the first contender gives: ours
        with a padding that it knows.
    """

    name: str
    run: Run
    results: Callable[[], dict[str, np.ndarray]]
    memory: Callable[[], int | None]
    tolerance: float = 1.0
    units: int = 1
    expected: Callable[[], dict[str, np.ndarray]] | None = None


class Skipped(NamedTuple):
    """A way that cannot compute a case, or does not compute the same."""

    name: str
    reason: str


def disagreement(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float
) -> str | None:
    """What differs by too much, as a norm over that of ``expected``; or ``None``."""
    for name, theirs in expected.items():
        if found[name].shape != theirs.shape:
            return f"{name} has shape {found[name].shape}, ours {theirs.shape}"
        allowed = max(tolerance, TOLERANCE_OF_SLOPES) if name == "d theta" else tolerance
        difference = np.linalg.norm(found[name] - theirs) / np.linalg.norm(theirs)
        if not difference <= allowed:
            return f"{name} differs from ours by {difference:.1e} of its norm"
    return None
