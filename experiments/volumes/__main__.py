"""Digits in volumes: ``python -m experiments.volumes``.

``--help`` lists the options; the README beside this file has the protocol.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.classification.config import TableArguments
from experiments.classification.table import UNPUBLISHED, table_command
from experiments.data.tasks import TaskName
from experiments.models import ModelName, TransformName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TableArguments):
    """Train models to classify solid digits that lie somewhere in a volume.

    The same command again skips finished runs and resumes one that was killed. Writes the folder of
    a run for each model, and the table as table.txt, table.md, table.json and report.html, with
    pictures of volumes flattened along their depth.
    """

    models: tuple[ModelName, ...] = ("fcn", "cnn", "st-fcn", "st-cnn")
    """One or more models."""
    distortions: tyro.conf.Suppress[tuple[TaskName, ...]] = ("volumes",)
    transforms: tuple[TransformName, ...] = ("affine",)
    """One or more transforms of the models that hold a spatial transformer: translation, rigid,
    similarity, attention or affine. The others have no three-dimensional form."""
    batch_size: int | None = 32
    """Volumes in a training step."""
    validation: float = 0.02
    """Share of the training images to hold out for the validation curve."""
    seeds_at_once: int = 1
    """Seeds that are trained together in one compiled program."""
    out: Path = Path("runs/volumes")
    """Output folder."""


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return table_command("volumes", Arguments, command_line, "Digits in volumes", UNPUBLISHED)


if __name__ == "__main__":
    sys.exit(main())
