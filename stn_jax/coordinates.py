"""The output lattice, and the conversion between normalised and pixel coordinates.

``align_corners`` defines the normalised coordinates:

* ``align_corners=False``: −1 and 1 are the outer edges of the image, so pixel ``i`` of ``n`` has
  its centre at ``(2 i + 1) / n − 1`` and a unit of length is ``n / 2`` pixels;
* ``align_corners=True``: −1 and 1 are the centres of the first and last pixel, so pixel ``i``
  lies at ``2 i / (n − 1) − 1`` and a unit of length is ``(n − 1) / 2`` pixels.

A pixel's centre is a whole number in pixel coordinates; :func:`pixels_from_normalized` and
:func:`normalized_from_pixels` take ``pixel_centers=0.5`` for libraries that count from the edge.

Points carry ``(x, y)`` or ``(x, y, z)`` on their last axis, whereas arrays are indexed
``[y, x]`` or ``[z, y, x]``: coordinate ``k`` runs along spatial array axis ``ndim − 1 − k``.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from stn_jax import _checks
from stn_jax._types import AnyArray, Size

# A coordinate outside every image, small enough that its products stay finite.
_FARTHEST = 2.0**60


def regular_grid(
    shape: Sequence[Size], *, align_corners: bool = False, dtype: Any = None
) -> Float[Array, "*space n"]:
    """The regular lattice of target points: the normalised centre of every output pixel.

    Args:
      shape: Spatial shape of the output, ``(height, width)`` or ``(depth, height, width)``.
      align_corners: If true, −1 and 1 are the centres of the corner pixels; if false, the outer
        edges of the image.
      dtype: Floating dtype of the points; ``None`` takes JAX's default, float32.

    Returns:
      Points ``[*shape, n]``, ``(x, y)`` or ``(x, y, z)`` on the last axis. An axis of one pixel
      lies at 0 under both alignments. The middle of an odd axis is 0 exactly, and ``jax.jit``
      changes no bit; neither holds for ``jnp.linspace(-1, 1, n)``.

    Raises:
      ValueError: If ``shape`` is empty or holds a size below 1.

    Example:
      >>> import stn_jax as stn
      >>> stn.regular_grid((1, 4))[0, :, 0].tolist()
      [-0.75, -0.25, 0.25, 0.75]
      >>> stn.regular_grid((1, 3), align_corners=True)[0, :, 0].tolist()
      [-1.0, 0.0, 1.0]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.2.
    """
    shape = _checks.spatial_shape("shape", shape)
    dtype = jax.dtypes.canonicalize_dtype(float) if dtype is None else dtype
    axes = [jnp.asarray(pixel_centres(size, align_corners), dtype) for size in reversed(shape)]
    return jnp.stack(_along_axes(axes, shape), axis=-1)


def pixels_from_normalized(
    points: Float[AnyArray, "*batch n"],
    shape: Sequence[Size],
    *,
    align_corners: bool = False,
    pixel_centers: float = 0.0,
) -> Float[Array, "*batch n"]:
    """Converts normalised points to pixel coordinates of an image.

    Args:
      points: Normalised points, ``(x, y)`` or ``(x, y, z)`` on the last axis.
      shape: Spatial shape of the image, ``(height, width)`` or ``(depth, height, width)``.
      align_corners: As in :func:`regular_grid`.
      pixel_centers: Pixel coordinate of the first pixel's centre: 0 if centres are whole numbers,
        0.5 if coordinates are distances from the image's edge, as in Pillow.

    Returns:
      Pixel coordinates in the same order.

    Raises:
      ValueError: If the last axis of ``points`` differs from the length of ``shape``, or
        ``pixel_centers`` is neither 0 nor 0.5.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> corner = jnp.array([-1.0, -1.0])
      >>> stn.pixels_from_normalized(corner, (10, 20)).tolist()
      [-0.5, -0.5]
      >>> stn.pixels_from_normalized(corner, (10, 20), pixel_centers=0.5).tolist()
      [0.0, 0.0]
    """
    shape = _checks.spatial_shape("shape", shape)
    points = _checks.points("points", points, len(shape))
    first = _checks.pixel_centers(pixel_centers)
    pixels = jnp.stack(pixels_from_grid(points, shape, align_corners=align_corners), axis=-1)
    pixels = pixels + first
    return jnp.where(jnp.isinf(points), points, pixels)


def normalized_from_pixels(
    pixels: Float[AnyArray, "*batch n"],
    shape: Sequence[Size],
    *,
    align_corners: bool = False,
    pixel_centers: float = 0.0,
) -> Float[Array, "*batch n"]:
    """Converts pixel coordinates of an image to normalised points.

    The inverse of :func:`pixels_from_normalized`. An axis of one pixel has no extent under
    ``align_corners=True``; its coordinate is 0.

    Args:
      pixels: Pixel coordinates, ``(x, y)`` or ``(x, y, z)`` on the last axis.
      shape: Spatial shape of the image.
      align_corners: As in :func:`regular_grid`.
      pixel_centers: As in :func:`pixels_from_normalized`.

    Returns:
      Normalised points in the same order.

    Raises:
      ValueError: If the last axis of ``pixels`` differs from the length of ``shape``, or
        ``pixel_centers`` is neither 0 nor 0.5.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> stn.normalized_from_pixels(jnp.array([-0.5, 4.5]), (10, 20)).tolist()
      [-1.0, 0.0]
    """
    shape = _checks.spatial_shape("shape", shape)
    pixels = _checks.points("pixels", pixels, len(shape))
    pixels = pixels - _checks.pixel_centers(pixel_centers)
    scale, centre = scale_and_centre(shape, align_corners)
    # An axis of one pixel has the scale 0 under ``align_corners``; its coordinate becomes 0.
    is_zero = (scale == 0).astype(scale.dtype)
    inverse_scale = (1 - is_zero) / (scale + is_zero)
    inverse_scale, centre = (
        per_coordinate(each.astype(pixels.dtype), pixels) for each in (inverse_scale, centre)
    )
    return (pixels - centre) * inverse_scale


def per_coordinate(values: AnyArray, points: Array) -> AnyArray:
    """Values ``[n]``, one for each coordinate, with as many axes as points ``[..., n]``.

    JAX refuses arrays of different ranks where ``jax_numpy_rank_promotion`` is ``"raise"``.
    """
    return values[(None,) * (points.ndim - 1)]


def pixels_from_grid(
    grid: Float[AnyArray, "*out n"], shape: tuple[Size, ...], *, align_corners: bool
) -> list[Float[Array, "*out"]]:
    """Pixel coordinates of a sampling grid, one array per coordinate.

    Equal points give equal bits, wherever they are in the grid. Points that were rounded from a
    whole or half pixel, such as those of :func:`regular_grid`, give exactly that pixel.
    """
    sizes, scale, centre = _axes(shape, align_corners, grid.dtype)
    parts = by_coordinate(grid)
    starts = [jnp.broadcast_to(centre[k], part.shape) for k, part in enumerate(parts)]
    return _moved(parts, starts, list(scale), list(sizes))


def pixels_from_displacement(
    displacement: Float[AnyArray, "*out n"], shape: tuple[Size, ...], *, align_corners: bool
) -> list[Float[Array, "*out"]]:
    """Source pixel coordinates, from the displacement of each point of the output lattice.

    They are computed as ``pixel = lattice pixel + displacement · size / 2``. So without
    displacement they are exactly whole if input and output have the same size. A result within
    rounding error of a whole or half pixel is set to that pixel.

    Args:
      displacement: ``T(p) − p`` in normalised units at each point ``p`` of the output lattice.
      shape: Spatial shape of the image that is sampled.
      align_corners: As in :func:`regular_grid`.

    Returns:
      One array ``[*out]`` per coordinate, x first.
    """
    out_shape, dtype = displacement.shape[:-1], displacement.dtype
    sizes, scale, _ = _axes(shape, align_corners, dtype)
    lattice = [
        jnp.asarray(_lattice_pixels(out, size, align_corners), dtype)
        for out, size in zip(reversed(out_shape), reversed(shape), strict=True)
    ]
    starts, parts = _along_axes(lattice, out_shape), by_coordinate(displacement)
    # The rounding errors of the lattice point, of its target and of their difference together are
    # those of points 2.5 sizes apart.
    return _moved(parts, starts, list(scale), [2.5 * size for size in sizes])


def by_coordinate(points: Float[AnyArray, "*out n"]) -> list[Array]:
    """Splits points into one array per coordinate.

    The transpose of a split is a concatenation; that of indexing would be a sum of arrays.
    """
    parts = jax.lax.split(points, [1] * points.shape[-1], axis=points.ndim - 1)
    return [jax.lax.squeeze(part, (-1,)) for part in parts]


def _axes(
    shape: tuple[Size, ...], align_corners: bool, dtype: Any
) -> tuple[np.ndarray | Array, np.ndarray | Array, np.ndarray | Array]:
    """The size of each axis, pixels per normalised unit, and the origin's pixel, x first."""
    scale, centre = (each.astype(dtype) for each in scale_and_centre(shape, align_corners))
    return 2 * centre + 1, scale, centre


@jax.custom_jvp
def _moved(
    offsets: Sequence[Array], starts: Sequence[Array], scales: Sequence[Any], lengths: Sequence[Any]
) -> list[Array]:
    """``start + offset · scale`` in pixels, rounded the same way wherever it is computed.

    In some loops compilers fuse a product and a sum into one operation with one rounding, and merge
    factors. The minimum and maximum prevent this, and keep infinite offsets finite. A result that
    differs from a whole or half pixel by less than the rounding error, of points up to ``length``
    pixels apart, is set to that pixel. All coordinates are computed in one call, which JAX traces
    faster than a call for each.
    """
    results = []
    for offset, start, scale, length in zip(offsets, starts, scales, lengths, strict=True):
        eps = jnp.finfo(start.dtype).eps
        product = jnp.minimum(jnp.maximum(offset, -_FARTHEST) * scale, _FARTHEST)
        pixel = start + product
        nearest = jax.lax.round(2 * pixel, jax.lax.RoundingMethod.TO_NEAREST_EVEN) / 2
        # eps is a power of 2, so these products are exact.
        noise = jnp.abs(pixel) * eps + length * (eps / 2)
        results.append(jax.lax.select(jnp.abs(pixel - nearest) <= noise, nearest, pixel))
    return results


@functools.partial(_moved.defjvp, symbolic_zeros=True)
def _moved_jvp(primals: Any, tangents: Any) -> tuple[list[Array], list[Array]]:
    offsets, _, scales, _ = primals
    moved = [
        jnp.zeros_like(offset) if isinstance(dot, SymbolicZero) else dot * scale
        for offset, dot, scale in zip(offsets, tangents[0], scales, strict=True)
    ]
    return _moved(*primals), moved


class Coverage(NamedTuple):
    """Which points of an output read from inside the input, and their share.

    Inside means from −1 to 1 along every axis: up to the outer edges of the image, or up to the
    centres of its corner pixels under ``align_corners=True``.

    Attributes:
      mask: Boolean array of the shape of the output, true inside.
      fraction: Share of points that are inside.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> zoom_out = jnp.array([2.0, 0.0, 0.0])
      >>> mask, fraction = stn.diagnostics.coverage(stn.attention(), zoom_out, (4, 4))
      >>> float(fraction)
      0.25

    Reference:
      Valid masks of optical flow: Meister et al., UnFlow, arXiv:1711.07837.
    """

    mask: Bool[Array, "*out"]
    fraction: Float[Array, ""]

    @classmethod
    def of(cls, points: Float[Array, "*out n"]) -> "Coverage":
        """The coverage, from the source points in normalised coordinates."""
        mask = jnp.all(jnp.abs(points) <= 1, axis=-1)
        return cls(mask, jnp.mean(mask, dtype=points.dtype))


def footprints_on_lattice(
    shape: tuple[Size, ...], out_shape: tuple[Size, ...], align_corners: bool
) -> tuple[np.ndarray | Array, np.ndarray | Array]:
    """The distance between neighbours of the output lattice along each axis, x first.

    In float64 unless a size of the output is symbolic.

    Returns:
      The distance in normalised units, and in pixels of an image of ``shape``; the latter is exact
      if it is a whole number. Under ``align_corners`` an axis of one pixel counts as two pixels.
    """
    sizes = np.array(shape[::-1], np.float64)
    # Twice the scale is the size, or the size − 1.
    outs = 2 * scale_and_centre(out_shape, align_corners)[0]
    if align_corners:
        sizes, outs = sizes - 1, outs.clip(1)
    return 2 / outs, sizes / outs


def pixel_centres(size: Size, align_corners: bool) -> np.ndarray | Array:
    """Normalised centres of the ``size`` pixels of an axis; in float64 unless size is symbolic."""
    if isinstance(size, int):
        return (2 * np.arange(size) + 1 - size) / (max(size - 1, 1) if align_corners else size)
    steps = jnp.maximum(jnp.asarray(size - 1), 1) if align_corners else jnp.asarray(size)
    return (2 * jnp.arange(size) + 1 - size).astype(float) / steps.astype(float)


def _lattice_pixels(out: Size, size: Size, align_corners: bool) -> np.ndarray | Array:
    """Pixel coordinates, on an axis of ``size``, of ``out`` lattice points; whole if out = size."""
    if isinstance(out, int) and isinstance(size, int):
        index: Any = np.arange(out)
    elif out is size:
        return jnp.arange(size)
    else:
        index = jnp.arange(out, dtype=float)
        out, size = (jnp.asarray(each).astype(float) for each in (out, size))
    if not align_corners:
        return ((2 * index + 1) * size - out) / (2 * out)
    if isinstance(out, int):
        return index * (size - 1) / (out - 1) if out > 1 else np.array([(size - 1) / 2])
    return jnp.where(out > 1, index * (size - 1) / jnp.maximum(out - 1, 1), (size - 1) / 2)


def scale_and_centre(
    shape: tuple[Size, ...], align_corners: bool
) -> tuple[np.ndarray | Array, np.ndarray | Array]:
    """Pixels per normalised unit and the pixel coordinate of the origin, x first.

    In float64 unless a size is symbolic.
    """
    if all(isinstance(size, int) for size in shape):
        sizes: Any = np.array(shape[::-1], np.float64)
    else:
        sizes = jnp.stack([jnp.asarray(size) for size in shape[::-1]]).astype(float)
    return (sizes - 1 if align_corners else sizes) / 2, (sizes - 1) / 2


def _along_axes(coordinates: Sequence[Array], shape: Sequence[Size]) -> list[Array]:
    """Broadcasts one coordinate per axis, x first, to the whole lattice of ``shape``."""
    last = len(shape) - 1
    return [
        jax.lax.broadcast_in_dim(coordinate, shape, (last - k,))
        for k, coordinate in enumerate(coordinates)
    ]
