"""Points of the input that a warp reads: the outline of the region, the lines of the grid."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks
from stn_jax.coordinates import pixels_from_normalized, regular_grid
from stn_jax.transforms.base import Transform

# The corners of the output, clockwise on the screen from the top left.
_CORNERS = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
# Default number of lines along the longer axis; more would merge in a small picture.
_LINES = 9


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
      points_per_side: Number of straight pieces per side; 1 suffices for a linear family.

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
    _check_2d(transform)
    if points_per_side < 1:
        raise ValueError(f"points_per_side must be at least 1; got {points_per_side}.")
    image_shape = _checks.spatial_shape("image_shape", image_shape, 2)
    along = np.arange(points_per_side)[:, None] / points_per_side
    sides = [
        start + along * (end - start)
        for start, end in zip(_CORNERS, np.roll(_CORNERS, -1, axis=0), strict=True)
    ]
    square = np.concatenate([*sides, _CORNERS[:1]])
    return _source_pixels(transform, theta, square, image_shape, align_corners)


def grid_lines(
    transform: Transform,
    theta: ArrayLike,
    image_shape: Sequence[int],
    *,
    output_shape: Sequence[int] | None = None,
    every: int | None = None,
    align_corners: bool = False,
    points_per_line: int = 65,
) -> Float[np.ndarray, "lines points 2"]:
    """The lines of the sampling grid: rows and columns of the output, mapped to the input.

    A line runs through the centres of a row or a column of output pixels, and on to the output's
    edges; where a row crosses a column, one pixel of the output is read.

    Args:
      transform: As in :func:`region_outline`.
      theta: As in :func:`region_outline`.
      image_shape: ``(height, width)`` of the input.
      output_shape: ``(height, width)`` of the output; the input's when ``None``.
      every: Distance between lines, in rows and columns of the output; the lines are centred.
        ``None`` gives about nine lines along the longer axis.
      align_corners: As in :func:`stn_jax.warp`.
      points_per_line: Number of points per line, at least 2, which suffices for an affine family.

    Returns:
      Pixel coordinates of the input as in :func:`region_outline`, ``[lines, points_per_line, 2]``:
      the rows from top to bottom, each from left to right, then the columns from left to right,
      each from top to bottom.

    Raises:
      ValueError: If ``transform`` is not 2-D, shapes do not fit, ``every`` is below 1 or
        ``points_per_line`` is below 2.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      The middle row and column of a 3×3 crop of half the size:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax.visualize import grid_lines
      >>> crop = jnp.array([0.5, 0.0, 0.0])  # scale, tx, ty
      >>> options = {"output_shape": (3, 3), "every": 3, "points_per_line": 2}
      >>> grid_lines(stn.attention(), crop, (8, 8), **options).tolist()
      [[[1.5, 3.5], [5.5, 3.5]], [[3.5, 1.5], [3.5, 5.5]]]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, figure 3.
    """
    _check_2d(transform)
    image_shape = _checks.spatial_shape("image_shape", image_shape, 2)
    output_shape = _checks.spatial_shape("output_shape", output_shape or image_shape, 2)
    if every is None:
        every = max(1, round(max(output_shape) / _LINES))
    _checks.positive("every", every)
    if points_per_line < 2:
        raise ValueError(f"points_per_line must be at least 2; got {points_per_line}.")
    centres = np.asarray(regular_grid(output_shape, align_corners=align_corners))
    rows, columns = (
        each[(len(each) - 1) % every // 2 :: every] for each in (centres[:, 0, 1], centres[0, :, 0])
    )
    along = np.linspace(-1, 1, points_per_line)
    row_x, row_y = np.meshgrid(along, rows)
    column_y, column_x = np.meshgrid(along, columns)
    lines = np.stack(
        [np.concatenate([row_x, column_x]), np.concatenate([row_y, column_y])], axis=-1
    )
    return _source_pixels(transform, theta, lines, image_shape, align_corners)


def _check_2d(transform: Transform) -> None:
    if transform.ndim != 2:
        raise ValueError(
            f"transform must be 2-D to be drawn; got {transform!r}. "
            "Draw a slice of the volume instead."
        )


def _source_pixels(
    transform: Transform,
    theta: ArrayLike,
    points: np.ndarray,
    image_shape: tuple[int, ...],
    align_corners: bool,
) -> np.ndarray:
    """The pixels of the input that target points read."""
    operands = _checks.as_array("theta", theta), _checks.as_array("points", points, jnp.float32)
    return np.asarray(_mapped(*operands, transform, image_shape, align_corners))


@functools.partial(jax.jit, static_argnames=("transform", "image_shape", "align_corners"))
def _mapped(
    theta: Array,
    points: Array,
    transform: Transform,
    image_shape: tuple[int, ...],
    align_corners: bool,
) -> Array:
    source = transform.apply(theta, points)
    return pixels_from_normalized(source, image_shape, align_corners=align_corners)
