"""Paddings: the values of pixels outside the image."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax._types import AnyArray, Size

PaddingName = Literal["constant", "border", "reflection", "wrap", "dst1", "dst2", "renormalized"]


@dataclasses.dataclass(frozen=True)
class Padding:
    """The values of the pixels outside an axis of ``size`` pixels.

    Attributes:
      inside: Function ``(index, size, align_corners)`` that gives the index of the pixel inside
        whose value the pixel at ``index`` has. Of a NumPy array it makes no JAX array.
      period: Function ``(size, align_corners)`` that gives the number of pixels after which the
        image repeats; ``None`` if it does not repeat.
      filled: Whether pixels outside have the fill value instead.
      sign: Function ``(index, size)`` that gives the factor 1, −1 or 0 of the value of the pixel at
        ``index``; ``None`` if it is 1 everywhere.
      renormalized: Whether pixels outside are left out and the weights of those inside divided by
        their sum. A coordinate outside the image has the fill value.
      means: How antialiasing extends box means beyond the image: by the last mean (``"edge"``), by
        mirroring at it (``"mirror"``) or by repetition (``"wrap"``). With a ``sign`` it repeats
        the means of a whole period.
    """

    inside: Callable[[Any, Size, bool], Any]
    period: Callable[[Size, bool], Size] | None = None
    filled: bool = False
    sign: Callable[[Array, Size], Array] | None = None
    renormalized: bool = False
    means: Literal["edge", "mirror", "wrap"] = "edge"

    def __post_init__(self) -> None:
        if (self.period is None) != (self.means == "edge"):
            raise ValueError(
                'means must be "mirror" or "wrap" for a padding with a period, and "edge" for one '
                f"without; got {self.means!r}."
            )

    @property
    def keeps_weights(self) -> bool:
        """Whether each pixel under a kernel has the kernel's weight."""
        return self.sign is None and not self.renormalized

    def pixels(self, image: Array, index: Array, axis: int, align_corners: bool) -> Array:
        """The pixels at indices along an axis, also outside of the image; ignores ``filled``."""
        size = image.shape[axis]
        found = jnp.take(image, self.inside(index, size, align_corners), axis, mode="clip")
        if self.sign is None:
            return found
        signs = self.sign(index, size).astype(found.dtype)
        return found * jnp.expand_dims(signs, [k for k in range(found.ndim) if k != axis])


def _clamp(index: AnyArray, size: Size, align_corners: bool) -> AnyArray:
    del align_corners
    return index.clip(0, size - 1)


def _reflect(index: AnyArray, size: Size, align_corners: bool) -> AnyArray:
    """Mirrors at the outer edges, or at the centres of the corner pixels."""
    period = _reflection_period(size, align_corners)
    index = index % period
    return _lesser(index, period - (0 if align_corners else 1) - index)


def _lesser(a: AnyArray, b: AnyArray) -> AnyArray:
    """The lesser number of each pair; in NumPy if the first array is NumPy's."""
    return (np if isinstance(a, np.ndarray) else jnp).minimum(a, b)


def _reflection_period(size: Size, align_corners: bool) -> Size:
    return max(2 * size - 2, 1) if align_corners else 2 * size


def _wrap(index: AnyArray, size: Size, align_corners: bool) -> AnyArray:
    del align_corners
    return index % size


def _mirror_beyond(index: AnyArray, size: Size, align_corners: bool) -> AnyArray:
    """Mirrors at the centres of the pixels just outside, which stand for pixels of value 0."""
    del align_corners
    index = (index + 1) % (2 * size + 2)
    return jnp.clip(jnp.minimum(index, 2 * size + 2 - index) - 1, 0, size - 1)


def _sign_beyond(index: AnyArray, size: Size) -> Array:
    """The sign of each pixel under ``_mirror_beyond``; 0 of the pixels just outside."""
    index = (index + 1) % (2 * size + 2)
    return jnp.where(index % (size + 1) == 0, 0, jnp.where(index > size, -1, 1))


def _reflect_at_edges(index: AnyArray, size: Size, align_corners: bool) -> AnyArray:
    """Mirrors at the image's outer edges, under either alignment."""
    del align_corners
    return _reflect(index, size, False)


def _sign_at_edges(index: AnyArray, size: Size) -> Array:
    """The sign of each pixel under ``_reflect_at_edges``."""
    return jnp.where(index % (2 * size) < size, 1, -1)


# The antisymmetric paddings have the names of the sine transforms whose basis they extend.
PADDINGS: dict[str, Padding] = {
    "constant": Padding(_clamp, filled=True),
    "border": Padding(_clamp),
    "reflection": Padding(_reflect, _reflection_period, means="mirror"),
    "wrap": Padding(_wrap, lambda size, align_corners: size, means="wrap"),
    "dst1": Padding(
        _mirror_beyond, lambda size, align_corners: 2 * size + 2, sign=_sign_beyond, means="wrap"
    ),
    "dst2": Padding(
        _reflect_at_edges, lambda size, align_corners: 2 * size, sign=_sign_at_edges, means="wrap"
    ),
    "renormalized": Padding(_clamp, filled=True, renormalized=True),
}
