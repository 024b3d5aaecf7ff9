"""Converts matrices, boxes and displacement fields to and from those of other libraries.

A matrix of this library maps target to source points in normalised coordinates. Other libraries use
pixels, and some map from source to target. All conversions use :func:`pixel_matrix` and its
inverse, :func:`matrix_from_pixels`:

* PyTorch's ``theta`` of ``affine_grid`` is a matrix of this library for the same
  ``align_corners``; :func:`change_alignment` converts between the two alignments.
* OpenCV's matrices map pixels, in either direction: :func:`to_opencv` and :func:`from_opencv`.
* scikit-image's ``warp(image, inverse_map)`` takes the homogeneous :func:`pixel_matrix`.
* Kornia's ``warp_affine`` and ``warp_perspective`` take OpenCV's with ``inverse_map=False``.
* Crops: :func:`matrix_from_box` and :func:`box_from_matrix`.
* Displacement fields in voxels: :func:`offsets_from_voxels` and :func:`voxels_from_offsets`.
* Medical images: :func:`world_from_itk` and :func:`world_from_nibabel` say where pixels lie in
  space; :func:`matrix_from_world` and :func:`offsets_from_world` convert maps between such points.
* Optical flow: :func:`offsets_from_optical_flow`, and :func:`optical_flow_from_kitti`.
* Matrices on array indices, as SciPy's and MONAI's: :func:`reverse_axes`.

A matrix is affine, ``[n, n + 1]``, or homogeneous, ``[n + 1, n + 1]``; the result has the shape of
the argument. It acts on ``(x, y)`` or ``(x, y, z)``. Pixel centres are whole numbers; for a library
that measures from the image's edge give ``pixel_centers=0.5``. Batch with ``jax.vmap``. The
``theta`` of :func:`stn_jax.affine` is ``matrix[:n].ravel()``, that of :func:`stn_jax.projective` is
:func:`projective_theta`. Here a homography's points with ``w ≤ 0`` lie outside the image; other
libraries divide by ``w`` whatever its sign.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._optical_flow import (
    kitti_from_optical_flow,
    offsets_from_optical_flow,
    optical_flow_from_kitti,
    optical_flow_from_offsets,
)
from stn_jax._physical import (
    matrix_about_center,
    matrix_from_world,
    offsets_from_world,
    reverse_axes,
    world_displacement,
    world_from_itk,
    world_from_nibabel,
    world_matrix,
)
from stn_jax._pixel_units import (
    box_from_matrix,
    matrix_from_box,
    offsets_from_voxels,
    voxels_from_offsets,
)
from stn_jax._renames import renamed_argument
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import scale_and_centre
from stn_jax.transforms.matrices import invert_matrix, square_matrix

__all__ = [
    "box_from_matrix",
    "change_alignment",
    "from_opencv",
    "kitti_from_optical_flow",
    "matrix_about_center",
    "matrix_from_box",
    "matrix_from_pixels",
    "matrix_from_world",
    "offsets_from_optical_flow",
    "offsets_from_voxels",
    "offsets_from_world",
    "optical_flow_from_kitti",
    "optical_flow_from_offsets",
    "pixel_matrix",
    "projective_theta",
    "reverse_axes",
    "to_opencv",
    "voxels_from_offsets",
    "world_displacement",
    "world_from_itk",
    "world_from_nibabel",
    "world_matrix",
]

Matrix = Float[AnyArray, "rows columns"]
ScaleAndOffset = tuple[AnyArray, AnyArray]


@renamed_argument("shape", "image_shape")
def pixel_matrix(
    matrix: Matrix,
    image_shape: Sequence[Size],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
    pixel_centers: float = 0.0,
) -> Float[Array, "rows columns"]:
    """The matrix between pixel coordinates: output pixel to input pixel.

    Args:
      matrix: ``[n, n + 1]`` or ``[n + 1, n + 1]``, target to source, normalised coordinates.
      image_shape: Spatial shape of the input, ``(height, width)`` or ``(depth, height, width)``.
      output_shape: Spatial shape of the output.
      align_corners: Alignment of the normalised coordinates of ``matrix``, as in
        :func:`stn_jax.regular_grid`.
      pixel_centers: Pixel coordinate of the first pixel's centre: 0 as in OpenCV, scikit-image and
        SciPy; 0.5 for libraries that measure from the image's edge, such as Pillow.

    Returns:
      Matrix of the shape of ``matrix`` that acts on ``(x, y, 1)`` or ``(x, y, z, 1)``, in float32
      or wider. For equal shapes, the identity gives exactly the identity, but for sizes that are
      symbols of an export: then up to rounding.

    Raises:
      ValueError: If ``matrix`` and the shapes do not fit each other, or an axis has one pixel and
        thus no extent under ``align_corners=True``, or ``pixel_centers`` is neither 0 nor 0.5.
      TypeError: If ``matrix`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> matrix = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
      >>> conversions.pixel_matrix(matrix, (30, 40), (30, 40)).tolist()
      [[1.0, 0.0, 10.0], [0.0, 1.0, 0.0]]

    Reference:
      Hartley and Zisserman, Multiple View Geometry in Computer Vision, algorithm 4.2.
    """
    matrix, source, target = _operands(
        matrix, image_shape, output_shape, align_corners, pixel_centers
    )
    return _change_coordinates(matrix, source, target)


@renamed_argument("shape", "image_shape")
def matrix_from_pixels(
    matrix: Matrix,
    image_shape: Sequence[Size],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
    pixel_centers: float = 0.0,
) -> Float[Array, "rows columns"]:
    """The matrix in normalised coordinates of a map from output pixel to input pixel.

    The inverse of :func:`pixel_matrix`.

    Args:
      matrix: ``[n, n + 1]`` or ``[n + 1, n + 1]``, output pixel to input pixel, as ``(x, y)``.
      image_shape, output_shape: As in :func:`pixel_matrix`.
      align_corners: Alignment of the normalised coordinates of the result.
      pixel_centers: As in :func:`pixel_matrix`.

    Returns:
      Matrix of the shape of ``matrix``, target to source, normalised coordinates.

    Raises:
      ValueError, TypeError: As :func:`pixel_matrix`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> matrix = jnp.array([[1.0, 0.0, 10.0], [0.0, 1.0, 0.0]])
      >>> conversions.matrix_from_pixels(matrix, (30, 40), (30, 40)).tolist()
      [[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]]
    """
    matrix, source, target = _operands(
        matrix, image_shape, output_shape, align_corners, pixel_centers
    )
    return _change_coordinates(matrix, _undone(source), _undone(target))


@renamed_argument("shape", "image_shape")
def change_alignment(
    matrix: Matrix,
    image_shape: Sequence[Size],
    output_shape: Sequence[Size],
    *,
    align_corners: bool,
    to_align_corners: bool,
) -> Float[Array, "rows columns"]:
    """Converts a matrix to another alignment; the map between pixels stays the same.

    PyTorch's ``theta`` for ``affine_grid(theta, size, align_corners)`` is a matrix of this
    library for the same ``align_corners``.

    Args:
      matrix: ``[n, n + 1]`` or ``[n + 1, n + 1]``, target to source, normalised coordinates.
      image_shape, output_shape: As in :func:`pixel_matrix`.
      align_corners: Alignment of the coordinates of ``matrix``.
      to_align_corners: Alignment of the coordinates of the result.

    Returns:
      Matrix of the shape of ``matrix``, target to source, normalised coordinates.

    Raises:
      ValueError, TypeError: As :func:`pixel_matrix`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> theta = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
      >>> matrix = conversions.change_alignment(
      ...     theta, (3, 3), (3, 3), align_corners=True, to_align_corners=False
      ... )
      >>> round(matrix[0, 2].item(), 4)
      0.6667

    Reference:
      PyTorch, ``torch.nn.functional.affine_grid`` and ``grid_sample``.
    """
    pixels = pixel_matrix(matrix, image_shape, output_shape, align_corners=align_corners)
    return matrix_from_pixels(pixels, image_shape, output_shape, align_corners=to_align_corners)


@renamed_argument("shape", "image_shape")
def to_opencv(
    matrix: Matrix,
    image_shape: Sequence[Size],
    output_shape: Sequence[Size],
    *,
    inverse_map: bool = True,
    align_corners: bool = False,
) -> Float[Array, "rows columns"]:
    """The matrix ``M`` of ``cv2.warpAffine`` (2×3) or ``cv2.warpPerspective`` (3×3).

    Args:
      matrix: ``[2, 3]`` or ``[3, 3]``, target to source, normalised coordinates.
      image_shape: Spatial shape of the input, ``(height, width)``.
      output_shape: Spatial shape of the output, ``(height, width)``; ``dsize`` is its reverse.
      inverse_map: Whether ``flags`` holds ``cv2.WARP_INVERSE_MAP``; without it ``M`` maps input
        to output pixels.
      align_corners: As in :func:`pixel_matrix`.

    Returns:
      Matrix of the shape of ``matrix``; pass it to OpenCV by ``np.asarray``. It is not finite if an
      inverse is needed and does not exist.

    Raises:
      ValueError, TypeError: As :func:`pixel_matrix`, and if ``image_shape`` is not of two axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> matrix = jnp.array([[1.0, 0.0, 0.5], [0.0, 1.0, 0.0]])
      >>> conversions.to_opencv(matrix, (30, 40), (30, 40), inverse_map=False)[0].tolist()
      [1.0, -0.0, -10.0]

    Reference:
      OpenCV, ``cv2.warpAffine`` and ``cv2.warpPerspective``.
    """
    image_shape = _checks.spatial_shape("image_shape", image_shape, 2)
    pixels = pixel_matrix(matrix, image_shape, output_shape, align_corners=align_corners)
    return pixels if inverse_map else invert_matrix(pixels)


@renamed_argument("shape", "image_shape")
def from_opencv(
    matrix: Matrix,
    image_shape: Sequence[Size],
    output_shape: Sequence[Size],
    *,
    inverse_map: bool = True,
    align_corners: bool = False,
) -> Float[Array, "rows columns"]:
    """This library's matrix for an ``M`` of OpenCV; the inverse of :func:`to_opencv`.

    Args:
      matrix: ``M``, ``[2, 3]`` or ``[3, 3]``. For one of ``cv2.getRotationMatrix2D`` set
        ``inverse_map=False``.
      image_shape, output_shape: As in :func:`to_opencv`.
      inverse_map: Whether ``M`` is used with the flag ``cv2.WARP_INVERSE_MAP``.
      align_corners: Alignment of the normalised coordinates of the result.

    Returns:
      Matrix of the shape of ``matrix``, target to source, normalised coordinates.

    Raises:
      ValueError, TypeError: As :func:`to_opencv`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> m = jnp.array([[1.0, 0.0, -10.0], [0.0, 1.0, 0.0]])
      >>> conversions.from_opencv(m, (30, 40), (30, 40), inverse_map=False)[0].tolist()
      [1.0, -0.0, 0.5]
    """
    image_shape = _checks.spatial_shape("image_shape", image_shape, 2)
    pixels = matrix if inverse_map else invert_matrix(_checks.matrix(matrix, 2))
    return matrix_from_pixels(pixels, image_shape, output_shape, align_corners=align_corners)


def projective_theta(matrix: Matrix, *, full_matrix: bool = False) -> Float[Array, " params"]:
    """The ``theta`` of :func:`stn_jax.projective` for a homography of any scale.

    Args:
      matrix: ``[3, 3]``, target to source, normalised coordinates.
      full_matrix: Whether theta is for ``projective(full_matrix=True)``. It then keeps the sign of
        the matrix: points with ``w > 0`` stay in front of the camera, and the centre of the output
        may be behind it.

    Returns:
      ``[8]``, the matrix divided by its last entry, row by row without that entry. It is not finite
      if the last entry is 0; then the centre of the output lies on the horizon. With
      ``full_matrix``, ``[9]``, the matrix divided by the largest magnitude in its last row.

    Note:
      Without ``full_matrix`` the sign is lost with the scale, so the centre of the output is always
      in front of the camera. For a matrix with a negative last entry this is the other side.

    Raises:
      ValueError: If ``matrix`` is not 3×3.
      TypeError: If ``matrix`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> conversions.projective_theta(2 * jnp.eye(3)).tolist()
      [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0]
      >>> conversions.projective_theta(-2 * jnp.eye(3), full_matrix=True)[-1].item()
      -1.0
    """
    matrix = _checks.floating("matrix", matrix)
    if matrix.shape != (3, 3):
        raise ValueError(f"matrix must have shape (3, 3), a homography; got {matrix.shape}.")
    if full_matrix:
        return (matrix / jnp.max(jnp.abs(matrix[2]))).ravel()
    return (matrix / matrix[2, 2]).ravel()[:8]


def _operands(
    matrix: AnyArray,
    image_shape: Sequence[Size],
    output_shape: Sequence[Size],
    align_corners: bool,
    pixel_centers: float,
) -> tuple[Array, ScaleAndOffset, ScaleAndOffset]:
    """Checks the matrix; returns it, and the changes to pixels of the input and of the output."""
    ndim = len(_checks.spatial_shape("image_shape", image_shape))
    if ndim == len(output_shape) + 1 == np.shape(matrix)[-1]:
        raise ValueError(
            f"image_shape must hold the spatial sizes alone, without channels; got {image_shape}. "
            f"Give {tuple(image_shape[:-1])}."
        )
    first = _checks.pixel_centers(pixel_centers)
    source = _pixels("image_shape", image_shape, ndim, align_corners, first)
    target = _pixels("output_shape", output_shape, ndim, align_corners, first)
    matrix = _checks.matrix(matrix, ndim)
    if any(isinstance(each, jax.Array) for each in (*source, *target)):
        # Sizes are symbols of an export, and not known in float64.
        source, target = jax.tree.map(lambda a: jnp.asarray(a, matrix.dtype), (source, target))
    return matrix, source, target


def _pixels(
    name: str, shape: Sequence[Size], ndim: int, align_corners: bool, first: float
) -> ScaleAndOffset:
    """Scale and offset of ``pixel = scale · point + offset``; raises if a scale is 0."""
    sizes = _checks.with_extent(name, _checks.spatial_shape(name, shape, ndim), align_corners)
    scale, centre = scale_and_centre(sizes, align_corners)
    append = np.append if isinstance(scale, np.ndarray) else jnp.append
    return append(scale, 1.0), append(centre + first, 0.0)


def _undone(change: ScaleAndOffset) -> ScaleAndOffset:
    """The inverse of a change of coordinates."""
    return 1 / change[0], -change[1] / change[0]


def _change_coordinates(matrix: Array, source: ScaleAndOffset, target: ScaleAndOffset) -> Array:
    """Changes the coordinates of a matrix's results by ``source``, of its arguments by ``target``.

    The operations are elementwise, which accelerators do not round to less than float32. Ratios are
    computed in float64, so that the identity stays exact.
    """
    (scale, offset), (target_scale, target_offset) = source, target
    ratio = jnp.asarray(scale[:, None] / target_scale[None], matrix.dtype)
    shift = jnp.asarray(offset[:, None] / target_scale[None], matrix.dtype)
    square = square_matrix(matrix)
    changed = ratio * square + shift * square[-1:]
    moved = jnp.sum(changed * jnp.asarray(target_offset[None], matrix.dtype), axis=1)
    return changed.at[:, -1].add(-moved)[: len(matrix)]
