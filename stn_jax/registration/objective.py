"""The function of theta that a registration minimises at one level of the pyramid."""

import typing
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.coordinates import per_coordinate, pixels_from_displacement, regular_grid
from stn_jax.registration.losses import MEASURES, Measure
from stn_jax.registration.penalties import bending_residuals, consistency_residuals
from stn_jax.registration.solvers import columns
from stn_jax.sampling.interpolate import sample_pixels
from stn_jax.sampling.options import SampleOptions
from stn_jax.transforms.base import Transform

Loss = Callable[[Array, Array, Array], Array]

# The scale of a parameter is measured on a lattice of this many points along each axis.
_PROBES = 9
# With more parameters than this, scales are not measured: the parameters are then offsets of
# lattice points, and a unit of an offset is half the shortest side.
_MOST_PROBED = 512

# The rounding error of an image's slope is at most about this many times the image's precision.
_ROUNDING = 16

# The precision of matrix products: by default an accelerator rounds the factors to fewer bits.
_EXACT = jax.lax.Precision.HIGHEST


class Side(typing.NamedTuple):
    """One of the two images at a level, ``[*space, channels]``, and the weights of its pixels."""

    image: Array
    weights: Array | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape."""
        return self.image.shape[:-1]


class Objective(typing.NamedTuple):
    """The loss and the penalties at a level, as functions of ``thetas``, ``[directions, params]``.

    The first theta maps points of ``fixed`` to ``moving``. The second, if there is one, maps the
    other way.

    Attributes:
      fixed: The image onto which the other is warped.
      moving: The image that is warped.
      transform: The family.
      loss: A key of ``MEASURES``, or a function of two images and weights.
      options: How images are sampled; the padding is border.
      bending: Weight of the bending energy; ``None`` leaves it out.
      consistency: Weight of the inverse consistency; ``None`` leaves it out.
      min_overlap: A theta with a smaller overlap has a loss of infinity.
    """

    fixed: Side
    moving: Side
    transform: Transform
    loss: str | Loss
    options: SampleOptions
    bending: Array | None
    consistency: Array | None
    min_overlap: float

    @property
    def measure(self) -> Measure:
        """The functions of the loss: its value, and its projection if it is a sum of squares."""
        return Measure(self.loss) if callable(self.loss) else MEASURES[self.loss]

    def value(self, thetas: Array) -> tuple[Array, Array]:
        """The loss with penalties; and again, but infinite if the images overlap too little."""
        total, enough = self._sum_of_penalties(thetas), jnp.array(True)
        for theta, target, source in self._directions(thetas):
            places = self._places(theta, target, source)
            values, weights = self._read(source, places)
            weights, seen = _overlap(target, weights)
            total += self.measure.value(target.image, values, weights)
            enough &= seen >= self.min_overlap
        return total, jnp.where(enough & jnp.isfinite(total), total, jnp.inf)

    def normal_equations(self, thetas: Array) -> tuple[Array, Array, Array]:
        """The value, and the matrix and the right side of Gauss and Newton's equations.

        The image and its slopes are sampled once, at the points to which ``thetas`` map the pixels.
        The derivative by each parameter is a sum of products with these slopes.
        """
        size = thetas.shape[1]
        total, enough = jnp.zeros((), thetas.dtype), jnp.array(True)
        matrix, right = jnp.zeros((thetas.size,) * 2, thetas.dtype), jnp.zeros_like(thetas)
        for k, (theta, target, source) in enumerate(self._directions(thetas)):
            square, gram, slope, seen = self._equations(theta, target, source)
            total += square
            enough &= seen >= self.min_overlap
            part = slice(k * size, (k + 1) * size)
            matrix = matrix.at[part, part].add(gram)
            right = right.at[k].add(slope)
        right = right.ravel()
        for penalty in self._penalties():
            residuals, derivative = jax.linearize(
                lambda flat, p=penalty: p(flat.reshape(thetas.shape)), thetas.ravel()
            )
            jacobian = self._columns(derivative, thetas)
            total += jnp.sum(residuals**2)
            matrix += _product(jacobian, jacobian)
            right += _product(jacobian, residuals[None])[:, 0]
        return jnp.where(enough & jnp.isfinite(total), total, jnp.inf), matrix, right

    def _equations(
        self, theta: Array, target: Side, source: Side
    ) -> tuple[Array, Array, Array, Array]:
        """The loss of one direction, its matrix, its right side, and the overlap."""
        places = self._places(theta, target, source)
        values, slope_along, weights = jax.linearize(
            lambda *places: self._read(source, places), *places, has_aux=True
        )
        weights, seen = _overlap(target, weights)
        assert self.measure.projection is not None
        residuals, root, gain, directions = self.measure.projection(target.image, values, weights)
        _, moves = jax.linearize(lambda theta: self._places(theta, target, source), theta)
        # One array ``[params, *out]`` for each coordinate, in pixels.
        moves = self._columns(moves, theta)
        change = jnp.zeros((), theta.dtype)
        for i, move in enumerate(moves):
            ones = [
                jnp.ones_like(place) if i == j else jnp.zeros_like(place)
                for j, place in enumerate(places)
            ]
            change = change + (root[None] * move)[..., None] * slope_along(*ones)[None]
        change = change.reshape(theta.size, -1)
        directions = directions.reshape(len(directions), residuals.size)
        kept = _product(change, directions)
        gram = _product(change, change) - _product(kept, kept)
        # A parameter that changes the image by no more than rounding errors, such as a shift along
        # an axis of one pixel, or along stripes, is left out: its row and its slope become 0.
        eps = jnp.finfo(theta.dtype).eps
        lengths = sum(move**2 for move in moves).reshape(theta.size, -1)
        sizes = jnp.sum((root[..., None] * values) ** 2, axis=-1).reshape(1, -1)
        rounding = (_ROUNDING * eps) ** 2 * jnp.sum(lengths * sizes, axis=1)
        rounding += 4 * eps * jnp.sum(change**2, axis=1)
        determined = jnp.diagonal(gram) > rounding
        change = jnp.where(determined[:, None], change, 0)
        gram = jnp.where(determined[:, None] & determined[None], gram, 0)
        # The residuals without their part along the directions.
        flat = residuals.reshape(1, -1)
        flat = flat - jnp.matmul(_product(flat, directions), directions, precision=_EXACT)
        slope = _product(change, flat)[:, 0]
        return jnp.sum(residuals**2), gain**2 * gram, gain * slope, seen

    def scales(self, thetas: Array) -> Array:
        """For each parameter, how far a unit of it moves a point at most, in the level's pixels."""
        return jnp.stack([self._scales(*direction) for direction in self._directions(thetas)])

    def overlap(self, thetas: Array) -> Array:
        """The share of the fixed image's weight that reads from inside the moving image."""
        theta, target, source = next(iter(self._directions(thetas)))
        return _overlap(target, self._read(source, self._places(theta, target, source))[1])[1]

    def _scales(self, theta: Array, target: Side, source: Side) -> Array:
        half = min(source.shape) / 2
        if self.transform.num_params > _MOST_PROBED:
            return jnp.full_like(theta, half)
        lattice = (_PROBES,) * self.transform.ndim
        points = regular_grid(lattice, align_corners=True, dtype=theta.dtype)
        _, derivative = jax.linearize(
            lambda theta: self.transform.displacement(theta, points), theta
        )
        # [params, *lattice, n], in pixels.
        sides = np.array(source.shape[::-1], np.float64) / 2
        moves = self._columns(derivative, theta)
        moves = moves * per_coordinate(sides.astype(theta.dtype), moves)
        longest = jnp.sqrt(jnp.max(jnp.sum(moves**2, axis=-1).reshape(theta.size, -1), axis=1))
        usable = jnp.isfinite(longest) & (longest > 1e-3 * half)
        return jnp.where(usable, longest, half)

    def _columns(self, linear: Callable[[Array], Any], theta: Array) -> Any:
        """The results of a linear function for the unit vectors of theta, stacked."""
        # If the map samples a field, do not batch over parameters: it is batched over starts.
        at_once = self.transform.homogeneous is not None
        return columns(linear, theta.size, theta.dtype, at_once=at_once)

    def _directions(self, thetas: Array) -> list[tuple[Array, Side, Side]]:
        """For each theta: it, the image whose pixels it maps, and the image that is read."""
        both = [(self.fixed, self.moving), (self.moving, self.fixed)]
        return [(thetas[k], *both[k]) for k in range(thetas.shape[0])]

    def _places(self, theta: Array, target: Side, source: Side) -> list[Array]:
        """The pixel coordinates of ``source`` to which theta maps the pixels of ``target``."""
        align_corners = self.options.align_corners
        points = regular_grid(target.shape, align_corners=align_corners, dtype=theta.dtype)
        moved = self.transform.displacement(theta, points)
        return pixels_from_displacement(moved, source.shape, align_corners=align_corners)

    def _read(self, source: Side, places: Sequence[Array]) -> tuple[Array, Array]:
        """The image at pixel coordinates, and weights: 1 inside, falling to 0 beyond the edge."""
        inside = jnp.ones_like(places[0])
        for place, size in zip(places, source.shape[::-1], strict=True):
            inside *= jnp.clip(jnp.minimum(place + 1, size - place), 0, 1)
        inside = jax.lax.stop_gradient(jnp.where(jnp.isfinite(inside), inside, 0))
        # A point without a finite place has weight 0; its value must not be NaN, as NaN · 0 is NaN.
        places = [jnp.where(jnp.isnan(place), 0, place) for place in places]
        if source.weights is None:
            return sample_pixels(source.image, places, None, self.options), inside
        counts = source.weights[..., None]
        both = jnp.concatenate([source.image * counts, counts], axis=-1)
        read = sample_pixels(both, places, None, self.options)
        share = jax.lax.stop_gradient(jnp.clip(read[..., -1], 0, 1))
        counted = share > 1e-3
        values = read[..., :-1] / jnp.where(counted, read[..., -1], 1)[..., None]
        return values, inside * jnp.where(counted, share, 0)

    def _sum_of_penalties(self, thetas: Array) -> Array:
        return sum(
            (jnp.sum(penalty(thetas) ** 2) for penalty in self._penalties()),
            start=jnp.zeros((), thetas.dtype),
        )

    def _penalties(self) -> list[Callable[[Array], Array]]:
        """Functions from thetas to the residuals of a penalty, whose squares sum to it."""
        align_corners = self.options.align_corners
        penalties: list[Callable[[Array], Array]] = []
        if self.bending is not None:
            root_of_bending = jnp.sqrt(self.bending)

            def bending(thetas: Array) -> Array:
                lists = [
                    bending_residuals(self.transform, theta, target.shape, align_corners)
                    for theta, target, _ in self._directions(thetas)
                ]
                return root_of_bending * jnp.concatenate(lists)

            penalties.append(bending)
        if self.consistency is not None:
            root_of_consistency = jnp.sqrt(self.consistency)

            def consistency(thetas: Array) -> Array:
                return root_of_consistency * consistency_residuals(
                    self.transform, thetas[0], thetas[1], self.fixed.shape, align_corners
                )

            penalties.append(consistency)
        return penalties


def _product(first: Array, second: Array) -> Array:
    """The scalar products of the rows of two matrices."""
    return jnp.matmul(first, second.T, precision=_EXACT)


def _overlap(target: Side, weights: Array) -> tuple[Array, Array]:
    """The weights of the target's pixels, and the share of them that reads from the source."""
    if target.weights is None:
        return weights, jnp.mean(weights)
    weights = weights * target.weights
    total = jnp.sum(target.weights)
    return weights, jnp.sum(weights) / jnp.where(total > 0, total, 1)
