"""Sets how PyTorch's threads wait for each other; must run before PyTorch is imported.

By default OpenMP's threads spin for some milliseconds before they sleep. On an idle machine this is
faster, but the next contender has to wait until they sleep. If another process occupies a core,
they waste time at every barrier. With the policy ``passive`` they sleep at once.
"""

import os
import subprocess
import sys

_POLICY = "OMP_WAIT_POLICY"
_PASSIVE = "passive"
_DEFAULT = "default"
# Seconds to wait for another contender's threads to sleep; by default they spin for less.
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


def given() -> str | None:
    """The policy that the user has set."""
    return os.environ.get(_POLICY)


def choose_policy(threads: int, *, try_both: bool, earlier: str | None = None) -> str:
    """Sets the policy with which PyTorch is faster at present, unless the user has set one.

    Args:
      threads: Number of threads that PyTorch will use.
      try_both: Whether to try both policies, each in a process; otherwise takes ``passive``.
      earlier: The policy of a measurement that goes on; nothing is tried then.

    Returns:
      The policy; ``"default"`` if OpenMP's own stays.
    """
    if _POLICY not in os.environ:
        if earlier is None:
            earlier = _DEFAULT if try_both and _faster_by_default(threads) else _PASSIVE
        if earlier != _DEFAULT:
            os.environ[_POLICY] = earlier
    return os.environ.get(_POLICY, _DEFAULT)


def pause() -> float:
    """Seconds after which the threads of another contender have stopped spinning."""
    return 0.0 if os.environ.get(_POLICY, "").lower() == _PASSIVE else _PAUSE


def _faster_by_default(threads: int) -> bool:
    """Whether PyTorch samples faster without a policy; false if PyTorch is missing."""
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
