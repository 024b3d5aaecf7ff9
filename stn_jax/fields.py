"""Dense fields of offsets: composition, inversion, exponentials, Jacobians.

A field is an array ``[*space, n]``: for every pixel of an output, the offset ``(x, y)`` or ``(x, y,
z)`` in normalised coordinates to the point that it reads. Ravelled it is the ``theta`` of
:func:`stn_jax.flow` for that lattice; it is interpolated linearly between pixel centres, and
constant beyond the outermost ones. :mod:`stn_jax.conversions` converts fields in pixels or in
millimetres. All functions are pure and take one field; batch with ``jax.vmap``.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._pixel_units import checked_field
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import footprints_on_lattice, regular_grid
from stn_jax.transforms.base import Transform, displacement_on_lattice
from stn_jax.transforms.combinators import chain
from stn_jax.transforms.displacement import flow, stationary_velocity

__all__ = ["compose", "exponential", "from_transform", "inverse", "jacobian", "log_abs_det"]

Field = Float[AnyArray, "*space n"]


def from_transform(
    transform: Transform,
    theta: Float[AnyArray, " params"],
    shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> Float[Array, "*space n"]:
    """The field of any transform: its displacement of every pixel.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      shape: Spatial shape of the field.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      ``[*shape, n]``, in float32 or wider.

    Raises:
      ValueError: If ``theta`` or ``shape`` does not fit the transform.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import fields
      >>> zoom = jnp.array([0.5, 0.0, 0.0])
      >>> fields.from_transform(stn.attention(), zoom, (1, 2))[0, :, 0].tolist()
      [0.25, -0.25]
    """
    theta = transform.check_theta(theta)
    shape = _checks.spatial_shape("shape", shape, transform.ndim)
    return displacement_on_lattice(transform, theta, shape, align_corners=align_corners)


def compose(
    first: Field, second: Float[AnyArray, "*other n"], *, align_corners: bool = False
) -> Float[Array, "*space n"]:
    """The field of one map after another: ``u(p) + v(p + u(p))``.

    Args:
      first: ``u``, ``[*space, n]``, applied first, to points of the output.
      second: ``v``, ``[*other, n]``, on a lattice of any shape.
      align_corners: As in :func:`stn_jax.flow`, for both.

    Returns:
      ``[*space, n]``, what :func:`stn_jax.chain` of both does at the pixels of ``first``.

    Raises:
      ValueError: If a field is not ``[*space, n]`` with n spatial axes, or they differ in n.
      TypeError: If a field is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import fields
      >>> a, b = jnp.full((4, 5, 2), 0.25), jnp.full((3, 3, 2), -0.125)
      >>> fields.compose(a, b)[0, 0].tolist()
      [0.125, 0.125]

    Reference:
      Vercauteren et al., Diffeomorphic demons: Efficient non-parametric image registration,
      NeuroImage 45(1), 2009.
    """
    fields = [_known_field(name, each) for name, each in (("first", first), ("second", second))]
    if fields[0].shape[-1] != fields[1].shape[-1]:
        raise ValueError(
            "first and second must have the same number of coordinates; got shapes "
            f"{fields[0].shape} and {fields[1].shape}."
        )
    both = _checks.common_dtype(*fields)
    maps = [flow(each.shape[:-1], align_corners=align_corners) for each in both]
    theta = jnp.concatenate([each.ravel() for each in both])
    return from_transform(chain(*maps), theta, both[0].shape[:-1], align_corners=align_corners)


def inverse(field: Field, *, align_corners: bool = False) -> Float[Array, "*space n"]:
    """The field of the inverse map, found by Newton's method for every pixel.

    Args:
      field: ``[*space, n]``.
      align_corners: As in :func:`stn_jax.flow`.

    Returns:
      ``[*space, n]``; NaN where the map folds, so that it has no inverse. For an inverse ``back``,
      ``compose(back, field)`` is 0 up to rounding; ``compose(field, back)`` is 0 up to the error of
      interpolating ``back``.

    Raises:
      ValueError: If ``field`` is not ``[*space, n]`` with n spatial axes.
      TypeError: If ``field`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import fields
      >>> fields.inverse(jnp.full((4, 5, 2), 0.25))[1, 2].tolist()
      [-0.25, -0.25]

    Reference:
      Chen et al., A simple fixed-point approach to invert a deformation field, Medical Physics
      35(1), 2008, where the iteration takes no derivatives.
    """
    field = _known_field("field", field)
    shape = field.shape[:-1]
    points = regular_grid(shape, align_corners=align_corners, dtype=field.dtype)
    transform = flow(shape, align_corners=align_corners)
    return transform.invert(field.ravel(), points) - points


def exponential(
    velocity: Field, *, squarings: int = 7, align_corners: bool = False
) -> Float[Array, "*space n"]:
    """The field of the flow for unit time along a stationary velocity field.

    Args:
      velocity: ``[*space, n]``, in normalised units.
      squarings: As in :func:`stn_jax.stationary_velocity`, which computes it.
      align_corners: As in :func:`stn_jax.flow`.

    Returns:
      ``[*space, n]``; ``exponential(-velocity)`` is approximately its inverse.

    Raises:
      ValueError: If ``velocity`` is not ``[*space, n]``, or ``squarings`` is negative.
      TypeError: If ``velocity`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import fields
      >>> fields.exponential(jnp.full((4, 5, 2), 0.25))[1, 2].tolist()
      [0.25, 0.25]

    Reference:
      Arsigny et al., A log-Euclidean framework for statistics on diffeomorphisms, MICCAI 2006,
      algorithm 2.
    """
    velocity = _known_field("velocity", velocity)
    shape = velocity.shape[:-1]
    transform = stationary_velocity(shape, squarings=squarings, align_corners=align_corners)
    return from_transform(transform, velocity.ravel(), shape, align_corners=align_corners)


def jacobian(field: Field, *, align_corners: bool = False) -> Float[Array, "*space n n"]:
    """The Jacobian ``∂T_i/∂p_j`` of the map at every pixel, by differences between pixels.

    Central differences, and one-sided ones at the borders, as NumPy's ``gradient`` and
    VoxelMorph take them. :func:`stn_jax.diagnostics.jacobian` of :func:`stn_jax.flow` is the
    derivative of the interpolated field, which at a pixel is the difference to the next.

    Args:
      field: ``[*space, n]``, with at least 2 pixels along each axis.
      align_corners: As in :func:`stn_jax.flow`.

    Returns:
      ``[*space, n, n]``, in normalised units; row ``i`` holds the derivatives of coordinate ``i``.

    Raises:
      ValueError: If ``field`` is not ``[*space, n]``, or an axis has one pixel.
      TypeError: If ``field`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import fields
      >>> theta = jnp.array([1.0, 0.5, 0.0, 0.0, 2.0, 0.0])
      >>> field = fields.from_transform(stn.affine(), theta, (4, 4))
      >>> fields.jacobian(field)[1, 2].tolist()
      [[1.0, 0.5], [0.0, 2.0]]
    """
    field = _known_field("field", field)
    shape = field.shape[:-1]
    if min(shape) < 2:
        raise ValueError(
            "field must have at least 2 pixels along each axis, between which to take differences; "
            f"got shape {field.shape}."
        )
    steps, _ = footprints_on_lattice(shape, shape, align_corners)
    columns = [
        _difference(field, len(shape) - 1 - k) / jnp.asarray(step, field.dtype)
        for k, step in enumerate(steps)
    ]
    own = jnp.eye(len(shape), dtype=field.dtype)[(None,) * len(shape)]
    return jnp.stack(columns, axis=-1) + own


def log_abs_det(field: Field, *, align_corners: bool = False) -> Float[Array, "*space"]:
    """``log |det ∂T/∂p|`` at every pixel, by :func:`jacobian`; −inf where the map is singular.

    It does not depend on units if input and output have one shape.

    Args:
      field: As in :func:`jacobian`.
      align_corners: As in :func:`jacobian`.

    Returns:
      ``[*space]``, in float32 or wider.

    Raises:
      ValueError, TypeError: As :func:`jacobian`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import fields
      >>> fields.log_abs_det(jnp.full((4, 5, 2), 0.25)).max().item()
      0.0
    """
    return jnp.log(jnp.abs(jnp.linalg.det(jacobian(field, align_corners=align_corners))))


def _known_field(name: str, field: Field) -> Array:
    """Checks a field, whose sizes must be numbers."""
    return checked_field(name, field, may_be_symbolic=False)[0]


def _difference(field: Array, axis: int) -> Array:
    """The change from pixel to pixel along an axis."""

    def part(start: int, stop: int | None) -> Array:
        return jax.lax.slice_in_dim(field, start, stop, axis=axis)

    size = field.shape[axis]
    inner = (part(2, None) - part(0, size - 2)) / 2
    first, last = part(1, 2) - part(0, 1), part(size - 1, None) - part(size - 2, size - 1)
    return jnp.concatenate([first, inner, last], axis=axis)
