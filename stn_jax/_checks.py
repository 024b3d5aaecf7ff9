"""Checks of arguments, at trace time.

Each error names the argument, and says what was expected, what came, and what to do.
"""

import operator
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

T = TypeVar("T")


def spatial_shape(
    name: str, shape: Sequence[Any], ndim: int | None = None, *, may_be_symbolic: bool = True
) -> tuple[Any, ...]:
    """Checks a spatial shape; returns a tuple of positive integers, or symbols in an export.

    ``may_be_symbolic=False`` refuses symbols.
    """
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
    return sizes if may_be_symbolic else known_sizes(name, sizes)


def known_sizes(name: str, sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Checks that sizes are numbers, not the symbols of an export; returns them."""
    if not all(isinstance(size, int) for size in sizes):
        raise ValueError(
            f"{name} must have sizes that are numbers; got {sizes}, symbols of an export. Export "
            "one program for each size."
        )
    return sizes


def with_extent(name: str, sizes: tuple[Any, ...], align_corners: bool) -> tuple[Any, ...]:
    """Checks that each axis has an extent in normalised coordinates; returns the sizes.

    The size of an axis that is a symbol is not known; if it is 1, the result is not finite.
    """
    if align_corners and any(isinstance(size, int) and size == 1 for size in sizes):
        raise ValueError(
            f"{name} must hold sizes of at least 2 under align_corners=True, where an axis of one "
            f"pixel has no extent; got {sizes}. Use align_corners=False."
        )
    return sizes


def numeric(name: str, value: Any) -> Any:
    """Checks that a NumPy array holds numbers; returns it in this machine's byte order.

    Any other value is returned as it is. Readers of FITS, TIFF and NIfTI files give arrays in other
    byte orders. JAX refuses such an array without naming the byte order. Worse, a jitted function
    that has run on a native array of the same shape and type accepts it, and misreads its numbers.
    """
    if not isinstance(value, np.ndarray):
        return value
    if not (jnp.issubdtype(value.dtype, np.number) or value.dtype == np.bool_):
        raise _not_numeric(name, value)
    return value if value.dtype.isnative else value.astype(value.dtype.newbyteorder("="))


def as_array(name: str, value: Any, dtype: Any = None) -> Array:
    """Makes a JAX array of a value, which may be a NumPy array in any byte order.

    Raises a TypeError for what is no array of numbers: objects, strings, dates, structures.
    """
    value = numeric(name, value)
    try:
        return jnp.asarray(value, dtype)
    except jax.errors.JAXTypeError:
        raise
    except (TypeError, ValueError):
        raise _not_numeric(name, value) from None


def float64s(name: str, value: Any) -> np.ndarray:
    """Makes a NumPy array in float64 of a concrete value, with the error of :func:`as_array`."""
    try:
        return numeric(name, np.asarray(value)).astype(np.float64)
    except ValueError:
        raise _not_numeric(name, value) from None


def numbers(name: str, value: Any) -> Any:
    """An argument of a record: a JAX array in float32 or wider, anything else NumPy in float64."""
    return as_float(value) if isinstance(value, jax.Array) else float64s(name, value)


def _not_numeric(name: str, value: Any) -> TypeError:
    dtype = getattr(value, "dtype", None)
    given = f"a {type(value).__name__}" if dtype is None else f"dtype {dtype}"
    remedy = f'Convert it, numpy.asarray({name}, "float32").'
    fields = getattr(dtype, "names", None)
    if fields:
        remedy = f'Take one of its fields, {name}["{fields[0]}"], or stack them.'
    return TypeError(f"{name} must be an array of numbers; got {given}. {remedy}")


def floating(name: str, array: Any, *, remedy: str = "Convert it to a floating dtype.") -> Array:
    """Checks that an array is real and floating; returns it in float32 or wider."""
    array = as_array(name, array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must have a floating dtype; got {array.dtype}. {remedy}")
    return array.astype(widest(array.dtype))


def as_float(array: Array) -> Array:
    """The array in its dtype; integers and half-precision floats become float32."""
    wide = jnp.issubdtype(array.dtype, jnp.floating) and jnp.finfo(array.dtype).bits >= 32
    return array if wide else array.astype(jnp.float32)


def points(name: str, array: Any, ndim: int) -> Array:
    """Checks points with ``ndim`` coordinates each; returns them in float32 or wider."""
    array = floating(name, array)
    if array.ndim < 1 or array.shape[-1] != ndim:
        order = "(x, y)" if ndim == 2 else "(x, y, z)" if ndim == 3 else "(x,)"
        raise ValueError(
            f"{name} must have a last axis of length {ndim}, the coordinates {order}; "
            f"got shape {array.shape}."
        )
    return array


def image(array: Any, ndim: int, *, integers_allowed: bool) -> Array:
    """Checks an unbatched, channels-last image with ``ndim`` spatial axes."""
    array = as_array("image", array)
    if array.ndim != ndim + 1:
        axes = ("depth", "height", "width")[-ndim:]
        remedy = "add a channel axis with image[..., None]"
        if array.ndim == ndim and ndim > 2 and array.shape[-1] <= 4:
            # An image with channels, given where a volume is needed.
            remedy = "an image goes with a transform or a grid of 2 coordinates, a volume with 3"
        elif array.ndim == ndim + 2:
            remedy = "batch with jax.vmap"
            if ndim == 2:
                remedy += ", or, for a volume, take a transform or a grid of 3 coordinates (ndim=3)"
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
            'Convert it, image.astype("float32"), or use kernel="nearest".'
        )
    if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 2:
        raise TypeError(
            f"a floating image must have at least 16 bits; got {array.dtype}. "
            'Convert it, image.astype("bfloat16").'
        )
    return array


def pixel_centers(value: Any) -> float:
    """Checks the pixel coordinate of the first pixel's centre."""
    if value not in (0, 0.5):
        raise ValueError(
            "pixel_centers must be 0 or 0.5, the coordinate of the first pixel's centre; got "
            f"{value!r}."
        )
    return float(value)


def matrix(array: Any, ndim: int) -> Array:
    """Checks an affine or homogeneous matrix; returns it in float32 or wider."""
    array = floating("matrix", array)
    if array.shape not in ((ndim, ndim + 1), (ndim + 1, ndim + 1)):
        raise ValueError(
            f"matrix must have shape ({ndim}, {ndim + 1}) or ({ndim + 1}, {ndim + 1}) for an image "
            f"of {ndim} spatial axes; got {array.shape}. {matrix_remedy(array, ndim)}"
        )
    return array


def matrix_remedy(array: Array, ndim: int) -> str:
    """A sentence on how to make an array the affine matrix for ``ndim`` spatial axes."""
    if array.ndim == 3:
        return "Batch with jax.vmap."
    if array.shape == (ndim + 1, ndim + 1):
        return f"Leave out its last row, matrix[:{ndim}], if that is (0, …, 0, 1)."
    if array.ndim == 2 and array.shape[1] in (3, 4):
        axes = "(height, width)" if array.shape[1] == 3 else "(depth, height, width)"
        return f"A matrix of this shape goes with shapes {axes}, without batch and channels."
    return f"If it is flat, reshape it, matrix.reshape({ndim}, {ndim + 1})."


# Other libraries' names of modes, and ours.
_NAMES_ELSEWHERE = {
    "bilinear": "linear",
    "trilinear": "linear",
    "bicubic": "cubic, or stn_jax.cubic(a=-0.75) as in PyTorch",
    "lanczos": "lanczos3",
    "zeros": "constant",
    "fill": "constant",
    "replicate": "border",
    "edge": "border",
    "reflect": "reflection",
    "symmetric": "reflection",
    "mirror": "reflection",
    "circular": "wrap",
    "grid-wrap": "wrap",
    "cuda": "None, which takes the best engine there is",
    "gpu": "None, which takes the best engine there is",
    "pallas": "None, which takes the best engine there is",
}


def option(name: str, value: str, table: Mapping[str, T]) -> T:
    """Looks up a mode in a table; the error lists the keys."""
    if not isinstance(value, str) or value not in table:
        accepted = ", ".join(repr(key) for key in table)
        ours = _NAMES_ELSEWHERE.get(value.lower() if isinstance(value, str) else "")
        hint = f" Here that is {ours}." if ours else ""
        raise ValueError(f"{name} must be one of {accepted}; got {value!r}.{hint}")
    return table[value]


def vector(name: str, array: Any, size: int, meaning: str) -> Array:
    """Checks a flat vector of ``size`` floats; returns it in float32 or wider."""
    array = floating(name, array)
    if array.shape != (size,):
        remedy = ""
        if array.ndim == 2 and array.shape[1] == size:
            remedy = " Batch with jax.vmap."
        elif array.ndim == 2 and array.size == size:
            remedy = f" Flatten it row by row, {name}.ravel()."
        elif array.size == size + 1 == 9:
            remedy = f" For a 3×3 homography use stn_jax.conversions.projective_theta({name})."
        elif array.shape == (3, 3) and size == 6:
            remedy = f" Leave out the last row and flatten the rest, {name}[:2].ravel()."
        raise ValueError(
            f"{name} must have shape ({size},), {meaning}; got shape {array.shape}.{remedy}"
        )
    return array


def widest(*dtypes: Any) -> Any:
    """The widest of some floating dtypes, float32 or float64; under strict promotion, too."""
    bits = max(jnp.finfo(dtype).bits for dtype in dtypes)
    return jnp.dtype("float64") if bits > 32 else jnp.dtype("float32")


def aspect(value: Any, ndim: int) -> Any:
    """Checks an aspect; returns the sides of the image, x first, in units of the last side.

    Returns NumPy arrays in float64, JAX arrays in float32 or wider.
    """
    given = numbers("aspect", value)
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
    """Checks a count of at least 1; returns a Python integer."""
    try:
        count = operator.index(value)
    except TypeError:
        count = 0
    if count < 1 or isinstance(value, bool):
        raise ValueError(f"{name} must be an integer of at least 1; got {value!r}.")
    return count


def instance(name: str, value: Any, kind: type[T], example: str) -> T:
    """Checks the class of a value."""
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise TypeError(
            f"{name} must be {article} {kind.__name__}, such as {example}; got {value!r}."
        )
    return value


def batch_of(name: str, array: Any, shape: tuple[int, ...]) -> Array:
    """Checks a batch of arrays of a given shape; returns it."""
    array = as_array(name, array)
    if array.ndim != len(shape) + 1 or array.shape[1:] != shape:
        expected = ", ".join(str(size) for size in shape)
        remedy = "Resize them, or build the module for their shape."
        if array.shape == shape:
            remedy = f"Add a batch axis, {name}[None]."
        elif array.ndim == len(shape) and array.shape[1:] == shape[:-1] and shape[-1] == 1:
            remedy = f"Add a channel axis, {name}[..., None]."
        elif array.shape[1:] == (shape[-1], *shape[:-1]):
            remedy = f"Put the channels last, jax.numpy.moveaxis({name}, 1, -1)."
        raise ValueError(f"{name} must have shape [batch, {expected}]; got {array.shape}. {remedy}")
    return array


def image_shape(name: str, shape: Sequence[int], ndim: int | None = None) -> tuple[int, ...]:
    """Checks the shape of one image with its channels; returns a tuple."""
    shape = tuple(shape)
    if not (2 <= len(shape) <= 4 if ndim is None else len(shape) == ndim + 1):
        axes = ", ".join(("depth", "height", "width")[-(ndim or 2) :])
        raise ValueError(
            f"{name} must be ({axes}, channels), the shape of one image; got {shape}. Leave out "
            "the batch, and give the channels, of which a grey image has 1."
        )
    return shape


def batch_of_theta(theta: Any, num_params: int, name: str) -> Array:
    """Checks parameters of transforms on the last axis; returns them in float32 or wider."""
    theta = floating("theta", theta)
    if theta.ndim < 1 or theta.shape[-1] != num_params:
        raise ValueError(
            f"theta must have a last axis of length {num_params}, the parameters of a {name} "
            f"transform; got shape {theta.shape}."
        )
    return theta
