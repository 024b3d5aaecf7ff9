"""Traffic signs: photographs classified without, with one and with two spatial transformers.

``python -m experiments.traffic_signs --help`` lists the options.

The German benchmark (Stallkamp et al., Neural Networks 32, 2012), 43 classes, 39,209 training and
12,630 test images: ``--data npz:FILE`` with all images in one size, or ``--data gtsrb:FOLDER`` with
the images as published, ``gtsrb-roi:FOLDER`` cut to their regions of interest. Frames of one track
are nearly alike, so whole tracks are held out for validation.

A CNN of three convolutions and two fully connected layers (:mod:`experiments.models.deep_cnn`); the
same behind a spatial transformer that reads the image; and with a second one that reads the first
layer's maps. Training images are varied afresh in every step
(:func:`experiments.data.distortions.vary`), test images are left as they are. To hold against:
Arcos-García, Álvarez-García and Soria-Morillo, Neural Networks 99, 2018, report accuracies of
98.85, 99.46 and 99.67 % at the same three places of transformers, from a larger network, on 48×48
pixels with local contrast normalisation. People are at 98.84 %.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tyro
from jaxtyping import Integer

from experiments.classification import step as train
from experiments.classification.config import TableArguments
from experiments.classification.restore import run_of, trained_states
from experiments.classification.run import make_trainer
from experiments.classification.table import make_table
from experiments.data.sources import Dataset
from experiments.data.tasks import TaskName
from experiments.engine.command_line import run as run_command
from experiments.engine.files import write_json
from experiments.models import ModelName, TransformName
from experiments.report.page import section
from experiments.report.tables import text_table, text_table_html

# So many classes are told of, those that are misread most often.
_WORST = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(TableArguments):
    """Train models to read traffic signs, and hold their errors against published ones.

    What is done is skipped, and what was killed goes on, by the same command again. Leaves a run's
    folder for each model, the table as table.txt, table.md, table.json and report.html, which shows
    what each transformer reads, and confusions.json.
    """

    data: str = dataclasses.field()  # Without the field, the parent's default would stand.
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


def confusion(folder: Path, dataset: Dataset) -> Integer[np.ndarray, "classes classes"]:
    """How many test images of each class, a row, the seeds of a finished run take for which."""
    run = run_of(folder)
    trainer = make_trainer(run, dataset)
    states = trained_states(run, folder, trainer)
    read = train.predictions(train.at_once(trainer), states, dataset.test.images)
    counts = np.zeros((dataset.num_classes, dataset.num_classes), int)
    for of_seed in read:
        np.add.at(counts, (dataset.test.labels, of_seed), 1)
    return counts


def worst_classes(counts: Integer[np.ndarray, "classes classes"]) -> list[list[str]]:
    """Of the classes misread most often: number, images, error in percent, what they are taken for.

    Classes without a mistake are left out.
    """
    totals, right = counts.sum(axis=1), np.diag(counts)
    errors = 100 * (totals - right) / np.maximum(totals, 1)
    rows = []
    for label in np.argsort(-errors, kind="stable")[:_WORST]:
        if errors[label] == 0:
            break
        others = counts[label] * (np.arange(len(counts)) != label)
        taken = [k for k in np.argsort(-others, kind="stable")[:3] if others[k]]
        shares = ", ".join(f"{k} ({100 * others[k] / totals[label]:.1f} %)" for k in taken)
        rows.append([str(label), f"{totals[label]:,}", f"{errors[label]:.2f}", shares])
    return rows


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command(
        "python -m experiments.traffic_signs",
        Arguments,
        _tabulate,
        command_line,
        goes_on="goes on",
    )


_HEADINGS = ["class", "images", "error %", "taken for"]


def _tabulate(arguments: Arguments) -> None:
    print(make_table(arguments, "Traffic signs", closing=lambda *of: _confusions(arguments, *of)))
    print(f"report: {arguments.out / 'report.html'}")


def _confusions(
    arguments: Arguments, dataset: Dataset, folders: Mapping[str, Sequence[Path]]
) -> list[str]:
    """Prints the worst classes of each model; writes all counts; returns sections of HTML."""
    counts = {
        name: np.sum([confusion(folder, dataset) for folder in own], axis=0)
        for name, own in folders.items()
    }
    write_json(arguments.out / "confusions.json", {k: v.tolist() for k, v in counts.items()})
    tables = {name: worst_classes(of_model) for name, of_model in counts.items()}
    for name, rows in tables.items():
        print(f"{name}: classes misread most often, all seeds together")
        print(text_table(_HEADINGS, rows))
    return [section("Classes misread most often, all seeds together")] + [
        f"<h3>{name}</h3>\n{text_table_html(_HEADINGS, rows)}" for name, rows in tables.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
