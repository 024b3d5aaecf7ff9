"""Checks of the arguments of a registration."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stn_jax import _checks
from stn_jax.registration import solvers
from stn_jax.registration.losses import MEASURES
from stn_jax.registration.objective import Side

# Least side of the coarsest level in pixels, by the number of spatial axes, for linear families and
# for others, which may have too many parameters for so few pixels.
_COARSEST_LINEAR, _COARSEST = {1: 24, 2: 12, 3: 12}, {1: 24, 2: 24, 3: 12}


def side(name: str, image: Any, mask: Any, ndim: int) -> Side:
    """Checks an image and its mask; where the mask is 0, the image becomes 0."""
    image = _checks.as_array(name, image)
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"{name} must have a floating dtype; got {image.dtype}. Convert it, for instance "
            f'{name}.astype("float32") / 255.'
        )
    if image.ndim != ndim + 1 or 0 in image.shape:
        axes = ", ".join(("depth", "height", "width")[-ndim:])
        remedy = "batch with jax.vmap" if image.ndim > ndim + 1 else f"add one, {name}[..., None]"
        raise ValueError(
            f"{name} must be [{axes}, channels], as the transform is {ndim}-D, and not empty; got "
            f"shape {image.shape}. If it has no axis of channels or one too many: {remedy}."
        )
    _checks.known_sizes(name, image.shape[:-1])
    image = image.astype(_checks.widest(image.dtype))
    if mask is not None:
        mask = _checks.as_array(f"{name}_mask", mask)
        if mask.shape != image.shape[:-1]:
            raise ValueError(
                f"{name}_mask must have the spatial shape of {name}, {image.shape[:-1]}; got "
                f"{mask.shape}."
            )
        mask = mask.astype(image.dtype)
        image = jnp.where(mask[..., None] > 0, image, 0)
    if not isinstance(image, jax.core.Tracer) and not isinstance(mask, jax.core.Tracer):
        _check_contents(name, np.asarray(image), None if mask is None else np.asarray(mask))
    return Side(image, mask)


def _check_contents(name: str, image: np.ndarray, mask: np.ndarray | None) -> None:
    if mask is not None and not ((mask >= 0).all() and np.isfinite(mask).all() and mask.any()):
        raise ValueError(
            f"{name}_mask must be finite, at least 0, and positive somewhere; got values from "
            f"{mask.min()} to {mask.max()}."
        )
    values = image.reshape(-1, image.shape[-1])
    if mask is not None:
        values = values[mask.ravel() > 0]
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} must be finite; got NaN or infinity. Leave such pixels out by {name}_mask."
        )
    if (values == values[:1]).all():
        raise ValueError(
            f"{name} must not be constant, since any map fits a constant image; got "
            f"{values[0].tolist()} in every pixel that counts."
        )


def shrink_factors(
    given: Sequence[float | int] | None,
    fixed: tuple[int, ...],
    moving: tuple[int, ...],
    is_linear: bool,
) -> tuple[float, ...]:
    """Checks the factors of the levels, coarse to fine; ``None`` gives powers of 2."""
    if given is None:
        smallest = min(*fixed, *moving)
        coarsest = (_COARSEST_LINEAR if is_linear else _COARSEST).get(len(fixed), 12)
        levels = max(math.floor(math.log2(smallest / coarsest) + 0.1), 0)
        given = [2**k for k in range(levels, -1, -1)]
    factors = tuple(float(factor) for factor in given) if np.ndim(given) == 1 else ()
    if not factors or not all(1 <= factor < math.inf for factor in factors):
        raise ValueError(
            "shrink_factors must hold numbers of at least 1, coarse to fine, such as (4, 2, 1); "
            f"got {given!r}."
        )
    if list(factors) != sorted(factors, reverse=True):
        raise ValueError(f"shrink_factors must fall, coarse to fine; got {tuple(given)!r}.")
    return factors


def is_least_squares(loss: str) -> bool:
    """Whether a named loss is a sum of squares."""
    return _checks.option("loss", loss, MEASURES).projection is not None


def optimizer(optimizer: Any, loss: Any, least_squares: bool) -> None:
    """Checks that the loss is a name or a function, and that the optimizer can minimise it."""
    if not isinstance(loss, str) and not callable(loss):
        raise TypeError(f"loss must be a name or a function; got {loss!r}.")
    if optimizer == "gauss_newton":
        if not least_squares:
            names = " and ".join(f'"{k}"' for k, v in MEASURES.items() if v.projection)
            raise ValueError(
                f'optimizer must not be "gauss_newton" for the loss {loss!r}, which is no sum of '
                f'squares; "gauss_newton" works for {names}. Leave it out, or give an optimizer of '
                "optax."
            )
    elif optimizer is not None and not hasattr(optimizer, "update"):
        raise ValueError(
            'optimizer must be "gauss_newton", or an optimizer of optax such as optax.adam(0.1); '
            f"got {optimizer!r}."
        )


def is_zero(value: Any) -> bool:
    """Whether a weight is a plain 0, whose penalty is left out."""
    if isinstance(value, jax.core.Tracer):
        return False
    if not is_number(value) or not value >= 0:
        raise ValueError(f"the weight of a penalty must be a number of at least 0; got {value!r}.")
    return bool(value == 0)


def is_number(value: Any) -> bool:
    """Whether a concrete value is one real number."""
    return np.shape(value) == () and np.asarray(value).dtype.kind in "biuf"


def overlap(solution: solvers.Solution, min_overlap: float) -> None:
    """Raises if the images overlapped too little at every start, so that no loss is finite."""
    if isinstance(solution.value, jax.core.Tracer) or bool(jnp.isfinite(solution.value).any()):
        return
    raise ValueError(
        f"fixed and moving must overlap at the start: a share of min_overlap, {min_overlap:g}, of "
        "the pixels of fixed that count must read from inside moving; got less. Give another theta "
        "or other masks, set search=True, or lower min_overlap."
    )
