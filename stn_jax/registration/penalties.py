"""Penalties on maps: their bending energy, and how far two maps are from being inverse."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import regular_grid
from stn_jax.transforms.base import Transform


def bending_energy(
    transform: Transform,
    theta: Float[AnyArray, " params"],
    output_shape: Sequence[int],
    *,
    align_corners: bool = False,
) -> Float[Array, ""]:
    """The mean over a lattice of ``Σ (∂²T_k / ∂p_i ∂p_j)²``; 0 for an affine map.

    The derivatives are central differences between neighbours of the lattice, so the energy also
    sees the kinks of a dense flow.

    Args:
      transform: A family of maps from target to source points.
      theta: Its parameters, ``[num_params]``.
      output_shape: Spatial shape of the lattice, at least 3 along each axis.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      A number in normalised units: a second derivative of 1 bends a line through the image by a
      quarter of its height.

    Raises:
      ValueError: If ``theta`` has the wrong length, or the lattice is too small.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import registration
      >>> parabola = stn.Transform(
      ...     name="parabola",
      ...     ndim=2,
      ...     identity=jnp.zeros(1),
      ...     displacement=lambda theta, p: theta[0] * p**2 / 2,
      ...     inverse=lambda theta, p: p,
      ... )
      >>> energy = registration.bending_energy(parabola, jnp.array([2.0]), (16, 16))
      >>> round(energy.item(), 3)  # 2² of x along x, and 2² of y along y
      8.0

    Reference:
      Rueckert et al., Nonrigid registration using free-form deformations, IEEE TMI 18(8), 1999,
      equation 4.
    """
    return jnp.sum(bending_residuals(transform, theta, output_shape, align_corners) ** 2)


def bending_residuals(
    transform: Transform, theta: AnyArray, output_shape: Sequence[int], align_corners: bool
) -> Array:
    """The numbers whose squares sum to the bending energy."""
    theta = transform.check_theta(theta)
    n = transform.ndim
    shape = _checks.spatial_shape("output_shape", output_shape, n, may_be_symbolic=False)
    if min(shape) < 3:
        raise ValueError(
            "output_shape must be at least 3 along each axis, since second differences need three "
            f"neighbours; got {shape}."
        )
    points = regular_grid(shape, align_corners=align_corners, dtype=theta.dtype)
    # The second derivatives of the map are those of its displacement.
    moved = transform.displacement(theta, points)
    spacing = [2 / (size - align_corners) for size in shape]
    pieces = []
    for i in range(len(shape)):
        for j in range(i, len(shape)):
            if i == j:
                second = jnp.diff(_interior(moved, i), n=2, axis=i) / spacing[i] ** 2
            else:
                slope = (_all_but_first_two(moved, i) - _all_but_last_two(moved, i)) / (
                    2 * spacing[i]
                )
                second = (_all_but_first_two(slope, j) - _all_but_last_two(slope, j)) / (
                    2 * spacing[j]
                )
                second = _interior(second, i, j)
            pieces.append(second.ravel() * (1 if i == j else 2**0.5))
    inner = math.prod(size - 2 for size in shape)
    return jnp.concatenate(pieces) / math.sqrt(inner)


def _all_but_last_two(values: Array, axis: int) -> Array:
    return jnp.take(values, jnp.arange(values.shape[axis] - 2), axis=axis)


def _all_but_first_two(values: Array, axis: int) -> Array:
    return jnp.take(values, jnp.arange(2, values.shape[axis]), axis=axis)


def _interior(values: Array, *except_axes: int) -> Array:
    """Drops the first and the last point along each spatial axis but ``except_axes``."""
    index = tuple(
        slice(None) if axis in except_axes else slice(1, -1) for axis in range(values.ndim - 1)
    )
    return values[index]


def inverse_consistency(
    transform: Transform,
    theta: Float[AnyArray, " params"],
    backward: Float[AnyArray, " params"],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> Float[Array, ""]:
    """How far two maps are from being inverse to each other.

    The mean of ``‖B(A(p)) − p‖²`` over a lattice of points ``p``, plus that of ``‖A(B(p)) − p‖²``.

    Args:
      transform: The family of both maps.
      theta: Parameters of the map ``A``, ``[num_params]``.
      backward: Parameters of the map ``B``, ``[num_params]``.
      output_shape: Spatial shape of the lattice of points ``p``.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      The sum of the two means, in the square of normalised units.

    Raises:
      ValueError: If a vector of parameters has the wrong length, or the shape does not fit.
      TypeError: If one is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import registration
      >>> theta, backward = jnp.array([0.5, 0.0]), jnp.array([-0.25, 0.0])
      >>> registration.inverse_consistency(stn.translation(), theta, backward, (4, 4)).item()
      0.125

    Reference:
      Christensen and Johnson, Consistent image registration, IEEE TMI 20(7), 2001.
    """
    residuals = consistency_residuals(transform, theta, backward, output_shape, align_corners)
    return jnp.sum(residuals**2)


def consistency_residuals(
    transform: Transform,
    theta: AnyArray,
    backward: AnyArray,
    output_shape: Sequence[Size],
    align_corners: bool,
) -> Array:
    """The numbers whose squares sum to the inverse consistency."""
    theta, backward = transform.check_theta(theta), transform.check_theta(backward)
    shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
    points = regular_grid(shape, align_corners=align_corners, dtype=theta.dtype)
    number = jnp.asarray(math.prod(shape)).astype(theta.dtype)
    pieces = []
    for first, second in ((theta, backward), (backward, theta)):
        moved = transform.displacement(first, points)
        pieces.append((moved + transform.displacement(second, points + moved)).ravel())
    return jnp.concatenate(pieces) / jnp.sqrt(number)
