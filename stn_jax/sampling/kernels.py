"""Sampling kernels: the weights of the pixels around a coordinate."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks

# Up to this many pixels under a kernel along an axis, each weight is a separate expression, which
# XLA fuses into the loop over the samples.
_FEW_TAPS = 2


@runtime_checkable
class Weight(Protocol):
    """An elementwise function: the weight of a pixel at a distance from the coordinate."""

    def __call__(self, offset: Array, /, *params: Any) -> Array:
        """The weight at ``offset``, the coordinate minus the pixel's coordinate."""
        ...


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params"],
    meta_fields=["radius", "weight", "normalize", "prefilter"],
)
@dataclasses.dataclass(frozen=True)
class Kernel:
    """A separable sampling kernel, the paper's ``k(·; Φ)``.

    The output at pixel coordinate ``x`` is the sum of ``weight(x − m, *params)`` times pixel ``m``
    over the ``2 · radius`` pixels with ``−radius ≤ x − m < radius``, along each axis.

    A kernel is a pytree whose leaves are the parameters Φ: it passes through ``jit``, ``vmap`` and
    ``grad``, and a new number in ``params`` does not recompile.

    Attributes:
      radius: Half the support in pixels, a positive multiple of 1/2.
      weight: Elementwise function of ``x − m`` and of the parameters, differentiable by JAX. At a
        kink it should follow the piece on the right; the derivative is then that of the cell that
        holds ``x``.
      params: The parameters Φ, numbers or arrays; they may be traced, and receive gradients.
      normalize: Whether to divide the weights by their sum, for a kernel whose weights do not sum
        to 1.
      prefilter: Order of a B-spline. The weights then multiply the image's spline coefficients of
        that order instead of its pixels, so that a B-spline kernel interpolates. ``None``: pixels.

    Raises:
      ValueError: If ``radius`` is not a positive multiple of 1/2, or ``prefilter`` is no order of a
        B-spline.

    Example:
      Smoothing with a quadratic B-spline:

      >>> import jax
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

      A Gaussian whose width is learnt:

      >>> def blurred(width):
      ...     gaussian = stn.Kernel(
      ...         2.0, lambda t, w: jnp.exp(-((t / w) ** 2)), params=(width,), normalize=True
      ...     )
      ...     return stn.grid_sample(image, jnp.zeros((1, 2)), kernel=gaussian).sum()
      >>> bool(jax.grad(blurred)(1.0) < 0)  # the wider, the darker the middle
      True

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 3.
    """

    radius: float
    weight: Weight
    params: tuple[Any, ...] = dataclasses.field(default=(), kw_only=True)
    normalize: bool = dataclasses.field(default=False, kw_only=True)
    prefilter: int | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not self.radius > 0 or not float(2 * self.radius).is_integer():
            raise ValueError(
                f"radius must be a positive multiple of 1/2; got {self.radius!r}. "
                "Round it up: weights beyond the kernel's support may be zero."
            )
        if self.prefilter is not None and self.prefilter not in _B_SPLINES:
            raise ValueError(
                f"prefilter must be None or the order of a B-spline, "
                f"{', '.join(map(str, _B_SPLINES))}; got {self.prefilter!r}."
            )
        if not isinstance(self.params, tuple):
            raise TypeError(
                "params must be a tuple of the arguments of weight after the first; got "
                f"{self.params!r}. Write (a,) for one parameter."
            )
        params = tuple(_checks.numeric("params", each) for each in self.params)
        object.__setattr__(self, "params", params)

    @property
    def taps(self) -> int:
        """Pixels under the kernel along an axis."""
        return math.ceil(2 * self.radius)

    def first(self, pixel: Float[Array, "*out"]) -> Float[Array, "*out"]:
        """The first pixel under the kernel along one axis, as a float."""
        return jnp.floor(pixel + (1 - self.radius))

    def weights(self, offset: Float[Array, "*out"]) -> list[Float[Array, "*out"]]:
        """The weight of each pixel under the kernel along one axis.

        Args:
          offset: The coordinate minus that of the first pixel under the kernel.
        """
        if self.taps > _FEW_TAPS:
            return list(stacked_weights(self, offset, 0))
        params = self._params(offset.dtype)
        values = [self.weight(offset - tap, *params) for tap in range(self.taps)]
        if self.normalize:
            total = functools.reduce(jnp.add, values)
            values = [value / total for value in values]
        return values

    def _params(self, dtype: Any) -> list[Array]:
        return [jnp.asarray(each).astype(dtype) for each in self.params]


def stacked_weights(kernel: Kernel, offset: Array, axis: int) -> Array:
    """A kernel's weights, with the pixels under it along a new axis of one array.

    XLA then compiles the weight function once.
    """
    params = kernel._params(offset.dtype)
    return _stacked_weights(kernel.weight, kernel.taps, kernel.normalize, axis, params, offset)


def _weights_of_all(
    weight: Weight, taps: int, normalize: bool, axis: int, params: Sequence[Array], offset: Array
) -> Array:
    """The weights of all pixels under a kernel, along a new axis."""
    numbers = jnp.arange(taps, dtype=offset.dtype)
    weights = jax.vmap(lambda tap: weight(offset - tap, *params), out_axes=axis)(numbers)
    return weights / weights.sum(axis, keepdims=True) if normalize else weights


_stacked_weights = jax.custom_jvp(_weights_of_all, nondiff_argnums=(0, 1, 2, 3))


@functools.partial(_stacked_weights.defjvp, symbolic_zeros=True)
def _stacked_weights_jvp(
    weight: Weight, taps: int, normalize: bool, axis: int, primals: Any, tangents: Any
) -> tuple[Array, Array]:
    """The tangent along the offset is a product with the slopes, so that its transpose is short.

    Otherwise reverse mode would store what each operation of the weight function computes.
    """
    params, offset = primals
    params_dot, offset_dot = tangents
    weights_of = functools.partial(_weights_of_all, weight, taps, normalize, axis)
    weights, slopes = jax.jvp(
        functools.partial(weights_of, params), (offset,), (jnp.ones_like(offset),)
    )
    total = jnp.zeros_like(weights)
    if not isinstance(offset_dot, SymbolicZero):
        total = slopes * jnp.expand_dims(offset_dot, axis)
    if not all(isinstance(dot, SymbolicZero) for dot in params_dot):
        dots = [
            jnp.zeros_like(param) if isinstance(dot, SymbolicZero) else dot
            for param, dot in zip(params, params_dot, strict=True)
        ]
        along_params = jax.jvp(lambda params: weights_of(params, offset), (params,), (dots,))[1]
        total = total + along_params
    return weights, total


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
    return Kernel(2.0, _keys, params=(a,))


def _keys(t: Array, a: Array) -> Array:
    t, t2 = jnp.abs(t), t * t
    # The outer piece is factored so that it is exactly 0 at 1 and 2 for every a.
    near = ((a + 2) * t - (a + 3)) * t2 + 1
    return jnp.where(t < 1, near, a * (t - 1) * (t - 2) ** 2)


def _quadratic_b_spline(t: Array) -> Array:
    # At ±1/2 both pieces have the same slope.
    t = jnp.abs(t)
    return jnp.where(t < 0.5, 0.75 - t * t, (1.5 - t) ** 2 / 2)


def _cubic_b_spline(t: Array) -> Array:
    t, t2 = jnp.abs(t), t * t
    return jnp.where(t < 1, (4 - 6 * t2 + 3 * t * t2) / 6, (2 - t) ** 3 / 6)


def _quartic_b_spline(t: Array) -> Array:
    t, t2 = jnp.abs(t), t * t
    near = 115 / 192 - t2 * (5 / 8 - t2 / 4)
    middle = (55 + t * (20 + t * (-120 + t * (80 - 16 * t)))) / 96
    return jnp.where(t < 0.5, near, jnp.where(t < 1.5, middle, (2.5 - t) ** 4 / 24))


def _quintic_b_spline(t: Array) -> Array:
    t, t2 = jnp.abs(t), t * t
    near = 11 / 20 - t2 * (1 / 2 - t2 * (1 / 4 - t / 12))
    middle = (51 + t * (75 + t * (-210 + t * (150 + t * (-45 + 5 * t))))) / 120
    return jnp.where(t < 1, near, jnp.where(t < 2, middle, (3 - t) ** 5 / 120))


def _one(t: Array) -> Array:
    return jnp.ones_like(t)


def _triangle(t: Array) -> Array:
    return jnp.where(t < 0, 1 + t, 1 - t)


def _lanczos3(t: Array) -> Array:
    return jnp.where(jnp.abs(t) < 3, _sinc(t) * _sinc(t / 3), 0.0)


def _lanczos5(t: Array) -> Array:
    return jnp.where(jnp.abs(t) < 5, _sinc(t) * _sinc(t / 5), 0.0)


def _sinc(t: Array) -> Array:
    """sin(πt)/(πt), exactly 0 at whole numbers other than 0.

    With u = t less its nearest whole number, it is ± sin(πu)/(πu) · u/t. The first factor is a
    series, exact to rounding for ``|u| <= 1/2``. XLA's sine takes longer to compile, and its
    quotient has no derivative at 0.
    """
    whole = jnp.round(t)
    u = t - whole
    highest, *coefficients = _SINC if t.dtype.itemsize > 4 else _SINC[-8:]
    series, square = jnp.full_like(t, highest), u * u
    for coefficient in coefficients:
        series = series * square + coefficient
    sign = 1 - 2 * (whole - 2 * jnp.floor(whole / 2))
    return series * jnp.where(whole == 0, 1, sign * u / jnp.where(whole == 0, 1, t))


# The coefficients of sin(πu)/(πu) as a polynomial of u², from the highest on.
_SINC = [(-1) ** k * math.pi ** (2 * k) / math.factorial(2 * k + 1) for k in range(12, -1, -1)]


def b_spline(order: int, *, prefilter: bool = True) -> Kernel:
    """The B-spline kernel of an order.

    Args:
      order: Degree of its pieces, 2 to 5; 3 is the cubic spline.
      prefilter: If true, the kernel interpolates: it first computes the image's
        :func:`spline_coefficients`, and is the same as ``"bspline3"`` and so on. If false, its
        weights multiply the given array itself. That smooths an image, and interpolates if the
        array already holds coefficients.

    Returns:
      A kernel of radius ``(order + 1) / 2``.

    Raises:
      ValueError: If ``order`` is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.array([0.0, 6.0, 0.0])[None, :, None]
      >>> middle = jnp.array([[0.0, 0.0]])
      >>> stn.grid_sample(image, middle, kernel="bspline3").round(4).item()
      6.0
      >>> smooth = stn.b_spline(3, prefilter=False)
      >>> stn.grid_sample(image, middle, kernel=smooth, padding="border").round(4).item()
      4.0

    Reference:
      Unser, Aldroubi and Eden, B-Spline Signal Processing, IEEE Transactions on Signal Processing
      41(2), 1993.
    """
    if order not in _B_SPLINES:
        raise ValueError(f"order must be one of {', '.join(map(str, _B_SPLINES))}; got {order!r}.")
    return Kernel((order + 1) / 2, _B_SPLINES[order], prefilter=order if prefilter else None)


_B_SPLINES: dict[int, Weight] = {
    2: _quadratic_b_spline,
    3: _cubic_b_spline,
    4: _quartic_b_spline,
    5: _quintic_b_spline,
}

KernelName = Literal[
    "nearest",
    "linear",
    "cubic",
    "lanczos3",
    "lanczos5",
    "bspline2",
    "bspline3",
    "bspline4",
    "bspline5",
]

KERNELS: dict[str, Kernel] = {
    # The paper's integer kernel, δ(⌊x + 0.5⌋ − m).
    "nearest": Kernel(0.5, _one),
    # The paper's bilinear kernel, max(0, 1 − |x − m|).
    "linear": Kernel(1.0, _triangle),
    "cubic": cubic(a=-0.5),
    "lanczos3": Kernel(3.0, _lanczos3, normalize=True),
    "lanczos5": Kernel(5.0, _lanczos5, normalize=True),
}

# Splines through the pixels. Each of their coefficients depends on many pixels, so the splines are
# exact only up to rounding where the kernels above are exact.
SPLINES: dict[str, Kernel] = {f"bspline{order}": b_spline(order) for order in _B_SPLINES}

# The basis of free-form deformations; it smooths rather than interpolates.
CUBIC_B_SPLINE = b_spline(3, prefilter=False)


def resolve(kernel: KernelName | Kernel) -> Kernel:
    """Looks up a kernel by its name; moves the arrays that a given kernel closes over to params."""
    if not isinstance(kernel, Kernel):
        return _checks.option("kernel", kernel, KERNELS | SPLINES)
    if getattr(kernel.weight, "__closure__", ()) is None:
        return kernel
    # A traced array that the weight closes over would leak into the cache of jit.
    example = jnp.zeros((1,))
    weight, closed_over = jax.closure_convert(kernel.weight, example, *kernel.params)
    if not closed_over:
        return kernel
    return dataclasses.replace(kernel, weight=weight, params=(*kernel.params, *closed_over))
