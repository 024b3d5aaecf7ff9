"""Matrices for common tasks: rotate, scale and shear about a centre; crop; show a whole image.

A matrix maps target (output) points to source (input) points, as everywhere in this library, and
acts on ``(x, y, 1)`` or ``(x, y, z, 1)``. Batch with ``jax.vmap``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.transforms import matrices
from stn_jax.transforms.matrices import rotation_matrix

# An output is not made one pixel larger for less than this share of a pixel.
_NEGLIGIBLE = 1e-4


def affine_matrix(
    *,
    angle: ArrayLike = 0.0,
    scale: ArrayLike = 1.0,
    shear: ArrayLike = 0.0,
    translation: ArrayLike = 0.0,
    center: ArrayLike = 0.0,
    ndim: int = 2,
) -> Float[Array, "rows columns"]:
    """Scale, then shear, then rotation about a centre, then translation: ``R K S (p − c) + c + t``.

    The matrix is in the coordinates of ``center`` and ``translation``: in pixels for
    :func:`stn_jax.conversions.matrix_from_pixels`, or in normalised ones, in which a rotation
    rotates pixels only if the image is square. Every affine map that does not mirror has this form.

    Args:
      angle: In radians, ``[cos −sin; sin cos]``, which turns x towards y; in 3-D an axis-angle
        vector ``[3]``, its length the angle.
      scale: Factor, or one for each coordinate. It scales points of the output, so values below 1
        zoom in.
      shear: ``k`` of ``K = [1 k; 0 1]``, without a unit; in 3-D the entries above the diagonal,
        ``(xy, xz, yz)``.
      translation: Vector that is added at the end, or one number for all coordinates.
      center: The fixed point of scale, shear and rotation; a vector, or one number.
      ndim: Number of spatial axes, 2 or 3.

    Returns:
      Matrix ``[ndim, ndim + 1]``; in normalised coordinates its ``ravel()`` is the ``theta`` of
      :func:`stn_jax.affine`.

    Raises:
      ValueError: If ``ndim`` is not supported, or an argument has another length.

    Example:
      A quarter turn about the centre of an image of 3×5 pixels, in pixels:

      >>> import jax.numpy as jnp
      >>> from stn_jax import geometry
      >>> m = geometry.affine_matrix(angle=jnp.pi / 2, center=jnp.array([2.0, 1.0]))
      >>> (m @ jnp.array([3.0, 1.0, 1.0])).round(5).tolist()
      [2.0, 2.0]

    Reference:
      Hartley and Zisserman, Multiple View Geometry in Computer Vision, section 2.4.3.
    """
    if ndim not in (2, 3):
        raise ValueError(f"affine_matrix exists for ndim = 2 and 3; got {ndim!r}.")
    # A rotation or shear in 3-D needs 3 numbers; only a single 0 stands for all of them.
    turns = {2: 1, 3: 3}[ndim]
    if ndim == 3:
        angle, shear = (np.zeros(3) if _is_zero(each) else each for each in (angle, shear))
    turn, slants, factors, offset, origin = _checks.common_dtype(
        _entries("angle", angle, turns, ndim == 2),
        _entries("shear", shear, turns, ndim == 2),
        *(
            _entries(name, each, ndim, True)
            for name, each in (("scale", scale), ("translation", translation), ("center", center))
        ),
    )
    above = jnp.zeros((ndim, ndim), turn.dtype).at[np.triu_indices(ndim, 1)].set(slants)
    stretch = (jnp.eye(ndim, dtype=turn.dtype) + above) * factors[None]
    linear = matrices.product(rotation_matrix(turn), stretch)
    moved = origin + offset - matrices.product(linear, origin[:, None])[:, 0]
    return jnp.concatenate([linear, moved[:, None]], axis=1)


def crop_matrix(box: Float[AnyArray, " corners"]) -> Float[Array, "rows columns"]:
    """The matrix of a crop: it maps −1 and 1 of the output to the sides of a box.

    Args:
      box: ``(x0, y0, x1, y1)``, or ``(x0, y0, z0, x1, y1, z1)`` of a volume, in normalised
        coordinates. If ``x1 < x0`` the crop is mirrored. :func:`stn_jax.normalized_from_pixels`
        converts pixel coordinates.

    Returns:
      Matrix ``[n, n + 1]``; its ``ravel()`` is the ``theta`` of :func:`stn_jax.affine`. The crop
      may have any ``output_shape``.

    Raises:
      ValueError: If the box is not of 4 or 6 numbers.
      TypeError: If ``box`` is not of a floating dtype.

    Example:
      The right half of an image, and a crop of its middle pixels, magnified three times:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import geometry
      >>> geometry.crop_matrix(jnp.array([0.0, -1.0, 1.0, 1.0])).tolist()
      [[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]
      >>> image = jnp.arange(16.0).reshape(4, 4, 1)
      >>> edges = jnp.array([[0.5, 0.5], [2.5, 2.5]])  # of the four pixels in the middle
      >>> box = stn.normalized_from_pixels(edges, (4, 4)).ravel()
      >>> theta = geometry.crop_matrix(box).ravel()
      >>> stn.warp(image, stn.affine(), theta, output_shape=(6, 6)).shape
      (6, 6, 1)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 2; He et al., Mask
      R-CNN, arXiv:1703.06870, section 3.
    """
    box = _checks.floating("box", box)
    if box.shape not in ((4,), (6,)):
        raise ValueError(
            "box must have shape (4,), (x0, y0, x1, y1), or (6,) for a volume; got shape "
            f"{box.shape}. Batch with jax.vmap."
        )
    low, high = jnp.split(box, 2)
    linear = jnp.eye(len(low), dtype=box.dtype) * ((high - low) / 2)[None]
    return jnp.concatenate([linear, (low + high)[:, None] / 2], axis=1)


class WholeOutput(NamedTuple):
    """An output that shows a whole image; the result of :func:`expand_output`.

    Attributes:
      matrix: Output pixel to input pixel, of the shape of the given matrix.
      output_shape: ``(height, width)`` or ``(depth, height, width)``.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import geometry
      >>> matrix, shape = geometry.expand_output(jnp.array([[0.5, 0, 0], [0, 0.5, 0]]), (2, 3))
      >>> shape
      (4, 6)
    """

    matrix: Float[Array, "rows columns"]
    output_shape: tuple[int, ...]


def expand_output(
    matrix: Float[AnyArray, "rows columns"], image_shape: Sequence[int]
) -> WholeOutput:
    """The smallest output that shows all of an image, and the matrix for it.

    Args:
      matrix: ``[n, n + 1]`` or ``[n + 1, n + 1]``, output pixel to input pixel, centres at whole
        numbers. It must be concrete, since the shape of the output depends on its values.
      image_shape: Spatial shape of the image, ``(height, width)`` or ``(depth, height, width)``.

    Returns:
      The matrix, shifted for the new first pixel of the output, and the shape of the output. Where
      the image does not fill a whole number of pixels, opposite sides share the rest equally.

    Raises:
      ValueError: If ``matrix`` is traced, does not fit, has no inverse, or sends a corner of the
        image to infinity.
      TypeError: If ``matrix`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import conversions, geometry
      >>> image = jnp.ones((20, 30, 1))
      >>> turn = geometry.affine_matrix(angle=jnp.pi / 4)
      >>> whole = geometry.expand_output(turn, (20, 30))
      >>> whole.output_shape
      (36, 36)
      >>> matrix = conversions.matrix_from_pixels(whole.matrix, (20, 30), whole.output_shape)
      >>> stn.warp(image, stn.affine(), matrix.ravel(), output_shape=whole.output_shape).shape
      (36, 36, 1)

    Reference:
      The ``expand`` of torchvision, ``resize`` of scikit-image and ``reshape`` of SciPy rotations.
    """
    if isinstance(matrix, jax.core.Tracer):
        raise ValueError(
            "matrix must be known, since the shape of the output depends on its values; got a "
            "traced array. Call expand_output outside of jit, and use a fixed output_shape inside."
        )
    shape = _checks.spatial_shape("image_shape", image_shape, may_be_symbolic=False)
    ndim = len(shape)
    given = _checks.matrix(matrix, ndim)
    square = np.eye(ndim + 1)
    square[: len(given)] = np.asarray(given, np.float64)
    if not np.isfinite(square).all() or np.linalg.matrix_rank(square) <= ndim:
        raise ValueError(f"matrix must be finite and have an inverse; got {given}.")
    edges = [(-0.5, size - 0.5) for size in reversed(shape)]
    corners = np.stack([each.ravel() for each in np.meshgrid(*edges, [1.0])])
    moved = np.linalg.inv(square) @ corners
    if not (moved[-1] > 0).all() and not (moved[-1] < 0).all():
        raise ValueError(
            "matrix must keep the image's corners in front of the camera; got one "
            "whose horizon crosses the image, so that no output can show all of it."
        )
    places = moved[:-1] / moved[-1]
    low, high = places.min(axis=1), places.max(axis=1)
    sizes = np.maximum(np.ceil(high - low - _NEGLIGIBLE), 1).astype(int)
    first = np.eye(ndim + 1)
    first[:-1, -1] = (low + high - sizes + 1) / 2
    whole = (square @ first)[: len(given)]
    return WholeOutput(jnp.asarray(whole, given.dtype), tuple(sizes[::-1].tolist()))


def _is_zero(value: ArrayLike) -> bool:
    return isinstance(value, int | float) and value == 0


def _entries(name: str, value: ArrayLike, size: int, may_be_one: bool) -> Array:
    """Checks a vector of ``size``; repeats one number if allowed; returns float32 or wider."""
    array = _checks.as_float(_checks.as_array(name, value))
    if array.shape != (size,) and not (may_be_one and array.shape == ()):
        number = "a number or " if may_be_one else ""
        raise ValueError(
            f"{name} must be {number}a vector of {size}; got shape {array.shape}. Batch with "
            "jax.vmap."
        )
    return jnp.broadcast_to(array, size)
