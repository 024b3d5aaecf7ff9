"""All that a GPU is measured by, in under eight minutes: ``python -m benchmarks.accelerator``.

The sampler beside its peers, the training step beside PyTorch, and the families of transforms, in
this order, each by its own command and saved when it ends. A command that no longer fits into the
time is left out, and named.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks import sampler, train_step, transforms

# Seconds that each command takes at most on an H100, compilations included.
COMMANDS: dict[str, tuple[Callable[[Sequence[str]], Any], float, tuple[str, ...]]] = {
    "sampler": (
        sampler.main,
        210.0,
        (
            *("--dtypes", "float32", "--seconds", "1", "--rounds", "20"),
            *("--shapes", "256x28x28x1", "32x56x56x64", "16x224x224x3", "4x64x64x64x1"),
        ),
    ),
    "train_step": (train_step.main, 90.0, ("--seconds", "2", "--rounds", "20")),
    "transforms": (transforms.main, 90.0, ("--seconds", "1", "--rounds", "20")),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to do.

    Attributes:
      out: Folder of the result files, ``sampler_DEVICE.json`` and so on.
      minutes: Time for all commands together.
      small: Small shapes and a few rounds, to see that all runs; for any device.
    """

    out: Path = Path("benchmarks/results")
    minutes: float = 7.5
    small: bool = False


def device_name() -> str:
    """The device in the names of files: ``h100`` of ``NVIDIA H100 80GB HBM3``."""
    words = jax.devices()[0].device_kind.lower().removeprefix("nvidia ").split()
    return words[0].replace("/", "-")


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs what fits; returns the exit status, 1 if a command was left out."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    end, left_out = time.monotonic() + 60 * arguments.minutes, []
    for name, (command, seconds, options) in COMMANDS.items():
        if time.monotonic() + (0 if arguments.small else seconds) > end:
            left_out.append(name)
            continue
        path = arguments.out / f"{name}_{device_name()}.json"
        command([*(("--small",) if arguments.small else options), "--save", str(path)])
        print(f"saved: {path}", flush=True)
    if left_out:
        print(f"left out, for want of time: {', '.join(left_out)}; --minutes gives more.")
    return bool(left_out)


if __name__ == "__main__":
    raise SystemExit(main())
