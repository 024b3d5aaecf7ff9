"""Polar and log-polar coordinates about a point, which turn rotation and scaling into shifts."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform, family

Number = float | int


def polar(*, radius: Number = 1.0, aspect: Number | AnyArray = 1.0) -> Transform:
    """Polar coordinates about the point ``theta = (x, y)``.

    The output's x is the distance from the point: 0 at the left border, ``radius`` at the right
    one. The output's y is the direction: from top to bottom it makes one full turn, which starts
    along the input's x axis and goes towards its y axis. So a rotation of the input about the point
    shifts the output along y, and a convolution of the output is equivariant to rotations.

    Args:
      radius: Distance at the right border in half heights of the image; positive.
      aspect: Width over height of the image in pixels, as in :func:`isotropic`. With it distances
        are measured in pixels, and rings are circles.

    Returns:
      The 2-D family; target points to source points, normalised coordinates. No ``theta`` gives the
      identity map; ``identity`` is the centre of the image, where training starts. ``invert`` gives
      directions between −1 and 1.

    Raises:
      ValueError: If ``radius`` or ``aspect`` is not positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.polar()
      >>> middle_of_the_right_border = jnp.array([1.0, 0.0])  # half around, at the full distance
      >>> t.apply(jnp.array([0.25, 0.5]), middle_of_the_right_border).round(4).tolist()
      [-0.75, 0.5]

    Reference:
      Esteves et al., Polar Transformer Networks, arXiv:1709.01889. Axes as in OpenCV's
      ``warpPolar`` and scikit-image's ``warp_polar``.
    """
    return _polar(None, _positive("radius", radius), _checks.aspect(aspect, 2))


def log_polar(
    *, inner: Number = 0.05, radius: Number = 1.0, aspect: Number | AnyArray = 1.0
) -> Transform:
    """Log-polar coordinates about the point ``theta = (x, y)``.

    As :func:`polar`, but the output's x is the logarithm of the distance, which grows from
    ``inner`` at the left border to ``radius`` at the right one. So a rotation of the input about
    the point shifts the output along y, and a scaling shifts it along x.

    Args:
      inner: Distance at the left border in half heights of the image; positive.
      radius: Distance at the right border, above ``inner``.
      aspect: As in :func:`polar`.

    Returns:
      The 2-D family, as in :func:`polar`.

    Raises:
      ValueError: If ``inner``, ``radius`` or ``aspect`` is not positive, or ``inner`` is not below
        ``radius``.

    Example:
      Halfway to the right the distance is the geometric mean:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.log_polar(inner=0.25)
      >>> to_the_left = jnp.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
      >>> t.apply(jnp.zeros(2), to_the_left).round(4)[:, 0].tolist()
      [-0.25, -0.5, -1.0]

    Reference:
      Esteves et al., Polar Transformer Networks, arXiv:1709.01889, section 3; Tai et al.,
      Equivariant Transformer Networks, arXiv:1901.11399.
    """
    inner, radius = _positive("inner", inner), _positive("radius", radius)
    if inner >= radius:
        raise ValueError(f"inner must be below radius; got {inner} and {radius}.")
    return _polar(inner, radius, _checks.aspect(aspect, 2))


@family
def _polar(inner: float | None, radius: float, lengths: AnyArray) -> Transform:
    """Polar coordinates, or log-polar ones of distance ``inner (radius / inner)^s``."""

    def sides(points: Array) -> Array:
        return matrices.with_rank(jnp.asarray(lengths, points.dtype), points.ndim)

    def displacement(theta: Array, points: Array) -> Array:
        share, angle = (points[..., 0] + 1) / 2, math.pi * (points[..., 1] + 1)
        if inner is None:
            distance = radius * share
        else:
            distance = radius * jnp.exp((share - 1) * math.log(radius / inner))
        ring = distance[..., None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
        return ring / sides(points) + matrices.with_rank(theta, points.ndim) - points

    def inverse(theta: Array, points: Array) -> Array:
        moved = (points - matrices.with_rank(theta, points.ndim)) * sides(points)
        x, y = moved[..., 0], moved[..., 1]
        # At the point itself the direction is set to that of x, and its derivative to 0.
        is_apart = (x != 0) | (y != 0)
        x, y = jnp.where(is_apart, x, 1), jnp.where(is_apart, y, 0)
        distance, angle = jnp.where(is_apart, jnp.hypot(x, y), 0), jnp.arctan2(y, x)
        if inner is None:
            share = distance / radius
        else:
            apart = jnp.where(is_apart, distance, radius)
            share = 1 + jnp.log(apart / radius) / math.log(radius / inner)
            share = jnp.where(is_apart, share, -jnp.inf)
        turned = jnp.where(angle < 0, angle + 2 * math.pi, angle)
        return jnp.stack([2 * share - 1, turned / math.pi - 1], axis=-1)

    return Transform(
        name="polar" if inner is None else "log_polar",
        ndim=2,
        identity=np.zeros(2),
        displacement=displacement,
        inverse=inverse,
    )


def _positive(name: str, value: Number) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number; got {value!r}.")
    return float(value)
