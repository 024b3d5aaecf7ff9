"""Numbers to log of a spatial transformer at every training step."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stn_jax import _checks, diagnostics
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import regular_grid
from stn_jax.transforms import Transform


def monitor(
    transform: Transform,
    theta: Float[AnyArray, "*batch params"],
    output_shape: Sequence[Size],
    *,
    align_corners: bool = False,
) -> dict[str, Float[Array, ""]]:
    """Summarises a batch of transforms in a few numbers, cheap enough for every step.

    Scale and rotation are computed from the mean Jacobian over the lattice: by its determinant, and
    by its polar decomposition into a rotation and a stretch. So they mean the same for every
    family. A theta with a value that is not finite counts in ``nonfinite`` only.

    Args:
      transform: A family of maps from target to source points; for a spatial transformer of several
        steps, its ``composition``.
      theta: Parameters ``[..., num_params]``; of a batch, its first axis is that of the images.
      output_shape: Spatial shape of the output. A coarser one is cheaper, and nearly as exact.
      align_corners: As in :func:`stn_jax.regular_grid`.

    Returns:
      Scalars in float32 or wider, for :func:`diagnose` and any logger; NaN if no theta is finite:

      - ``coverage`` and ``coverage_min``: share of output pixels that read inside the image, its
        mean and its minimum over the batch;
      - ``scale``: length in the input per unit of output, mean; below 1 the output is magnified;
      - ``rotation``: absolute angle in radians, mean;
      - ``distance``: root mean square of ``|T(p) − p|`` in normalised units, mean;
      - ``spread``: how far apart the transforms of different images are: the standard deviation of
        ``T(p)`` over the images in normalised units, root mean square over ``p``. Of several
        transforms of an image, each is compared with the same one of the other images. A batch of
        one image has no spread; it is NaN if only one theta is finite;
      - ``fold``: share of output pixels that show the input folded or mirrored, mean;
      - ``nonfinite``: share of thetas that are not finite.

    Raises:
      ValueError: If the last axis of ``theta`` has the wrong length, or ``output_shape`` does not
        fit the transform.
      TypeError: If ``theta`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from stn_jax import nn as stnn
      >>> theta = jnp.array([[0.5, 0.3, 0.0, 0.0], [0.5, -0.3, 0.0, 0.0]])
      >>> numbers = stnn.monitor(stn.similarity(), theta, (8, 8))
      >>> {name: round(numbers[name].item(), 3) for name in ("coverage", "scale", "rotation")}
      {'coverage': 1.0, 'scale': 0.5, 'rotation': 0.3}

    Reference:
      Polar decomposition: Higham, Functions of Matrices, SIAM 2008, chapter 8. The other numbers
      are those of :mod:`stn_jax.diagnostics`.
    """
    theta = _checks.batch_of_theta(theta, transform.num_params, transform.name)
    shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
    batch = theta.shape[:-1]
    theta = theta.reshape(-1, transform.num_params)
    points = regular_grid(shape, align_corners=align_corners, dtype=theta.dtype)
    finite = jnp.isfinite(theta).all(axis=-1)

    def measures(theta: Array) -> dict[str, Array]:
        options = {"align_corners": align_corners}
        linear = diagnostics.jacobian(transform, theta, points)
        linear = linear.mean(axis=tuple(range(transform.ndim)))
        return {
            "coverage": diagnostics.coverage(transform, theta, shape, **options).fraction,
            "scale": jnp.abs(jnp.linalg.det(linear)) ** (1 / transform.ndim),
            "rotation": _rotation_angle(linear),
            "distance": diagnostics.distance_from_identity(transform, theta, shape, **options),
            "fold": diagnostics.fold_fraction(transform, theta, shape, **options),
        }

    identity = jnp.asarray(transform.identity, theta.dtype)
    theta = jnp.where(finite[:, None], theta, identity)
    each = jax.vmap(measures)(theta)
    record = {name: jnp.mean(values, where=finite) for name, values in each.items()}
    least = jnp.min(each["coverage"], where=finite, initial=jnp.inf)
    record["coverage_min"] = jnp.where(finite.any(), least, jnp.nan)
    record["nonfinite"] = jnp.mean(~finite, dtype=theta.dtype)
    if batch and batch[0] != 1:
        moved = jax.vmap(transform.displacement, in_axes=(0, None))(theta, points)
        moved = moved.reshape(*batch, *points.shape)
        record["spread"] = _spread(moved, finite.reshape(batch), axes=transform.ndim)
    return record


def gradient_norms(grads: Any, labels: Any) -> dict[str, Float[Array, ""]]:
    """The gradient norms of the localization networks and of the rest, to log at every step.

    Args:
      grads: A tree of gradients, from ``nnx.grad`` or ``jax.grad``.
      labels: The tree of :func:`localization_labels`, or that function itself.

    Returns:
      ``gradient_localization`` and ``gradient_rest``: Euclidean norms, in float32 or wider.

    Raises:
      ValueError: If ``labels`` does not have the structure of ``grads``.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import nn as stnn
      >>> grads = {"localization": jnp.array([3.0, 4.0]), "logits": jnp.array([1.0])}
      >>> norms = stnn.gradient_norms(grads, stnn.localization_labels)
      >>> {name: norm.item() for name, norm in norms.items()}
      {'gradient_localization': 5.0, 'gradient_rest': 1.0}

    Reference:
      Training of both networks together: Jaderberg et al., arXiv:1506.02025, section 3.
    """
    labels = labels(grads) if callable(labels) else labels
    squares: dict[str, Any] = {"localization": 0.0, "rest": 0.0}

    def add(label: str, gradient: Any) -> None:
        for leaf in jax.tree.leaves(gradient):
            squares[label] += jnp.sum(_checks.floating("grads", leaf) ** 2)

    try:
        jax.tree.map(add, labels, grads)
    except (ValueError, KeyError) as error:
        raise ValueError(
            "labels must hold 'localization' or 'rest' for each parameter of grads, as "
            f"localization_labels(model) does; got {labels!r} for a gradient of structure "
            f"{jax.tree.structure(grads)}."
        ) from error
    return {f"gradient_{label}": jnp.sqrt(square) for label, square in squares.items()}


def _spread(moved: Array, finite: Array, *, axes: int) -> Array:
    """The standard deviation of points over images, from ``[images, ..., *lattice, n]``.

    Its square is averaged over the rest: where two images or more have finite parameters, and over
    the ``axes`` of the lattice.
    """
    mean = jnp.mean(moved, axis=0, where=finite.reshape(*finite.shape, *(axes + 1) * (1,)))
    squares = jnp.sum((moved - mean) ** 2, axis=-1).mean(axis=tuple(range(-axes, 0)))
    return jnp.sqrt(jnp.mean(squares, where=finite & (finite.sum(axis=0) > 1)))


def _rotation_angle(matrix: Array) -> Array:
    """The absolute angle of the rotation in the polar decomposition of a matrix."""
    if len(matrix) == 2:
        (a, b), (c, d) = matrix
        return jnp.abs(jnp.arctan2(c - b, a + d))
    if len(matrix) == 1:
        return jnp.zeros_like(matrix[0, 0])
    left, _, right = jnp.linalg.svd(matrix)
    # If the matrix mirrors, flip the direction of its smallest singular value to get a rotation.
    turned = left.at[:, -1].multiply(jnp.linalg.det(left @ right))
    rotation = turned @ right
    x, y, z = rotation[2, 1], rotation[0, 2], rotation[1, 0]
    sine = jnp.hypot(jnp.hypot(x - rotation[1, 2], y - rotation[2, 0]), z - rotation[0, 1]) / 2
    return jnp.arctan2(sine, (jnp.trace(rotation) - 1) / 2)
