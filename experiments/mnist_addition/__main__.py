"""MNIST addition: ``python -m experiments.mnist_addition``.

``--help`` lists the options; the README beside this file has the protocol.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.classification.config import TableArguments
from experiments.classification.table import table_command
from experiments.data.tasks import TaskName
from experiments.mnist_addition.published import PAPER
from experiments.models import ModelName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TableArguments):
    """Train models to add two digits, and compare their errors with the paper's.

    The same command again skips finished runs and resumes one that was killed. Writes the folder of
    a run for each model, and the table as table.txt, table.md, table.json and report.html, with
    pictures of the regions that each transformer samples.
    """

    models: tuple[ModelName, ...] = ("fcn", "cnn", "st-fcn", "2xst-fcn")
    """One or more models."""
    distortions: tyro.conf.Suppress[tuple[TaskName, ...]] = ("addition",)
    learning_rate: float | None = 0.001
    """The highest learning rate. At 0.003, the usual one of the recipe smooth, the first steps fold
    the transforms, and the models hardly learn. The recipe paper wants 0.01."""
    out: Path = Path("runs/mnist-addition")
    """Output folder."""


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return table_command("mnist_addition", Arguments, command_line, "MNIST addition", PAPER)


if __name__ == "__main__":
    sys.exit(main())
