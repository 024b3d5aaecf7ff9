"""Combinators: transforms in, transform out."""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax.transforms.base import Transform, cached_family
from stn_jax.transforms.linear import inverse_homogeneous

Number = float | int


@cached_family
def chain(*transforms: Transform) -> Transform:
    """Composes transforms: points pass them in the order given.

    ``chain(a, b)`` maps a target point by ``a`` and the result by ``b``, so that
    ``warp(image, chain(a, b), theta)`` is ``warp(warp(image, b, theta_b), a, theta_a)`` with one
    resampling instead of two.

    Args:
      *transforms: One or more transforms of the same number of dimensions.

    Returns:
      A transform whose ``theta`` is the concatenation of theirs, in the same order. It has a matrix
      if all of them do.

    Raises:
      ValueError: If there is none, or their dimensions differ.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.chain(stn.translation(), stn.attention())
      >>> theta = jnp.array([0.5, 0.0, 2.0, 0.0, 0.0])  # shift, then double
      >>> t.apply(theta, jnp.array([0.25, 0.0])).tolist()
      [1.5, 0.0]

    Reference:
      Lin and Lucey, Inverse Compositional Spatial Transformer Networks, arXiv:1612.03897.
    """
    if not transforms:
        raise ValueError("chain must be given one or more transforms; got none.")
    if len({t.ndim for t in transforms}) > 1:
        dimensions = ", ".join(f"{t.name}: {t.ndim}" for t in transforms)
        raise ValueError(f"transforms must have the same number of dimensions; got {dimensions}.")
    ends = np.cumsum([t.num_params for t in transforms])[:-1].tolist()

    def displacement(theta: Array, points: Array) -> Array:
        total = jnp.zeros_like(points)
        for t, part in zip(transforms, jnp.split(theta, ends), strict=True):
            total = total + t.displacement(part, points + total)
        return total

    def inverse(theta: Array, points: Array) -> Array:
        parts = jnp.split(theta, ends)
        for t, part in zip(reversed(transforms), reversed(parts), strict=True):
            points = t.inverse(part, points)
        return points

    def homogeneous(theta: Array) -> Array:
        product = jnp.eye(transforms[0].ndim + 1, dtype=theta.dtype)
        for t, part in zip(transforms, jnp.split(theta, ends), strict=True):
            # Elementwise, since a matrix product may be rounded to fewer digits on a GPU or TPU.
            product = (t.matrix(part)[:, :, None] * product).sum(axis=1)
        return product

    return Transform(
        name=f"chain({', '.join(t.name for t in transforms)})",
        ndim=transforms[0].ndim,
        identity=np.concatenate([t.identity for t in transforms]),
        displacement=displacement,
        inverse=inverse,
        homogeneous=homogeneous if all(t.homogeneous for t in transforms) else None,
    )


@cached_family
def inverse(transform: Transform) -> Transform:
    """The inverse map as a transform of its own.

    Args:
      transform: Any transform.

    Returns:
      A transform with the same ``theta`` whose ``apply`` is the other's ``invert`` and the other
      way round.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> zoom_out = stn.inverse(stn.attention())
      >>> zoom_out.apply(jnp.array([0.5, 0.0, 0.0]), jnp.array([0.25, 0.0])).tolist()
      [0.5, 0.0]

    Reference:
      Baker and Matthews, Lucas-Kanade 20 Years On, 2004, section 3.2.
    """

    def homogeneous(theta: Array) -> Array:
        return inverse_homogeneous(transform.matrix(theta))

    return Transform(
        name=f"inverse({transform.name})",
        ndim=transform.ndim,
        identity=transform.identity,
        displacement=lambda theta, points: transform.inverse(theta, points) - points,
        inverse=lambda theta, points: points + transform.displacement(theta, points),
        homogeneous=homogeneous if transform.homogeneous else None,
    )


def bounded(transform: Transform, *, radius: Number | Sequence[Number]) -> Transform:
    """Keeps the parameters of a transform in a box around the identity.

    The raw ``theta`` is squashed smoothly onto ``identity ± radius`` by
    ``identity + radius · tanh((theta − identity) / radius)``: the identity stays where it is, with
    slope 1, and no output of a network can run away.

    Args:
      transform: Any transform.
      radius: Half the side of the box, one number or one for each parameter; positive.

    Returns:
      A transform with as many parameters.

    Raises:
      ValueError: If ``radius`` is not positive or of another length.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.bounded(stn.translation(), radius=0.5)
      >>> t.apply(jnp.array([100.0, 0.0]), jnp.zeros(2)).tolist()
      [0.5, 0.0]

    Reference:
      The tanh reparameterisation is standard; bounds for spatial transformers are discussed by
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.2.
    """
    radii = np.array(radius, np.float64)
    if radii.shape not in ((), (transform.num_params,)) or not (radii > 0).all():
        raise ValueError(
            f"radius must be positive, one number or one for each of the {transform.num_params} "
            f"parameters of {transform.name}; got {radius!r}."
        )
    return _bounded(transform, tuple(np.broadcast_to(radii, transform.num_params).tolist()))


@cached_family
def _bounded(transform: Transform, radius: tuple[float, ...]) -> Transform:
    def squash(theta: Array) -> Array:
        centre = jnp.asarray(transform.identity, theta.dtype)
        radii = jnp.asarray(radius, theta.dtype)
        return centre + radii * jnp.tanh((theta - centre) / radii)

    return _reparameterised(transform, f"bounded({transform.name})", transform.identity, squash)


def fixed(transform: Transform, values: Mapping[int, Number]) -> Transform:
    """Holds some parameters of a transform constant.

    Args:
      transform: Any transform.
      values: The constant value of each held parameter, by its index in ``theta``.

    Returns:
      A transform of the other parameters, in their order. Its ``identity`` is theirs: the neutral
      parameters, which give the identity only where the held values do.

    Raises:
      ValueError: If an index is out of range, or no parameter is left.

    Example:
      Crops of half the size, at places to be learnt:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> crop = stn.fixed(stn.attention(), {0: 0.5})
      >>> crop.num_params
      2
      >>> crop.apply(jnp.array([0.25, 0.0]), jnp.array([1.0, 1.0])).tolist()
      [0.75, 0.5]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 4.3.
    """
    wrong = [index for index in values if index not in range(transform.num_params)]
    if wrong or len(values) >= transform.num_params:
        raise ValueError(
            f"values must name some, not all, of the parameters 0 to {transform.num_params - 1} of "
            f"{transform.name}; got {dict(values)}."
        )
    return _fixed(transform, tuple(sorted((i, float(v)) for i, v in values.items())))


@cached_family
def _fixed(transform: Transform, values: tuple[tuple[int, float], ...]) -> Transform:
    held = dict(values)
    free = [index for index in range(transform.num_params) if index not in held]

    def complete(theta: Array) -> Array:
        given = dict(zip(free, theta, strict=True))
        whole = [given.get(i, held.get(i)) for i in range(transform.num_params)]
        return jnp.stack([jnp.asarray(value, theta.dtype) for value in whole])

    return _reparameterised(
        transform, f"fixed({transform.name})", transform.identity[free], complete
    )


def _reparameterised(
    transform: Transform, name: str, identity: np.ndarray, parameters: Callable[[Array], Array]
) -> Transform:
    """A transform of other parameters, from which those of ``transform`` follow."""
    matrix = transform.homogeneous
    return Transform(
        name=name,
        ndim=transform.ndim,
        identity=identity,
        displacement=lambda theta, points: transform.displacement(parameters(theta), points),
        inverse=lambda theta, points: transform.inverse(parameters(theta), points),
        homogeneous=(lambda theta: matrix(parameters(theta))) if matrix else None,
    )
