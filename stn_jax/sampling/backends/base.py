"""The interface of engines: formulas of the sum, and two functions for each.

Sampling is one sum, the paper's equation 3. An engine evaluates it (``sample``) and pulls a
cotangent of its value back to the operands (``pull``). The sum has three formulas:

* :class:`Points` starts from pixel coordinates, for kernels that are polynomials between pixels.
  An engine can compute weights and sum in one loop.
* :class:`AffinePoints` starts from the matrix of an affine map, which moves a regular lattice. An
  engine that computes the coordinates itself neither reads nor writes arrays of them. For the
  others, ``batching`` turns the formula into :class:`Points`.
* :class:`Taps` starts from the indices and weights of the pixels under any kernel. It serves all
  other kernels, and derivatives of higher order. It is linear in the image and in the weights of
  each axis.

Two formulas consist of several steps. An engine may take them in one call; for the others,
``expanded`` takes them one by one.

* :class:`Paths` takes such sums again and again, along the path of each point.
* :class:`BoxMeans` is the sum over an array of box means, which it computes from the image.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import mlir
from jaxtyping import Array

from stn_jax._affine import affine_pixels
from stn_jax._types import Size
from stn_jax.sampling.box_means import BoxLayout
from stn_jax.sampling.kernels import Kernel
from stn_jax.sampling.taps import Tap, taps_along

Lowering = Callable[..., Any]
ImplementationName = Literal["xla", "native", "dense"]

# Positions of the first two operands, in all formulas.
IMAGE, FILL = 0, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Formula:
    """The static part of a sum. The engine is chosen and compiled for it.

    Operands begin with any number of batch axes, each of the full size or of size 1.

    Attributes:
      ndim: Number of spatial axes of the image.
      filled: Whether taps outside the image read the fill value; otherwise they are left out.
      deterministic: Whether the image's gradient must have the same bits on every run.
      implementation: Name of the engine to use; ``None`` takes the best that supports the call.
    """

    ndim: int
    filled: bool
    deterministic: bool = False
    implementation: ImplementationName | None = None

    def axes(self, out: Sequence[str]) -> list[tuple[str, ...]]:
        """The names of each operand's axes after the batch axes.

        Axes of the same name have the same size. ``out`` names the axes of the points; ``"c"`` is
        the channels.
        """
        space = ("z", "y", "x")[3 - self.ndim :]
        return [(*space, "c"), ("c",)]

    def out_shape(self, operands: Sequence[Any], batch: int) -> tuple[Size, ...]:
        """The shape of the points."""
        raise NotImplementedError

    def taps(self, image: Array, *rest: Array) -> list[Sequence[Tap]]:
        """The taps along each axis, x first; the operands have no batch axes."""
        raise NotImplementedError

    def directions(
        self, axes: Sequence[Sequence[Tap]], axis: int, *operands: Array
    ) -> list[Sequence[Tap]]:
        """Lists of taps along an axis, with derivatives of the weights in place of the weights.

        ``Points`` gives one list, for the derivative with respect to the coordinate. ``Taps`` gives
        one list per tap, for the derivative with respect to its weight.
        """
        raise NotImplementedError

    @property
    def sources(self) -> tuple[int, ...]:
        """Positions of the operands that the weights depend on, those of the x axis first."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Points(Formula):
    """The sum from pixel coordinates: operands image, fill, then the coordinates along each axis.

    Attributes:
      kernel: The kernel; one of :data:`stn_jax.sampling.polynomials.POLYNOMIALS`.
      padding: Name of the padding.
      align_corners: As in :func:`stn_jax.grid_sample`.
    """

    kernel: Kernel
    padding: str
    align_corners: bool

    def axes(self, out: Sequence[str]) -> list[tuple[str, ...]]:
        """As in :class:`Formula`."""
        return [*super().axes(out), *self.ndim * [tuple(out)]]

    def out_shape(self, operands: Sequence[Any], batch: int) -> tuple[Size, ...]:
        """As in :class:`Formula`."""
        return operands[2].shape[batch:]

    @property
    def sources(self) -> tuple[int, ...]:
        """As in :class:`Formula`."""
        return tuple(range(2, 2 + self.ndim))

    def over_points(self) -> "Points":
        """The formula over coordinates that gives the sum, or the sum of one step."""
        fields = dataclasses.fields(Points)
        return Points(**{field.name: getattr(self, field.name) for field in fields})

    def over_taps(self) -> "Taps":
        """The formula over taps that gives the same sum."""
        return Taps(
            ndim=self.ndim,
            filled=self.filled,
            deterministic=self.deterministic,
            implementation=self.implementation,
        )

    def taps_of(self, pixel: Array, size: Size) -> list[Tap]:
        """The taps along an axis of ``size`` pixels."""
        return taps_along(pixel, size, self.kernel, self.padding, self.align_corners)

    def taps(self, image: Array, *rest: Array) -> list[Sequence[Tap]]:
        """As in :class:`Formula`."""
        _, *pixels = rest
        sizes = image.shape[:-1][::-1]
        return [self.taps_of(each, size) for each, size in zip(pixels, sizes, strict=True)]

    def directions(
        self, axes: Sequence[Sequence[Tap]], axis: int, *operands: Array
    ) -> list[Sequence[Tap]]:
        """As in :class:`Formula`."""
        image, pixel = operands[IMAGE], operands[2 + axis]
        size = image.shape[self.ndim - 1 - axis]

        def weights(pixel: Array) -> list[Array]:
            return [tap.weight for tap in self.taps_of(pixel, size)]

        slopes = jax.jvp(weights, (pixel,), (jnp.ones_like(pixel),))[1]
        return [[t._replace(weight=slope) for t, slope in zip(axes[axis], slopes, strict=True)]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AffinePoints(Points):
    """The sum at the points of a regular lattice under an affine map: operands image, fill, matrix.

    The matrix ``[ndim, ndim + 1]`` is that of the map less the identity, from target to source in
    normalised coordinates.

    Attributes:
      out: Shape of the lattice.
    """

    out: tuple[int, ...]

    def axes(self, out: Sequence[str]) -> list[tuple[str, ...]]:
        """As in :class:`Formula`."""
        return [*Formula.axes(self, out), ("row", "column")]

    def out_shape(self, operands: Sequence[Any], batch: int) -> tuple[Size, ...]:
        """As in :class:`Formula`."""
        return self.out

    @property
    def sources(self) -> tuple[int, ...]:
        """As in :class:`Formula`: the matrix gives the coordinates along all axes."""
        return (2,)

    def pixels(self, matrix: Array, space: tuple[int, ...]) -> list[Array]:
        """The coordinates in an image of the shape ``space``; the matrix has no batch axes."""
        return affine_pixels(matrix, self.out, space, align_corners=self.align_corners)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paths(Points):
    """The displacement of points that follow a velocity field for unit time; operands as above.

    The image holds the velocities, in pixels, a channel for each coordinate; the sum at a point is
    the velocity there. The value is the displacement, in pixels. A velocity or a cotangent that is
    not finite may spread to points, or to velocities, that do not depend on it.

    Attributes:
      steps: Number of steps of the classic fourth-order Runge-Kutta rule.
    """

    steps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxMeans(Points):
    """The mean of several boxes around each point, from an array of the image's box means.

    Operands as above, then levels and edges as in ``BoxLayout.places``.

    Attributes:
      layout: Where the means lie in the array.
      each_point: Whether levels and edges differ between points.
      reads_image: Whether a point of level −1 has the value of :class:`Points`; else it has none.
    """

    layout: BoxLayout
    each_point: bool
    reads_image: bool

    def axes(self, out: Sequence[str]) -> list[tuple[str, ...]]:
        """As in :class:`Formula`."""
        own = tuple(out) if self.each_point else ()
        return [*super().axes(out), ("coordinates", *own), ("edges", "coordinates", *own)]

    @property
    def sources(self) -> tuple[int, ...]:
        """As in :class:`Formula`."""
        return (*super().sources, 3 + self.ndim)

    def over_means(self) -> Points:
        """The formula over coordinates in the array."""
        return dataclasses.replace(self.over_points(), padding="border", filled=False)


FORMULAS_OF_STEPS = (Paths, BoxMeans)


class StackedTaps(Sequence[Tap]):
    """The taps along an axis, stored as arrays ``[taps, *out]``."""

    def __init__(self, stacked: Tap) -> None:
        self.stacked = stacked

    def __len__(self) -> int:
        return self.stacked.index.shape[0]

    def __getitem__(self, number: Any) -> Any:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return jax.tree.map(
            lambda each: jax.lax.index_in_dim(each, number, keepdims=False), self.stacked
        )


def stacked(taps: Sequence[Tap]) -> Tap:
    """The taps along an axis as arrays ``[taps, *out]``."""
    if isinstance(taps, StackedTaps):
        return taps.stacked
    return jax.tree.map(lambda *each: jnp.stack(each), *taps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Taps(Formula):
    """The sum from taps: operands image, fill, the indices for each axis, the weights for each.

    Indices are int32 ``[taps, *out]``, −1 for a tap outside; weights have the same shape.
    """

    def axes(self, out: Sequence[str]) -> list[tuple[str, ...]]:
        """As in :class:`Formula`."""
        taps = [(f"taps {axis}", *out) for axis in range(self.ndim)]
        return [*super().axes(out), *taps, *taps]

    def out_shape(self, operands: Sequence[Any], batch: int) -> tuple[Size, ...]:
        """As in :class:`Formula`."""
        return operands[2].shape[batch + 1 :]

    @property
    def sources(self) -> tuple[int, ...]:
        """As in :class:`Formula`."""
        return tuple(range(2 + self.ndim, 2 + 2 * self.ndim))

    def taps(self, image: Array, *rest: Array) -> list[Sequence[Tap]]:
        """As in :class:`Formula`."""
        _, *both = rest
        return [
            StackedTaps(Tap(jnp.maximum(index, 0), index >= 0, weight))
            for index, weight in zip(both[: self.ndim], both[self.ndim :], strict=True)
        ]

    def directions(
        self, axes: Sequence[Sequence[Tap]], axis: int, *operands: Array
    ) -> list[Sequence[Tap]]:
        """As in :class:`Formula`."""
        # The sum is linear in each weight, so its derivative has weight 1; 0 at a NaN coordinate.
        return [
            [tap._replace(weight=jnp.where(jnp.isnan(tap.weight), 0, jnp.ones_like(tap.weight)))]
            for tap in axes[axis]
        ]


class Call(NamedTuple):
    """One use of a formula in a program.

    Attributes:
      formula: The formula.
      which: The function to compute, ``"sample"`` or ``"pull"``.
      batch: Number of batch axes of the operands.
      operands: Types of the operands, with ``shape`` and ``dtype``; for ``pull`` the last is the
        cotangent's.
      results: Types of the results.
      platform: Platform that the program is compiled for, such as ``"cpu"``.
      exported: Whether the program is exported, to run without this library.
      partitioned: Whether XLA partitions the program among devices.
      wrt: For ``pull``, the operands whose cotangents are computed.
    """

    formula: Formula
    which: str
    batch: int
    operands: Sequence[Any]
    results: Sequence[Any]
    platform: str
    exported: bool
    partitioned: bool
    wrt: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """An implementation of the formulas.

    Attributes:
      name: Value of ``implementation=`` that selects it.
      missing: Function that returns why the engine is not installed, and the remedy; ``None`` if it
        is installed.
      refuses: Function that returns why the engine does not support a call; ``None`` if it does.
      sample: Lowering of ``sample``: ``(call, ctx, *operands, **parameters)``.
      pull: Lowering of ``pull``.
      automatic: Whether ``implementation=None`` may choose it.
      formulas_of_steps: Those of :data:`FORMULAS_OF_STEPS` that it evaluates.
    """

    name: ImplementationName
    missing: Callable[[], str | None] = lambda: None
    refuses: Callable[[Call], str | None] = lambda call: None
    sample: Lowering
    pull: Lowering
    automatic: bool = True
    formulas_of_steps: tuple[type[Formula], ...] = ()


def full_sizes(batch: int, operands: Sequence[Any]) -> tuple[Any, ...]:
    """The size of each batch axis."""
    return tuple(
        next((each.shape[axis] for each in operands if each.shape[axis] != 1), 1)
        for axis in range(batch)
    )


def sum_over(each: Array, axes: Sequence[bool]) -> Array:
    """Sums over the chosen leading axes, and keeps them with size 1."""
    chosen = tuple(axis for axis, summed in enumerate(axes) if summed and each.shape[axis] != 1)
    return jnp.sum(each, axis=chosen, keepdims=True) if chosen else each


def plain_engine(
    name: ImplementationName,
    sample: Callable[..., Array],
    pull: Callable[..., list[Array]],
    on_cpu: Mapping[str, Callable[..., Any]] | None = None,
    **options: Any,
) -> Engine:
    """An engine made of JAX operations.

    Args:
      name: Name of the engine.
      sample: Function ``(*operands, formula, batch)`` that returns the value.
      pull: Function ``(*operands, cotangent, formula, batch, wrt, reduced)`` that returns a
        cotangent for each operand named by ``wrt``. ``reduced`` says, for each of them and each
        batch axis, whether to sum the cotangent over that axis, which then has size 1.
      on_cpu: ``sample`` and ``pull`` for CPUs, where those differ.
      **options: Other fields of the engine.
    """
    lowerings: dict[str, Any] = {}
    for which, function in (("sample", sample), ("pull", pull)):
        multiple = which == "pull"
        rule = mlir.lower_fun(function, multiple_results=multiple)
        special = mlir.lower_fun((on_cpu or {}).get(which, function), multiple_results=multiple)
        lowerings[which] = functools.partial(_by_platform, rule, special)
    return Engine(name=name, **lowerings, **options)


def _by_platform(
    rule: Lowering, on_cpu: Lowering, call: Call, ctx: Any, *operands: Any, **parameters: Any
) -> Any:
    return (on_cpu if call.platform == "cpu" else rule)(ctx, *operands, **parameters)
