"""Contenders, and the check that one computes the same as the first."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from benchmarks.harness.timing import Run

# Slopes differ more than values: near the edge of a cell, rounding decides which cell's slope a
# point gets, and the terms of θ's gradient cancel.
TOLERANCE_OF_SLOPES = 2e-2


class Contender(NamedTuple):
    """One way to compute a case.

    Attributes:
      name: Its name in tables.
      run: Computes the case; blocks until the result is there.
      results: Computes the case and gives NumPy arrays: ``value`` and, if differentiated, ``d
        theta`` and ``d image``, laid out as the operands.
      memory: Gives the peak memory in bytes; ``None`` if it cannot be measured.
      tolerance: Factor on the tolerance for differences of its results.
      units: Units of work in one call, such as training steps; times are for one.
      expected: Results to compare with, if not the first contender's: ours with a padding that this
        one supports.
    """

    name: str
    run: Run
    results: Callable[[], dict[str, np.ndarray]]
    memory: Callable[[], int | None]
    tolerance: float = 1.0
    units: int = 1
    expected: Callable[[], dict[str, np.ndarray]] | None = None


class Skipped(NamedTuple):
    """The contender cannot compute the case, or computes something else."""

    name: str
    reason: str


def disagreement(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float
) -> str | None:
    """Names a result whose relative norm of the difference is too large; ``None`` if none is."""
    for name, theirs in expected.items():
        if found[name].shape != theirs.shape:
            return f"{name} has shape {found[name].shape}, ours {theirs.shape}"
        allowed = max(tolerance, TOLERANCE_OF_SLOPES) if name == "d theta" else tolerance
        difference = np.linalg.norm(found[name] - theirs) / np.linalg.norm(theirs)
        if not difference <= allowed:
            return f"{name} differs from ours by {difference:.1e} of its norm"
    return None
