"""Trains the model that this folder holds: ``python -m experiments.pretrained``.

It trains three seeds, prints their test errors, and writes the first one's parameters to the file
that :func:`experiments.pretrained.load` reads. The README beside this file is the model's card.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.classification.config import Run
from experiments.classification.run import execute, load_dataset
from experiments.classification.trained import load_run
from experiments.engine import OutputFolder, prepare_folder, run_command
from experiments.pretrained import FILE
from experiments.report import build_report, error_table

RUN = Run(
    model="st-cnn",
    transform="affine",
    data="digits",
    distortion="R",
    recipe="adam",
    learning_rate=1e-3,
    width=0.3,
    steps=2000,
    validation=0.0,
    test_copies=8,
    seeds=(0, 1, 2),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(OutputFolder):
    """Train the model of this folder again, and replace its file."""

    steps: int = RUN.steps
    """Training steps; the file is of the default."""
    out: Path = Path("runs/pretrained")
    """Output folder of the run."""
    file: Path = FILE
    """The file to write, whose name ends in .safetensors."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The options of this command, of which a run's ``config.json`` holds one."""
        return {name: config[name] for name in ("steps",) if name in config}


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command("python -m experiments.pretrained", Arguments, _train, command_line)


def _train(arguments: Arguments) -> None:
    run = dataclasses.replace(RUN, steps=arguments.steps)
    prepare_folder(run, arguments.out, resume=arguments.resume, overwrite=arguments.overwrite)
    result = execute(run, arguments.out, load_dataset(run))
    print(error_table([result]))
    print(f"report: {build_report(arguments.out, [arguments.out])}")
    load_run(arguments.out).save(arguments.file)
    print(f"model: {arguments.file}, {arguments.file.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
