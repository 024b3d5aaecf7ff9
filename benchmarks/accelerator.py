"""All measurements of a GPU, planned for eight minutes: ``python -m benchmarks.accelerator``.

Runs the commands of the sampler, of the training step and of the families of transforms, in this
order, and saves the rows of each when it ends. A command whose estimated time is longer than the
time left is not started; its name is printed.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

from benchmarks import sampler, train_step, transforms

# By name: the command, the estimated seconds that it takes, and its options. The seconds follow
# from the number of rows and their time; they were not measured on a GPU.
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
    """Where to save, and how long to measure.

    Attributes:
      out: Folder of the result files, ``sampler_DEVICE.json`` and so on.
      minutes: Time for all commands together.
      small: Small shapes and a few rounds, on any device, to check that every command runs.
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
