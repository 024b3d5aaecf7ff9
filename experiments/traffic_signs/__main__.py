"""Traffic signs: ``python -m experiments.traffic_signs``.

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
from experiments.models import ModelName, TransformName
from experiments.traffic_signs.confusion import report_confusions
from experiments.traffic_signs.published import PAPER


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TableArguments):
    """Train models to classify traffic signs, and compare their errors with published ones.

    The same command again skips finished runs and resumes one that was killed. Writes the folder of
    a run for each model, the table as table.txt, table.md, table.json and report.html, with
    pictures of the regions that each transformer samples, and confusions.json.
    """

    data: str = dataclasses.field()  # ``field()`` removes the parent's default.
    """npz:FILE | gtsrb:FOLDER | gtsrb-roi:FOLDER"""
    models: tuple[ModelName, ...] = ("deep-cnn", "st-deep-cnn", "st-deep-st-cnn")
    """One or more models."""
    distortions: tyro.conf.Suppress[tuple[TaskName, ...]] = ("signs",)
    transforms: tuple[TransformName, ...] = ("affine",)
    """One or more transforms of the models that hold a spatial transformer."""
    batch_size: int | None = 64
    """Images in a training step."""
    seeds_at_once: int = 1
    """Seeds that are trained together in one compiled program."""
    out: Path = Path("runs/traffic-signs")
    """Output folder."""


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return table_command(
        "traffic_signs", Arguments, command_line, "Traffic signs", PAPER, closing=report_confusions
    )


if __name__ == "__main__":
    sys.exit(main())
