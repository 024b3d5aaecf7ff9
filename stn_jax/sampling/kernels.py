"""Sampling kernels: a support and a weight function each."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stn_jax import _checks


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A separable sampling kernel, the paper's ``k(·; Φ)``.

    The output at pixel coordinate ``x`` is the sum of ``weight(x − m)`` times pixel ``m`` over the
    ``2 · radius`` pixels with ``−radius ≤ x − m < radius``, along each axis.

    Attributes:
      radius: Half the support in pixels, a positive multiple of 1/2.
      weight: Elementwise function of ``x − m``, differentiable by JAX. At a kink it should follow
        the piece on the right, so that derivatives are those of the cell that holds ``x``.

    Raises:
      ValueError: If ``radius`` is not a positive multiple of 1/2.

    Example:
      Smoothing with a quadratic B-spline:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> def weight(t):
      ...     t = jnp.abs(t)
      ...     return jnp.where(t < 0.5, 0.75 - t**2, (1.5 - t) ** 2 / 2)
      >>> spline = stn.Kernel(1.5, weight)
      >>> image = jnp.array([0.0, 8.0, 0.0])[None, :, None]
      >>> smooth = stn.grid_sample(
      ...     image, stn.regular_grid((1, 3)), kernel=spline, padding="border"
      ... )
      >>> smooth.ravel().tolist()
      [1.0, 6.0, 1.0]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 3.
    """

    radius: float
    weight: Callable[[Array], Array]

    def __post_init__(self) -> None:
        if not self.radius > 0 or not float(2 * self.radius).is_integer():
            raise ValueError(
                f"radius must be a positive multiple of 1/2; got {self.radius!r}. "
                "Round it up: weights beyond the kernel's own support may be zero."
            )

    def taps(
        self, pixel: Float[Array, "*out"], order: int = 0
    ) -> list[tuple[Int[Array, "*out"], Float[Array, "*out"]]]:
        """The pixels under the kernel along one axis: index and weight of each.

        Args:
          pixel: Finite pixel coordinates within the range of int32.
          order: Which derivative of the weights with respect to the coordinate.
        """
        first = jnp.floor(pixel + (1 - self.radius))
        weight = self.weight
        for _ in range(order):
            weight = _derivative(weight)
        index = first.astype(jnp.int32)
        return [
            (index + tap, weight(pixel - first - tap)) for tap in range(math.ceil(2 * self.radius))
        ]


def _derivative(function: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Derivative of an elementwise function."""
    return lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def _triangle(t: Array) -> Array:
    return jnp.where(t < 0, 1 + t, 1 - t)


KernelName = Literal["nearest", "linear"]

KERNELS: dict[str, Kernel] = {
    # The paper's integer kernel, δ(⌊x + 0.5⌋ − m).
    "nearest": Kernel(0.5, jnp.ones_like),
    # The paper's bilinear kernel, max(0, 1 − |x − m|).
    "linear": Kernel(1.0, _triangle),
}


def resolve(kernel: KernelName | Kernel) -> Kernel:
    """The kernel of a name, or the kernel itself."""
    return kernel if isinstance(kernel, Kernel) else _checks.option("kernel", kernel, KERNELS)
