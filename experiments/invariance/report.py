"""The result of the experiment on invariance, and its report."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.engine.records import Record, Result
from experiments.report import build_report, figures
from experiments.report.markup import html_figure, paragraph, section
from experiments.report.page import write_file
from experiments.report.tables import text_table_html

_TABLE_ANGLES = (0, 30, 60, 90)
_CURVES = (
    "A line is a model's mean over its seeds; the band reaches from the smallest to the largest of "
    "them. All test images are turned by the same angle, counter-clockwise if it is positive."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparedModel(Record):
    """A compared model; the fields are those of its run's result."""

    name: str
    model: str
    transform: str | None
    distortion: str
    num_parameters: int
    test_errors: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class InvarianceResult(Result):
    """``invariance.json``.

    Attributes:
      models: The models.
      seeds: Each model was trained once for each.
      angles: In degrees.
      errors: In percent, ``[models, seeds, angles]``.
      axes: The names of these axes.
      test_images: Number of measured images.
      settings: Settings of the run of each model.
    """

    models: tuple[ComparedModel, ...]
    seeds: tuple[int, ...]
    angles: tuple[float, ...]
    errors: tuple[tuple[tuple[float, ...], ...], ...]
    axes: tuple[str, ...] = ("model", "seed", "angle")
    test_images: int


def table(result: InvarianceResult) -> tuple[list[str], list[list[str]]]:
    """Headings and a row for each model: mean errors at a few angles, and over all angles."""
    angles, errors = result.angles, np.array(result.errors).mean(axis=1)
    shown = [angle for angle in _TABLE_ANGLES if angle in angles]
    headings = ["model", "parameters", *(f"{'±' * (a > 0)}{a}°" for a in shown), "all angles"]
    rows = []
    for model, of_model in zip(result.models, errors, strict=True):
        at = [of_model[[abs(angle) == each for angle in angles]].mean() for each in shown]
        numbers = [f"{error:.2f}" for error in [*at, of_model.mean()]]
        rows.append([model.name, f"{model.num_parameters:,}", *numbers])
    return headings, rows


def build_page(
    out: Path, result: InvarianceResult, folders: Sequence[Path], *, command: str = ""
) -> Path:
    """Writes the report and its figure; returns the path of ``report.html``.

    Args:
      out: Folder to write to.
      result: The result of the experiment.
      folders: Run folders, in the order of the models.
      command: The command that made it.
    """
    names = [model.name for model in result.models]
    errors = np.array(result.errors)
    draw = functools.partial(figures.errors_by_angle, names, result.angles, errors)
    picture = figures.picture(draw, lambda: figures.resized(draw(), 4.4))
    write_file(out / "invariance.png", picture.light)
    opening = [
        section("Error against angle", html_figure(picture, "Test error by angle", _CURVES)),
        section("Mean test error in percent", text_table_html(*table(result))),
        section("Protocol of the angles", paragraph(_protocol(result))),
    ]
    title = "Invariance to rotation"
    means = ", ".join(
        f"{name} {error:.2f} %" for name, error in zip(names, errors.mean((1, 2)), strict=True)
    )
    options = {"names": names, "opening": opening}
    verdict = [f"Mean test error over all angles up to {max(result.angles):g}°: {means}."]
    return build_report(out, list(folders), title, **options, verdict=verdict, command=command)


def _protocol(result: InvarianceResult) -> str:
    return (
        f"Each of {len(result.angles)} angles is measured on the same {result.test_images:,} "
        f"images of {result.dataset}, all of them turned by exactly that angle around their "
        "centre with bilinear interpolation, black outside; nothing is drawn. Means are over the "
        f"seeds {', '.join(map(str, result.seeds))} and, with ±, over both directions. The "
        "model is that of the last step. All are trained alike; turned digits are turned by "
        "angles drawn uniformly from −90° to 90°, afresh for every training image, which is also "
        "the draw of the test errors further down."
    )
