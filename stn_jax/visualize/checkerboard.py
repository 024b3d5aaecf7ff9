"""Pictures of a registration: both images, the grid that was found, checkerboards of both."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import ArrayLike, Shaped
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from stn_jax._types import AnyArray
from stn_jax.transforms.base import Transform
from stn_jax.visualize.drawing import draw_grid, draw_region
from stn_jax.visualize.pictures import show_image
from stn_jax.warp import warp

_TITLES = ("moving, with the found map", "fixed", "checkerboard before", "checkerboard after")


def registration(
    fixed: Shaped[AnyArray, "*space channels"],
    moving: Shaped[AnyArray, "*moving_space channels"],
    transform: Transform,
    theta: ArrayLike,
    *,
    squares: int = 8,
    align_corners: bool = False,
    column_width: float | int = 2.4,
) -> Figure:
    """Draws two images, the sampling grid between them, and checkerboards before and after.

    In a checkerboard, squares of both images alternate, scaled to the same mean and spread; where a
    map is right, edges continue from square to square. Of volumes the middle slices along the depth
    are shown, without a grid.

    Args:
      fixed: Image ``[height, width, channels]`` or volume.
      moving: Image with as many channels, which is warped.
      transform: A family of maps from points of ``fixed`` to points of ``moving``.
      theta: Its parameters, ``[num_params]``.
      squares: Number of squares along each axis.
      align_corners: As in :func:`stn_jax.warp`.
      column_width: In inches.

    Returns:
      The figure, without a window; save it with ``figure.savefig("registration.png")``.

    Raises:
      ValueError: If shapes do not fit, or the images are 1-D.
      TypeError: As :func:`stn_jax.warp`.

    Example:
      >>> import jax
      >>> import stn_jax as stn
      >>> from stn_jax import visualize
      >>> image = jax.random.uniform(jax.random.key(0), (16, 16, 3))
      >>> affine = stn.affine()
      >>> theta = affine.identity.astype("float32")
      >>> figure = visualize.registration(image, image, affine, theta)
      >>> len(figure.axes)
      4

    Reference:
      Checkerboards of two images: Hill et al., Medical image registration, Physics in Medicine and
      Biology 46(3), 2001.
    """
    if transform.ndim not in (2, 3):
        raise ValueError(f"transform must be 2-D or 3-D to be drawn; got {transform!r}.")
    theta = np.asarray(theta, np.float32)
    moving = np.asarray(moving)
    shape = np.shape(fixed)[:-1]
    options: dict[str, Any] = {
        "output_shape": shape,
        "padding": "border",
        "align_corners": align_corners,
    }
    still = transform.identity.astype("float32")
    before, after = (
        np.asarray(warp(moving.astype(np.float32), transform, each, **options))
        for each in (still, theta)
    )
    whole, target = moving, np.asarray(fixed)
    if transform.ndim == 3:
        whole, target, before, after = (
            each[each.shape[0] // 2] for each in (whole, target, before, after)
        )
    pictures = (
        whole,
        target,
        _checkerboard(before, target, squares),
        _checkerboard(after, target, squares),
    )
    widths = [picture.shape[1] / picture.shape[0] for picture in pictures]
    height = column_width * 4 / sum(widths) + 0.3
    figure = Figure(figsize=(column_width * 4, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    columns = figure.subplots(1, 4, width_ratios=widths)
    is_image = transform.ndim == 2
    for axes, picture, title in zip(columns, pictures, _TITLES, strict=True):
        show_image(axes, picture, margin=0.12 if picture is whole and is_image else 0)
        axes.set_title(title if is_image else title.replace(", with the found map", ""), fontsize=9)
    if is_image:
        image_shape: Sequence[int] = moving.shape[:-1]
        draw_grid(
            columns[0],
            transform,
            theta,
            image_shape,
            output_shape=shape,
            align_corners=align_corners,
        )
        draw_region(columns[0], transform, theta, image_shape, align_corners=align_corners)
    return figure


def _checkerboard(first: np.ndarray, second: np.ndarray, squares: int) -> np.ndarray:
    """Squares of two images ``[height, width, channels]``, with values from 0 to 1."""
    height, width = first.shape[:2]
    y, x = np.mgrid[:height, :width]
    even = (x * squares // width + y * squares // height) % 2 == 0
    a, b = (
        0.5 + 0.22 * (each - each.mean()) / max(float(each.std()), 1e-12)
        for each in (first.astype(np.float32), second.astype(np.float32))
    )
    return np.where(even[..., None], a, b).clip(0, 1)
