"""What is wrong with an argument, said at trace time: what, expected, got, remedy."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

T = TypeVar("T")


def spatial_shape(name: str, shape: Sequence[Any], ndim: int | None = None) -> tuple[Any, ...]:
    """A spatial shape as a tuple of positive integers, or of symbols during an export."""
    try:
        sizes = tuple(
            size if jax.export.is_symbolic_dim(size) else operator.index(size) for size in shape
        )
    except TypeError:
        raise ValueError(
            f"{name} must be a sequence of integers such as (height, width); got {shape!r}."
        ) from None
    if not sizes or any(isinstance(size, int) and size < 1 for size in sizes):
        raise ValueError(
            f"{name} must hold sizes of at least 1, one for each spatial axis; got {sizes}. "
            "An empty output cannot be sampled."
        )
    if ndim is not None and len(sizes) != ndim:
        raise ValueError(
            f"{name} must have {ndim} entries, one for each spatial axis of the image; got {sizes}."
        )
    return sizes


def floating(name: str, array: Any, *, remedy: str = "Convert it to a floating dtype.") -> Array:
    """An array of a real floating dtype, widened to float32 at least."""
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must have a floating dtype; got {array.dtype}. {remedy}")
    return array.astype(widest(array.dtype))


def as_float(array: Array) -> Array:
    """The array in its dtype, or in float32 where that holds fewer digits or integers."""
    wide = jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits >= 32
    return array if wide else array.astype(jnp.float32)


def points(name: str, array: Any, ndim: int) -> Array:
    """Points with ``ndim`` coordinates on the last axis, in float32 at least."""
    array = floating(name, array)
    if array.ndim < 1 or array.shape[-1] != ndim:
        order = "(x, y)" if ndim == 2 else "(x, y, z)" if ndim == 3 else "(x,)"
        raise ValueError(
            f"{name} must have a last axis of length {ndim}, the coordinates {order}; "
            f"got shape {array.shape}."
        )
    return array


def image(array: Any, ndim: int, *, integers_allowed: bool) -> Array:
    """An unbatched, channels-last image with ``ndim`` spatial axes."""
    array = jnp.asarray(array)
    if array.ndim != ndim + 1:
        axes = ("depth", "height", "width")[-ndim:]
        remedy = "add a channel axis with image[..., None]"
        if array.ndim == ndim + 2:
            remedy = "batch with jax.vmap"
        raise ValueError(
            f"image must be [{', '.join(axes)}, channels]; got shape {array.shape}: {remedy}."
        )
    if 0 in array.shape:
        raise ValueError(f"image must not be empty; got shape {array.shape}.")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(
            f"image must be real; got {array.dtype}. Sample image.real and image.imag as channels."
        )
    if not (integers_allowed or jnp.issubdtype(array.dtype, jnp.floating)):
        raise TypeError(
            f'image must have a floating dtype for any kernel but "nearest"; got {array.dtype}. '
            'Convert it, image.astype("float32"), or take kernel="nearest".'
        )
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 2:
        raise TypeError(
            f"image must be of at least 16 bits where it is floating; got {array.dtype}. "
            'Convert it, image.astype("bfloat16").'
        )
    return array


def option(name: str, value: str, table: Mapping[str, T]) -> T:
    """The entry of a table of modes; its keys are the error message."""
    if not isinstance(value, str) or value not in table:
        accepted = ", ".join(repr(key) for key in table)
        raise ValueError(f"{name} must be one of {accepted}; got {value!r}.")
    return table[value]


def vector(name: str, array: Any, size: int, meaning: str) -> Array:
    """A flat vector of ``size`` floats, in float32 at least."""
    array = floating(name, array)
    if array.shape != (size,):
        remedy = ""
        if array.ndim == 2 and array.shape[1] == size:
            remedy = " Batch with jax.vmap."
        raise ValueError(
            f"{name} must have shape ({size},), {meaning}; got shape {array.shape}.{remedy}"
        )
    return array


def widest(*dtypes: Any) -> Any:
    """The widest of some floating dtypes, float32 at least; also where JAX must not promote."""
    bits = max(jnp.finfo(dtype).bits for dtype in dtypes)
    return jnp.dtype("float64") if bits > 32 else jnp.dtype("float32")


def aspect(value: Any, ndim: int) -> Any:
    """How long the sides of an image are along ``(x, y)`` or ``(x, y, z)``, the last being 1.

    NumPy's in float64, JAX's in float32 at least.
    """
    given = as_float(value) if isinstance(value, jax.Array) else np.asarray(value, np.float64)
    given = given.reshape(1) if given.ndim == 0 else given
    known = not isinstance(given, jax.core.Tracer)
    if given.shape != (ndim - 1,) or (known and not (np.isfinite(given) & (given > 0)).all()):
        meaning = {1: "empty", 2: "width over height"}.get(ndim, "(width / depth, height / depth)")
        raise ValueError(
            f"aspect must be positive and finite, {meaning} of an image in pixels; got {value!r}."
        )
    if isinstance(given, jax.Array):
        return jnp.concatenate([given, jnp.ones((1,), given.dtype)])
    return np.append(given, 1.0)


def common_dtype(*arrays: Array) -> list[Array]:
    """The arrays in their common dtype."""
    dtype = widest(*(a.dtype for a in arrays))
    return [jax.lax.convert_element_type(a, dtype) for a in arrays]


def positive(name: str, value: SupportsIndex) -> int:
    """A count of at least 1, as a Python integer."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")
    return count


def instance(name: str, value: Any, kind: type[T], example: str) -> T:
    """A value of a given class."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"{name} must be {article} {kind.__name__}, such as {example}; got {value!r}."
        )
    return value


def batch_of(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """A batch of arrays of a given shape."""
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        expected = ", ".join(str(size) for size in shape)
        raise ValueError(f"{name} must have shape [batch, {expected}]; got {array.shape}.")


def batch_of_theta(theta: Any, num_params: int, name: str) -> Array:
    """Parameters of transforms on the last axis, in float32 at least."""
    theta = floating("theta", theta)
    if theta.ndim < 1 or theta.shape[-1] != num_params:
        raise ValueError(
            f"theta must have a last axis of length {num_params}, the parameters of a {name} "
            f"transform; got shape {theta.shape}."
        )
    return theta
