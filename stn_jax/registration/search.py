"""Starts all over the space of rotations, scales and shifts, for any family of transforms."""

import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax._records import Opened
from stn_jax.registration.solvers import columns
from stn_jax.transforms.base import Transform
from stn_jax.transforms.combinators import _chain, chain

# Gauss-Newton steps that fit a theta to a start, and their damping.
_FITTING_STEPS, _FITTING_DAMPING = 12, 1e-6
# Families with more parameters are not searched, unless they are chains with a linear part.
_MOST_PARAMETERS = 256
# Candidates whose losses are computed at once.
_AT_ONCE = 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """Which starts a registration tries at its coarsest level.

    A start is a rotation about the image's centre, isotropic in pixels, with a scale and a shift.
    All combinations are tried. If the family cannot express one, the nearest map that it can
    express is tried. The best starts are improved, and the best of these is followed to finer
    levels.

    Attributes:
      angle: Largest rotation in degrees, to either side; in 3-D the largest angle about each
        axis, at most 90.
      angle_step: Approximate difference of neighbouring angles in degrees; in 3-D at least twice
        as much.
      scales: Scales of the content in the moving image, relative to the fixed one.
      shift: Largest shift along each axis, as a share of the image's side.
      shift_step: Approximate difference of neighbouring shifts, as a share of the side; in 3-D at
        least ``shift``.
      kept: How many of the best starts are improved. ``None``: 32 for linear families, 8 for
        others, whose steps take longer.

    Raises:
      ValueError: If a number is out of range.

    Example:
      >>> import stn_jax as stn
      >>> from stn_jax import registration
      >>> upright = registration.Search(angle=0, scales=(0.5, 0.7, 1, 1.4, 2))
      >>> upright.angles
      (0.0,)
      >>> registration.Search(angle=30).angles
      (-30.0, -15.0, 0.0, 15.0, 30.0)

    Reference:
      Starts on a grid: Jenkinson and Smith, A global optimisation method for robust affine
      registration of brain images, Medical Image Analysis 5(2), 2001.
    """

    angle: float | int = 180
    angle_step: float | int = 15
    scales: Sequence[float | int] = (0.8, 1.0, 1.25)
    shift: float | int = 0.3
    shift_step: float | int = 0.15
    kept: int | None = None

    def __post_init__(self) -> None:
        if self.kept is not None:
            _checks.positive("kept", self.kept)
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        if not (0 <= self.angle <= 180 and self.angle_step > 0):
            raise ValueError(
                "angle must be from 0 to 180 and angle_step positive, in degrees; got "
                f"{self.angle!r} and {self.angle_step!r}."
            )
        if not (0 <= self.shift <= 1 and self.shift_step > 0):
            raise ValueError(
                "shift must be from 0 to 1 and shift_step positive, as shares of the image's side; "
                f"got {self.shift!r} and {self.shift_step!r}."
            )
        if not self.scales or not all(0 < scale < math.inf for scale in self.scales):
            raise ValueError(f"scales must be positive numbers; got {self.scales!r}.")

    @property
    def angles(self) -> tuple[float, ...]:
        """The angles of the starts in degrees."""
        if self.angle >= 180 - self.angle_step / 2:
            count = max(round(360 / self.angle_step), 1)
            return tuple(360 * k / count for k in range(count))
        return _around_zero(self.angle, self.angle_step)


class Starts(typing.NamedTuple):
    """Starts as parameters, ``[turns, shifts, params]``."""

    thetas: Array

    @classmethod
    def of(
        cls,
        search: Search,
        transform: Transform,
        fixed_shape: Sequence[int],
        moving_shape: Sequence[int],
    ) -> "Starts | None":
        """The starts that the family can express; ``None`` if it is not to be searched."""
        free, moved = searched(transform)
        if moved is None:
            return None
        matrices, shifts = _turns(search, fixed_shape, moving_shape)
        with jax.ensure_compile_time_eval():
            operands = (jnp.asarray(each, float) for each in (matrices, shifts))
            thetas = _fitted(Opened(moved), *operands)
            whole = jnp.broadcast_to(
                jnp.asarray(transform.identity, thetas.dtype),
                (*thetas.shape[:2], transform.num_params),
            )
            thetas = whole.at[..., np.flatnonzero(free)].set(thetas)
        if not isinstance(thetas, jax.core.Tracer):
            # Where the family lacks rotations or scales, many starts are the same.
            rounded = np.round(np.asarray(thetas), 3).reshape(len(matrices), -1)
            _, first = np.unique(rounded, axis=0, return_index=True)
            thetas = jnp.asarray(np.asarray(thetas)[np.sort(first)])
        return cls(thetas)

    def best(self, score: Callable[[Array], Array], kept: int) -> Array:
        """The starts of least score, ``[kept, params]``; of each turn only its best shift."""
        turns, shifts, params = self.thetas.shape
        scores = jax.lax.map(score, self.thetas.reshape(-1, params), batch_size=_AT_ONCE)
        scores = scores.reshape(turns, shifts)
        shift = jnp.argmin(scores, axis=1)
        each = jnp.take_along_axis(self.thetas, shift[:, None, None], axis=1)[:, 0]
        _, order = jax.lax.top_k(-jnp.min(scores, axis=1), min(kept, turns))
        return each[order]


def searched(transform: Transform) -> tuple[np.ndarray, Transform | None]:
    """A mask of the parameters that a search moves, and the family of these parameters alone.

    A search moves the parameters of the linear members of a chain, or all parameters of another
    small family. If it moves none, the family is ``None``.
    """
    recipe = transform._recipe
    if recipe is not None and recipe.make is _chain and transform.homogeneous is None:
        parts = [value for value in recipe.values if isinstance(value, Transform)]
        linear = [part for part in parts if part.homogeneous is not None]
        if linear:
            free = [np.full(part.num_params, part.homogeneous is not None) for part in parts]
            return np.concatenate(free), chain(*linear)
    is_small = transform.num_params <= _MOST_PARAMETERS
    return np.full(transform.num_params, is_small), transform if is_small else None


def _around_zero(largest: float | int, step: float | int) -> tuple[float, ...]:
    count = math.ceil(largest / step - 1e-9)
    return tuple(largest * k / count if count else 0.0 for k in range(-count, count + 1))


def _turns(
    search: Search, fixed_shape: Sequence[int], moving_shape: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Matrices ``[turns, n, n]`` and shifts ``[shifts, n]``, normalised, from fixed to moving."""
    ndim = len(fixed_shape)
    fixed, moving = (np.array(shape[::-1], np.float64) for shape in (fixed_shape, moving_shape))
    # At the scale ``whole`` about all of one image lies on all of the other; at scale 1 their
    # pixels have the same size. If the images have different sizes, try both.
    whole = np.exp(np.mean(np.log(moving / fixed)))
    bases = [whole] if abs(math.log(whole)) < 0.2 else [whole, 1.0]
    scales = sorted({base * scale for base in bases for scale in search.scales})
    turns = [
        scale * rotation * fixed[None] / moving[:, None]
        for rotation in _rotations(search, ndim)
        for scale in scales
    ]
    # In 3-D the number of shifts is the third power of that along an axis, so take larger steps.
    step = search.shift_step if ndim < 3 else max(search.shift_step, search.shift)
    along = _around_zero(search.shift, step)
    # Nothing determines a shift along an axis of one pixel, which is not tried.
    sides = [along if max(sizes) > 1 else (0.0,) for sizes in zip(fixed, moving, strict=True)]
    shifts = [2 * np.array(each) for each in itertools.product(*sides)]
    return np.array(turns), np.array(shifts)


def _rotations(search: Search, ndim: int) -> list[np.ndarray]:
    angles = np.deg2rad(search.angles)
    if ndim == 1:
        return [np.eye(1)]
    if ndim == 2:
        return [_plane_rotation(angle, 2, 0, 1) for angle in angles]
    largest = float(min(search.angle, 90))
    angles = np.deg2rad(_around_zero(largest, max(2 * search.angle_step, largest / 2)))
    return [
        _plane_rotation(c, 3, 0, 1) @ _plane_rotation(b, 3, 2, 0) @ _plane_rotation(a, 3, 1, 2)
        for a, b, c in itertools.product(angles, repeat=3)
    ]


def _plane_rotation(angle: float, ndim: int, i: int, j: int) -> np.ndarray:
    matrix = np.eye(ndim)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix


def lattice(ndim: int, side: int, dtype: Any) -> Array:
    """Points ``[side ** ndim, ndim]`` all over the image."""
    axes = np.meshgrid(*[np.linspace(-0.8, 0.8, side)] * ndim)
    return jnp.asarray(np.stack(axes, axis=-1).reshape(-1, ndim), dtype)


def nearest(transform: Transform, points: Array, targets: Array) -> Array:
    """The theta of least squared distance from points to targets."""

    def residuals(theta: Array) -> Array:
        return (points + transform.displacement(theta, points) - targets).ravel()

    def step(theta: Array, _: None) -> tuple[Array, None]:
        here, along = jax.linearize(residuals, theta)
        at_once = transform.homogeneous is not None
        jacobian = columns(along, theta.size, theta.dtype, at_once=at_once)
        exact = jax.lax.Precision.HIGHEST
        normal = jnp.matmul(jacobian, jacobian.T, precision=exact)
        damping = _FITTING_DAMPING * (jnp.trace(normal) / theta.size + 1e-3)
        normal += damping * jnp.eye(theta.size, dtype=theta.dtype)
        change = jnp.linalg.solve(normal, jnp.matmul(jacobian, here, precision=exact))
        return theta - jnp.where(jnp.isfinite(change), change, 0), None

    identity = jnp.asarray(transform.identity, points.dtype)
    return jax.lax.scan(step, identity, length=_FITTING_STEPS)[0]


@jax.jit
def _fitted(transform: Any, matrices: Array, shifts: Array) -> Array:
    """The theta nearest to each turn and shift, ``[turns, shifts, params]``."""
    points = lattice(transform.ndim, 3, matrices.dtype)

    def fit(matrix: Array, shift: Array) -> Array:
        moved = jnp.matmul(points, matrix.T, precision=jax.lax.Precision.HIGHEST)
        return nearest(transform, points, moved + shift)

    return jax.lax.map(lambda matrix: jax.vmap(lambda shift: fit(matrix, shift))(shifts), matrices)
