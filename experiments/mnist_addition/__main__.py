"""MNIST addition: the sum of two digits, each at its own place, angle and size in its own channel.

``python -m experiments.mnist_addition --help`` lists the options.

Protocol: Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, appendix A.1: two digits
distorted independently as in set RTS, one in each of two channels of 42×42 pixels, 19 classes. One
transformer cannot straighten both; of two in parallel, each sees and transforms both channels, and
what they pass on is stacked to four channels. The paper: FCN 47.7 %, CNN 14.7, ST-FCN affine 22.6,
the best single transformer 18.5, two of them affine 9.0, projective 5.9, thin plate spline 5.8.
Deviations: those of :mod:`experiments.distorted_mnist`. The two digits are drawn from all training
images, and a test image is paired with the one that follows it in the test set.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.classification.config import TableArguments
from experiments.classification.table import make_table
from experiments.data.tasks import TaskName
from experiments.engine.command_line import run as run_command
from experiments.models import ModelName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TableArguments):
    """Train models to add two digits, and hold their errors against the paper's.

    What is done is skipped, and what was killed goes on, by the same command again. Leaves a run's
    folder for each model, and the table as table.txt, table.md, table.json and report.html, which
    shows what each transformer reads.
    """

    models: tuple[ModelName, ...] = ("fcn", "cnn", "st-fcn", "2xst-fcn")
    """One or more models."""
    distortions: tyro.conf.Suppress[tuple[TaskName, ...]] = ("addition",)
    out: Path = Path("runs/mnist-addition")
    """Output folder."""


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command(
        "python -m experiments.mnist_addition",
        Arguments,
        _tabulate,
        command_line,
        goes_on="goes on",
    )


def _tabulate(arguments: Arguments) -> None:
    print(make_table(arguments, "MNIST addition"))
    print(f"report: {arguments.out / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
