"""An animated GIF of θ during training."""

import io

import numpy as np
from matplotlib.lines import Line2D
from PIL import Image

from experiments.report import figures
from experiments.report.runs import Pictures

_DPI = 90
_FRAME_MS = 150
_LAST_FRAME_MS = 3000
_MAX_BYTES = 2_000_000
# A caption shows at most this many parameters; a thin plate spline has dozens.
_MAX_NUMBERS = 12
# Columns of the matrix, by number of parameters: affine, projective, affine in 3-D.
_ROWS = {6: 3, 8: 3, 12: 4}


def theta_animation(
    pictures: Pictures, *, total_steps: int, max_frames: int = 40, max_images: int = 6
) -> bytes:
    """Animates the regions that the transformer samples, and its outputs, during training.

    Args:
      pictures: Pictures of a model with a spatial transformer.
      total_steps: Number of training steps, for the caption.
      max_frames: At most this many snapshots are shown, evenly spaced, with the first and the last.
      max_images: Number of images shown.

    Returns:
      The bytes of a GIF file: one frame for each snapshot; the last one stays longer. While the
      file is larger than 2 MB, every other frame is removed.

    Raises:
      ValueError: If the pictures are of a model without a spatial transformer.
    """
    regions = pictures.regions
    if regions is None:
        raise ValueError("pictures must be of a model with a spatial transformer; got no theta.")
    columns = min(len(pictures.labels), max_images)
    figure, inputs, outputs = figures.picture_rows(pictures, columns, dpi=_DPI)
    title = figure.suptitle(" ", x=0.01, horizontalalignment="left", family="monospace")
    title.set_fontsize(9)
    for k in range(columns):
        figures.show_input(inputs[k], pictures, k)
    shown = [
        [figures.show_image(axes, output) for axes, output in zip(row, of_row, strict=False)]
        for row, of_row in zip(outputs, np.moveaxis(regions.outputs[0], 1, 0), strict=True)
    ]

    frames = []
    for snapshot in frame_indices(len(pictures.steps), max_frames):
        step = int(pictures.steps[snapshot])
        title.set_text(theta_caption(step, total_steps, regions.theta[snapshot, 0, 0]))
        lines: list[Line2D] = []
        for k in range(columns):
            for row, output in zip(shown, regions.outputs[snapshot, k], strict=True):
                row[k].set_data(figures.displayable(output))
            figures.show_prediction(inputs[k], pictures, snapshot, k)
            lines += figures.draw_regions(inputs[k], pictures, snapshot, k)
        frames.append(Image.fromarray(figures.pixels(figure)))
        for line in lines:
            line.remove()
        # Compute the layout once, so that frames do not jump and drawing is quick.
        figure.set_layout_engine("none")
    gif = animate(frames)
    while len(gif) > _MAX_BYTES and len(frames) > 2:
        frames = frames[:-1:2] + frames[-1:]
        gif = animate(frames)
    return gif


def theta_caption(step: int, total_steps: int, theta: np.ndarray) -> str:
    """A frame's caption, such as ``batch = 0/200, theta = [1.00 0.00 0.00 / 0.00 1.00 0.00]``.

    Affine and projective parameters are written as the rows of their matrix.
    """
    # Adding 0 turns −0 into 0.
    numbers = [f"{round(float(number), 2) + 0.0:.2f}" for number in theta[:_MAX_NUMBERS]]
    width = _ROWS.get(len(theta), len(numbers))
    rows = [" ".join(numbers[start : start + width]) for start in range(0, len(numbers), width)]
    more = " …" if len(theta) > len(numbers) else ""
    return f"batch = {step}/{total_steps}, theta = [{' / '.join(rows)}{more}]"


def frame_indices(snapshots: int, max_frames: int) -> list[int]:
    """At most ``max_frames`` indices, evenly spaced from the first to the last."""
    last, frames = snapshots - 1, min(snapshots, max_frames)
    return [round(index) for index in np.linspace(0, last, frames)]


def animate(frames: list[Image.Image]) -> bytes:
    """The frames as a GIF with one palette, so that colours do not flicker."""
    sample = Image.new("RGB", (frames[0].width, 2 * frames[0].height))
    sample.paste(frames[0])
    sample.paste(frames[-1], (0, frames[0].height))
    palette = sample.quantize(256, method=Image.Quantize.MEDIANCUT)
    indexed = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    buffer = io.BytesIO()
    indexed[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=indexed[1:],
        duration=durations,
        loop=0,
    )
    return buffer.getvalue()
