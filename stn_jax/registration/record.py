"""The result of a registration."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float, Int, Shaped

from stn_jax._types import AnyArray
from stn_jax.transforms.base import Transform
from stn_jax.warp import warp

if typing.TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Registration:
    """The result of :func:`stn_jax.register`, a pytree; ``jax.vmap`` adds an axis to its arrays.

    Attributes:
      transform: The family.
      theta: Parameters ``[num_params]`` of the map from points of ``fixed`` to points of
        ``moving``. So ``stn.warp(moving, transform, theta, output_shape=...)`` lies on ``fixed``.
      backward: Parameters of the map from ``moving`` to ``fixed``, if ``inverse_consistency`` was
        asked for; else ``None``.
      loss: The smallest value at the finest level, penalties included; infinity if the images
        overlapped too little at every step.
      history: The minimised value at each level's start and after each of its steps, ``[levels,
        1 + iterations]``; NaN after the last step.
      iterations: Number of steps at each level, ``[levels]``.
      overlap: Share of ``fixed`` that reads from inside ``moving``, masks included, from 0 to 1.
      folds: Share of ``fixed`` where the map is folded; see
        :func:`stn_jax.diagnostics.fold_fraction`.
      residual: Root mean square of ``fixed − warped`` where they overlap, in the images' unit.
      shapes: Spatial shape of ``fixed`` at each level.
      align_corners: As given to :func:`stn_jax.register`.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> x, y = jnp.moveaxis(stn.regular_grid((32, 32)), -1, 0)
      >>> moving = jnp.exp(-8 * ((x - 0.2) ** 2 + y**2))[..., None]
      >>> fixed = jnp.exp(-8 * (x**2 + y**2))[..., None]
      >>> found = stn.register(fixed, moving, stn.translation())
      >>> bool(jnp.abs(found.theta - jnp.array([0.2, 0.0])).max() < 0.005)
      True
      >>> found.warp(moving).shape
      (32, 32, 1)

    Reference:
      The diagnostics are those of :mod:`stn_jax.diagnostics`.
    """

    transform: Transform
    theta: Float[Array, "*batch params"]
    backward: Float[Array, "*batch params"] | None
    loss: Float[Array, "*batch"]
    history: Float[Array, "*batch levels iterations"]
    iterations: Int[Array, "*batch levels"]
    overlap: Float[Array, "*batch"]
    folds: Float[Array, "*batch"]
    residual: Float[Array, "*batch"]
    shapes: tuple[tuple[int, ...], ...]
    align_corners: bool

    def warp(
        self, moving: Shaped[AnyArray, "*space channels"], **options: Any
    ) -> Shaped[Array, "*out channels"]:
        """Warps an image, or a mask or labels with ``kernel="nearest"``, onto ``fixed``.

        Args:
          moving: An image that covers what ``moving`` covered, ``[*space, channels]``.
          **options: Options of :func:`stn_jax.warp`.

        Returns:
          ``[*space of fixed, channels]``, or of another ``output_shape``.
        """
        given: dict[str, Any] = {
            "output_shape": self.shapes[-1],
            "align_corners": self.align_corners,
        } | options
        return warp(moving, self.transform, self.theta, **given)

    def visualize(
        self,
        fixed: Shaped[AnyArray, "*space channels"],
        moving: Shaped[AnyArray, "*moving_space channels"],
    ) -> "Figure":
        """Draws both images, the grid that was found, and checkerboards before and after.

        Args:
          fixed: As given to :func:`stn_jax.register`.
          moving: As given to :func:`stn_jax.register`.

        Returns:
          A matplotlib figure; see :func:`stn_jax.visualize.registration`.
        """
        from stn_jax import visualize

        return visualize.registration(
            fixed, moving, self.transform, self.theta, align_corners=self.align_corners
        )


_ARRAYS = (
    "transform",
    "theta",
    "backward",
    "loss",
    "history",
    "iterations",
    "overlap",
    "folds",
    "residual",
)
_STATIC = ("shapes", "align_corners")


def _flatten(record: Registration) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    arrays, static = (tuple(getattr(record, name) for name in each) for each in (_ARRAYS, _STATIC))
    return arrays, static


def _unflatten(static: tuple[Any, ...], arrays: Sequence[Any]) -> Registration:
    # Without the constructor, as JAX puts placeholders in place of arrays.
    record = object.__new__(Registration)
    for name, value in zip(_ARRAYS + _STATIC, (*arrays, *static), strict=True):
        object.__setattr__(record, name, value)
    return record


jax.tree_util.register_pytree_node(Registration, _flatten, _unflatten)
