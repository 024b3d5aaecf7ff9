"""The report of birds: accuracies, the content of crops, and crops drawn on birds."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import stn_jax as stn
from experiments.birds.model import SCALE
from experiments.birds.records import BirdsResult, ModelResult, PartRates
from experiments.report import figures
from experiments.report.markup import html_figure, paragraph, section
from experiments.report.page import build_page, write_file
from experiments.report.tables import format_duration, made_with, text_table_html
from stn_jax import visualize

Table = tuple[list[str], list[list[str]]]
_NONE = "–"
# Images on a narrow page.
_NARROW = 4
_FOUND = (
    "Images never seen in training, with the crop of each transformer outlined in its colour, and "
    "the crops below. The frame of a misclassified image is red. Training uses the class labels "
    "alone, not the annotations of places."
)
_HELD = (
    "How often a visible part lies in the crop, in percent: the mean over the parts of the head, "
    "or of the body. Then the intersection over union of crop and box, and the share of the box "
    "that lies in the crop. All are means over the seeds; within each seed the transformers are "
    "sorted by (head rate − body rate). Two baselines: the untrained crops, which tile every image "
    "in the same way, and a centre crop."
)


class Pictured(NamedTuple):
    """Images of one model.

    Attributes:
      images: The input of the network, in [0, 1], ``[n, side, side, 3]``.
      theta: Centres of the crops, ``[n, transforms, 2]``.
      right: Whether the predicted class is correct, ``[n]``.
      crop_size: Side of a crop, in pixels.
    """

    images: np.ndarray
    theta: np.ndarray
    right: np.ndarray
    crop_size: int


def tables(result: BirdsResult) -> list[Table]:
    """A table of accuracies and, if there are transformers, one of the content of their crops."""
    headings = ["model", "accuracy %", "95 % interval", "each seed", "parameters", "paper %"]
    rows = []
    for row in result.rows:
        low, high = row.interval
        rows.append(
            [
                row.model,
                f"{row.accuracy:.1f}",
                f"{low:.1f} to {high:.1f}",
                ", ".join(f"{each:.1f}" for each in row.accuracies),
                f"{row.num_parameters:,}",
                _NONE if row.paper is None else f"{row.paper:g}",
            ]
        )
    held = [line for row in result.rows for line in _content_rows(row)]
    accuracies: Table = (headings, rows)
    columns = ["model", "crop of", "head %", "body %", "overlap with box %", "box in crop %"]
    return [accuracies, (columns, held)] if held else [accuracies]


def regions(pictured: Pictured) -> Figure:
    """A row of images with the sampled regions, and a row of crops for each transformer."""
    count, number = pictured.theta.shape[:2]
    figure = figures.new_figure(1.3 * count + 0.3, 1.35 * (1 + number) + 0.1)
    first, *others = figure.subplots(1 + number, count, squeeze=False)
    transform = stn.fixed(stn.attention(), {0: SCALE})
    shape = pictured.images.shape[1:3]
    read = _read(transform, pictured)
    for k, axes in enumerate(first):
        visualize.show_image(axes, pictured.images[k], value_range=(0.0, 1.0))
        visualize.draw_regions(axes, transform, pictured.theta[k], shape)
        if not pictured.right[k]:
            axes.spines[:].set(visible=True, color=figures.wrong_color(), linewidth=3)
    for place, row in enumerate(others):
        color = visualize.COLORS[place % len(visualize.COLORS)]
        for k, axes in enumerate(row):
            visualize.show_image(axes, read[k, place], value_range=(0.0, 1.0))
            axes.spines[:].set(visible=True, color=color, linewidth=2)
    return figure


def build_birds(
    out: Path,
    result: BirdsResult,
    logged: Mapping[str, Sequence[Mapping[str, Any]]],
    pictured: Mapping[str, Pictured],
    *,
    command: str = "",
) -> Path:
    """Writes report.html, training_curves.png and regions_MODEL.png.

    Args:
      out: Folder to write to.
      result: The result of the experiment.
      logged: The lines of metrics of each model.
      pictured: Images of each model with transformers.
      command: The command that made it.

    Returns:
      The path of ``report.html``.
    """
    first, *held = tables(result)
    sections = [section("Accuracy", text_table_html(*first))]
    sections += [paragraph(note) for note in _notes(result)]
    for table in held:
        sections += [
            section("Parts and birds in the crops", text_table_html(*table)),
            paragraph(_HELD),
        ]
    for name, each in pictured.items():
        narrow = each._replace(
            images=each.images[:_NARROW], theta=each.theta[:_NARROW], right=each.right[:_NARROW]
        )
        picture = figures.picture(
            functools.partial(regions, each), functools.partial(regions, narrow)
        )
        write_file(out / f"regions_{name}.png", picture.light)
        sections += [
            section(f"Crops of {name}"),
            html_figure(picture, f"Crops of {name}", _FOUND),
        ]
    accuracies = ", ".join(f"{row.model} {row.accuracy:.1f} %" for row in result.rows)
    verdict = [f"Birds classified correctly: {accuracies}."]
    return build_page(
        out, "Birds", sections, logged, result.settings, verdict=verdict, command=command
    )


def _read(transform: stn.Transform, pictured: Pictured) -> np.ndarray:
    """The crops of the transformers, ``[n, transforms, crop_size, crop_size, 3]``."""
    shape = (pictured.crop_size, pictured.crop_size)
    read = lambda image, theta: stn.warp(  # noqa: E731
        image, transform, theta, output_shape=shape, antialias=True
    )
    each = jax.vmap(jax.vmap(read, in_axes=(None, 0)))
    return np.asarray(jax.jit(each)(pictured.images, pictured.theta))


def _content_rows(row: ModelResult) -> list[list[str]]:
    """The content of a model's crops: of each transformer, of any, and of both baselines."""
    first, middle = row.held_by_first_crops, row.held_in_the_middle
    if row.held is None or first is None or middle is None:
        return []
    lines: dict[str, list[PartRates]] = {}
    for place in range(len(row.held[0].transformers)):
        lines[f"transformer {place + 1}"] = [seed.transformers[place] for seed in row.held]
    lines["any transformer"] = [seed.any for seed in row.held]
    for place, entry in enumerate(first.transformers, start=1):
        lines[f"first crop {place}"] = [entry]
    lines["any first crop"] = [first.any]
    lines["the middle"] = list(middle.transformers)
    keys = ("head", "body", "overlap", "contained")
    return [
        [
            row.model,
            name,
            *(_percent([getattr(entry, key, None) for entry in entries]) for key in keys),
        ]
        for name, entries in lines.items()
    ]


def _percent(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{100 * np.mean(known):.1f}" if known else _NONE


def _notes(result: BirdsResult) -> list[str]:
    """Sentences on how the result was measured."""
    settings = result.settings
    which = "test" if result.on == "test" else "held-out training"
    return [
        f"Data: {result.dataset}, {result.num_classes} classes, {result.train_images:,} "
        f"training images; measured on {result.images:,} {which} images. Images of "
        f"{settings['side']} pixels, of which the backbone {settings['backbone']} sees "
        f"{settings['crop_size']}: the plain CNN the whole, reduced, the others crops of half the "
        "side.",
        f"{settings['steps']:,} steps of {settings['batch_size']} images for each model and seed, "
        f"recipe {settings['recipe']}. Interval: {result.interval_method}. Run with "
        f"{made_with(result.versions, result.device)} in {format_duration(result.wall_time_s)}.",
    ]
