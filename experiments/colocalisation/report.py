"""The report of a co-localisation: tables, predicted and true boxes, and an animation."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

import stn_jax as stn
from experiments.colocalisation.records import ColocalisationResult
from experiments.report import figures, verdicts
from experiments.report.animation import animate, frame_indices
from experiments.report.markup import html_figure, paragraph, section
from experiments.report.page import build_page, write_file
from experiments.report.tables import format_duration, made_with, text_table_html
from stn_jax import visualize

FOUND, TRUE = "#ff6d00", "#00b050"
_COLUMNS = 6
_GIF_COLUMNS = 5
_MAX_FRAMES = 30
_FOUND = (
    "Canvases of held-out digits, never seen in training: in orange the box that the spatial "
    "transformer reads, in green the true one. Above each: the intersection over union of both, "
    "red if it is 0.5 or less, which counts as not found."
)
_MOVING = (
    "The same for one canvas of each class during training. All boxes start in the middle. "
    "Training uses no places; the loss only asks that the crops of two images look alike."
)


class Followed(NamedTuple):
    """Held-out canvases of one class, throughout a training.

    Attributes:
      digit: Their class.
      canvases: ``[images, height, width, channels]``.
      places: The true boxes, in the parameters of ``transform``, ``[images, 2]``.
      overlap: Intersection over union at the end, ``[images]``.
      steps: The step of each snapshot.
      theta: The predicted boxes, in the parameters of ``transform``, ``[snapshots, images, 2]``.
      transform: The family of the boxes.
    """

    digit: int
    canvases: np.ndarray
    places: np.ndarray
    overlap: np.ndarray
    steps: Sequence[int]
    theta: np.ndarray
    transform: stn.Transform


def found_and_true(followed: Sequence[Followed]) -> Figure:
    """A row of canvases for each class, with both boxes at the end of training."""
    columns = min(_COLUMNS, max(len(each.canvases) for each in followed))
    figure = figures.new_figure(1.3 * columns + 0.3, 1.45 * len(followed) + 0.1)
    grid = figure.subplots(len(followed), columns, squeeze=False)
    for row, each in zip(grid, followed, strict=True):
        row[0].set_ylabel(str(each.digit))
        for k, axes in enumerate(row):
            if k >= len(each.canvases):
                axes.set_axis_off()
                continue
            overlap = float(each.overlap[k])
            color = figures.text_color() if overlap > 0.5 else figures.wrong_color()
            axes.set_title(f"{overlap:.2f}", fontsize=8, color=color)
            _show(axes, each, k)
            _draw_found(axes, each, -1, k)
    return figure


def moving_boxes(followed: Sequence[Followed]) -> bytes:
    """The first canvas of each class during training, as an animated GIF."""
    columns = min(_GIF_COLUMNS, len(followed))
    rows = -(-len(followed) // columns)
    figure = figures.new_figure(1.3 * columns + 0.2, 1.35 * rows + 0.35, dpi=90)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    title = figure.suptitle(" ", x=0.01, horizontalalignment="left", family="monospace", fontsize=9)
    for axes in grid[len(followed) :]:
        axes.set_axis_off()
    for axes, each in zip(grid, followed, strict=False):
        _show(axes, each, 0)
    steps, frames = followed[0].steps, []
    for look in frame_indices(len(steps), _MAX_FRAMES):
        title.set_text(f"step {steps[look]}/{steps[-1]}")
        lines = [
            line
            for axes, each in zip(grid, followed, strict=False)
            for line in _draw_found(axes, each, look, 0)
        ]
        frames.append(Image.fromarray(figures.pixels(figure)))
        for line in lines:
            line.remove()
        # Compute the layout once, so that frames do not jump and drawing is quick.
        figure.set_layout_engine("none")
    return animate(frames)


def build_detections(
    out: Path,
    result: ColocalisationResult,
    followed: Mapping[str, Sequence[Followed]],
    diagnosed: Sequence[verdicts.Diagnosed],
    *,
    command: str = "",
) -> Path:
    """Writes report.html and, for each set, found_SET.png and moving_SET.gif.

    Args:
      out: Folder to write to.
      result: The result of the experiment.
      followed: Canvases of each set.
      diagnosed: The diagnosis of each training of a localizer.
      command: The command that made it.

    Returns:
      The path of ``report.html``.
    """
    sections = [section("Digits found", text_table_html(*table(result)))]
    sections += [paragraph(note) for note in _notes(result)]
    for name, each in followed.items():
        still = figures.picture(functools.partial(found_and_true, each))
        moving = moving_boxes(each)
        write_file(out / f"found_{name}.png", still.light)
        write_file(out / f"moving_{name}.gif", moving)
        sections += [
            section(f"Set {name}"),
            html_figure(still, f"Boxes found and true, set {name}", _FOUND),
            html_figure(moving, f"Boxes during training, set {name}", _MOVING),
        ]
    said = ", ".join(f"set {row.set} {row.mean:.1f} %" for row in result.sets)
    verdict = [f"Digits found: {said}.", *verdicts.of_diagnoses(diagnosed)]
    if wrong := [each for each in diagnosed if each.findings]:
        body = text_table_html(*verdicts.diagnosis_table(wrong))
        sections.append(section("Diagnosis of the spatial transformers", body))
    return build_page(
        out, "Co-localisation", sections, None, result.settings, verdict=verdict, command=command
    )


def table(result: ColocalisationResult) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: each class, then each set as a whole."""
    headings = ["set", "class", "correct %", "95 % interval", "each seed", "canvases", "paper %"]
    rows = []
    for row in (*result.rows, *result.sets):
        (low, high), paper = row.interval, row.paper
        rows.append(
            [
                row.set,
                str(row.digits[0]) if len(row.digits) == 1 else "all",
                f"{row.mean:.1f}",
                f"{low:.1f} to {high:.1f}",
                ", ".join(f"{each:.1f}" for each in row.correct),
                f"{row.canvases:,}",
                "–" if paper is None else " to ".join(f"{end:g}" for end in dict.fromkeys(paper)),
            ]
        )
    return headings, rows


def _notes(result: ColocalisationResult) -> list[str]:
    """Sentences on how the result was measured."""
    errors = ", ".join(f"{error:.2f} %" for error in result.encoder_errors)
    return [
        f"Data: {result.dataset}. A digit is found if the intersection over union of the crop "
        "and of the digit's image is more than 0.5. The localization network is trained without "
        "places or classes, by the triplet loss on encodings of crops. The last column is the "
        "paper's range over the ten classes of MNIST.",
        f"{result.steps:,} steps for each set, class and seed. Error of the encoder on plain "
        f"digits: {errors}. Interval: {result.interval_method}. Run with "
        f"{made_with(result.versions, result.device)} in {format_duration(result.wall_time_s)}.",
    ]


def _show(axes: Axes, followed: Followed, k: int) -> None:
    """A canvas and the true box on it."""
    visualize.show_image(axes, followed.canvases[k], value_range=(0.0, 1.0))
    shape = followed.canvases.shape[1:3]
    visualize.draw_region(axes, followed.transform, followed.places[k], shape, color=TRUE)


def _draw_found(axes: Axes, followed: Followed, look: int, k: int) -> list[Line2D]:
    shape, theta = followed.canvases.shape[1:3], followed.theta[look, k]
    return visualize.draw_region(axes, followed.transform, theta, shape, color=FOUND)
