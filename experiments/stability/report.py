"""The result of the experiment on stability, and its report."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.engine.records import Record, Result
from experiments.report import build_report, figures, text_table
from experiments.report.markup import html_figure, section
from experiments.report.page import write_file
from experiments.report.runs import read_run
from stn_jax import nn as stnn

# Findings with this evidence say that the maps are wrong; a small gradient alone is no failure.
FAILURES = ("distance", "scale", "coverage", "fold", "nonfinite", "gradient_nonfinite")
_CURVES = (
    "A column for each recipe, a line for each seed. Above: the norms of the loss's gradient with "
    "respect to the localization network and to the classifier, means over the steps of a "
    "dispatch, on a logarithmic scale. Below: the error in percent of training batches and, where "
    "images are held out, of validation; a dot is the test error at the end."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeResult(Record):
    """The trainings by one recipe.

    Attributes:
      recipe: Its name.
      seeds: Their number.
      failed: The number of seeds with findings.
      mean, worst: Of the test errors, in percent.
      test_errors: By seed.
      findings: By seed, the names of the faults of the maps.
    """

    recipe: str
    seeds: int
    failed: int
    mean: float
    worst: float
    test_errors: tuple[float, ...]
    findings: Mapping[str, tuple[str, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class StabilityResult(Result):
    """``stability.json``.

    Attributes:
      rows: The recipes.
      settings: By recipe.
    """

    rows: tuple[RecipeResult, ...]


def findings(folder: Path, seeds: Sequence[int]) -> dict[int, list[str]]:
    """The names of the faults of the maps of each seed at the end of a run."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        seed: [
            finding.name
            for finding in stnn.diagnose([row for row in rows if row["seed"] == seed], window=3)
            if finding.evidence in FAILURES
        ]
        for seed in seeds
    }


def summary(
    recipe: str, errors: Sequence[float], found: Mapping[int, Sequence[str]]
) -> RecipeResult:
    """The row of a recipe, from the test error and the findings of each seed."""
    return RecipeResult(
        recipe=recipe,
        seeds=len(found),
        failed=sum(map(bool, found.values())),
        mean=sum(errors) / len(errors),
        worst=max(errors),
        test_errors=tuple(errors),
        findings={str(seed): tuple(names) for seed, names in found.items()},
    )


def table(rows: Sequence[RecipeResult]) -> str:
    """The rows as plain text, with the findings of each seed."""
    headings = ["recipe", "seeds failed", "mean error %", "worst %", "each seed"]
    cells = [
        [
            row.recipe,
            f"{row.failed} of {row.seeds}",
            f"{row.mean:.2f}",
            f"{row.worst:.2f}",
            ", ".join(f"{error:.2f}" for error in row.test_errors),
        ]
        for row in rows
    ]
    failures = [
        f"{row.recipe}, seed {seed}: {', '.join(names)}"
        for row in rows
        for seed, names in row.findings.items()
        if names
    ]
    return "\n".join([text_table(headings, cells), *failures])


def build_page(
    out: Path, folders: Mapping[str, Path], rows: Sequence[RecipeResult], *, command: str = ""
) -> Path:
    """Writes the report and its figure, from the run of each recipe; returns its path."""
    recipes, runs = list(folders), [read_run(folder) for folder in folders.values()]
    picture = figures.picture(
        functools.partial(figures.training_stability, runs, recipes),
        functools.partial(figures.training_stability, runs, recipes, narrow=True),
    )
    write_file(out / "training_stability.png", picture.light)
    opening = [section("Gradients and errors", html_figure(picture, "Training stability", _CURVES))]
    title = "Stability of training"
    verdict = [
        f"{row.recipe}: {row.failed} of {row.seeds} seeds end with faulty maps; mean test error "
        f"{row.mean:.2f} %, worst {row.worst:.2f} %."
        for row in rows
    ]
    options = {"names": recipes, "opening": opening}
    return build_report(
        out, list(folders.values()), title, **options, verdict=verdict, command=command
    )
