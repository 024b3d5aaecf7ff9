"""Draws regions and sampling grids on an image shown with ``imshow``."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from stn_jax import _checks
from stn_jax.transforms.base import Transform
from stn_jax.visualize.geometry import grid_lines, region_outline

# Okabe and Ito's colours, which colour-blind readers can tell apart, without black; colours that
# are visible on dark images come first.
COLORS = ("#e69f00", "#56b4e9", "#009e73", "#cc79a7", "#f0e442", "#d55e00", "#0072b2")
# Lines are interrupted at points farther away than this many image sizes, such as a homography's
# points behind the camera, whose direction means nothing.
_FARTHEST = 1e3


def draw_region(
    axes: Axes,
    transform: Transform,
    theta: ArrayLike,
    image_shape: Sequence[int],
    *,
    align_corners: bool = False,
    color: str = "#ff6d00",
) -> list[Line2D]:
    """Draws the region of the input that a warp reads on an image shown with ``imshow``.

    The side that becomes the top of the output is drawn thick, with a dot at its left end, so that
    rotations and reflections are visible. The limits of the axes do not change: parts outside them
    are cut off. Points that are not finite or behind the camera are left out.

    Args:
      axes: Matplotlib axes in which the input was drawn by ``axes.imshow(image)``.
      transform: As in :func:`region_outline`.
      theta: As in :func:`region_outline`.
      image_shape: As in :func:`region_outline`.
      align_corners: As in :func:`region_outline`.
      color: A matplotlib colour.

    Returns:
      The lines that were added: the outline with its dot, then the top side.

    Raises:
      ValueError: As in :func:`region_outline`.
      TypeError: As in :func:`region_outline`.

    Example:
      >>> import numpy as np
      >>> import stn_jax as stn
      >>> from matplotlib.figure import Figure
      >>> from stn_jax.visualize import draw_region
      >>> axes = Figure().add_subplot()
      >>> drawn = axes.imshow(np.zeros((10, 20)))
      >>> rigid = stn.rigid()
      >>> outline, top = draw_region(axes, rigid, np.array([0.5, 0.0, 0.0]), (10, 20))
      >>> top.get_linewidth() > outline.get_linewidth()
      True

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, figure 3.
    """
    region = region_outline(transform, theta, image_shape, align_corners=align_corners)
    region = near(region, image_shape)
    top = region[: len(region) // 4 + 1]
    limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
    lines = [
        *axes.plot(*region.T, color=color, linewidth=1.2, marker="o", markersize=5, markevery=[0]),
        *axes.plot(*top.T, color=color, linewidth=3.0, solid_capstyle="butt"),
    ]
    axes.set(**limits)
    return lines


def draw_regions(
    axes: Axes,
    transform: Transform,
    theta: ArrayLike,
    image_shape: Sequence[int],
    *,
    align_corners: bool = False,
    colors: Sequence[str] = COLORS,
    labels: Sequence[str] | None = None,
) -> list[list[Line2D]]:
    """Draws the regions of several parallel transforms in different colours.

    Args:
      axes: As in :func:`draw_region`.
      transform: As in :func:`region_outline`.
      theta: The parameters of N transforms, ``[N, num_params]``.
      image_shape: As in :func:`region_outline`.
      align_corners: As in :func:`region_outline`.
      colors: Matplotlib colours, used in turn; by default :data:`COLORS`, which colour-blind
        readers can tell apart.
      labels: N short texts, written at the dots of the regions, inside the axes.

    Returns:
      For each transform the lines that :func:`draw_region` added.

    Raises:
      ValueError: If ``theta`` is not ``[N, num_params]``, there are no colours or not N labels, and
        as in :func:`region_outline`.
      TypeError: As in :func:`region_outline`.

    Example:
      >>> import numpy as np
      >>> import stn_jax as stn
      >>> from matplotlib.figure import Figure
      >>> from stn_jax.visualize import draw_regions
      >>> axes = Figure().add_subplot()
      >>> drawn = axes.imshow(np.zeros((10, 20)))
      >>> crops = np.array([[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]])
      >>> regions = draw_regions(axes, stn.attention(), crops, (10, 20), labels=["left", "right"])
      >>> [outline.get_color() for outline, _ in regions]
      ['#e69f00', '#56b4e9']

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 4.3 and figure 4.
    """
    theta = _checks.as_array("theta", theta)
    if theta.ndim != 2:
        raise ValueError(
            f"theta must be [N, num_params], the parameters of N transforms; got {theta.shape}. "
            "For one transform, use draw_region or pass theta[None]."
        )
    if not colors:
        raise ValueError("colors must hold at least one colour; got none.")
    if labels is not None and len(labels) != len(theta):
        raise ValueError(
            f"labels must be {len(theta)} texts, one for each transform; got {len(labels)}."
        )
    drawn = []
    for k, each in enumerate(theta):
        color = colors[k % len(colors)]
        lines = draw_region(
            axes, transform, each, image_shape, align_corners=align_corners, color=color
        )
        if labels is not None:
            _write(axes, labels[k], np.asarray(lines[0].get_xydata())[0], color)
        drawn.append(lines)
    return drawn


def draw_grid(
    axes: Axes,
    transform: Transform,
    theta: ArrayLike,
    image_shape: Sequence[int],
    *,
    output_shape: Sequence[int] | None = None,
    every: int | None = None,
    align_corners: bool = False,
    color: str = "#ff6d00",
    alpha: float | int = 0.7,
) -> LineCollection:
    """Draws the sampling grid of a warp on an image shown with ``imshow``.

    Rows and columns of the output are lines on the input; each crossing is the point that one
    output pixel reads. The limits of the axes do not change. Points that are not finite or behind
    the camera are left out.

    Args:
      axes: As in :func:`draw_region`.
      transform: As in :func:`region_outline`.
      theta: As in :func:`region_outline`.
      image_shape: As in :func:`region_outline`.
      output_shape: As in :func:`grid_lines`.
      every: As in :func:`grid_lines`.
      align_corners: As in :func:`stn_jax.warp`.
      color: A matplotlib colour.
      alpha: Opacity of the lines, 0 to 1.

    Returns:
      The lines that were added, as one collection.

    Raises:
      ValueError: As in :func:`grid_lines`.
      TypeError: As in :func:`grid_lines`.

    Example:
      >>> import numpy as np
      >>> import stn_jax as stn
      >>> from matplotlib.figure import Figure
      >>> from stn_jax.visualize import draw_grid
      >>> axes = Figure().add_subplot()
      >>> drawn = axes.imshow(np.zeros((10, 20)))
      >>> spline = stn.thin_plate_spline((2, 5))
      >>> lines = draw_grid(axes, spline, spline.identity, (10, 20), every=5)
      >>> len(lines.get_segments())  # 2 of 10 rows and 4 of 20 columns
      6

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, figure 3.
    """
    lines = grid_lines(
        transform,
        theta,
        image_shape,
        output_shape=output_shape,
        every=every,
        align_corners=align_corners,
    )
    segments = list(near(lines, image_shape))
    collection = LineCollection(segments, colors=color, linewidths=0.7, alpha=alpha)
    axes.add_collection(collection, autolim=False)
    return collection


def near(pixels: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """The points, with NaN in place of far ones; matplotlib interrupts a line at NaN."""
    reach = np.abs(pixels).max(axis=-1, keepdims=True) < _FARTHEST * max(image_shape)
    return np.where(reach, pixels, np.nan)


def _write(axes: Axes, label: str, point: np.ndarray, color: str) -> None:
    """Writes a label at a point, or as near to it as the axes allow; not at a NaN point."""
    if not np.isfinite(point).all():
        return
    limits = np.sort([axes.get_xlim(), axes.get_ylim()])
    margin = 0.04 * (limits[:, 1] - limits[:, 0])
    x, y = np.clip(point, limits[:, 0] + margin, limits[:, 1] - margin)
    text = axes.text(x, y, label, color=color, fontsize=8, fontweight="bold", ha="center")
    text.set(va="center", clip_on=True)
    # A dark outline makes the text readable on any image.
    text.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="#202020")])
