"""Conversions of boxes and displacement fields in pixels; public in ``conversions``."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import per_coordinate, scale_and_centre


def matrix_from_box(
    box: Sequence[int], image_shape: Sequence[int], *, align_corners: bool = False
) -> Float[np.ndarray, "n n_plus_1"]:
    """The matrix of a crop: the warp that equals ``image[top:bottom, left:right]``.

    Args:
      box: ``(left, top, right, bottom)`` in whole pixels, or ``(left, top, front, right, bottom,
        back)`` of a volume; the far corner is the first pixel outside, as in a slice. A box may
        reach beyond the image.
      image_shape: Spatial shape of the image, ``(height, width)`` or ``(depth, height, width)``.
      align_corners: Alignment of the normalised coordinates of the result.

    Returns:
      ``[n, n + 1]`` in float64, for an output of the box's shape: ``(bottom - top, right - left)``.

    Raises:
      ValueError: If the box is not of ``2 n`` numbers, or is empty, or an axis of the image or of
        the box has one pixel under ``align_corners=True``, where it has no extent.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import conversions
      >>> image = jnp.arange(30.0).reshape(5, 6, 1)
      >>> theta = jnp.asarray(conversions.matrix_from_box((2, 1, 5, 3), (5, 6)).ravel())
      >>> crop = stn.warp(image, stn.affine(), theta, output_shape=(2, 3), kernel="nearest")
      >>> bool((crop == image[1:3, 2:5]).all())
      True
    """
    shape = _checks.spatial_shape("image_shape", image_shape, may_be_symbolic=False)
    corners = _checks.float64s("box", box)
    if corners.shape != (2 * len(shape),):
        raise ValueError(
            f"box must have {2 * len(shape)} numbers, the near and the far corner of an image of "
            f"{len(shape)} spatial axes; got {box!r}."
        )
    near, far = corners.reshape(2, -1)
    least = 2 if align_corners else 1
    if (far - near < least).any() or min(shape) < least:
        raise ValueError(
            f"box and image must have at least {least} pixels along each axis, with "
            f"align_corners={align_corners}; got the box {box!r} of an image of shape {shape}."
        )
    scale, centre = map(np.asarray, scale_and_centre(shape, align_corners))
    box_scale, box_centre = scale_and_centre(
        tuple((far - near)[::-1].astype(int).tolist()), align_corners
    )
    return np.column_stack([np.diag(box_scale / scale), (near + box_centre - centre) / scale])


def box_from_matrix(
    matrix: Float[AnyArray, "n n_plus_1"],
    image_shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> Float[Array, " corners"]:
    """The box of pixels that a crop reads; the inverse of :func:`matrix_from_box`.

    Args:
      matrix: ``[n, n + 1]``, target to source, normalised coordinates; a scaling and a shift. If it
        rotates, the result is the box between the sources of the corners at −1 and at 1; see
        :func:`stn_jax.warp_boxes` for the box around all corners.
      image_shape: Spatial shape of the image.
      align_corners: Alignment of the normalised coordinates of ``matrix``.

    Returns:
      ``(left, top, right, bottom)``, or six numbers for a volume, in pixels from the image's edge;
      whole numbers, up to rounding, if the crop is made of whole pixels.

    Raises:
      ValueError: If ``matrix`` and ``image_shape`` do not fit each other.
      TypeError: If ``matrix`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> matrix = jnp.array([[0.5, 0.0, 0.5], [0.0, 0.5, 0.0]])
      >>> conversions.box_from_matrix(matrix, (8, 8)).tolist()
      [4.0, 2.0, 8.0, 6.0]
    """
    shape = _checks.spatial_shape("image_shape", image_shape)
    matrix, n = _checks.floating("matrix", matrix), len(shape)
    if matrix.shape != (n, n + 1):
        raise ValueError(
            f"matrix must have shape ({n}, {n + 1}) for an image of {n} spatial axes; got "
            f"{matrix.shape}."
        )
    scale, centre = (
        jnp.asarray(each, matrix.dtype) for each in scale_and_centre(shape, align_corners)
    )
    reach, shift = matrix[:, :n].sum(axis=1), matrix[:, n]
    # Shift from pixel centres to pixel edges: the box begins at the edge of its first pixel.
    near = scale * (shift - reach) + centre + (0 if align_corners else 0.5)
    far = scale * (shift + reach) + centre + (1 if align_corners else 0.5)
    return jnp.concatenate([near, far])


def offsets_from_voxels(
    displacement: Float[AnyArray, "*space n"],
    image_shape: Sequence[Size] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "*space n"]:
    """Converts a displacement field in pixels, in the order of array axes, to normalised offsets.

    MONAI, for instance, displaces the output pixel ``(i, j)``, or ``(i, j, k)``, by pixels in the
    order of the array's axes. Its fields have the components on the first axis; move it to the
    last.

    Args:
      displacement: ``[height, width, 2]`` as ``(rows, columns)``, or ``[depth, height, width, 3]``,
        from output to input.
      image_shape: Spatial shape of the input; ``None`` takes that of ``displacement``.
      align_corners: Whether a pixel is ``2 / (size - 1)`` in normalised units, rather than
        ``2 / size``.

    Returns:
      ``[*space, n]`` as ``(x, y)`` or ``(x, y, z)``. Ravelled they are the ``theta`` of
      :func:`stn_jax.flow` for that lattice and ``align_corners``.

    Raises:
      ValueError: If the axes of ``displacement`` and ``image_shape`` do not fit each other.
      TypeError: If ``displacement`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import conversions
      >>> image = jnp.arange(12.0).reshape(3, 4, 1)
      >>> down = jnp.zeros((3, 4, 2)).at[..., 0].set(1.0)  # Reads one row farther down.
      >>> theta = conversions.offsets_from_voxels(down).ravel()
      >>> stn.warp(image, stn.flow((3, 4)), theta)[0, :, 0].tolist()
      [4.0, 5.0, 6.0, 7.0]
    """
    displacement, shape = checked_field("displacement", displacement, image_shape)
    return displacement[..., ::-1] / _pixels_per_unit(shape, align_corners, displacement)


def voxels_from_offsets(
    offsets: Float[AnyArray, "*space n"],
    image_shape: Sequence[Size] | None = None,
    *,
    align_corners: bool = False,
) -> Float[Array, "*space n"]:
    """Converts normalised offsets to a displacement field in pixels, in the order of array axes.

    The inverse of :func:`offsets_from_voxels`, with the same arguments and errors.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import conversions
      >>> offsets = jnp.zeros((3, 4, 2)).at[..., 0].set(0.5)  # x, a quarter of the width
      >>> conversions.voxels_from_offsets(offsets)[0, 0].tolist()
      [0.0, 1.0]
    """
    offsets, shape = checked_field("offsets", offsets, image_shape)
    return (offsets * _pixels_per_unit(shape, align_corners, offsets))[..., ::-1]


def checked_field(
    name: str,
    field: AnyArray,
    image_shape: Sequence[Size] | None = None,
    *,
    may_be_symbolic: bool = True,
) -> tuple[Array, tuple[Size, ...]]:
    """Checks a field of vectors; returns it and the shape of the image that it reads from."""
    field = _checks.floating(name, field)
    ndim = field.ndim - 1
    own = _checks.spatial_shape(name, field.shape[:-1], may_be_symbolic=may_be_symbolic)
    shape = own
    if image_shape is not None:
        shape = _checks.spatial_shape("image_shape", image_shape, may_be_symbolic=may_be_symbolic)
    if field.shape[-1] != ndim or len(shape) != ndim:
        raise ValueError(
            f"{name} must be [height, width, 2] or [depth, height, width, 3], and image_shape "
            f"have as many axes; got {field.shape} and {shape}. Move the components to the last "
            "axis, and batch with jax.vmap."
        )
    return field, shape


def _pixels_per_unit(shape: tuple[Size, ...], align_corners: bool, field: Array) -> AnyArray:
    _checks.with_extent("image_shape", shape, align_corners)
    return per_coordinate(scale_and_centre(shape, align_corners)[0].astype(field.dtype), field)
