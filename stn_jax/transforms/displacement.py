"""Displacement fields: a free-form lattice of offsets, a dense flow, and a diffeomorphism.

In each, ``theta`` is a field of offsets ``(x, y)`` or ``(x, y, z)`` on a regular lattice, flattened
as an array ``[*shape, n]`` is, so for each lattice point row by row.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from stn_jax import _checks
from stn_jax._loops import materialize
from stn_jax.coordinates import pixels_from_grid, scale_and_centre
from stn_jax.transforms import matrices
from stn_jax.transforms.base import PointFunction, Transform, family
from stn_jax.transforms.newton import newton_inverse

# The classic rule of the fourth order: where each stage looks along the slope before it, and the
# weight of its own slope.
_RUNGE_KUTTA = ((0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def displacement(shape: Sequence[int]) -> Transform:
    """Free-form deformation: a lattice of offsets, ``theta``, smoothed by a cubic B-spline.

    The displacement is ``T(p) − p = Σₖ β³(x − xₖ) β³(y − yₖ) offsetₖ``, twice continuously
    differentiable. The lattice is regular and its outermost points lie at ±1; beyond them the
    edge's offsets continue. The spline smooths rather than interpolates: at a lattice point it is
    a mean over the neighbours, and equal offsets everywhere give exactly that offset.

    Args:
      shape: Lattice points along each axis, ``(rows, columns)`` or ``(planes, rows, columns)``, at
        least 2 each. The map costs the same whatever the lattice; the gradient with respect to
        theta is a matrix product with one row per lattice point, so the lattice should be small,
        and :func:`flow` is for dense fields.

    Returns:
      The family, with one offset ``(x, y)`` or ``(x, y, z)`` per lattice point in ``theta`` and
      zeros as the identity; target points to source points, normalised coordinates. The inverse is
      found by Newton's method and is NaN where the map folds; it cannot fold while every coordinate
      of the offsets is below 0.48 of the lattice's spacing along it in 2-D, 0.40 in 3-D.

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
    sizes = _checks.spatial_shape("shape", shape)
    if len(sizes) not in (2, 3):
        raise ValueError(
            f"shape must be (height, width) or (depth, height, width); got {sizes}, "
            f"which has {len(sizes)} entries."
        )
    return _flow(sizes, bool(align_corners))


def diffeomorphic(shape: Sequence[int], *, steps: SupportsIndex = 6) -> Transform:
    """Diffeomorphism: the flow for unit time along a velocity, ``theta``, that does not change.

    The velocity is a lattice of offsets as in :func:`displacement`. Points follow
    ``dp/dt = v(p)`` from ``t = 0`` to 1, so the map is smooth, never folds, and its inverse is the
    flow along ``−v``.

    Args:
      shape: Lattice points along each axis, as in :func:`displacement`.
      steps: Runge–Kutta steps of the fourth order. The error falls with their fourth power; enough
        are needed that a step changes the velocity little, ``‖∇v‖ / steps < 1``.

    Returns:
      The family, with one velocity ``(x, y)`` or ``(x, y, z)`` per lattice point in ``theta`` and
      zeros as the identity; target points to source points, normalised units.

    Raises:
      ValueError: If ``shape`` has not 2 or 3 entries of at least 2, or ``steps`` is below 1.

    Note:
      Scaling and squaring integrates the same flow by composing a small map with itself, which for
      arbitrary points needs a dense field resampled at each squaring. That field's interpolation
      error, not the integration's, would limit how well the inverse undoes the map. Points followed
      one by one have none, and the map keeps its second derivatives.

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
    # Points of a lattice are the same for a whole batch, and their weights are then shared by it.
    def offsets(theta: Array, points: Array) -> Array:
        # Else each coordinate would be computed inside the loops that use it.
        return materialize([_spline(shape, True, theta, points)])[0]

    return _family("displacement", shape, offsets, newton_inverse(offsets))


@family
def _flow(shape: tuple[int, ...], align_corners: bool) -> Transform:
    def offsets(theta: Array, points: Array) -> Array:
        field = theta.reshape(*shape, len(shape))
        return _interpolate(field, points, align_corners=align_corners)

    return _family("flow", shape, offsets, newton_inverse(offsets))


@family
def _diffeomorphic(shape: tuple[int, ...], steps: int) -> Transform:
    return _family(
        "diffeomorphic",
        shape,
        lambda theta, points: _integrate(shape, steps, theta, points),
        lambda theta, points: points + _integrate(shape, steps, -theta, points),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _integrate(shape: tuple[int, ...], steps: int, theta: Array, points: Array) -> Array:
    """How far the flow along the velocity carries the points."""

    def stage(carry: tuple[Array, Array, Array], rule: tuple[Array, Array]) -> Any:
        moved, slope, total = carry
        slope = _spline(shape, False, theta, points + moved + rule[0] * slope)
        return (moved, slope, total + rule[1] * slope), None

    def step(moved: Array, _: None) -> tuple[Array, None]:
        # A loop over the stages runs as fast as the four written out and compiles sooner.
        zero = matrices.zeros_of(moved)
        stages = jnp.asarray(_RUNGE_KUTTA, moved.dtype) / steps
        carry, _ends = jax.lax.scan(stage, (moved, zero, zero), (stages[0], stages[1]))
        return moved + carry[2], None

    # What a step passes through is computed again for the gradient rather than kept.
    step = jax.checkpoint(step, prevent_cse=False)
    return jax.lax.scan(step, matrices.zeros_of(points, theta), None, length=steps)[0]


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


def _lattice_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a lattice whose outermost points lie at ±1."""
    sizes = _checks.spatial_shape("shape", shape)
    if len(sizes) not in (2, 3) or min(sizes) < 2:
        raise ValueError(
            "shape must be the (rows, columns) or (planes, rows, columns) of a lattice with at "
            f"least 2 points along each axis; got {sizes}."
        )
    return sizes


def _spline(shape: tuple[int, ...], shared: bool, theta: Array, points: Array) -> Array:
    """The cubic B-spline with the lattice of coefficients ``theta``, at points ``[..., n]``.

    ``shared`` says that many lattices are wanted at the same points.
    """
    places = [
        jnp.clip((points[..., k] + 1) * ((size - 1) / 2), -1, size)
        for k, size in enumerate(reversed(shape))
    ]
    return _spline_at(shape, shared, (0,) * len(shape), theta, *places)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _spline_at(
    shape: tuple[int, ...], shared: bool, orders: tuple[int, ...], theta: Array, *places: Array
) -> Array:
    """The spline, or its derivative of the given orders, at places in units of the lattice.

    Evaluated from the coefficients under each basis function that is not zero there, so that the
    cost does not depend on the size of the lattice.
    """
    coefficients = theta.reshape(-1, len(shape))
    taps = [_taps(*each) for each in zip(places, orders, reversed(shape), strict=True)]
    strides = np.cumprod([1, *reversed(shape)])
    *inner, outer = [
        [(index * int(stride), weight) for index, weight in each]
        for each, stride in zip(taps, strides, strict=False)
    ]

    def sum_of_slice(outer_tap: tuple[Array, ...]) -> Array:
        terms = []
        for corner in itertools.product([outer_tap], *reversed(inner)):
            indices, weights = zip(*corner, strict=True)
            index = functools.reduce(jnp.add, indices).astype(jnp.uint32)
            value = coefficients.at[index].get(mode="promise_in_bounds")
            terms.append(value * functools.reduce(jnp.multiply, weights)[..., None])
        return functools.reduce(jnp.add, terms)

    if len(shape) == 2:
        return functools.reduce(jnp.add, map(sum_of_slice, outer))
    # Slice by slice, or compiling the sum of 64 would take longer than computing it.
    stacked = tuple(jnp.stack(each) for each in zip(*outer, strict=True))
    first = sum_of_slice(tuple(each[0] for each in stacked))
    rest = tuple(each[1:] for each in stacked)
    return jax.lax.scan(lambda sum_, tap: (sum_ + sum_of_slice(tap), None), first, rest)[0]


@functools.partial(_spline_at.defjvp, symbolic_zeros=True)
def _spline_at_jvp(
    shape: tuple[int, ...], shared: bool, orders: tuple[int, ...], primals: Any, tangents: Any
) -> tuple[Array, Array]:
    """Along a place the spline one order higher; along the coefficients a matrix product.

    The transpose of the product is another one, where that of reading the coefficients would add
    the points' parts one by one.
    """

    def linear(tangents: Any, primals: Any) -> Array:
        theta_dot, *places_dot = tangents
        terms = [jnp.zeros((*primals[1].shape, len(shape)), primals[0].dtype)]
        if theta_dot is not None:
            terms.append(_spline_by_products(shape, shared, orders, theta_dot, primals[1:]))
        for axis, place_dot in enumerate(places_dot):
            if place_dot is not None:
                raised = tuple(order + (each == axis) for each, order in enumerate(orders))
                slope = _spline_at(shape, shared, raised, *primals)
                terms.append(slope * jnp.stack([place_dot] * len(shape), axis=-1))
        return functools.reduce(jnp.add, terms)

    # What is not differentiated costs nothing; slopes and weights are computed again for the
    # gradient rather than kept for it.
    tangents = [None if isinstance(each, SymbolicZero) else each for each in tangents]
    tangent = jax.checkpoint(linear)(tangents, primals)
    return _spline_at(shape, shared, orders, *primals), tangent


def _spline_by_products(
    shape: tuple[int, ...],
    shared: bool,
    orders: tuple[int, ...],
    theta: Array,
    places: Sequence[Array],
) -> Array:
    """The same as products with the weights of all coefficients, ``[..., size]`` per axis."""
    dense = []
    for place, order, size in zip(places, orders, reversed(shape), strict=True):
        columns = matrices.with_rank(jnp.arange(size, dtype=jnp.int32), place.ndim + 1)
        spread = [
            jnp.where(index[..., None] == columns, weight[..., None], 0)
            for index, weight in _taps(place, order, size)
        ]
        dense.append(functools.reduce(jnp.add, spread))
    *inner, outer = dense
    if shared:
        # One product, whose left side is the same for every lattice.
        for weights in reversed(inner):
            size = outer.shape[-1] * weights.shape[-1]
            outer = (outer[..., :, None] * weights[..., None, :]).reshape(*outer.shape[:-1], size)
        inner = []
    # Else one axis after the other, which takes fewer operations and less memory.
    value = matrices.product(outer, theta.reshape(outer.shape[-1], -1))
    for weights in reversed(inner):
        size = value.shape[-1] // weights.shape[-1]
        value = jnp.sum(value.reshape(*weights.shape, size) * weights[..., None], axis=-2)
    return value


# The cubic B-spline's pieces over one unit: the coefficients of the weights of the points at
# −1, 0, 1 and 2 as polynomials in the fraction, the highest power first.
_PIECES = np.array([[-1, 3, -3, 1], [3, -6, 0, 4], [-3, 3, 3, 1], [1, 0, 0, 0]]) / 6


def _taps(place: Array, order: int, size: int) -> list[tuple[Array, Array]]:
    """Indices along an axis and their weights; beyond the edge the edge's coefficient continues."""
    low = jnp.nan_to_num(jnp.floor(place)).astype(jnp.int32)
    fraction = place - jnp.floor(place)
    taps = []
    for offset, piece in zip((-1, 0, 1, 2), _PIECES, strict=True):
        derived = np.polyder(piece, order) if order else piece
        # At NaN every weight is to be NaN, also a constant one.
        weight = functools.reduce(
            lambda sum_, each: sum_ * fraction + float(each), derived, jnp.zeros_like(fraction)
        )
        taps.append((jnp.clip(low + offset, 0, size - 1), weight))
    return taps


def _interpolate(field: Array, points: Array, *, align_corners: bool) -> Array:
    """Linear interpolation of ``[*shape, n]`` whose edge values continue; NaN at NaN points."""
    shape = field.shape[:-1]
    valid = ~jnp.isnan(points).any(axis=-1, keepdims=True)
    pixels = _pixels(jnp.where(valid, points, 0), shape, align_corners)
    axes = []
    for pixel, size in zip(pixels, reversed(shape), strict=True):
        inside = (pixel >= 0) & (pixel < size - 1)
        # Infinite points on an axis of one pixel are NaN here; there is only one index for them.
        low = jnp.clip(jnp.nan_to_num(jnp.floor(pixel)), 0, size - 1)
        fraction = jnp.where(inside, pixel - low, 0)[..., None]
        index = low.astype(jnp.int32)
        axes.append([(index, 1 - fraction), (jnp.minimum(index + 1, size - 1), fraction)])
    total = jnp.zeros_like(points)
    for corner in itertools.product(*reversed(axes)):
        indices, weights = zip(*corner, strict=True)
        value = field.at[indices].get(mode="promise_in_bounds")
        total = total + value * functools.reduce(jnp.multiply, weights)
    return jnp.where(valid, total, jnp.nan)


def _pixels(points: Array, shape: tuple[int, ...], align_corners: bool) -> list[Array]:
    """Pixel coordinates of points, one array per coordinate, x first."""
    if points.ndim == len(shape) + 1 and 0 not in points.shape:
        return pixels_from_grid(points, shape, align_corners=align_corners)
    scale, centre = scale_and_centre(shape, align_corners)
    return [points[..., k] * float(scale[k]) + float(centre[k]) for k in range(len(shape))]
