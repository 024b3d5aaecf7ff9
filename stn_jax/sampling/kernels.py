"""Sampling kernels: a support and a weight function each."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks

# Pixels under a kernel along an axis up to which each weight is an expression of its own, which XLA
# takes into the loop over the samples.
_FEW_TAPS = 2


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A separable sampling kernel, the paper's ``k(·; Φ)``.

    The output at pixel coordinate ``x`` is the sum of ``weight(x − m)`` times pixel ``m`` over the
    ``2 · radius`` pixels with ``−radius ≤ x − m < radius``, along each axis.

    Attributes:
      radius: Half the support in pixels, a positive multiple of 1/2.
      weight: Elementwise function of ``x − m``, differentiable by JAX. At a kink it should follow
        the piece on the right, so that derivatives are those of the cell that holds ``x``. The
        parameters Φ are arrays that it closes over; they may be traced, and receive gradients.
      normalize: Whether to divide the weights by their sum, for a kernel whose shifted copies do
        not add up to 1.

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
    weight: Callable[..., Array]
    normalize: bool = dataclasses.field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if not self.radius > 0 or not float(2 * self.radius).is_integer():
            raise ValueError(
                f"radius must be a positive multiple of 1/2; got {self.radius!r}. "
                "Round it up: weights beyond the kernel's own support may be zero."
            )

    def first(self, pixel: Float[Array, "*out"]) -> Float[Array, "*out"]:
        """The first pixel under the kernel along one axis, as a float."""
        return jnp.floor(pixel + (1 - self.radius))

    def weights(
        self, offset: Float[Array, "*out"], order: int = 0, phi: tuple[Array, ...] = ()
    ) -> list[Float[Array, "*out"]]:
        """The weight of each pixel under the kernel along one axis.

        Args:
          offset: How far the coordinate lies beyond the first pixel under the kernel.
          order: Which derivative of the weights with respect to the coordinate.
          phi: Further arguments of ``weight``, where what it closed over was made explicit.
        """
        taps = math.ceil(2 * self.radius)

        def weights_at(offset: Array) -> list[Array]:
            if taps <= _FEW_TAPS:
                values = [self.weight(offset - tap, *phi) for tap in range(taps)]
            else:
                # One expression for all taps, however many: XLA compiles it once.
                each = jnp.arange(taps, dtype=offset.dtype)
                values = list(jax.vmap(lambda tap: self.weight(offset - tap, *phi))(each))
            if self.normalize:
                total = functools.reduce(jnp.add, values)
                values = [value / total for value in values]
            return values

        weights: Callable[[Array], list[Array]] = weights_at
        for _ in range(order):
            weights = _derivative(weights)
        return weights(offset)


def cubic(*, a: ArrayLike = -0.5) -> Kernel:
    """Keys' cubic convolution kernel.

    Args:
      a: Slope at distance 1: −0.5 is Keys' choice, exact for quadratics, and the kernel
        ``"cubic"``; −0.75 is PyTorch's and OpenCV's. It may be traced and receives gradients.

    Returns:
      A kernel of radius 2.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.array([0.0, 1.0, 4.0, 9.0])[None, :, None]
      >>> middle = jnp.array([[0.0, 0.0]])
      >>> stn.grid_sample(image, middle, kernel="cubic").item()  # 1.5²
      2.25
      >>> stn.grid_sample(image, middle, kernel=stn.cubic(a=-0.75)).item()
      2.125

    Reference:
      Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981, equation 15.
    """
    # One record for one number, so that jit compiles once; a traced number is its own.
    return _keys(float(a)) if isinstance(a, int | float) else _keys.__wrapped__(a)


@functools.cache
def _keys(a: ArrayLike) -> Kernel:
    def weight(t: Array) -> Array:
        t, t2 = jnp.abs(t), t * t
        # The outer piece is factored so that it is exactly 0 at 1 and 2, whatever a is.
        near = ((a + 2) * t - (a + 3)) * t2 + 1
        return jnp.where(t < 1, near, a * (t - 1) * (t - 2) ** 2)

    return Kernel(2.0, weight)


def _derivative(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
    """Derivative of a function of each element alone."""
    return lambda t: jax.jvp(function, (t,), (jnp.ones_like(t),))[1]


def _triangle(t: Array) -> Array:
    return jnp.where(t < 0, 1 + t, 1 - t)


def _lanczos3(t: Array) -> Array:
    return jnp.where(jnp.abs(t) < 3, _sinc(t) * _sinc(t / 3), 0.0)


def _sinc(t: Array) -> Array:
    """sin(πt)/(πt), exactly 0 at whole numbers other than 0."""
    whole = jnp.round(t)
    sine = jnp.sin(jnp.pi * (t - whole)) * (1 - 2 * (whole % 2))
    # Near 0 the quotient's derivatives would not be finite; the series is exact to rounding.
    square = (jnp.pi * t) ** 2
    small = square < 1e-3
    series = 1 - square / 6 * (1 - square / 20 * (1 - square / 42))
    return jnp.where(small, series, sine / jnp.where(small, 1, jnp.pi * t))


KernelName = Literal["nearest", "linear", "cubic", "lanczos3"]

KERNELS: dict[str, Kernel] = {
    # The paper's integer kernel, δ(⌊x + 0.5⌋ − m).
    "nearest": Kernel(0.5, jnp.ones_like),
    # The paper's bilinear kernel, max(0, 1 − |x − m|).
    "linear": Kernel(1.0, _triangle),
    "cubic": cubic(a=-0.5),
    "lanczos3": Kernel(3.0, _lanczos3, normalize=True),
}


def resolve(kernel: KernelName | Kernel) -> Kernel:
    """The kernel of a name, or the kernel itself."""
    return kernel if isinstance(kernel, Kernel) else _checks.option("kernel", kernel, KERNELS)
