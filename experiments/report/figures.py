"""The still pictures of reports, drawn on the Agg canvas, in light and in dark colours."""

import io
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from experiments.report.records import RunResult
from experiments.report.runs import Pictures, RunFolder, run_names
from stn_jax import visualize

# Okabe and Ito's colours, which colour-blind readers can distinguish.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
# Those of them that a dark page shows otherwise.
_ON_DARK = {"#0072b2": "#3d9fe0", "#d55e00": "#ff7f2a", "#009e73": "#26bf94", "#000000": "#e6e6e6"}
WRONG = "#c62828"
# What pictures for a dark page have other than matplotlib's defaults.
_DARK: Any = {
    "figure.facecolor": "#16181c",
    "savefig.facecolor": "#16181c",
    "axes.facecolor": "#16181c",
    "text.color": "#e6e6e6",
    "axes.labelcolor": "#e6e6e6",
    "axes.edgecolor": "#6b7280",
    "xtick.color": "#a8adb5",
    "ytick.color": "#a8adb5",
    "grid.color": "#34383f",
}
_MAX_COLUMNS = 10
# Margin around an image as a fraction of its size: room for the region of a square turned by 45
# degrees.
MARGIN = 0.22


class Picture(NamedTuple):
    """A picture as PNG files: for a light page and a dark one, each perhaps in a narrow form."""

    light: bytes
    dark: bytes | None = None
    narrow: bytes | None = None
    narrow_dark: bytes | None = None


def picture(draw: Callable[[], Figure], narrow: Callable[[], Figure] | None = None) -> Picture:
    """A picture in the forms that a page chooses from.

    Args:
      draw: Draws it, in the colours of matplotlib's settings.
      narrow: Draws it for a page of 390 pixels.
    """
    drawn: dict[str, bytes] = {}
    for suffix, settings in {"": {}, "_dark": _DARK}.items():
        with matplotlib.rc_context(settings):
            drawn[f"light{suffix}"] = png(draw())
            if narrow is not None:
                drawn[f"narrow{suffix}"] = png(narrow())
    return Picture(
        drawn["light"], drawn["light_dark"], drawn.get("narrow"), drawn.get("narrow_dark")
    )


def resized(figure: Figure, width: float) -> Figure:
    """The figure in another width, in inches, with its legend in one column."""
    figure.set_size_inches(width, figure.get_figheight())
    for legend in list(figure.legends):
        handles: list[Any] = list(legend.legend_handles)
        labels = [text.get_text() for text in legend.get_texts()]
        legend.remove()
        figure.legend(handles, labels, frameon=False, loc="outside upper center")
    return figure


def is_dark() -> bool:
    """Whether matplotlib's settings are those of a dark page."""
    return matplotlib.rcParams["figure.facecolor"] == _DARK["figure.facecolor"]


def text_color() -> str:
    """The colour of text."""
    return matplotlib.rcParams["text.color"]


def wrong_color() -> str:
    """The colour of wrong predictions, readable on the page."""
    return "#ff8a80" if is_dark() else WRONG


def _grey() -> str:
    return "#a8adb5" if is_dark() else "#666666"


def _outside() -> str:
    return "#2a2e35" if is_dark() else "#e4e4e4"


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """The figure as an RGB image, uint8 ``[height, width, 3]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def new_figure(width: float, height: float, *, dpi: int = 120) -> Figure:
    """An empty figure, its size in inches, that matplotlib does not keep open."""
    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def training_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], *, narrow: bool = False
) -> Figure:
    """Loss, training and validation error against the step: a colour per run, a line per seed.

    Args:
      runs: By name, lines of metrics with ``seed``, ``step`` and ``loss``.
      narrow: Whether the two stand one above the other.
    """
    figure = new_figure(4.4, 6.6) if narrow else new_figure(10.0, 4.2)
    loss_axes, error_axes = figure.subplots(*((2, 1) if narrow else (1, 2)))
    colors = _colors(list(runs))
    for metrics, color in zip(runs.values(), colors, strict=True):
        for seed in dict.fromkeys(line["seed"] for line in metrics):
            lines = [line for line in metrics if line["seed"] == seed]
            training = _series(lines, "train_error")
            validation = _series(lines, "validation_error")
            loss_axes.plot(*_series(lines, "loss"), color=color, linewidth=0.9, alpha=0.8)
            faint = (0.4 if is_dark() else 0.2) if validation[0] else 0.8
            error_axes.plot(*training, color=color, linewidth=0.9, alpha=faint)
            error_axes.plot(*validation, color=color, linewidth=1.4, marker="o", markersize=3)
    _style(loss_axes, xlabel="step", ylabel="training loss")
    _style(error_axes, xlabel="step", ylabel="error in %")
    loss_axes.set_yscale("log")
    _show_errors(error_axes)
    handles = _lines(colors, runs)
    kinds = [Line2D([], [], color=_grey(), linewidth=0.9, alpha=0.5, label="training batch")]
    if any("validation_error" in line for metrics in runs.values() for line in metrics):
        style: dict[str, Any] = {"linewidth": 1.4, "marker": "o", "markersize": 3}
        kinds.append(Line2D([], [], color=_grey(), label="validation", **style))
    loss_axes.legend(handles=handles, frameon=False)
    error_axes.legend(handles=kinds, frameon=False)
    return figure


def training_stability(
    runs: Sequence[RunFolder], names: Sequence[str], *, narrow: bool = False
) -> Figure:
    """A column for each run: gradient norms of both networks over errors, against the step.

    Runs are of models with a spatial transformer. A line is one seed.
    """
    figure = new_figure((2.4 if narrow else 5.0) * len(runs), 6.4)
    grid = figure.subplots(2, len(runs), squeeze=False, sharex="col", sharey="row")
    localization, rest, validated, *_ = _colors(COLORS)
    for (norms, errors), run, name in zip(grid.T, runs, names, strict=True):
        for seed, test_error in zip(run.result.seeds, run.result.test_errors, strict=True):
            lines = [line for line in run.metrics if line["seed"] == seed]
            for key, color in (("gradient_rest", rest), ("gradient_localization", localization)):
                norms.plot(*_series(lines, key), color=color, linewidth=0.8, alpha=0.6)
            training, held_out = (_series(lines, f"{on}_error") for on in ("train", "validation"))
            errors.plot(*training, color=_grey(), linewidth=0.8, alpha=0.5)
            errors.plot(*held_out, color=validated, linewidth=1.2)
            errors.plot(
                run.result.steps, test_error, ".", color=text_color(), clip_on=False, zorder=3
            )
        _style(norms, xlabel="", ylabel="")
        _style(errors, xlabel="step", ylabel="")
        norms.set_title(name)
        norms.set_yscale("log", nonpositive="mask")
        _show_errors(errors)
    grid[0, 0].set_ylabel("norm of the gradient")
    grid[1, 0].set_ylabel("error in %")
    kinds = {"localization network": localization, "classifier": rest}
    grid[0, -1].legend(handles=_lines(kinds.values(), kinds), frameon=False)
    shown = {"training batch": _grey()}
    if any(line.get("validation_error") is not None for run in runs for line in run.metrics):
        shown["validation"] = validated
    dot = Line2D([], [], color=text_color(), marker=".", linestyle="", label="test, at the end")
    grid[1, -1].legend(handles=[*_lines(shown.values(), shown), dot], frameon=False)
    return figure


def errors_by_angle(names: Sequence[str], angles: Sequence[float], errors: np.ndarray) -> Figure:
    """Error against the angle of the images: the mean over seeds, and their range.

    Args:
      names: Of the models.
      angles: In degrees.
      errors: In percent, ``[models, seeds, angles]``.
    """
    figure = new_figure(8.0, 4.4)
    axes = figure.subplots()
    for name, of_model, color in zip(names, errors, _colors(names), strict=True):
        low, high = of_model.min(axis=0), of_model.max(axis=0)
        axes.fill_between(angles, low, high, color=color, alpha=0.2, linewidth=0)
        axes.plot(angles, of_model.mean(axis=0), color=color, marker=".", label=name)
    _style(axes, xlabel="angle of the test images in degrees", ylabel="test error in %")
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 1.5, 3, 6, 9, 10]))
    _show_errors(axes)
    figure.legend(frameon=False, loc="outside upper center", ncols=len(names))
    return figure


def error_plot(results: Sequence[RunResult], names: Sequence[str] | None = None) -> Figure:
    """Test error: a dot and its interval for each run, small rings for its seeds."""
    names = run_names(results) if names is None else names
    figure = new_figure(8.0, 1.1 + 0.45 * len(results))
    axes = figure.subplots()
    for row, (result, color) in enumerate(zip(results, _colors(results), strict=True)):
        seeds = result.test_errors
        axes.plot(result.interval, [row, row], color=color, linewidth=2, solid_capstyle="butt")
        axes.plot(result.mean, row, "o", color=color, markersize=9)
        # Draw the rings a little lower: with one seed the dot would cover its ring.
        axes.plot(
            seeds, [row + 0.25] * len(seeds), "o", color=color, markersize=4, fillstyle="none"
        )
    _style(axes, xlabel="test error in %", ylabel="")
    axes.grid(visible=False, axis="y")
    axes.set(yticks=range(len(results)), yticklabels=names)
    axes.set(ylim=(len(results) - 0.5, -0.5))
    axes.set_xlim(left=0)
    return figure


def before_after(pictures: Pictures) -> Figure:
    """Inputs with the region that is read, over what the transformer passes on at the end.

    Of volumes the region, which is one of space, is not drawn.
    """
    columns = min(len(pictures.labels), _MAX_COLUMNS)
    regions = pictures.regions
    figure, inputs, outputs = picture_rows(pictures, columns)
    for k in range(columns):
        show_prediction(inputs[k], pictures, -1, k)
        show_input(inputs[k], pictures, k)
        if regions is None:
            continue
        for row, output in zip(outputs, regions.outputs[-1, k], strict=True):
            show_image(row[k], output)
        draw_regions(inputs[k], pictures, -1, k)
    return figure


def samples(rows: Mapping[str, np.ndarray], *, columns: int | None = None) -> Figure:
    """A row of uint8 images ``[n, height, width, channels]`` for each name, all at one scale."""
    rows = {name: images[:columns] for name, images in rows.items()}
    columns = max(map(len, rows.values()))
    sides = [images.shape[1] for images in rows.values()]
    inches = [0.55 * side / min(sides) for side in sides]
    figure = new_figure(columns * max(inches) + 0.6, sum(inches) + 0.1)
    grid = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": sides})
    for axes, (name, images) in zip(grid, rows.items(), strict=True):
        for each in axes:
            each.set_axis_off()
        for each, image in zip(axes, images, strict=False):
            each.set_axis_on()
            show_image(each, image)
        axes[0].set_ylabel(name, color=_grey(), rotation=0, ha="right", va="center")
    return figure


def picture_rows(
    pictures: Pictures, columns: int, *, dpi: int = 120
) -> tuple[Figure, list[Axes], list[list[Axes]]]:
    """A figure with a row of inputs and, for each parallel transform, a row of its outputs."""
    number = 0 if pictures.regions is None else pictures.regions.theta.shape[2]
    figure = new_figure(1.1 * columns + 0.3, 1.15 * (1 + number) + 0.35, dpi=dpi)
    inputs, *outputs = figure.subplots(1 + number, columns, squeeze=False)
    inputs[0].set_ylabel("input", color=_grey())
    for row, color in zip(outputs, itertools.cycle(visualize.COLORS), strict=False):
        row[0].set_ylabel("output", color=_grey() if number == 1 else color)
    return figure, list(inputs), [list(row) for row in outputs]


def show_image(axes: Axes, image: np.ndarray, *, margin: float = 0.0) -> AxesImage:
    """Shows a uint8 image ``[height, width, channels]``, with a margin in units of its size."""
    height, width = image.shape[:2]
    shown = axes.imshow(displayable(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set(xticks=[], yticks=[], facecolor=_outside())
    axes.set_xlim(-0.5 - margin * width, width - 0.5 + margin * width)
    axes.set_ylim(height - 0.5 + margin * height, -0.5 - margin * height)
    axes.spines[:].set_visible(False)
    return shown


def show_input(axes: Axes, pictures: Pictures, image: int) -> None:
    """Shows an input, with a margin if the regions of a transformer will be drawn on it."""
    drawn = pictures.regions is not None and pictures.regions.transform.ndim == 2
    show_image(axes, pictures.inputs[image], margin=MARGIN if drawn else 0.0)


def draw_regions(axes: Axes, pictures: Pictures, snapshot: int, image: int) -> list[Line2D]:
    """Draws the regions that are sampled from an input; none on a volume."""
    regions = pictures.regions
    if regions is None or regions.transform.ndim == 3:
        return []
    theta, shape = regions.theta[snapshot, image], pictures.inputs.shape[1:3]
    drawn = visualize.draw_regions(axes, regions.transform, theta, shape)
    return list(itertools.chain.from_iterable(drawn))


def displayable(image: np.ndarray) -> np.ndarray:
    """The image to show: three channels in colour, two as red and cyan, others by their maximum."""
    if image.shape[-1] == 2:
        return image[..., [0, 1, 1]]
    return image if image.shape[-1] == 3 else image.max(axis=-1)


def show_prediction(axes: Axes, pictures: Pictures, snapshot: int, image: int) -> None:
    """Writes the true and the predicted class over an image, in red where they differ."""
    label, prediction = pictures.labels[image], pictures.predictions[snapshot, image]
    color = text_color() if label == prediction else wrong_color()
    axes.set_title(f"{label} → {prediction}", color=color, fontsize=10)


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """Steps and values of the lines that have this value."""
    present = [line for line in lines if line.get(key) is not None]
    return [line["step"] for line in present], [line[key] for line in present]


def _colors(runs: Sequence[object]) -> list[str]:
    colors = [COLORS[index % len(COLORS)] for index in range(len(runs))]
    return [_ON_DARK.get(color, color) for color in colors] if is_dark() else colors


def _lines(colors: Iterable[str], names: Iterable[str]) -> list[Line2D]:
    """A line of each colour with its name, for a legend."""
    pairs = zip(colors, names, strict=True)
    return [Line2D([], [], color=color, label=name) for color, name in pairs]


def _show_errors(axes: Axes) -> None:
    """Scales the axis from 0 to 100 %: linear below 1 %, so that 0 is shown, logarithmic above."""
    axes.set_yscale("symlog", linthresh=1, linscale=0.4)
    axes.set(ylim=(0, 100), yticks=(ticks := [0, 1, 2, 5, 10, 20, 50, 100]))
    axes.set_yticklabels([str(tick) for tick in ticks])
    axes.minorticks_off()


def _style(axes: Axes, *, xlabel: str, ylabel: str) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(color=_DARK["grid.color"] if is_dark() else "#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
