"""Linear families as matrix exponentials; ``theta`` holds the generator (the Lie algebra)."""

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.transforms import matrices
from stn_jax.transforms.base import Transform, family
from stn_jax.transforms.linear import moved_by

GroupName = Literal["rigid", "similarity", "affine", "projective"]

# Scaling and squaring: the generator is divided by 2 to the number of squarings; the order is that
# of the series. Exact to float64 rounding up to a norm of 25, and to 1e-12 up to a norm of 100.
_SQUARINGS = 8
_ORDER = 10


@family
def exponential(group: GroupName, *, ndim: int = 2) -> Transform:
    """Linear maps as matrix exponentials, ``T = exp(Σₖ θₖ Gₖ)``.

    The generator ``Σₖ θₖ Gₖ`` is a velocity that is linear in the point; the map moves points along
    it for one unit of time. So zeros give the identity, ``−theta`` gives the inverse, and half of
    ``theta`` gives half of the motion. Every map has an inverse, and none mirrors the image.
    ``theta`` holds, in this order,

    * ``"rigid"``: ``(angle, vx, vy)``; in 3-D an axis-angle vector, then ``(vx, vy, vz)``. Points
      move along circles, or screws in 3-D, so ``(vx, vy)`` is not the translation of the map;
    * ``"similarity"``: the logarithm of the scale, then as ``"rigid"``;
    * ``"affine"``: the generator ``[A | v]``, ``n × (n + 1)``, row by row;
    * ``"projective"``, 2-D: the 3×3 generator row by row without its last entry, which is set so
      that the trace is 0.

    Args:
      group: One of these names.
      ndim: Number of spatial axes, 2 or 3.

    Returns:
      The family; target points to source points, normalised coordinates, angle in radians. Small
      displacements keep their relative precision. A generator of norm above 100, far more than an
      image needs, is not exponentiated exactly.

    Raises:
      ValueError: If ``group`` or ``ndim`` is not supported.

    Example:
      A quarter turn about a point equals two eighth turns:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> t = stn.exponential("rigid")
      >>> theta, point = jnp.array([jnp.pi / 2, 0.5, 0.0]), jnp.array([0.25, 0.5])
      >>> once = t.apply(theta, point)
      >>> twice = t.apply(theta / 2, t.apply(theta / 2, point))
      >>> once.round(4).tolist() == twice.round(4).tolist()
      True

    Reference:
      Hall, Lie Groups, Lie Algebras, and Representations, chapter 2. Scaling and squaring: Moler
      and Van Loan, Nineteen Dubious Ways to Compute the Exponential of a Matrix, SIAM Review 45(1),
      2003. In spatial transformers: Lin and Lucey, arXiv:1612.03897, section 3.2.
    """
    generators = _checks.option("group", group, _GROUPS)
    dimensions = (2,) if group == "projective" else (2, 3)
    if ndim not in dimensions:
        known = " and ".join(map(str, dimensions))
        raise ValueError(f'exponential("{group}") exists for ndim = {known}; got {ndim!r}.')
    basis = generators(ndim)
    size = ndim + 1
    rows = size if group == "projective" else ndim

    def change(theta: Array) -> Array:
        """The matrix minus the identity."""
        generator = jnp.sum(theta[:, None, None] * jnp.asarray(basis, theta.dtype), axis=0)
        return _exponential_less_one(generator)

    return Transform(
        name=f"exponential_{group}",
        ndim=ndim,
        identity=np.zeros(len(basis)),
        displacement=lambda theta, points: moved_by(change(theta)[:rows], points),
        inverse=lambda theta, points: points + moved_by(change(-theta)[:rows], points),
        homogeneous=lambda theta: jnp.eye(size, dtype=theta.dtype) + change(theta),
        affine_change=None if group == "projective" else lambda theta: change(theta)[:rows],
    )


def _exponential_less_one(generator: Array) -> Array:
    """``exp(G) − 1`` with full relative precision, however small G is.

    Each squaring computes ``(1 + E)² − 1 = E² + 2 E``, which subtracts no 1. The whole is a
    polynomial of G, so smooth everywhere.
    """
    small = generator / 2**_SQUARINGS
    eye = jnp.eye(len(generator), dtype=generator.dtype)
    series = eye
    for k in range(_ORDER, 1, -1):
        series = eye + matrices.product(small, series) / k
    change = matrices.product(small, series)
    for _ in range(_SQUARINGS):
        change = matrices.product(change, change) + 2 * change
    return change


def _unit(size: int, row: int, column: int) -> np.ndarray:
    unit = np.zeros((size, size))
    unit[row, column] = 1
    return unit


def _rigid(ndim: int) -> np.ndarray:
    planes = [(0, 1)] if ndim == 2 else [(1, 2), (2, 0), (0, 1)]
    turns = [_unit(ndim + 1, b, a) - _unit(ndim + 1, a, b) for a, b in planes]
    return np.stack(turns + [_unit(ndim + 1, axis, ndim) for axis in range(ndim)])


def _similarity(ndim: int) -> np.ndarray:
    scale = np.eye(ndim + 1)
    scale[-1, -1] = 0
    return np.concatenate([scale[None], _rigid(ndim)])


def _affine(ndim: int) -> np.ndarray:
    return np.stack([_unit(ndim + 1, *index) for index in np.ndindex(ndim, ndim + 1)])


def _projective(ndim: int) -> np.ndarray:
    units = np.eye((ndim + 1) ** 2).reshape(-1, ndim + 1, ndim + 1)[:-1]
    return units - np.trace(units, axis1=1, axis2=2)[:, None, None] * _unit(ndim + 1, ndim, ndim)


# For each group, a function from the number of axes n to the generators [P, n + 1, n + 1].
_GROUPS: Mapping[str, Callable[[int], np.ndarray]] = dict(
    zip(get_args(GroupName), (_rigid, _similarity, _affine, _projective), strict=True)
)
