"""How PyTorch's threads wait for each other, which has to be decided before it is imported.

By default OpenMP's threads spin for some milliseconds before they sleep. On a machine that does
nothing else this is faster, but the next contender has to wait until they sleep; where another
process has a core, they spin in vain at every barrier. The policy ``passive`` has them sleep at
once.
"""

import os
import subprocess
import sys

_POLICY = "OMP_WAIT_POLICY"
_PASSIVE = "passive"
# Longer than threads spin by default.
_PAUSE = 15e-3
_TIME_SAMPLING = """
import time
import torch
from torch.nn.functional import affine_grid, grid_sample
torch.set_num_threads({threads})
theta, images = torch.eye(2, 3).repeat(256, 1, 1), torch.rand(256, 1, 28, 28)
seconds = []
for _ in range(50):
    start = time.perf_counter()
    grid_sample(images, affine_grid(theta, images.shape, align_corners=False), align_corners=False)
    seconds.append(time.perf_counter() - start)
print(sorted(seconds)[len(seconds) // 2])
"""


def choose_policy(threads: int, *, try_both: bool) -> str:
    """Sets the policy, unless the user has: the one with which PyTorch is faster here and now.

    Args:
      threads: As many as PyTorch will use.
      try_both: Whether to find out, in a process for each; else it is ``passive``.

    Returns:
      The policy, ``"default"`` where it is left to OpenMP.
    """
    if _POLICY not in os.environ and not (try_both and _faster_by_default(threads)):
        os.environ[_POLICY] = _PASSIVE
    return os.environ.get(_POLICY, "default")


def pause() -> float:
    """Seconds after which no thread of another contender spins any more."""
    return 0.0 if os.environ.get(_POLICY, "").lower() == _PASSIVE else _PAUSE


def _faster_by_default(threads: int) -> bool:
    """Whether sampling is faster without a policy; not where PyTorch is missing."""
    others = {name: value for name, value in os.environ.items() if name != _POLICY}
    by_default, passive = (
        _seconds(threads, environment) for environment in (others, others | {_POLICY: _PASSIVE})
    )
    return by_default is not None and passive is not None and by_default < passive


def _seconds(threads: int, environment: dict[str, str]) -> float | None:
    found = subprocess.run(
        [sys.executable, "-c", _TIME_SAMPLING.format(threads=threads)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    return float(found.stdout) if found.returncode == 0 else None
