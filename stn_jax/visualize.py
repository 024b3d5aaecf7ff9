"""Drawing what a warp reads. Needs matplotlib, which nothing else in the library imports."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from stn_jax import _checks
from stn_jax.coordinates import pixels_from_normalized
from stn_jax.transforms.base import Transform

# The corners of the output, clockwise on the screen from the top left.
_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])


def region_outline(
    transform: Transform,
    theta: ArrayLike,
    image_shape: Sequence[int],
    *,
    align_corners: bool = False,
    points_per_side: int = 32,
) -> Float[np.ndarray, "outline 2"]:
    """The closed outline of the region of the input that a warp reads.

    It is the outer edge of the output, the square from −1 to 1, mapped to the input. It starts at
    the output's top-left corner and runs along the top, right, bottom and left sides.

    Args:
      transform: A 2-D family of maps from target to source points, as in :func:`stn_jax.warp`.
      theta: Its parameters, a flat vector ``[num_params]``.
      image_shape: ``(height, width)`` of the input.
      align_corners: As in :func:`stn_jax.warp`. With ``True``, −1 and 1 are the centres of the
        corner pixels, so the outline runs through the centres of the outermost pixels that are
        read; with ``False`` it runs along their outer edges.
      points_per_side: Number of straight pieces in which a side of the square is mapped; 1 is
        enough for a linear family.

    Returns:
      Pixel coordinates ``(x, y)`` of the input, ``[4 · points_per_side + 1, 2]``; the centre of
      the first pixel is (0, 0), and the last point is the first again. matplotlib's ``imshow``
      uses the same coordinates.

    Raises:
      ValueError: If ``transform`` is not 2-D, ``theta`` or ``image_shape`` has the wrong length,
        or ``points_per_side`` is below 1.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      A crop of half the size out of the right half of an image 10 high and 20 wide:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax.visualize import region_outline
      >>> crop = jnp.array([0.5, 0.5, 0.0])  # scale, tx, ty
      >>> region_outline(stn.attention(), crop, (10, 20), points_per_side=1).tolist()
      [[9.5, 2.0], [19.5, 2.0], [19.5, 7.0], [9.5, 7.0], [9.5, 2.0]]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, figure 3.
    """
    if transform.ndim != 2:
        raise ValueError(
            f"transform must be 2-D to be drawn; got {transform!r}. "
            "Draw a slice of the volume instead."
        )
    if points_per_side < 1:
        raise ValueError(f"points_per_side must be at least 1; got {points_per_side}.")
    image_shape = _checks.spatial_shape("image_shape", image_shape, 2)
    along = np.arange(points_per_side)[:, None] / points_per_side
    sides = [
        start + along * (end - start)
        for start, end in zip(_CORNERS, np.roll(_CORNERS, -1, axis=0), strict=True)
    ]
    square = np.concatenate([*sides, _CORNERS[:1]])
    points = jnp.asarray(square, jnp.float32)
    return np.asarray(
        _source_pixels(jnp.asarray(theta), points, transform, image_shape, align_corners)
    )


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

    The side that becomes the top of the output is drawn thick, and its left end carries a dot, so
    that rotations and reflections can be told. The limits of the axes stay as they are: what lies
    outside them is cut off.

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
    top = region[: len(region) // 4 + 1]
    limits = {"xlim": axes.get_xlim(), "ylim": axes.get_ylim()}
    lines = [
        *axes.plot(*region.T, color=color, linewidth=1.2, marker="o", markersize=5, markevery=[0]),
        *axes.plot(*top.T, color=color, linewidth=3.0, solid_capstyle="butt"),
    ]
    axes.set(**limits)
    return lines


@functools.partial(jax.jit, static_argnames=("transform", "image_shape", "align_corners"))
def _source_pixels(
    theta: Array,
    points: Array,
    transform: Transform,
    image_shape: tuple[int, ...],
    align_corners: bool,
) -> Array:
    source = transform.apply(theta, points)
    return pixels_from_normalized(source, image_shape, align_corners=align_corners)
