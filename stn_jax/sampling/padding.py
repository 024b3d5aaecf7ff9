"""Paddings: what lies outside the image."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

PaddingName = Literal["constant", "border", "reflection", "wrap"]


@dataclasses.dataclass(frozen=True)
class Padding:
    """What holds the pixels outside an axis of ``size`` pixels.

    Attributes:
      inside: ``(index, size, align_corners)`` to an index inside; the pixel that holds the value.
      period: ``(size, align_corners)`` to the number of pixels after which the image repeats, or
        ``None`` where it does not.
      numpy_mode: ``align_corners`` to what ``numpy.pad`` calls it.
    """

    inside: Callable[[Array, int, bool], Array]
    numpy_mode: Callable[[bool], str]
    period: Callable[[int, bool], int] | None = None


def _clamp(index: Array, size: int, align_corners: bool) -> Array:
    del align_corners
    return jnp.clip(index, 0, size - 1)


def _reflect(index: Array, size: int, align_corners: bool) -> Array:
    """Mirrors at the outer edges, or at the centres of the corner pixels."""
    period = _reflection_period(size, align_corners)
    index = index % period
    return jnp.minimum(index, period - (0 if align_corners else 1) - index)


def _reflection_period(size: int, align_corners: bool) -> int:
    return max(2 * size - 2, 1) if align_corners else 2 * size


def _wrap(index: Array, size: int, align_corners: bool) -> Array:
    del align_corners
    return index % size


PADDINGS: dict[str, Padding] = {
    # The sampler puts the fill value wherever the index had to be moved.
    "constant": Padding(_clamp, lambda align_corners: "constant"),
    "border": Padding(_clamp, lambda align_corners: "edge"),
    "reflection": Padding(
        _reflect,
        lambda align_corners: "reflect" if align_corners else "symmetric",
        _reflection_period,
    ),
    "wrap": Padding(_wrap, lambda align_corners: "wrap", lambda size, align_corners: size),
}
