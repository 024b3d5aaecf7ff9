"""Displacement fields: a free-form lattice of offsets, a dense flow, and two diffeomorphisms.

In each, ``theta`` is a field of offsets or velocities ``(x, y)`` or ``(x, y, z)`` on a regular
lattice: the array ``[*shape, n]``, flattened row by row.
"""

import dataclasses
import functools
import math
import operator
from collections.abc import Sequence
from typing import SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.coordinates import (
    by_coordinate,
    pixel_centres,
    pixels_from_displacement,
    pixels_from_grid,
)
from stn_jax.sampling.interpolate import follow_pixels, sample_pixels
from stn_jax.sampling.kernels import CUBIC_B_SPLINE
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.polynomials import POLYNOMIALS
from stn_jax.transforms.base import PointFunction, Transform, family
from stn_jax.transforms.newton import newton_inverse

# Sampling options of lattices and dense fields. Beyond the edge, the edge's offsets continue.
_AS_AT_THE_EDGE = ("border", False, "exact", False, None)
_B_SPLINE = SampleOptions.create(CUBIC_B_SPLINE, *_AS_AT_THE_EDGE)
_LINEAR = SampleOptions.create("linear", *_AS_AT_THE_EDGE)
# Normalised coordinates are clipped to this magnitude.
_FAR = 1e6


def displacement(shape: Sequence[int]) -> Transform:
    """Free-form deformation: a lattice of offsets, ``theta``, smoothed by a cubic B-spline.

    The displacement is ``T(p) − p = Σₖ β³(x − xₖ) β³(y − yₖ) offsetₖ``, twice continuously
    differentiable. The lattice is regular and its outermost points lie at ±1; beyond them the
    edge's offsets continue. The spline smooths rather than interpolates: at a lattice point it is
    a weighted mean over the neighbours. Equal offsets give exactly that offset everywhere.

    Args:
      shape: Lattice points along each axis, ``(rows, columns)`` or ``(planes, rows, columns)``, at
        least 2 each. The cost of the map does not depend on the lattice. The gradient with respect
        to theta is a matrix product with one row per lattice point, so keep the lattice small; use
        :func:`flow` for dense fields.

    Returns:
      The family, with one offset ``(x, y)`` or ``(x, y, z)`` per lattice point in ``theta`` and
      zeros as the identity; target points to source points, normalised coordinates. The inverse is
      found by Newton's method and is NaN where the map folds. The map cannot fold while offsets
      along each axis are below 0.48 of the lattice's spacing in 2-D, 0.40 in 3-D.

    Raises:
      ValueError: If ``shape`` has not 2 or 3 entries of at least 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.displacement((3, 3))
      >>> theta = jnp.zeros((3, 3, 2)).at[1, 1, 0].set(1.125)  # the centre, to the right
      >>> t.apply(theta.ravel(), jnp.array([[0.0, 0.0], [1.0, 0.0]])).round(3).tolist()
      [[0.5, 0.0], [1.125, 0.0]]

    Reference:
      Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 18(8), 1999.
      Folds: Choi and Lee, Injectivity conditions of 2D and 3D uniform cubic B-spline functions,
      Graphical Models 62(6), 2000.
    """
    return _displacement(_lattice_shape(shape))


def flow(shape: Sequence[int], *, align_corners: bool = False) -> Transform:
    """Dense flow, ``theta`` = the offset of every pixel of an output of the given shape.

    Between pixel centres the offsets are interpolated linearly along each axis; beyond the
    outermost centres the edge's offsets continue.

    Args:
      shape: Spatial shape of the field, ``(height, width)`` or ``(depth, height, width)``.
      align_corners: Where the pixel centres lie, as in :func:`regular_grid`.

    Returns:
      The family, with one offset ``(x, y)`` or ``(x, y, z)`` per pixel in ``theta``, normalised
      units, and zeros as the identity; target points to source points. The inverse is found by
      Newton's method and is NaN where the map folds.

    Raises:
      ValueError: If ``shape`` has not 2 or 3 entries of at least 1.

    Note:
      At a pixel centre, a kink, the derivative along a coordinate is that of the cell on the right.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.flow((1, 2))
      >>> theta = jnp.array([[[0.0, 0.0], [0.5, 0.25]]])
      >>> t.apply(theta.ravel(), jnp.array([[-0.5, 0.0], [0.0, 0.0], [0.5, 0.0]])).tolist()
      [[-0.5, 0.0], [0.25, 0.125], [1.0, 0.25]]

    Reference:
      Zhou et al., View synthesis by appearance flow, arXiv:1605.03557.
    """
    return _flow(_field_shape(shape), bool(align_corners))


def stationary_velocity(
    shape: Sequence[int], *, squarings: SupportsIndex = 7, align_corners: bool = False
) -> Transform:
    """Diffeomorphism by scaling and squaring: ``theta`` = the velocity of every pixel.

    The map is the flow for unit time along a constant velocity field ``v``, computed as in
    registration networks: the displacement ``v / 2ᵏ`` is composed with itself k times. Fields are
    interpolated linearly, so the map has kinks at pixel centres. For a lattice of few velocities,
    :func:`diffeomorphic` integrates the path of each point without interpolating displacements.

    Args:
      shape: Spatial shape of the field, ``(height, width)`` or ``(depth, height, width)``.
      squarings: The number k of compositions, at least 0. Choose it so that ``v / 2ᵏ`` moves no
        pixel by more than a fraction of the distance to the next.
      align_corners: Where the pixel centres lie, as in :func:`regular_grid`.

    Returns:
      The family, with one velocity ``(x, y)`` or ``(x, y, z)`` per pixel in ``theta``, normalised
      units, and zeros as the identity; target points to source points. The inverse is found by
      Newton's method; it differs from the flow along ``−v`` by the error of interpolation.

    Raises:
      ValueError: If ``shape`` has not 2 or 3 entries of at least 1, or ``squarings`` is negative.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.stationary_velocity((8, 8))
      >>> theta = jnp.full((8, 8, 2), 0.25)  # the same velocity everywhere is a translation
      >>> t.apply(theta.ravel(), jnp.array([0.5, -0.25])).tolist()
      [0.75, 0.0]

    Reference:
      Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006,
      section 3. In registration networks: Dalca et al., arXiv:1805.04605.
    """
    count = operator.index(squarings)
    if count < 0:
        raise ValueError(f"squarings must be an integer of at least 0; got {squarings!r}.")
    return _stationary_velocity(_field_shape(shape), count, bool(align_corners))


def diffeomorphic(shape: Sequence[int], *, steps: SupportsIndex = 6) -> Transform:
    """Diffeomorphism: the flow for unit time along a constant velocity field, ``theta``.

    The velocity ``v`` is a B-spline of lattice values, as the offsets of :func:`displacement`.
    Points follow ``dp/dt = v(p)`` from ``t = 0`` to 1, so the map is smooth and never folds, and
    its inverse is the flow along ``−v``.

    Args:
      shape: Lattice points along each axis, as in :func:`displacement`.
      steps: Number of fourth-order Runge–Kutta steps. The error falls with the fourth power of this
        number. Choose it so that the velocity changes little in a step: ``‖∇v‖ / steps < 1``.

    Returns:
      The family, with one velocity ``(x, y)`` or ``(x, y, z)`` per lattice point in ``theta`` and
      zeros as the identity; target points to source points, normalised units.

    Raises:
      ValueError: If ``shape`` has not 2 or 3 entries of at least 2, or ``steps`` is below 1.

    Note:
      Scaling and squaring (:func:`stationary_velocity`) integrates the same flow by composing a
      dense displacement field with itself. The interpolation of that field then limits the accuracy
      of the inverse. Integrating each point's path avoids the interpolation, and keeps second
      derivatives.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.diffeomorphic((4, 4))
      >>> theta = 0.3 * jax.random.normal(jax.random.key(0), (t.num_params,))
      >>> points = jnp.array([[0.0, 0.5], [-0.9, 0.2]])
      >>> t.invert(theta, t.apply(theta, points)).round(4).tolist() == points.round(4).tolist()
      True

    Reference:
      Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006.
      As a spatial transformer: Dalca et al., arXiv:1805.04605.
    """
    return _diffeomorphic(_lattice_shape(shape), _checks.positive("steps", steps))


@family
def _displacement(shape: tuple[int, ...]) -> Transform:
    def offsets(theta: Array, points: Array) -> Array:
        return _spline(shape, theta, points)

    point_by_point = _family("displacement", shape, offsets, newton_inverse(offsets))
    on_lattice = functools.partial(_spline_on_lattice, shape)
    return dataclasses.replace(point_by_point, lattice_displacement=on_lattice)


@family
def _flow(shape: tuple[int, ...], align_corners: bool) -> Transform:
    def offsets(theta: Array, points: Array) -> Array:
        field = theta.reshape(*shape, len(shape))
        return _interpolate(field, points, align_corners=align_corners)

    return _family("flow", shape, offsets, newton_inverse(offsets))


@family
def _stationary_velocity(shape: tuple[int, ...], squarings: int, align_corners: bool) -> Transform:
    def composed(theta: Array) -> Array:
        """The displacement of each pixel by the flow along the velocity, flat like ``theta``."""

        def square(field: Array, _: None) -> tuple[Array, None]:
            pixels = pixels_from_displacement(field, shape, align_corners=align_corners)
            return field + sample_pixels(field, pixels, None, _LINEAR), None

        first = theta.reshape(*shape, len(shape)) / 2**squarings
        return jax.lax.scan(square, first, None, length=squarings)[0].ravel()

    def offsets(field: Array, points: Array) -> Array:
        return _interpolate(field.reshape(*shape, len(shape)), points, align_corners=align_corners)

    inverse = newton_inverse(offsets)
    return _family(
        "stationary_velocity",
        shape,
        lambda theta, points: offsets(composed(theta), points),
        lambda theta, points: inverse(composed(theta), points),
    )


@family
def _diffeomorphic(shape: tuple[int, ...], steps: int) -> Transform:
    return _family(
        "diffeomorphic",
        shape,
        lambda theta, points: _integrate(shape, steps, theta, points),
        lambda theta, points: points + _integrate(shape, steps, -theta, points),
    )


def _integrate(shape: tuple[int, ...], steps: int, theta: Array, points: Array) -> Array:
    """The displacement of the points by the flow along the velocity."""
    velocity = _scaled(theta.reshape(*shape, len(shape)), _pixels_of_unit(shape))
    moved = follow_pixels(velocity, _places(shape, points), steps, _B_SPLINE)
    return _scaled(moved, [1 / pixels for pixels in _pixels_of_unit(shape)])


def _pixels_of_unit(shape: tuple[int, ...]) -> list[float]:
    """The lattice's pixels in a unit of length along each axis, x first."""
    return [(size - 1) / 2 for size in reversed(shape)]


def _scaled(vectors: Array, factors: Sequence[float]) -> Array:
    """Vectors ``[..., n]``, each coordinate times its factor."""
    each = jnp.asarray(factors, vectors.dtype)
    return vectors * jnp.expand_dims(each, range(vectors.ndim - 1))


def _family(
    name: str, shape: tuple[int, ...], displacement: PointFunction, inverse: PointFunction
) -> Transform:
    return Transform(
        name=name,
        ndim=len(shape),
        identity=np.zeros(math.prod(shape) * len(shape)),
        displacement=displacement,
        inverse=inverse,
    )


def _field_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Checks the shape of a field with a vector for each pixel."""
    sizes = _checks.spatial_shape("shape", shape, may_be_symbolic=False)
    if len(sizes) not in (2, 3):
        raise ValueError(
            f"shape must be (height, width) or (depth, height, width); got {sizes}, "
            f"which has {len(sizes)} entries."
        )
    return sizes


def _lattice_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Checks the shape of a lattice whose outermost points lie at ±1."""
    sizes = _checks.spatial_shape("shape", shape, may_be_symbolic=False)
    if len(sizes) not in (2, 3) or min(sizes) < 2:
        raise ValueError(
            "shape must be the (rows, columns) or (planes, rows, columns) of a lattice with at "
            f"least 2 points along each axis; got {sizes}."
        )
    return sizes


def _spline(shape: tuple[int, ...], theta: Array, points: Array) -> Array:
    """The cubic B-spline with the lattice of coefficients ``theta``, at points ``[..., n]``."""
    field = theta.reshape(*shape, len(shape))
    return sample_pixels(field, _places(shape, points), None, _B_SPLINE)


def _spline_on_lattice(
    shape: tuple[int, ...], theta: Array, out_shape: tuple[int, ...], align_corners: bool
) -> Array:
    """The same at the points of an output lattice, where the spline is a product of matrices.

    The weights along an axis are the same in all rows and for all theta. So the field is
    multiplied by a constant matrix along each axis, in turn. An offset that is not finite, or its
    gradient, spreads to all points, since 0 times NaN is NaN.
    """
    result = jnp.moveaxis(theta.reshape(*shape, len(shape)), -1, 0)
    for size, out in zip(shape, out_shape, strict=True):
        weights = jnp.asarray(_weights_along(size, out, align_corners), theta.dtype)
        # The axis that was first becomes the last, as long as that of the output.
        result = jnp.tensordot(result, weights, axes=(1, 1), precision=jax.lax.Precision.HIGHEST)
    return jnp.stack([result[k] for k in range(len(shape))], axis=-1)


def _weights_along(size: int, out: int, align_corners: bool) -> np.ndarray:
    """The weights ``[out, size]`` of an axis' lattice points at the centres of the output."""
    place = (np.asarray(pixel_centres(out, align_corners)) + 1) * (size - 1) / 2
    cell = np.floor(place)
    weights = np.zeros((out, size))
    for tap, coefficients in enumerate(POLYNOMIALS[CUBIC_B_SPLINE]):
        index = np.clip(cell.astype(int) + tap - 1, 0, size - 1)
        weights[np.arange(out), index] += np.polynomial.Polynomial(coefficients)(place - cell)
    return weights


def _places(shape: tuple[int, ...], points: Array) -> list[Array]:
    """The points' coordinates in pixels of the lattice, x first."""
    return [(points[..., k] + 1) * pixels for k, pixels in enumerate(_pixels_of_unit(shape))]


def _interpolate(field: Array, points: Array, *, align_corners: bool) -> Array:
    """Interpolates ``[*shape, n]`` linearly; edge values continue outside, NaN points give NaN."""
    # Clip infinite points: along an axis of one pixel their scale may be 0, and inf · 0 is NaN.
    # By coordinate, so that XLA need not store the points of a chain.
    near = jnp.stack([jnp.clip(each, -_FAR, _FAR) for each in by_coordinate(points)], axis=-1)
    pixels = pixels_from_grid(near, field.shape[:-1], align_corners=align_corners)
    return sample_pixels(field, pixels, None, _LINEAR)
