"""Cases: the warped arrays, the parameters, and the differentiated operands."""

import importlib
import itertools
import types
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

Pass = Literal["forward", "theta", "image"]
DTypeName = Literal["float32", "bfloat16"]
PASSES: dict[Pass, str] = {
    "forward": "forward",
    "theta": "forward+backward to θ",
    "image": "forward+backward to image and θ",
}
# The results of each pass, in the order in which contenders give them.
RESULTS: dict[Pass, tuple[str, ...]] = {
    "forward": ("value",),
    "theta": ("value", "d theta"),
    "image": ("value", "d theta", "d image"),
}
# Tolerance: norm of the difference from ours, divided by the norm of ours.
TOLERANCE: dict[DTypeName, float] = {"float32": 1e-3, "bfloat16": 1e-2}


class Case(NamedTuple):
    """A case: shape, dtype and pass.

    ``shape`` is ``(batch, *space, channels)``, of the input and of the output.
    """

    shape: tuple[int, ...]
    dtype: DTypeName
    which: Pass

    @property
    def space(self) -> tuple[int, ...]:
        """Spatial shape."""
        return self.shape[1:-1]

    @property
    def bytes_of_images(self) -> int:
        """Size of one batch of images."""
        return int(np.prod(self.shape)) * jnp.dtype(self.dtype).itemsize

    @property
    def bytes_moved(self) -> int:
        """The least number of bytes to read and write, without θ, which is small.

        Forward reads the image and writes the output. Backward also reads the cotangent and writes
        the image's gradient.
        """
        return {"forward": 2, "theta": 3, "image": 4}[self.which] * self.bytes_of_images


def cases(shapes: Sequence[str], dtypes: Sequence[DTypeName], passes: Sequence[Pass]) -> list[Case]:
    """The cases of all combinations; shapes as on the command line, ``256x28x28x1``."""
    for shape in shapes:
        sizes = shape.split("x")
        if len(sizes) not in (4, 5) or not all(size.isdecimal() for size in sizes):
            raise ValueError(
                "shapes must be like 256x28x28x1 (batch, height, width, channels) or "
                f"4x64x64x64x1 (with the depth before the height); got {shape!r}."
            )
    return [
        Case(tuple(map(int, shape.split("x"))), dtype, which)
        for shape, dtype, which in itertools.product(shapes, dtypes, passes)
    ]


class Operands(NamedTuple):
    """Float32 arrays, channels last; the images hold numbers that the case's dtype represents.

    ``theta`` is ``[batch, params]``.
    """

    image: np.ndarray
    theta: np.ndarray
    cotangent: np.ndarray


def affine_operands(case: Case, seed: int) -> Operands:
    """Smooth images, and maps near the identity that turn, scale and shift."""
    rng = np.random.default_rng(seed)
    ndim = len(case.space)
    return Operands(
        as_dtype(_waves(rng, case.shape), case.dtype),
        np.stack([_near_identity(rng, ndim).ravel() for _ in range(case.shape[0])]),
        as_dtype(rng.normal(size=case.shape), case.dtype),
    )


def as_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounds float32 to numbers that another dtype represents."""
    return values.astype(jnp.dtype(dtype)).astype(np.float32)


def optional(name: str) -> types.ModuleType | None:
    """A module, or ``None`` if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def missing(names: Sequence[str]) -> list[str]:
    """Those modules that are not installed."""
    return [name for name in names if optional(name) is None]


def _waves(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Products of waves along each axis with periods of 8 to 16 pixels, values from −1 to 1."""
    batch, *space, channels = shape
    values = np.ones((), np.float32)
    for axis, size in enumerate(space, start=1):
        period = rng.uniform(8, 16, (batch, channels))
        phase = rng.uniform(0, 2 * np.pi, (batch, channels))
        angle = 2 * np.pi * np.arange(size)[:, None] / period[:, None] + phase[:, None]
        along = [batch, *(size if k == axis else 1 for k in range(1, len(space) + 1)), channels]
        values = values * np.sin(angle).astype(np.float32).reshape(along)
    return values


def _near_identity(rng: np.random.Generator, ndim: int) -> np.ndarray:
    """``[ndim, ndim + 1]`` in float32."""
    linear = np.eye(ndim)
    for first in range(ndim - 1):
        c, s = np.cos(angle := rng.uniform(-0.3, 0.3)), np.sin(angle)
        turn = np.eye(ndim)
        turn[first : first + 2, first : first + 2] = [[c, -s], [s, c]]
        linear = turn @ linear
    linear = linear * rng.uniform(0.8, 1.2, ndim)
    shift = rng.uniform(-0.1, 0.1, (ndim, 1))
    return np.concatenate([linear, shift], axis=1).astype(np.float32)
