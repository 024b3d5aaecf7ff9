"""Kernels that are polynomials between pixels, as tables of coefficients.

The weight of each pixel under such a kernel is one polynomial of the fraction: how far the
coordinate lies into the cell of the kernel's knots, from 0 to 1. An engine that knows the
coefficients computes weights and slopes itself.
"""

import math
from fractions import Fraction

from stn_jax.sampling.kernels import KERNELS, Kernel, b_spline, cubic

# [taps][powers], the constant first.
Coefficients = tuple[tuple[float, ...], ...]


def _keys(a: float) -> Coefficients:
    """Keys' kernel, its two pieces expanded about the knots."""
    return (
        (0.0, a, -2 * a, a),
        (1.0, 0.0, -a - 3, a + 2),
        (0.0, -a, 2 * a + 3, -a - 2),
        (0.0, 0.0, a, -a),
    )


def _b_spline(order: int) -> Coefficients:
    """The cardinal B-spline: a sum of truncated powers, expanded about the knots.

    Reference:
      Unser, Splines: A Perfect Fit for Signal and Image Processing, IEEE Signal Processing Magazine
      16(6), 1999, equation 2.
    """
    pieces = []
    for knot in reversed(range(order + 1)):
        powers = [Fraction(0)] * (order + 1)
        for j in range(knot + 1):
            outer = Fraction((-1) ** j * math.comb(order + 1, j), math.factorial(order))
            for power in range(order + 1):
                powers[power] += outer * math.comb(order, power) * (knot - j) ** (order - power)
        pieces.append(tuple(map(float, powers)))
    return tuple(pieces)


POLYNOMIALS: dict[Kernel, Coefficients] = {
    KERNELS["nearest"]: ((1.0,),),
    KERNELS["linear"]: ((1.0, -1.0), (0.0, 1.0)),
    KERNELS["cubic"]: _keys(-0.5),
    cubic(a=-0.75): _keys(-0.75),
    **{b_spline(order, prefilter=False): _b_spline(order) for order in (2, 3, 4, 5)},
}


def polynomial(kernel: Kernel) -> Kernel | None:
    """The key of a kernel's table, equal to the kernel; ``None`` if it has no table.

    A kernel with traced parameters has none, so that a new number does not recompile.
    """
    if not all(isinstance(each, int | float) for each in kernel.params):
        return None
    return next((each for each in POLYNOMIALS if each == kernel), None)
