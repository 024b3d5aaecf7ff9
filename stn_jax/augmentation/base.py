"""The record of a random transform, and functions that make one out of others."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks, _records
from stn_jax._types import AnyArray
from stn_jax.transforms.base import Transform
from stn_jax.transforms.combinators import chain


@_records.register
@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Augmentation(_records.Record):
    """A transform whose parameters are drawn from a key.

    It is a frozen record of pure functions, like a :class:`stn_jax.Transform`: it is compared,
    hashed, copied and pickled by the function that made it and its arguments, may be a static
    argument of ``jax.jit``, and is a pytree whose leaves are the JAX arrays among its arguments,
    such as a traced range.

    An augmentation knows the shape of its input, so that lengths are in pixels and rotations turn
    pixels without shear on images that are not square. Its transform maps output to input points,
    as all transforms do; so points and boxes move by the inverse. Normalised coordinates are those
    of ``align_corners=False``.

    Attributes:
      name: Name for messages.
      transform: The family of maps, normalised coordinates.
      draw: ``key -> theta``, the parameters of one map, ``[transform.num_params]``. Draw many with
        ``jax.vmap`` over keys.
      image_shape: Spatial shape of the input, ``(height, width)`` or ``(depth, height, width)``.
      output_shape: Spatial shape of the output.

    Example:
      One of your own, a shift by whole turns of a panorama:

      >>> import jax
      >>> import stn_jax as stn
      >>> turn = stn.augmentation.Augmentation(
      ...     name="turn",
      ...     transform=stn.translation(),
      ...     draw=lambda key: jax.random.uniform(key, (2,), minval=-1) * jax.numpy.array([1.0, 0]),
      ...     image_shape=(64, 256),
      ...     output_shape=(64, 256),
      ... )
      >>> turn.draw(jax.random.key(0)).shape
      (2,)

    Reference:
      Simard et al., Best practices for convolutional neural networks applied to visual document
      analysis, ICDAR 2003.
    """

    name: str
    transform: Transform
    draw: Callable[[Array], Array]
    image_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def _summary(self) -> str:
        return f"{self.name}: {self.image_shape} to {self.output_shape}"


def compose(*augmentations: Augmentation | Sequence[Augmentation]) -> Augmentation:
    """Augmentations one after the other; the image is resampled once.

    Args:
      *augmentations: One or more, or one sequence of them, in the order in which they act on the
        image. Each takes an input of the shape that the one before gives.

    Returns:
      An augmentation whose transform is :func:`stn_jax.chain` of theirs, last first, since
      transforms map output to input points. Each gets a key of its own.

    Raises:
      ValueError: If there is none, or shapes do not follow one another.
      TypeError: If one is not an augmentation.

    Example:
      >>> import jax
      >>> from stn_jax import augmentation as aug
      >>> both = aug.compose(
      ...     aug.random_affine((48, 64), angle=(-0.2, 0.2)), aug.random_crop((48, 64), (32, 32))
      ... )
      >>> both.output_shape, both.draw(jax.random.key(0)).shape
      ((32, 32), (12,))

    Reference:
      Lin and Lucey, Inverse Compositional Spatial Transformer Networks, arXiv:1612.03897.
    """
    if len(augmentations) == 1 and isinstance(augmentations[0], Sequence):
        augmentations = tuple(augmentations[0])
    if not augmentations:
        raise ValueError("compose needs one or more augmentations; got none.")
    parts = [_checks.instance("augmentations", a, Augmentation, _EXAMPLE) for a in augmentations]
    for first, second in itertools.pairwise(parts):
        if first.output_shape != second.image_shape:
            raise ValueError(
                f"augmentations must follow one another: {first.name} gives images of "
                f"{first.output_shape}, and {second.name} takes {second.image_shape}. Make the "
                f"second with image_shape={first.output_shape}."
            )
    return _compose(*parts)


def sometimes(augmentation: Augmentation, *, probability: ArrayLike = 0.5) -> Augmentation:
    """Applies an augmentation with a probability; else the map is the identity.

    Args:
      augmentation: Any augmentation. If its output has another shape than its input, the identity
        shows the whole image at that shape.
      probability: From 0 to 1; a JAX scalar may be traced.

    Returns:
      An augmentation with the same transform.

    Raises:
      ValueError: If ``probability`` is not one number from 0 to 1.
      TypeError: If ``augmentation`` is not an augmentation.

    Example:
      >>> import jax
      >>> from stn_jax import augmentation as aug
      >>> turn = aug.sometimes(aug.random_affine((8, 8), angle=(0.1, 0.2)), probability=0.25)
      >>> thetas = jax.vmap(turn.draw)(jax.random.split(jax.random.key(0), 1000))
      >>> 0.2 < float((thetas[:, 0] != 1).mean()) < 0.3
      True

    Reference:
      Krizhevsky et al., ImageNet classification with deep convolutional neural networks, NIPS 2012,
      section 4.1.
    """
    augmentation = _checks.instance("augmentation", augmentation, Augmentation, _EXAMPLE)
    return _sometimes(augmentation, checked_probability(probability))


def jitter(
    transform: Transform,
    image_shape: Sequence[int],
    *,
    spread: ArrayLike | Sequence[float | int],
    output_shape: Sequence[int] | None = None,
) -> Augmentation:
    """Draws the parameters of any transform uniformly around the identity.

    Args:
      transform: Any family, such as :func:`stn_jax.thin_plate_spline`.
      image_shape: Spatial shape of the input.
      spread: Largest difference from ``transform.identity``, at least 0: one number, or one for
        each parameter. A JAX array may be traced, batched and differentiated.
      output_shape: Spatial shape of the output; ``None`` takes that of the input.

    Returns:
      The augmentation; ``theta = identity + spread · U(−1, 1)``.

    Raises:
      ValueError: If ``spread`` is negative or of another length, or a shape does not fit.
      TypeError: If ``transform`` is not a transform.

    Example:
      >>> import jax
      >>> import stn_jax as stn
      >>> bend = stn.augmentation.jitter(stn.thin_plate_spline((3, 3)), (32, 32), spread=0.1)
      >>> bend.draw(jax.random.key(0)).shape
      (18,)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 4.1, whose digits
      are distorted so.
    """
    transform = _checks.instance("transform", transform, Transform, "stn_jax.affine()")
    n = transform.ndim
    shape = _checks.spatial_shape("image_shape", image_shape, n, may_be_symbolic=False)
    output = shape if output_shape is None else output_shape
    output = _checks.spatial_shape("output_shape", output, n, may_be_symbolic=False)
    given = _checks.numbers("spread", spread)
    if given.shape not in ((), (transform.num_params,)) or (
        known(given) and not (given >= 0).all()
    ):
        raise ValueError(
            f"spread must be at least 0, one number or one for each of the {transform.num_params} "
            f"parameters of {transform.name}; got {spread!r}."
        )
    return _jitter(transform, given, shape, output)


# A range is (low, high), or a pair for each axis.
Range = ArrayLike | Sequence[float | int] | Sequence[Sequence[float | int]]

_EXAMPLE = "stn_jax.augmentation.random_flip((64, 64))"


@_records.maker
def _compose(*augmentations: Augmentation) -> Augmentation:
    def draw(key: Array) -> Array:
        keys = jax.random.split(key, len(augmentations))
        thetas = [each.draw(k) for each, k in zip(augmentations, keys, strict=True)]
        dtype = _checks.widest(*(theta.dtype for theta in thetas))
        return jnp.concatenate([theta.astype(dtype) for theta in reversed(thetas)])

    transforms = [each.transform for each in reversed(augmentations)]
    return Augmentation(
        name=f"compose({', '.join(each.name for each in augmentations)})",
        transform=chain(*transforms) if len(transforms) > 1 else transforms[0],
        draw=draw,
        image_shape=augmentations[0].image_shape,
        output_shape=augmentations[-1].output_shape,
    )


@_records.maker
def _sometimes(augmentation: Augmentation, probability: AnyArray) -> Augmentation:
    def draw(key: Array) -> Array:
        decision, rest = jax.random.split(key)
        theta = augmentation.draw(rest)
        happens = uniform_numbers(decision) < probability
        identity = jnp.asarray(augmentation.transform.identity, theta.dtype)
        return jnp.where(happens, theta, identity)

    return dataclasses.replace(augmentation, name=f"sometimes({augmentation.name})", draw=draw)


@_records.maker
def _jitter(
    transform: Transform, spread: AnyArray, shape: tuple[int, ...], output: tuple[int, ...]
) -> Augmentation:
    def draw(key: Array) -> Array:
        noise = 2 * uniform_numbers(key, transform.num_params) - 1
        spreads = jnp.broadcast_to(jnp.asarray(spread, noise.dtype), noise.shape)
        return jnp.asarray(transform.identity, noise.dtype) + spreads * noise

    return Augmentation(
        name=f"jitter({transform.name})",
        transform=transform,
        draw=draw,
        image_shape=shape,
        output_shape=output,
    )


def known(array: AnyArray) -> bool:
    """Whether the values are concrete, so that they can be checked."""
    return not isinstance(array, jax.core.Tracer)


def checked_range(
    name: str, value: Any, sizes: Sequence[int] = (), *, positive: bool = False
) -> AnyArray:
    """Checks one range ``(low, high)``, or as many ranges as a number in ``sizes`` says."""
    given = _checks.numbers(name, value)
    shapes = [(2,), *((size, 2) for size in sizes if size > 1)]
    low, high = (given[..., 0], given[..., -1]) if given.ndim else (given, given)
    fits = given.shape in shapes
    if fits and known(given):
        fits = bool((np.isfinite(given).all()) and (low <= high).all())
        fits = fits and not (positive and not (low > 0).all())
    if not fits:
        several = f", or one pair for each of {sizes[0]} axes" if len(shapes) > 1 else ""
        sign = "positive and " if positive else ""
        raise ValueError(
            f"{name} must be a pair (low, high){several}, {sign}finite, low not above high; got "
            f"{value!r}."
        )
    return given


def checked_probability(value: Any) -> AnyArray:
    """Checks a probability."""
    given = _checks.numbers("probability", value)
    if given.shape != () or (known(given) and not 0 <= given <= 1):
        raise ValueError(f"probability must be one number from 0 to 1; got {value!r}.")
    return given


def uniform_numbers(key: Array, *shape: int) -> Float[Array, "..."]:
    """Uniform numbers from 0 to 1, in JAX's default float.

    An augmentation draws all its numbers by one call: compilers take long over each generator.
    """
    return jax.random.uniform(key, shape, jax.dtypes.canonicalize_dtype(float))


def between(share: Array, limits: AnyArray) -> Float[Array, "..."]:
    """The number at a share of the way from ``limits[..., 0]`` to ``limits[..., 1]``.

    Where both limits are equal, it is exactly theirs.
    """
    low, high = (jnp.asarray(limits[..., k], share.dtype) for k in (0, 1))
    low, high = (jnp.broadcast_to(each, share.shape) for each in (low, high))
    return jnp.minimum(low + share * (high - low), high)
