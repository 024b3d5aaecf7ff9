"""Paddings: what lies outside the image."""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Int

PaddingName = Literal["constant", "border"]

# Each maps any pixel index to one inside an axis of ``size`` pixels.
Padding = Callable[[Int[Array, "*out"], int], Int[Array, "*out"]]


def _clamp(index: Array, size: int) -> Array:
    return jnp.clip(index, 0, size - 1)


PADDINGS: dict[str, Padding] = {
    # The sampler puts the fill value wherever the index had to be moved.
    "constant": _clamp,
    "border": _clamp,
}
