"""Digits in volumes, straightened by a spatial transformer of three dimensions, then flattened.

``python -m experiments.volumes --help`` lists the options.

Protocol: Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, appendix: digits in a
volume of 60³ voxels, an affine transform of 3×4 parameters with trilinear sampling, and what it
passes on flattened to two dimensions for the classifier. The paper gives no error. Chosen here: how
digits lie in their volumes, see :func:`experiments.data.volumes.extrude`; to flatten is to take the
mean along the depth; the transformer reads 28³ voxels, without averaging, so that at the identity
it sees the whole volume at less than half its resolution; its localization network is that of the
images' experiments on three views of the volume, along its depth, height and width, halved. Models
without a transformer see the whole volume, flattened. All have 400,000 parameters. Images of other
sizes than 28×28 lie in volumes in proportion, and are read in their own.

A volume holds as many numbers as 275 images, so steps are of 32 volumes here unless more are asked
for, and few images are held out, since they are looked at 20 times. No model asks for a gradient
with respect to the volume, and drawing it reads the digit's image alone. On the CPU the plain CNN
is the slowest, by its convolutions on 60×60 pixels; behind a transformer they see 28×28.
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
from experiments.models import ModelName, TransformName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TableArguments):
    """Train models to read solid digits that lie somewhere in a volume.

    What is done is skipped, and what was killed goes on, by the same command again. Leaves a run's
    folder for each model, and the table as table.txt, table.md, table.json and report.html, which
    shows volumes flattened along their depth.
    """

    models: tuple[ModelName, ...] = ("fcn", "cnn", "st-fcn", "st-cnn")
    """One or more models."""
    distortions: tyro.conf.Suppress[tuple[TaskName, ...]] = ("volumes",)
    transforms: tuple[TransformName, ...] = ("affine",)
    """One or more transforms of the models that hold a spatial transformer: translation, rigid,
    similarity, attention or affine, those that exist in three dimensions."""
    batch_size: int | None = 32
    """Volumes in a training step."""
    validation: float = 0.02
    """Share of the training images held out for the validation curve."""
    seeds_at_once: int = 1
    """Seeds that are trained together in one compiled program."""
    out: Path = Path("runs/volumes")
    """Output folder."""


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command(
        "python -m experiments.volumes", Arguments, _tabulate, command_line, goes_on="goes on"
    )


def _tabulate(arguments: Arguments) -> None:
    print(make_table(arguments, "Digits in volumes"))
    print(f"report: {arguments.out / 'report.html'}")


if __name__ == "__main__":
    sys.exit(main())
