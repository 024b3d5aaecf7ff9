"""CPAB: diffeomorphisms along velocities that are continuous and affine in each cell."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform, family

# The exponential of a piece of a path is a series of so many terms, by dtype: the piece is so short
# that they are exact to rounding.
_TERMS = {"float32": 10, "float64": 17}
# How often the time until a path leaves its cell is bounded anew within a piece.
_BOUNDS = 6
# Farther outside, in cells, the velocity is taken to be that of the nearest edge all along.
_MARGIN = 64


def cpab(shape: Sequence[int], *, pieces: SupportsIndex = 24) -> Transform:
    """CPAB: the flow for unit time along a continuous, piecewise affine velocity, ``theta``.

    The velocity is given at the points of a regular lattice whose outermost points lie at ±1, and
    is affine in each triangle between them: each square of the lattice is cut in two along its
    diagonal, each cube of a 3-D lattice in six. Beyond the lattice the edge's velocity continues.
    In a triangle a point's path is an exponential, so the flow is integrated exactly, cell by cell:
    the map is smooth within cells, never folds, and its inverse is the flow along ``−v``.

    Args:
      shape: Lattice points along each axis, ``(rows, columns)``, ``(planes, rows, columns)``, or
        ``(columns,)`` for signals, at least 2 each.
      pieces: The greatest number of pieces of a path: a piece ends where the path leaves a cell,
        or where it has turned much in one. A path of more pieces gives NaN. Time and memory grow
        with it.

    Returns:
      The family, with one velocity ``(x, y)`` or ``(x, y, z)`` per lattice point in ``theta``, row
      by row, and zeros as the identity; target points to source points, normalised units.

    Raises:
      ValueError: If ``shape`` has not 1 to 3 entries of at least 2, or ``pieces`` is below 1.

    Note:
      A border that stays where it is, as in the reference, is ``fixed(cpab(shape), …)`` with the
      border's velocities held at 0. First and second derivatives are exact; of higher ones that of
      the time at which a path leaves a cell is missing.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.cpab((4, 4))
      >>> theta = 0.3 * jax.random.normal(jax.random.key(0), (t.num_params,))
      >>> points = jnp.array([[0.0, 0.5], [-0.9, 0.2]])
      >>> t.invert(theta, t.apply(theta, points)).round(4).tolist() == points.round(4).tolist()
      True

    Reference:
      Freifeld et al., Transformations based on continuous piecewise-affine velocity fields, IEEE
      TPAMI 39(12), 2017. As a spatial transformer: Skafte Detlefsen et al., Deep diffeomorphic
      transformer networks, CVPR 2018. The cells are Kuhn's triangulation of a cube.
    """
    sizes = _checks.spatial_shape("shape", shape)
    if len(sizes) > 3 or min(sizes) < 2:
        raise ValueError(
            "shape must be the (rows, columns), (planes, rows, columns) or (columns,) of a lattice "
            f"with at least 2 points along each axis; got {sizes}."
        )
    return _cpab(sizes, _checks.positive("pieces", pieces))


@family
def _cpab(shape: tuple[int, ...], pieces: int) -> Transform:
    return Transform(
        name="cpab",
        ndim=len(shape),
        identity=np.zeros(math.prod(shape) * len(shape)),
        displacement=lambda theta, points: _flow(shape, pieces, theta, points),
        inverse=lambda theta, points: points + _flow(shape, pieces, -theta, points),
    )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _flow(shape: tuple[int, ...], pieces: int, theta: Array, points: Array) -> Array:
    """How far the flow along the velocity carries the points."""
    # In units of the lattice's spacing, in which cells are unit cubes cut up.
    sizes = np.array(shape[::-1])
    spacings = jnp.asarray((sizes - 1) / 2, points.dtype)
    field = theta.reshape(-1, len(shape)) * spacings[None]
    spacings = matrices.with_rank(spacings, points.ndim)
    last = matrices.with_rank(jnp.asarray(sizes - 1, points.dtype), points.ndim)
    start = jnp.clip((points + 1) * spacings, -_MARGIN, last + _MARGIN)

    def piece(carry: tuple[Array, Array], _: None) -> Any:
        moved, left = carry
        cell = _Cell.of(shape, field, start + moved)
        time = cell.time_inside(left)
        return (moved + cell.along(time), left - time), None

    moved = matrices.zeros_of(start, theta)
    # What a piece passes through is computed again for the gradient rather than kept.
    piece = jax.checkpoint(piece, prevent_cse=False)
    carry = moved, moved[..., 0] + 1
    moved, left = jax.lax.scan(piece, carry, None, length=pieces)[0]
    return jnp.where(left[..., None] > 0, jnp.nan, moved / spacings)


class _Cell(NamedTuple):
    """The cells in which points lie, and the paths from there while these are not left.

    Within a cube the coordinates are sorted, largest first: the corners of the cell are reached
    from the first corner of the cube by one step along each axis in that order, and the cell is
    ``1 ≥ s₀ ≥ s₁ ≥ … ≥ 0``, in which each ``≥`` is a face.

    Attributes:
      order: One-hot rows ``[..., n, n]``, the axis of each sorted coordinate.
      corners: Velocity ``[..., n + 1, n]`` at each corner, in sorted coordinates.
      slopes: Its derivative ``[..., n, n]``: row ``k`` along sorted coordinate ``k``.
      place: Sorted coordinates ``[..., n]`` of the points.
      terms: The coefficients ``[..., n]`` of the powers of time in the path from there.
      beyond: How far beyond a face a piece of a path ends, so that the next is in the next cell.
    """

    order: Array
    corners: Array
    slopes: Array
    place: Array
    terms: tuple[Array, ...]
    beyond: float

    @classmethod
    def of(cls, shape: tuple[int, ...], field: Array, place: Array) -> "_Cell":
        """The cells of points in units of the lattice's spacing."""
        base = jnp.floor(jax.lax.stop_gradient(place))
        axes = jnp.argsort(jax.lax.stop_gradient(base - place), axis=-1)
        order = jax.nn.one_hot(axes, len(shape), dtype=place.dtype)
        path = jnp.cumsum(order, axis=-2)
        steps = jnp.concatenate([path[..., :1, :] - order[..., :1, :], path], axis=-2)
        points = (base[..., None, :] + steps).astype(np.int32)
        strides = np.cumprod((1, *shape[:0:-1]))
        index = sum(
            jnp.clip(points[..., k], 0, shape[-1 - k] - 1) * np.int32(strides[k])
            for k in range(len(shape))
        )
        velocities = jnp.take(field, index, axis=0, mode="clip")
        corners = jnp.sum(velocities[..., :, None, :] * order[..., None, :, :], axis=-1)
        slopes = corners[..., 1:, :] - corners[..., :-1, :]
        sorted_place = jnp.sum(order * (place - base)[..., None, :], axis=-1)
        terms = [corners[..., 0, :] + _sloped(slopes, sorted_place)]
        for power in range(2, _TERMS[place.dtype.name] + 1):
            terms.append(_sloped(slopes, terms[-1]) / power)
        beyond = 16 * max(shape) * float(jnp.finfo(place.dtype).eps)
        return cls(order, corners, slopes, sorted_place, tuple(terms), beyond)

    def along(self, time: Array) -> Array:
        """How far the path goes in a time, in the order of axes."""
        return jnp.sum(self.order * self._path(time)[0][..., :, None], axis=-2)

    def time_inside(self, left: Array) -> Array:
        """How long the next piece lasts, at most ``left``.

        The derivatives of the time count in second derivatives alone, since the velocity is
        continuous where a path leaves a cell.
        """
        fixed = jax.tree.map(jax.lax.stop_gradient, self)
        time = fixed._time_inside(jax.lax.stop_gradient(left))
        change, velocity = self._path(time)
        rooms, rates = _faces(self.place + change, 1), jax.lax.stop_gradient(_faces(velocity, 0))
        face = jnp.argmin(jax.lax.stop_gradient(rooms), axis=-1, keepdims=True)
        room, rate = (jnp.take_along_axis(each, face, axis=-1)[..., 0] for each in (rooms, rates))
        fastest = jnp.abs(fixed.corners).max(axis=(-2, -1))
        leaves = (room < -self.beyond / 2) & (rate < -(self.beyond**0.5) * fastest)
        # One step of Newton's method, whose value is not wanted.
        shift = (room - jax.lax.stop_gradient(room)) / jnp.where(leaves, rate, 1)
        return jnp.where(time < left, jnp.where(leaves, time - shift, time), left)

    def _time_inside(self, left: Array) -> Array:
        # The series is exact to rounding while time · ‖slopes‖ ≤ 1.
        size = jnp.sum(jnp.abs(self.slopes), axis=(-2, -1))
        longest = jnp.minimum(left, 1 / jnp.maximum(size, jnp.finfo(size.dtype).tiny))
        time = matrices.zeros_of(left)
        for _ in range(_BOUNDS):
            time = jnp.minimum(time + self._remaining(time).min(axis=-1), longest)
        return time

    def _remaining(self, time: Array) -> Array:
        """A lower bound ``[..., n + 1]`` of the time until the path is ``beyond`` each face.

        The path's ``|room″|`` is at most its greatest value at the corners, and at most what the
        speed, which grows less than e times in a piece, makes of the slopes. So ``room + rate t −
        bound t² / 2`` is a lower bound, and its root comes before the path is beyond. Steps to it
        never pass the face, and near it are those of Newton's method.
        """
        change, velocity = self._path(time)
        room = jnp.maximum(_faces(self.place + change, 1) + self.beyond, 0)
        rate, rates = _faces(velocity, 0), _faces(self.corners, 0)
        curved = jnp.sum(self.slopes[..., None, :, :] * self.corners[..., :, :, None], axis=-2)
        at_corners = jnp.abs(_faces(curved, 0)).max(axis=-2)
        speed = jnp.abs(velocity).max(axis=-1, keepdims=True)
        by_speed = math.e * speed * jnp.abs(_faces(self.slopes, 0)).sum(axis=-2)
        bound = jnp.minimum(at_corners, by_speed)
        root = jnp.sqrt(rate**2 + 2 * bound * room)
        tiny = jnp.finfo(rate.dtype).tiny
        forward = jnp.where(bound > 0, (rate + root) / jnp.maximum(bound, tiny), jnp.inf)
        backward = 2 * room / jnp.maximum(root - rate, tiny)
        # No path leaves through a face at all of whose corners, all but one, it goes inwards.
        opposite = matrices.with_rank(jnp.eye(rates.shape[-1], dtype=bool), rates.ndim)
        least = jnp.where(opposite, jnp.inf, rates).min(axis=-2)
        fastest = jnp.abs(rates).max(axis=(-2, -1))[..., None]
        never = least >= -16 * jnp.finfo(rate.dtype).eps * fastest
        return jnp.where(never, jnp.inf, jnp.where(rate >= 0, forward, backward))

    def _path(self, time: Array) -> tuple[Array, Array]:
        """How far the path goes in a time, and the velocity at its end, in sorted coordinates."""
        change = self.terms[-1] * time[..., None]
        for term in reversed(self.terms[:-1]):
            change = (change + term) * time[..., None]
        return change, self.terms[0] + _sloped(self.slopes, change)


def _sloped(slopes: Array, vector: Array) -> Array:
    """The change of velocity along a vector."""
    return jnp.sum(slopes * vector[..., :, None], axis=-2)


def _faces(sorted_coordinates: Array, one: int) -> Array:
    """``1 − s₀, s₀ − s₁, …, sₙ₋₁``: how far each face is; with 0 for 1, how fast it recedes."""
    s = sorted_coordinates
    return jnp.concatenate([one - s[..., :1], s[..., :-1] - s[..., 1:], s[..., -1:]], axis=-1)
