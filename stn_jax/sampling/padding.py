"""Paddings: the values of pixels outside the image."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array

from stn_jax.coordinates import Size

PaddingName = Literal["constant", "border", "reflection", "wrap"]


@dataclasses.dataclass(frozen=True)
class Padding:
    """The values of the pixels outside an axis of ``size`` pixels.

    Attributes:
      inside: Function ``(index, size, align_corners)`` that gives the index of the pixel inside
        whose value the pixel at ``index`` has.
      period: Function ``(size, align_corners)`` that gives the number of pixels after which the
        image repeats; ``None`` if it does not repeat.
      filled: Whether pixels outside have the fill value instead.
      means: How antialiasing extends box means beyond the image: by the last mean (``"edge"``), by
        mirroring at it (``"mirror"``) or by repetition (``"wrap"``).
    """

    inside: Callable[[Array, Size, bool], Array]
    period: Callable[[Size, bool], Size] | None = None
    filled: bool = False
    means: Literal["edge", "mirror", "wrap"] = "edge"

    def __post_init__(self) -> None:
        if (self.period is None) != (self.means == "edge"):
            raise ValueError(
                'means must be "mirror" or "wrap" for a padding with a period, and "edge" for one '
                f"without; got {self.means!r}."
            )


def _clamp(index: Array, size: Size, align_corners: bool) -> Array:
    del align_corners
    return jnp.clip(index, 0, size - 1)


def _reflect(index: Array, size: Size, align_corners: bool) -> Array:
    """Mirrors at the outer edges, or at the centres of the corner pixels."""
    period = _reflection_period(size, align_corners)
    index = index % period
    return jnp.minimum(index, period - (0 if align_corners else 1) - index)


def _reflection_period(size: Size, align_corners: bool) -> Size:
    return max(2 * size - 2, 1) if align_corners else 2 * size


def _wrap(index: Array, size: Size, align_corners: bool) -> Array:
    del align_corners
    return index % size


PADDINGS: dict[str, Padding] = {
    "constant": Padding(_clamp, filled=True),
    "border": Padding(_clamp),
    "reflection": Padding(_reflect, _reflection_period, means="mirror"),
    "wrap": Padding(_wrap, lambda size, align_corners: size, means="wrap"),
}
