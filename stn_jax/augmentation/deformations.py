"""Random affine maps, homographies and elastic deformations."""

import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from stn_jax import _checks, _records
from stn_jax._types import AnyArray
from stn_jax.augmentation.base import (
    Augmentation,
    Range,
    between,
    checked_range,
    known,
    uniform_numbers,
)
from stn_jax.geometry import affine_matrix
from stn_jax.transforms import matrices
from stn_jax.transforms.combinators import isotropic
from stn_jax.transforms.displacement import flow
from stn_jax.transforms.linear import affine, projective
from stn_jax.transforms.matrices import invert_matrix

# The displacement field has this many pixels for each interval of the noise's lattice.
_FINER = 4
# The steepest slope, per interval, of a cubic spline with coefficients from −1 to 1.
_STEEPEST = 1.5


def random_affine(
    image_shape: Sequence[int],
    *,
    angle: Range = (0.0, 0.0),
    scale: Range = (1.0, 1.0),
    shear: Range = (0.0, 0.0),
    translation: Range = (0.0, 0.0),
) -> Augmentation:
    """Random scale, shear and rotation about the centre, then translation; all act on pixels.

    The ranges say how the content of the image moves, from input to output: it turns by the angle
    and grows by the scale. Rotations do not shear an image that is not square.

    Args:
      image_shape: ``(height, width)`` or ``(depth, height, width)``.
      angle: Range ``(low, high)`` in radians; positive angles turn x towards y. In 3-D the axis of
        rotation is uniform on the sphere.
      scale: Range of the factor, positive, one for all axes; or a pair for each, x first. The
        factor's logarithm is uniform, so that growing and shrinking by a factor are equally likely.
      shear: Range of ``k`` in ``[1 k; 0 1]``, without a unit; in 3-D of each entry above the
        diagonal, or a pair for each.
      translation: Range in pixels for every axis; or a pair for each, x first.

    Returns:
      The augmentation, of the family :func:`stn_jax.affine`. A number is exactly as given where
      both ends of its range are equal, so ranges of zero width at ``angle=0``, ``scale=1``,
      ``shear=0``, ``translation=0`` give exactly the identity. JAX arrays may be traced, and draws
      are differentiable in them.

    Raises:
      ValueError: If the shape has not 2 or 3 axes, or an argument is not a valid range.

    Example:
      >>> import jax
      >>> from stn_jax import augmentation as aug
      >>> turn = aug.random_affine((48, 64), angle=(-0.3, 0.3), scale=(0.8, 1.25))
      >>> turn.transform.matrix(turn.draw(jax.random.key(0))).shape
      (3, 3)

    Reference:
      Hartley and Zisserman, Multiple View Geometry in Computer Vision, section 2.4.3.
    """
    shape = checked_shape(image_shape)
    ndim = len(shape)
    slants = ndim * (ndim - 1) // 2
    return _random_affine(
        shape,
        checked_range("angle", angle),
        checked_range("scale", scale, (ndim,), positive=True),
        checked_range("shear", shear, (slants,)),
        checked_range("translation", translation, (ndim,)),
    )


def random_homography(image_shape: Sequence[int], *, amplitude: ArrayLike) -> Augmentation:
    """Random perspective: each corner of the output shows a point near that corner of the input.

    Args:
      image_shape: ``(height, width)``.
      amplitude: Largest distance of that point from the corner, in pixels, along each axis; below
        a quarter of the shorter side, so that the four points are the corners of a convex region. A
        JAX scalar may be traced.

    Returns:
      The augmentation, of the family :func:`stn_jax.projective`; at amplitude 0 exactly the
      identity.

    Raises:
      ValueError: If the shape has not 2 axes, or ``amplitude`` is negative or too large.

    Example:
      >>> import jax
      >>> from stn_jax import augmentation as aug
      >>> tilt = aug.random_homography((48, 64), amplitude=6.0)
      >>> tilt.draw(jax.random.key(0)).shape
      (8,)

    Reference:
      DeTone et al., Deep image homography estimation, arXiv:1606.03798, section 3.
    """
    shape = _checks.spatial_shape("image_shape", image_shape, 2, may_be_symbolic=False)
    bound = min(shape) / 4
    return _random_homography(shape, _amplitude(amplitude, bound, f"{bound:g}, a quarter side"))


def random_elastic(
    image_shape: Sequence[int], *, amplitude: ArrayLike, spacing: float | int
) -> Augmentation:
    """Elastic deformation: every point moves by smooth noise.

    The noise is uniform and independent at the points of a lattice, and smoothed by a cubic
    B-spline. No point moves by more than the amplitude along an axis. The root mean square along an
    axis is 0.28 of the amplitude, in 3-D 0.19.

    Args:
      image_shape: ``(height, width)`` or ``(depth, height, width)``.
      amplitude: Bound on the movement along each axis, in pixels: below a third of the lattice's
        spacing, in 3-D below 2/9, so that the map never folds. A JAX scalar may be traced.
      spacing: Approximate distance between the points of the lattice, in pixels, since a whole
        number of intervals covers each axis. The larger, the smoother.

    Returns:
      The augmentation, of the family :func:`stn_jax.flow` on a lattice four times finer than that
      of the noise; at amplitude 0 exactly the identity.

    Raises:
      ValueError: If the shape has not 2 or 3 axes, ``spacing`` is not positive, or ``amplitude`` is
        negative or so large that the map could fold.

    Example:
      >>> import jax
      >>> from stn_jax import augmentation as aug
      >>> bend = aug.random_elastic((64, 96), amplitude=5.0, spacing=24)
      >>> moved = bend.transform.displacement(bend.draw(jax.random.key(0)), jax.numpy.zeros((1, 2)))
      >>> bool((abs(moved) * jax.numpy.array([48, 32]) <= 5.0).all())
      True

    Reference:
      Simard et al., Best practices for convolutional neural networks applied to visual document
      analysis, ICDAR 2003; smoothed by the splines of Rueckert et al., IEEE TMI 18(8), 1999.
    """
    shape = checked_shape(image_shape)
    if isinstance(spacing, jax.Array) or not 0 < float(spacing) < math.inf:
        raise ValueError(f"spacing must be a positive number of pixels; got {spacing!r}.")
    intervals = tuple(max(1, round(size / float(spacing))) for size in shape)
    # Below this bound the displacements of two points differ by less than the points do, measured
    # in intervals of the lattice. So no two points move to the same place.
    shortest = min(size / count for size, count in zip(shape, intervals, strict=True))
    bound = shortest / (_STEEPEST * len(shape))
    meaning = f"{bound:.3g}, or the map could fold; take a larger spacing"
    return _random_elastic(shape, _amplitude(amplitude, bound, meaning), intervals)


def checked_shape(image_shape: Sequence[int]) -> tuple[int, ...]:
    """Checks the spatial shape of an image or a volume."""
    shape = _checks.spatial_shape("image_shape", image_shape, may_be_symbolic=False)
    if len(shape) not in (2, 3):
        raise ValueError(
            f"image_shape must be (height, width) or (depth, height, width); got {shape}. Leave "
            "the channels out."
        )
    return shape


def _amplitude(value: ArrayLike, bound: float, meaning: str) -> AnyArray:
    given = _checks.numbers("amplitude", value)
    if given.shape != () or (known(given) and not 0 <= given < bound):
        raise ValueError(
            f"amplitude must be one number of pixels, at least 0 and below {meaning}; got "
            f"{value!r}."
        )
    return given


@_records.maker
def _random_affine(
    shape: tuple[int, ...], angle: AnyArray, scale: AnyArray, shear: AnyArray, translation: AnyArray
) -> Augmentation:
    ndim, height = len(shape), shape[0]
    aspect = [size / height for size in shape[:0:-1]]
    in_pixels = isotropic(affine(ndim=ndim), aspect=aspect)

    turns, slants = (1, 1) if ndim == 2 else (3, 3)
    per_axis = ndim if np.ndim(scale) == 2 else 1
    *ends, count = itertools.accumulate([turns, per_axis, slants, ndim])

    def draw(key: Array) -> Array:
        parts = jnp.split(uniform_numbers(key, count), ends)
        rotation = between(parts[0][0], angle)
        if ndim == 3:
            rotation = rotation * _direction(parts[0][1:])
        factors = jnp.exp(between(parts[1], _logarithm(scale)))
        slant = between(parts[2], shear)
        forward = affine_matrix(
            angle=rotation,
            scale=factors if per_axis > 1 else factors[0],
            shear=slant if ndim == 3 else slant[0],
            # In units of half the last side, as the parameters of ``in_pixels``.
            translation=between(parts[3], translation) * (2 / height),
            ndim=ndim,
        )
        return in_pixels.matrix(invert_matrix(forward).ravel())[:ndim].ravel()

    return Augmentation(
        name="random_affine",
        transform=affine(ndim=ndim),
        draw=draw,
        image_shape=shape,
        output_shape=shape,
    )


def _logarithm(limits: AnyArray) -> AnyArray:
    return jnp.log(limits) if isinstance(limits, jax.Array) else np.log(limits)


def _direction(pair: Array) -> Array:
    """A unit vector, uniform on the sphere, from two uniform numbers (Archimedes)."""
    z, longitude = 2 * pair[0] - 1, 2 * math.pi * pair[1]
    radius = jnp.sqrt(1 - z**2)
    return jnp.stack([radius * jnp.cos(longitude), radius * jnp.sin(longitude), z])


@_records.maker
def _random_homography(shape: tuple[int, ...], amplitude: AnyArray) -> Augmentation:
    halves = np.array(shape[::-1]) / 2

    def draw(key: Array) -> Array:
        noise = 2 * uniform_numbers(key, 4, 2) - 1
        moved = noise * jnp.asarray(amplitude, noise.dtype) / jnp.asarray(halves, noise.dtype)[None]
        return _homography(moved)

    return Augmentation(
        name="random_homography",
        transform=projective(),
        draw=draw,
        image_shape=shape,
        output_shape=shape,
    )


def _homography(moved: Array) -> Array:
    """The first 8 entries of the homography that moves the corners of ``[−1, 1]²`` as given.

    With ``X = corner + moved`` each corner ``(s, t)`` gives two equations,
    ``a s + b t + c = (g s + h t + 1) X``. Their sums with the weights 1, s, t, s t separate the
    unknowns: the last gives ``g, h``, the others ``a``, ``b`` and ``c``. Without movement all
    operations are exact.
    """
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
    s, t = corners.T
    places = jnp.asarray(corners, moved.dtype) + moved

    def mean(weights: np.ndarray) -> Array:
        return jnp.sum(jnp.asarray(weights, moved.dtype)[:, None] * places, axis=0) / 4

    one, by_s, by_t, by_both = mean(np.ones(4)), mean(s), mean(t), mean(s * t)
    solve = matrices.inverse(jnp.stack([by_t, by_s], axis=1))
    g, h = -jnp.sum(solve * by_both[None], axis=1)
    a = g * one + h * by_both + by_s
    b = g * by_both + h * one + by_t
    c = g * by_s + h * by_t + one
    rows = jnp.stack([a, b, c], axis=1)
    return jnp.concatenate([rows.ravel(), jnp.stack([g, h])])


@_records.maker
def _random_elastic(
    shape: tuple[int, ...], amplitude: AnyArray, intervals: tuple[int, ...]
) -> Augmentation:
    ndim = len(shape)
    field = tuple(_FINER * count for count in intervals)
    splines = [_spline_matrix(count) for count in intervals]
    halves = np.array(shape[::-1]) / 2

    def draw(key: Array) -> Array:
        lattice = tuple(count + 3 for count in intervals)
        noise = 2 * uniform_numbers(key, *lattice, ndim) - 1
        for axis, spline in enumerate(splines):
            along = jnp.moveaxis(noise, axis, -1)
            noise = jnp.moveaxis(
                matrices.product(along, jnp.asarray(spline.T, noise.dtype)), -1, axis
            )
        units = jnp.asarray(amplitude, noise.dtype) / jnp.asarray(halves, noise.dtype)
        return (noise * matrices.with_rank(units, noise.ndim)).ravel()

    return Augmentation(
        name="random_elastic",
        transform=flow(field),
        draw=draw,
        image_shape=shape,
        output_shape=shape,
    )


def _spline_matrix(intervals: int) -> np.ndarray:
    """The matrix from ``intervals + 3`` spline coefficients to the field's pixels along an axis.

    The lattice reaches one interval beyond both edges of the image.
    """
    places = (np.arange(_FINER * intervals) + 0.5) / _FINER
    distance = np.minimum(np.abs(places[:, None] - (np.arange(intervals + 3) - 1)), 2)
    inner = 2 / 3 - distance**2 + distance**3 / 2
    return np.where(distance < 1, inner, (2 - distance) ** 3 / 6)
