"""The footprints of a map for antialiasing, and whether the map keeps the axes apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.coordinates import footprints_on_lattice, scale_and_centre
from stn_jax.sampling.filters import FILTERS, FilterName
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.options import SampleOptions
from stn_jax.transforms.base import Transform


def checked_antialias(
    antialias: Any, transform: Transform, theta: Array, options: SampleOptions
) -> bool | FilterName:
    """Checks that ``antialias`` can be used with this map and these options."""
    if isinstance(antialias, bool | np.bool_):
        return bool(antialias)
    if not isinstance(antialias, str) or antialias not in FILTERS:
        names = ", ".join(map(repr, FILTERS))
        raise ValueError(f"antialias must be True, False or one of {names}; got {antialias!r}.")
    if antialias == "area" and options.polynomial != KERNELS["linear"]:
        raise ValueError(
            'kernel must be "linear", the default, with antialias="area", which weighs pixels by '
            'the area that is covered; got another. Use antialias="kernel" to reduce with a kernel.'
        )
    if not _keeps_axes_apart(transform, theta):
        raise ValueError(
            f"antialias={antialias!r} needs a map that scales and shifts each axis by itself, as "
            f"translation and attention do for every theta; got the map {transform.name} with "
            + ("a traced theta. " if isinstance(theta, jax.core.Tracer) else f"theta={theta}. ")
            + "Use antialias=True, which serves every map."
        )
    return antialias  # type: ignore[return-value]


def _keeps_axes_apart(transform: Transform, theta: Array) -> bool:
    """Whether each coordinate of the source is a linear function of that of the target alone.

    It is so for every theta if it is so for one drawn at random; else ``theta`` itself is tested.
    """
    if transform.homogeneous is None:
        return False
    drawn = np.random.default_rng(0).uniform(0.2, 0.8, transform.num_params)
    with jax.ensure_compile_time_eval():
        for each in (jnp.asarray(drawn, theta.dtype), theta):
            matrix = transform.matrix(each)
            if isinstance(matrix, jax.core.Tracer):
                continue
            aside = ~np.eye(len(matrix), dtype=bool)
            aside[:-1, -1] = False
            if not np.asarray(matrix)[aside].any():
                return True
    return False


def footprints_of(
    transform: Transform,
    theta: Array,
    points: Array,
    shape: tuple[Any, ...],
    align_corners: bool,
) -> Array:
    """How far each pixel coordinate of the input moves along each axis of the output.

    Returns:
      ``[axes, coordinates, *out]``, x first in both. If the map is affine, all output pixels have
      the same footprint, and each axis of ``*out`` has size 1.
    """
    # One step of the lattice moves the source by ``pixels_per_step``, plus the change of the
    # displacement.
    steps, pixels_per_step = footprints_on_lattice(shape, points.shape[:-1], align_corners)
    scale, _ = scale_and_centre(shape, align_corners)
    slopes = _common_slopes(transform, theta)
    if slopes is None:
        slopes = jnp.stack(
            [_slopes_along(axis, transform, theta, points) for axis in range(len(shape))]
        )
        slopes = jnp.moveaxis(slopes, -1, 1)
    else:
        slopes = jnp.expand_dims(slopes, tuple(range(2, points.ndim + 1)))
    sizes = (
        steps[:, None] * scale[None],
        pixels_per_step[:, None] * np.eye(len(shape)),
    )
    factors, whole = (
        jnp.expand_dims(jnp.asarray(each, slopes.dtype), tuple(range(2, slopes.ndim)))
        for each in sizes
    )
    return slopes * factors + whole


def _common_slopes(transform: Transform, theta: Array) -> Array | None:
    """The derivatives of the displacement if they are the same at all points, as of affine maps.

    Returns:
      ``[axes, coordinates]``, or ``None`` if they differ.
    """
    if transform.homogeneous is None:
        return None
    slopes = jax.jacfwd(transform.displacement, 1)
    points = jnp.zeros((2, transform.ndim), theta.dtype)
    try:
        # Without an axis for its result, ``vmap`` refuses a result that depends on the point.
        common = jax.vmap(slopes, (None, 0), None)(theta, points)
    except ValueError:
        return None
    return common.T


def _slopes_along(axis: int, transform: Transform, theta: Array, points: Array) -> Array:
    """The derivative of the displacement along an axis at points ``[..., n]``."""
    tangent = jnp.broadcast_to(jnp.arange(points.shape[-1]) == axis, points.shape)
    return jax.jvp(
        lambda p: transform.displacement(theta, p), (points,), (tangent.astype(points.dtype),)
    )[1]
