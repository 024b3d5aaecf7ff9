"""Combinators: transforms in, transform out."""

import functools
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.sampling.backends.cpu_loops import isolate_loop
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform, family
from stn_jax.transforms.linear import inverse_homogeneous

Number = float | int


def chain(*transforms: Transform | Sequence[Transform]) -> Transform:
    """Composes transforms: points pass them in the order given.

    ``chain(a, b)`` maps a target point by ``a`` and the result by ``b``, so that
    ``warp(image, chain(a, b), theta)`` is ``warp(warp(image, b, theta_b), a, theta_a)`` with one
    resampling instead of two.

    Args:
      *transforms: One or more transforms of the same number of dimensions, or one sequence of them.

    Returns:
      A transform whose ``theta`` is the concatenation of theirs, in the same order. It has a matrix
      if all of them do.

    Raises:
      ValueError: If there is none, or their dimensions differ.
      TypeError: If one is not a transform.

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
    if len(transforms) == 1 and isinstance(transforms[0], Sequence):
        transforms = tuple(transforms[0])
    if not transforms:
        raise ValueError("chain must be given one or more transforms; got none.")
    parts = [_checks.instance("transforms", t, Transform, "stn_jax.affine()") for t in transforms]
    if len({t.ndim for t in parts}) > 1:
        dimensions = ", ".join(f"{t.name}: {t.ndim}" for t in parts)
        raise ValueError(f"transforms must have the same number of dimensions; got {dimensions}.")
    return _chain(*parts)


def _moved_on(t: Transform, parts: Sequence[Array], points: Array, total: Array | None) -> Array:
    """How far points are displaced after further steps of one family, of parameters ``parts``."""

    def step(total: Array | None, part: Array) -> Array:
        if total is None:
            return t.displacement(part, points)
        return total + t.displacement(part, points + total)

    is_linear = t.homogeneous is not None
    # A step uses the points of the last one more than once. XLA on the CPU would fuse both and
    # compute the last one again for each use: the work would grow exponentially with the steps.
    if total is None or is_linear:
        total = step(total, parts[0])
    else:
        total = isolate_loop(step, total, parts[0])
    if is_linear:
        return functools.reduce(step, parts[1:], total)
    if len(parts) == 1:
        return total
    rest = jnp.stack(parts[1:])
    return jax.lax.scan(lambda total, part: (step(total, part), None), total, rest)[0]


@family
def _chain(*transforms: Transform) -> Transform:
    ends = np.cumsum([t.num_params for t in transforms])[:-1].tolist()

    runs = [(t, len(list(run))) for t, run in itertools.groupby(transforms)]

    def displacement(theta: Array, points: Array) -> Array:
        parts = iter(jnp.split(theta, ends))
        total = None
        for t, number in runs:
            total = _moved_on(t, list(itertools.islice(parts, number)), points, total)
        return typing.cast(Array, total)

    def inverse(theta: Array, points: Array) -> Array:
        parts = jnp.split(theta, ends)
        for t, part in zip(reversed(transforms), reversed(parts), strict=True):
            points = t.inverse(part, points)
        return points

    def homogeneous(theta: Array) -> Array:
        product = jnp.eye(transforms[0].ndim + 1, dtype=theta.dtype)
        for t, part in zip(transforms, jnp.split(theta, ends), strict=True):
            # Elementwise, since a matrix product may be rounded to fewer digits on a GPU or TPU.
            product = (t.matrix(part)[:, :, None] * product[None]).sum(axis=1)
        return product

    return Transform(
        name=f"chain({', '.join(t.name for t in transforms)})",
        ndim=transforms[0].ndim,
        identity=_concatenated([t.identity for t in transforms]),
        displacement=displacement,
        inverse=inverse,
        homogeneous=homogeneous if all(t.homogeneous for t in transforms) else None,
    )


@family
def inverted(transform: Transform) -> Transform:
    """The inverse map as a transform of its own.

    Args:
      transform: Any transform.

    Returns:
      A transform with the same ``theta`` whose ``apply`` is the other's ``invert`` and the other
      way round.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> zoom_out = stn.inverted(stn.attention())
      >>> zoom_out.apply(jnp.array([0.5, 0.0, 0.0]), jnp.array([0.25, 0.0])).tolist()
      [0.5, 0.0]

    Reference:
      Baker and Matthews, Lucas-Kanade 20 Years On, 2004, section 3.2.
    """

    def homogeneous(theta: Array) -> Array:
        return inverse_homogeneous(transform.matrix(theta))

    return Transform(
        name=f"inverted({transform.name})",
        ndim=transform.ndim,
        identity=transform.identity,
        displacement=lambda theta, points: transform.inverse(theta, points) - points,
        inverse=lambda theta, points: points + transform.displacement(theta, points),
        homogeneous=homogeneous if transform.homogeneous else None,
    )


def isotropic(transform: Transform, *, aspect: Number | Sequence[Number] | AnyArray) -> Transform:
    """Makes a transform act where a unit is as long along every axis, as it is in pixels.

    In normalised coordinates an image is a square, whatever its shape: a rotation of them shears
    the pixels of an image that is not one. The combinator stretches points to the image's shape,
    maps them, and squeezes the result back: ``D⁻¹ T(D p)`` with ``D = diag(aspect, 1)``. So
    ``isotropic(rigid(), aspect=width / height)`` rotates pixels.

    Args:
      transform: Any transform.
      aspect: Width over height of the image in pixels, positive; of a volume the pair ``(width /
        depth, height / depth)``. Under ``align_corners=True`` a side is a pixel shorter: ``(width −
        1) / (height − 1)``. Where pixels are not square, lengths are meant. A JAX array may be
        traced, batched and differentiated; while it is traced its sign is not checked.

    Returns:
      A transform with the same parameters, which count in units of the last axis: half the height,
      or half the depth of a volume.

    Raises:
      ValueError: If ``aspect`` is not positive or of another length.

    Example:
      A quarter of a turn takes what is 10 pixels right of the centre to 10 pixels below it:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.isotropic(stn.rigid(), aspect=128 / 96)
      >>> quarter_turn = jnp.array([jnp.pi / 2, 0.0, 0.0])
      >>> point = stn.normalized_from_pixels(jnp.array([73.5, 47.5]), (96, 128))
      >>> moved = t.apply(quarter_turn, point)
      >>> stn.pixels_from_normalized(moved, (96, 128)).round(1).tolist()
      [63.5, 57.5]

    Reference:
      The similarity of a map under a change of coordinates: Hartley and Zisserman, Multiple View
      Geometry in Computer Vision, section 2.3.
    """
    return _isotropic(transform, _checks.aspect(aspect, transform.ndim))


@family
def _isotropic(transform: Transform, lengths: AnyArray) -> Transform:
    def stretch(points: Array) -> Array:
        return matrices.with_rank(jnp.asarray(lengths, points.dtype), points.ndim)

    def displacement(theta: Array, points: Array) -> Array:
        return transform.displacement(theta, points * stretch(points)) / stretch(points)

    def inverse(theta: Array, points: Array) -> Array:
        target = transform.inverse(theta, points * stretch(points))
        # Not the difference of two products, which compilers round in more than one way: here the
        # identity is exact.
        moved = points - transform.displacement(theta, target) / stretch(points)
        return jnp.where(jnp.isnan(target), target, moved)

    def homogeneous(theta: Array) -> Array:
        sides = jnp.asarray(lengths, theta.dtype)
        sides = jnp.concatenate([sides, jnp.ones_like(sides[:1])])
        return transform.matrix(theta) * sides[None] / sides[:, None]

    return Transform(
        name=f"isotropic({transform.name})",
        ndim=transform.ndim,
        identity=transform.identity,
        displacement=displacement,
        inverse=inverse,
        homogeneous=homogeneous if transform.homogeneous else None,
    )


def bounded(transform: Transform, *, radius: Number | Sequence[Number] | AnyArray) -> Transform:
    """Keeps the parameters of a transform in a box around the identity.

    The raw ``theta`` is squashed smoothly onto ``identity ± radius`` by
    ``identity + radius · tanh((theta − identity) / radius)``: the identity stays where it is, with
    slope 1, and no output of a network can run away.

    Args:
      transform: Any transform.
      radius: Half the side of the box, one number or one for each parameter; positive. A JAX array
        may be traced, batched and differentiated; while it is traced its sign is not checked.

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
    size = transform.num_params
    radii = radius if isinstance(radius, jax.Array) else np.array(radius, np.float64)
    known = not isinstance(radii, jax.core.Tracer)
    if radii.shape not in ((), (size,)) or (known and not (np.asarray(radii) > 0).all()):
        raise ValueError(
            f"radius must be positive, one number or one for each of the {size} "
            f"parameters of {transform.name}; got {radius!r}."
        )
    if isinstance(radii, jax.Array):
        return _bounded(transform, jnp.broadcast_to(_checks.as_float(radii), size))
    return _bounded(transform, np.broadcast_to(radii, size))


@family
def _bounded(transform: Transform, radius: AnyArray) -> Transform:
    def squash(theta: Array) -> Array:
        centre = jnp.asarray(transform.identity, theta.dtype)
        radii = jnp.asarray(radius, theta.dtype)
        return centre + radii * jnp.tanh((theta - centre) / radii)

    return _reparameterised(transform, f"bounded({transform.name})", transform.identity, squash)


def fixed(transform: Transform, values: Mapping[int, Number | AnyArray]) -> Transform:
    """Holds some parameters of a transform constant.

    Args:
      transform: Any transform.
      values: The constant value of each held parameter, by its index in ``theta``: a number, or a
        JAX array without axes, which may be traced, batched and differentiated.

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
    indices = tuple(sorted(int(index) for index in values))
    held = [values[index] for index in indices]
    if any(np.shape(value) != () for value in held):
        raise ValueError(
            f"values must hold one number for each held parameter of {transform.name}; got "
            f"{dict(values)}. Batch with jax.vmap."
        )
    if not any(isinstance(value, jax.Array) for value in held):
        return _fixed(transform, indices, np.array(held, np.float64))
    arrays = [_checks.as_float(value) for value in held if isinstance(value, jax.Array)]
    dtype = jnp.result_type(*arrays)
    return _fixed(transform, indices, jnp.stack([jnp.asarray(value, dtype) for value in held]))


@family
def _fixed(transform: Transform, indices: tuple[int, ...], values: AnyArray) -> Transform:
    is_held = np.isin(np.arange(transform.num_params), indices)
    # Which free parameter stands at each place; any one where a value is held.
    free = np.where(is_held, 0, np.cumsum(~is_held) - 1)
    held = np.where(is_held, np.cumsum(is_held) - 1, 0)

    def complete(theta: Array) -> Array:
        constants = jnp.asarray(values, theta.dtype)
        return jnp.where(is_held, _in_order(constants, held), _in_order(theta, free))

    return _reparameterised(
        transform, f"fixed({transform.name})", transform.identity[~is_held], complete
    )


def _in_order(vector: Array, order: np.ndarray) -> Array:
    """``vector[order]`` as slices: a gather would not know how to shard its result."""
    runs = np.split(order, 1 + np.flatnonzero(np.diff(order) != 1))
    return jnp.concatenate([vector[int(run[0]) : int(run[-1]) + 1] for run in runs])


def _concatenated(identities: Sequence[AnyArray]) -> AnyArray:
    """One vector; NumPy's where all of them are."""
    if any(isinstance(each, jax.Array) for each in identities):
        return jnp.concatenate([jnp.asarray(each, jnp.float32) for each in identities])
    return np.concatenate(identities)


def _reparameterised(
    transform: Transform, name: str, identity: AnyArray, parameters: Callable[[Array], Array]
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
