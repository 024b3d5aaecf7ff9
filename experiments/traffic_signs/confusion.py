"""Counts which traffic signs are confused with which."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Integer

from experiments.classification.config import TableArguments
from experiments.classification.restore import run_of, trained_states
from experiments.classification.run import build_classifier
from experiments.classification.step import predictions
from experiments.data.datasets import Dataset
from experiments.engine.files import write_json
from experiments.report.markup import heading, section
from experiments.report.tables import text_table, text_table_html

# Number of classes in the table of the worst ones.
_WORST = 8
_HEADINGS = ["class", "images", "error %", "taken for"]


def confusion(folder: Path, dataset: Dataset) -> Integer[np.ndarray, "classes classes"]:
    """Counts of test images by true class (rows) and predicted class, over all seeds of a run."""
    run = run_of(folder)
    classifier = build_classifier(run, dataset)
    states = trained_states(run, folder, classifier)
    predicted = predictions(classifier, states.params, dataset.test.images)
    counts = np.zeros((dataset.num_classes, dataset.num_classes), int)
    for of_seed in predicted:
        np.add.at(counts, (dataset.test.labels, of_seed), 1)
    return counts


def worst_classes(counts: Integer[np.ndarray, "classes classes"]) -> list[list[str]]:
    """Rows of the classes with the largest errors: class, images, error in percent, confusions.

    Classes without an error are left out.
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


def report_confusions(
    arguments: TableArguments, dataset: Dataset, folders: Mapping[str, Sequence[Path]]
) -> list[str]:
    """Prints the worst classes of each model, writes all counts, returns sections of HTML."""
    counts = {
        name: np.sum([confusion(folder, dataset) for folder in own], axis=0)
        for name, own in folders.items()
    }
    write_json(arguments.out / "confusions.json", {k: v.tolist() for k, v in counts.items()})
    tables = {name: worst_classes(of_model) for name, of_model in counts.items()}
    for name, rows in tables.items():
        print(f"{name}: classes misclassified most often, all seeds together")
        print(text_table(_HEADINGS, rows))
    return [section("Classes misclassified most often, all seeds together")] + [
        f"{heading(name)}\n{text_table_html(_HEADINGS, rows)}" for name, rows in tables.items()
    ]
