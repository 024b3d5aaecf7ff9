"""CPAB: flows along a continuous velocity that is affine in each cell of a lattice."""

import functools
import itertools
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform, family

# A vector is a list of coordinates, so that XLA fuses its elementwise operations.
Vector = list[Array]

# Terms of the exponential's series, by dtype. A piece of a path is short enough that they are exact
# to rounding.
_TERMS = {"float32": 10, "float64": 17}
# Iterations that find the time at which a path leaves its cell.
_BOUNDS = 6
# Points are clipped to this many cells outside the lattice.
_MARGIN = 64


def cpab(shape: Sequence[int], *, pieces: SupportsIndex = 24) -> Transform:
    """CPAB: the flow for unit time along a continuous, piecewise affine velocity, ``theta``.

    ``theta`` is the velocity at the points of a regular lattice whose outermost points lie at ±1.
    Each square of the lattice is cut into two triangles along its diagonal, each cube of a 3-D
    lattice into six tetrahedra; the velocity is affine in each of these cells. Beyond the lattice
    the edge's velocity continues. Within a cell a point's path is an exponential, so the flow is
    integrated exactly, cell by cell. The map is smooth within cells and never folds, and its
    inverse is the flow along ``−v``.

    Args:
      shape: Lattice points along each axis, ``(rows, columns)``, ``(planes, rows, columns)``, or
        ``(columns,)`` for signals, at least 2 each.
      pieces: The largest number of pieces of a path. A piece ends where the path leaves a cell, or
        sooner where the velocity changes fast within the cell. A path of more pieces gives NaN.
        Time and memory grow with this number.

    Returns:
      The family, with one velocity ``(x, y)`` or ``(x, y, z)`` per lattice point in ``theta``, row
      by row, and zeros as the identity; target points to source points, normalised units.

    Raises:
      ValueError: If ``shape`` has not 1 to 3 entries of at least 2, or ``pieces`` is below 1.

    Note:
      To hold the border in place, as in the reference, fix its velocities at 0 with
      ``fixed(cpab(shape), …)``. First and second derivatives are exact. Third and higher ones omit
      terms of the time at which a path leaves a cell.

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
    sizes = _checks.spatial_shape("shape", shape, may_be_symbolic=False)
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
    """The displacement of the points by the flow along the velocity."""
    # Lengths are in units of the lattice's spacing, so that its cubes are unit cubes.
    spacings = [(size - 1) / 2 for size in reversed(shape)]
    field = theta.reshape(-1, len(shape)) * jnp.asarray([spacings], theta.dtype)
    start = [
        jnp.clip((points[..., k] + 1) * each, -_MARGIN, 2 * each + _MARGIN)
        for k, each in enumerate(spacings)
    ]

    def piece(carry: tuple[Vector, Array], _: None) -> Any:
        moved, left = carry
        cell = _Cell.of(shape, field, _sum(start, moved))
        time = cell.time_inside(left)
        return (_sum(moved, cell.along(time)), left - time), None

    zeros = matrices.zeros_of(points, theta)
    moved = [zeros[..., k] for k in range(len(shape))]
    # To save memory, the gradient recomputes the intermediate values of a piece.
    piece = jax.checkpoint(piece, prevent_cse=False)
    moved, left = jax.lax.scan(piece, (moved, moved[0] + 1), None, length=pieces)[0]
    displacement = [
        jnp.where(left > 0, jnp.nan, m / each) for m, each in zip(moved, spacings, strict=True)
    ]
    return jnp.stack(displacement, axis=-1)


class _Cell(NamedTuple):
    """The cells of points, and the points' paths within them.

    A point's coordinates within its cube are sorted, largest first: ``s₀, s₁, …``. Their order
    determines the cell ``1 ≥ s₀ ≥ s₁ ≥ … ≥ 0``. From the first corner of the cube, one step along
    each axis in that order leads to the cell's other corners. Each ``≥`` is a face of the cell,
    opposite a corner.

    Attributes:
      order: For each sorted coordinate the unit vector of its axis.
      corners: Velocity at each corner, in sorted coordinates.
      slopes: Derivative of the velocity along each sorted coordinate.
      place: Sorted coordinates of the points.
      terms: Coefficients of the powers of time in the paths from the points.
      beyond: How far beyond a face a piece ends, so that the next piece starts in the next cell.
    """

    order: list[Vector]
    corners: list[Vector]
    slopes: list[Vector]
    place: Vector
    terms: list[Vector]
    beyond: float

    @classmethod
    def of(cls, shape: tuple[int, ...], field: Array, place: Vector) -> "_Cell":
        """The cells of the points ``place``, given in units of the lattice's spacing."""
        base = [jnp.floor(jax.lax.stop_gradient(each)) for each in place]
        inside = [p - b for p, b in zip(place, base, strict=True)]
        ranks = _ranks([jax.lax.stop_gradient(each) for each in inside])
        axes = range(len(shape))
        order = [[(rank == k).astype(inside[0].dtype) for rank in ranks] for k in axes]
        at, velocities = base, [_velocity(shape, field, base)]
        for step in order:
            at = _sum(at, step)
            velocities.append(_velocity(shape, field, at))
        corners = [[_dot(axis, velocity) for axis in order] for velocity in velocities]
        slopes = [
            [b - a for a, b in zip(*pair, strict=True)] for pair in itertools.pairwise(corners)
        ]
        sorted_place = [_dot(axis, inside) for axis in order]
        terms = [_sum(corners[0], _along(slopes, sorted_place))]
        for power in range(2, _TERMS[field.dtype.name] + 1):
            terms.append([each / power for each in _along(slopes, terms[-1])])
        beyond = 16 * max(shape) * float(jnp.finfo(field.dtype).eps)
        return cls(order, corners, slopes, sorted_place, terms, beyond)

    def along(self, time: Array) -> Vector:
        """The displacement along the path in a given time; coordinates in the order of axes."""
        return _along(self.order, self._path(time)[0])

    def time_inside(self, left: Array) -> Array:
        """The duration of the next piece, at most ``left``.

        The velocity is continuous where a path leaves a cell, so first derivatives of the flow do
        not depend on the derivative of this time; second derivatives do.
        """
        fixed = jax.tree.map(jax.lax.stop_gradient, self)
        time = fixed._time_inside(jax.lax.stop_gradient(left))
        change, velocity = self._path(time)
        (room, rate), *others = zip(
            _faces(_sum(self.place, change), 1), _faces(velocity, 0), strict=True
        )
        for other, its_rate in others:
            nearer = other < room
            room, rate = jnp.where(nearer, other, room), jnp.where(nearer, its_rate, rate)
        rate = jax.lax.stop_gradient(rate)
        slowest = self.beyond**0.5 * _largest(itertools.chain(*fixed.corners))
        leaves = (room < -self.beyond / 2) & (rate < -slowest)
        # One step of Newton's method: its value is 0, its derivative is that of the leaving time.
        shift = (room - jax.lax.stop_gradient(room)) / jnp.where(leaves, rate, 1)
        return jnp.where(time < left, jnp.where(leaves, time - shift, time), left)

    def _time_inside(self, left: Array) -> Array:
        """The same without derivatives: a lower bound of the time, raised in each iteration.

        ``room`` is the distance to a face, ``rate`` its derivative in time. Two numbers bound
        ``|room″|``: its largest value at the corners, and the slopes times the speed, which grows
        by less than e within a piece. So ``room + rate t − bound t² / 2`` bounds the distance from
        below, and a step to its root never passes the end of the piece. Near the end the steps are
        those of Newton's method.
        """
        # The series of the path is exact to rounding while time · ‖slopes‖ ≤ 1.
        tiny = float(jnp.finfo(left.dtype).tiny)
        size = sum(map(jnp.abs, itertools.chain(*self.slopes)))
        longest = jnp.minimum(left, 1 / jnp.maximum(size, tiny))
        curved = [_faces(_along(self.slopes, corner), 0) for corner in self.corners]
        at_corners = [_largest(face) for face in zip(*curved, strict=True)]
        steepest = [
            sum(map(jnp.abs, face))
            for face in zip(*(_faces(slope, 0) for slope in self.slopes), strict=True)
        ]
        # No path leaves through a face if, at all its corners, the velocity points inwards or along
        # the face.
        rates = [_faces(corner, 0) for corner in self.corners]
        limit = -16 * float(jnp.finfo(left.dtype).eps) * _largest(itertools.chain(*rates))
        least = [
            functools.reduce(jnp.minimum, [rate[k] for j, rate in enumerate(rates) if j != k])
            for k in range(len(rates))
        ]

        def lengthened(_: Any, time: Array) -> Array:
            change, velocity = self._path(time)
            rooms, speed = _faces(_sum(self.place, change), 1), math.e * _largest(velocity)
            steps = []
            for k, (room, rate) in enumerate(zip(rooms, _faces(velocity, 0), strict=True)):
                room = jnp.maximum(room + self.beyond, 0)
                bound = jnp.minimum(at_corners[k], speed * steepest[k])
                root = jnp.sqrt(rate**2 + 2 * bound * room)
                forward = jnp.where(bound > 0, (rate + root) / jnp.maximum(bound, tiny), jnp.inf)
                backward = 2 * room / jnp.maximum(root - rate, tiny)
                step = jnp.where(rate >= 0, forward, backward)
                steps.append(jnp.where(least[k] >= limit, jnp.inf, step))
            return jnp.minimum(time + functools.reduce(jnp.minimum, steps), longest)

        return jax.lax.fori_loop(0, _BOUNDS, lengthened, matrices.zeros_of(left))

    def _path(self, time: Array) -> tuple[Vector, Vector]:
        """The displacement after a time and the velocity there, in sorted coordinates."""
        change = [each * time for each in self.terms[-1]]
        for term in reversed(self.terms[:-1]):
            change = [each * time for each in _sum(change, term)]
        return change, _sum(self.terms[0], _along(self.slopes, change))


def _velocity(shape: tuple[int, ...], field: Array, at: Vector) -> Vector:
    """The velocity at lattice points; points beyond the lattice have that of its edge."""
    index, stride = jnp.zeros_like(at[0], np.int32), 1
    for size, each in zip(reversed(shape), at, strict=True):
        index = index + jnp.clip(each, 0, size - 1).astype(np.int32) * stride
        stride *= size
    return [jnp.take(column, index, mode="clip") for column in field.T]


def _ranks(values: Vector) -> list[Array]:
    """The rank of each value, 0 for the largest."""
    return [
        sum(
            ((other > value) if j > k else (other >= value)).astype(np.int32)
            for j, other in enumerate(values)
            if j != k
        )
        + jnp.zeros_like(value, np.int32)
        for k, value in enumerate(values)
    ]


def _sum(first: Vector, second: Vector) -> Vector:
    return [a + b for a, b in zip(first, second, strict=True)]


def _dot(first: Vector, second: Vector) -> Array:
    return functools.reduce(operator.add, map(operator.mul, first, second))


def _along(rows: list[Vector], vector: Vector) -> Vector:
    """The sum of the rows, weighted by the coordinates of a vector."""
    return [_dot(list(column), vector) for column in zip(*rows, strict=True)]


def _largest(values: Iterable[Array]) -> Array:
    return functools.reduce(jnp.maximum, map(jnp.abs, values))


def _faces(sorted_coordinates: Vector, one: int) -> Vector:
    """Distances to the faces, ``1 − s₀, s₀ − s₁, …, sₙ₋₁``; their rates, if ``one`` is 0."""
    s = sorted_coordinates
    return [one - s[0], *(a - b for a, b in itertools.pairwise(s)), s[-1]]
