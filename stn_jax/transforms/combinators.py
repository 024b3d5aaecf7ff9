"""Combinators: functions that make a transform out of others."""

import functools
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.coordinates import by_coordinate
from stn_jax.sampling.backends.cpu_loops import isolate_loop
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform, family
from stn_jax.transforms.matrices import inverse_homogeneous

Number = float | int


def chain(*transforms: Transform | Sequence[Transform]) -> Transform:
    """Composes transforms; they are applied to points in the order given.

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
        raise ValueError("chain needs one or more transforms; got none.")
    parts = [_checks.instance("transforms", t, Transform, "stn_jax.affine()") for t in transforms]
    if len({t.ndim for t in parts}) > 1:
        dimensions = ", ".join(f"{t.name}: {t.ndim}" for t in parts)
        raise ValueError(f"transforms must have the same number of dimensions; got {dimensions}.")
    return _chain(*parts)


def _moved_on(t: Transform, parts: Sequence[Array], points: Array, total: Array | None) -> Array:
    """The total displacement after steps of one family, with ``parts`` as their parameters.

    ``total`` is the displacement before these steps.
    """

    def step(total: Array | None, part: Array) -> Array:
        if total is None:
            return t.displacement(part, points)
        return _added(total, t.displacement(part, _added(points, total)))

    is_linear = t.homogeneous is not None
    # A step uses the previous step's points more than once. XLA on a CPU would fuse the steps and
    # recompute the previous one for each use, so the work would grow exponentially with the steps.
    if total is None or is_linear:
        total = step(total, parts[0])
    else:
        # Store points with coordinates on the first axis: loops over interleaved ones are slow.
        def planar_step(planar: Array, part: Array) -> Array:
            return _coordinates_first(step(jnp.stack(list(planar), axis=-1), part))

        total = jnp.stack(
            list(isolate_loop(planar_step, _coordinates_first(total), parts[0])), axis=-1
        )
    if is_linear:
        return functools.reduce(step, parts[1:], total)
    if len(parts) == 1:
        return total
    rest = jnp.stack(parts[1:])
    return jax.lax.scan(lambda total, part: (step(total, part), None), total, rest)[0]


def _coordinates_first(points: Array) -> Array:
    """The coordinates as the first axis."""
    return jnp.stack(by_coordinate(points))


def _added(points: Array, moved: Array) -> Array:
    """The sum, by coordinate.

    Displacements are stacked coordinates. XLA on a CPU sees through a split of a stack, but not
    through a split of a sum of stacks, which it would store with interleaved coordinates.
    """
    sums = map(jnp.add, by_coordinate(points), by_coordinate(moved))
    return jnp.stack(list(sums), axis=-1)


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
            # Elementwise: a GPU or TPU may round the operands of a matrix product.
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
    """The inverse map as a transform.

    Args:
      transform: Any transform.

    Returns:
      A transform with the same ``theta``, and with ``apply`` and ``invert`` exchanged.

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
    """Makes a transform act in coordinates with the same unit of length along every axis.

    In normalised coordinates every image is a square, so a rotation of these coordinates shears the
    pixels of an image that is not square. This combinator stretches points to the image's shape,
    maps them, and squeezes the result back: ``D⁻¹ T(D p)`` with ``D = diag(aspect, 1)``. So
    ``isotropic(rigid(), aspect=width / height)`` rotates the image without shear.

    Args:
      transform: Any transform.
      aspect: Width over height of the image in pixels, positive; for a volume the pair ``(width /
        depth, height / depth)``. Under ``align_corners=True`` a side is a pixel shorter: ``(width −
        1) / (height − 1)``. If pixels are not square, use physical lengths. A JAX array may be
        traced, batched and differentiated; the sign of a traced one is not checked.

    Returns:
      A transform with the same parameters. Their unit of length is half the height, or half the
      depth of a volume.

    Raises:
      ValueError: If ``aspect`` is not positive or of another length.

    Example:
      A quarter turn moves a point from 10 pixels right of the centre to 10 pixels below it:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.isotropic(stn.rigid(), aspect=128 / 96)
      >>> quarter_turn = jnp.array([jnp.pi / 2, 0.0, 0.0])
      >>> point = stn.normalized_from_pixels(jnp.array([73.5, 47.5]), (96, 128))
      >>> moved = t.apply(quarter_turn, point)
      >>> stn.pixels_from_normalized(moved, (96, 128)).round(1).tolist()
      [63.5, 57.5]

    Reference:
      Change of coordinates of a map: Hartley and Zisserman, Multiple View Geometry in Computer
      Vision, section 2.3.
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
        # Rather than target / stretch(points), whose rounding would spoil the identity: here it is
        # exact.
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

    The parameters become ``identity + radius · tanh((theta − identity) / radius)``, which lies in
    ``identity ± radius`` whatever a network puts out. The identity keeps its parameters, and the
    slope there is 1.

    Args:
      transform: Any transform.
      radius: Half the side of the box, one number or one for each parameter; positive. A JAX array
        may be traced, batched and differentiated; the sign of a traced one is not checked.

    Returns:
      A transform with the same number of parameters.

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
    radii = radius if isinstance(radius, jax.Array) else _checks.float64s("radius", radius)
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
      values: For the index in ``theta`` of each held parameter, its value: a number, or a JAX
        scalar, which may be traced, batched and differentiated.

    Returns:
      A transform of the remaining parameters, in their order. Its ``identity`` holds the identity's
      values of these parameters; they give the identity map only if the held values do, too.

    Raises:
      ValueError: If an index is out of range, or no parameter is left.

    Example:
      Crops of half the size at a learned position:

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
    # For each index in theta, the number of its free parameter; 0 for a held one.
    free = np.where(is_held, 0, np.cumsum(~is_held) - 1)
    held = np.where(is_held, np.cumsum(is_held) - 1, 0)

    def complete(theta: Array) -> Array:
        constants = jnp.asarray(values, theta.dtype)
        return jnp.where(is_held, _in_order(constants, held), _in_order(theta, free))

    return _reparameterised(
        transform, f"fixed({transform.name})", transform.identity[~is_held], complete
    )


def _in_order(vector: Array, order: np.ndarray) -> Array:
    """``vector[order]`` by slices: on a mesh JAX could not derive the sharding of a gather."""
    runs = np.split(order, 1 + np.flatnonzero(np.diff(order) != 1))
    return jnp.concatenate([vector[int(run[0]) : int(run[-1]) + 1] for run in runs])


def _concatenated(identities: Sequence[AnyArray]) -> AnyArray:
    """The identities as one vector, a NumPy array if all of them are."""
    if any(isinstance(each, jax.Array) for each in identities):
        return jnp.concatenate([jnp.asarray(each, jnp.float32) for each in identities])
    return np.concatenate(identities)


def _reparameterised(
    transform: Transform, name: str, identity: AnyArray, parameters: Callable[[Array], Array]
) -> Transform:
    """``transform`` of ``parameters(theta)``, as a transform of ``theta``."""

    def of_theta(function: Any) -> Any:
        """The function of ``theta`` in place of its parameters; ``None`` if there is none."""
        return function and (lambda theta, *rest: function(parameters(theta), *rest))

    return Transform(
        name=name,
        ndim=transform.ndim,
        identity=identity,
        displacement=of_theta(transform.displacement),
        inverse=of_theta(transform.inverse),
        homogeneous=of_theta(transform.homogeneous),
        affine_change=of_theta(transform.affine_change),
        lattice_displacement=of_theta(transform.lattice_displacement),
    )
