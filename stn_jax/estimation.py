"""Maps from pairs of points, exactly or by weighted least squares.

Each function takes points of the output, ``target``, and the points of the input that they should
read, ``source``. It returns the matrix of the map from target to source, as everywhere in this
library. If both are in pixels, the matrix maps pixels, and
:func:`stn_jax.conversions.matrix_from_pixels` converts it to normalised coordinates. If both are
normalised, so is the matrix. The ``theta`` of :func:`stn_jax.affine` is ``matrix.ravel()``, that of
:func:`stn_jax.projective` is :func:`stn_jax.conversions.projective_theta`.

The smallest number of pairs gives an exact map. More pairs give the map of least
``Σ wₖ ‖T(pₖ) − qₖ‖²``; :func:`homography` minimises another sum. Derivatives with respect to points
and weights are those of the minimiser, in both modes and of every order, also where a weight is 0.
If concrete points do not determine a map, the functions raise an error. If the points are traced,
as under ``jit`` and ``vmap``, the matrix is NaN instead. Batch with ``jax.vmap``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.transforms import matrices

Points = Float[AnyArray, "pairs n"]
Weights = Float[AnyArray, " pairs"] | None


def affine(
    target: Points, source: Points, *, weights: Weights = None
) -> Float[Array, "rows columns"]:
    """The affine map of least squared distance, from at least 3 pairs in 2-D, 4 in 3-D.

    Args:
      target: Points ``[N, n]`` of the output, ``(x, y)`` or ``(x, y, z)``.
      source: Points ``[N, n]`` of the input that the target points should be mapped to.
      weights: Weight ``[N]`` of each pair, at least 0; ``None`` weights all alike.

    Returns:
      Matrix ``[n, n + 1]``, target to source, in the coordinates of the points. NaN where traced
      target points lie on one line, or in one plane in 3-D.

    Raises:
      ValueError: If shapes do not fit, or concrete points do not determine a map.
      TypeError: If an operand is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import estimation
      >>> target = jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> abs(estimation.affine(target, 2 * target + 1).round(5)).tolist()
      [[2.0, 0.0, 1.0], [0.0, 2.0, 1.0]]

    Reference:
      Hartley and Zisserman, Multiple View Geometry in Computer Vision, section 4.4.
    """
    target, source, weights, known = _operands(target, source, weights, lambda ndim: ndim + 1)
    (p, q), centres, scales = _normalized(target, source, weights)
    linear = _least_squares(p, q, weights).T * (scales[1] / scales[0])
    return _answer(_about(linear, *centres), known, "points on one line or, in 3-D, in one plane")


def similarity(
    target: Points, source: Points, *, weights: Weights = None
) -> Float[Array, "rows columns"]:
    """The rotation, scale and translation of least squared distance, without a mirror.

    Args:
      target: As in :func:`affine`; at least 2 pairs in 2-D, 3 in 3-D.
      source: As in :func:`affine`.
      weights: As in :func:`affine`.

    Returns:
      Matrix ``[n, n + 1]``, as in :func:`affine`. NaN where traced points coincide, lie on one line
      in 3-D, or do not determine a rotation, such as a mirrored equilateral triangle.

    Raises:
      ValueError, TypeError: As :func:`affine`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import estimation
      >>> target = jnp.array([[0.0, 0.0], [1.0, 0.0]])
      >>> source = jnp.array([[1.0, 0.0], [1.0, 2.0]])  # a quarter turn, twice as large
      >>> abs(estimation.similarity(target, source).round(5)).tolist()
      [[0.0, 2.0, 1.0], [2.0, 0.0, 0.0]]

    Reference:
      Umeyama, Least-squares estimation of transformation parameters between two point patterns,
      IEEE TPAMI 13(4), 1991.
    """
    return _procrustes(target, source, weights, has_scale=True)


def rigid(
    target: Points, source: Points, *, weights: Weights = None
) -> Float[Array, "rows columns"]:
    """The rotation and translation of least squared distance, without a mirror.

    Args:
      target: As in :func:`similarity`.
      source: As in :func:`affine`.
      weights: As in :func:`affine`.

    Returns:
      Matrix ``[n, n + 1]``, NaN as in :func:`similarity`. If the image is not square, a rotation in
      normalised coordinates shears the pixels; use points in pixels.

    Raises:
      ValueError, TypeError: As :func:`affine`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import estimation
      >>> target = jnp.array([[0.0, 0.0], [1.0, 0.0]])
      >>> source = jnp.array([[1.0, 0.0], [1.0, 1.0]])
      >>> abs(estimation.rigid(target, source).round(5)).tolist()
      [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]

    Reference:
      Kabsch, A solution for the best rotation to relate two sets of vectors, Acta
      Crystallographica A32, 1976; Umeyama, IEEE TPAMI 13(4), 1991.
    """
    return _procrustes(target, source, weights, has_scale=False)


def homography(
    target: Float[AnyArray, "pairs 2"],
    source: Float[AnyArray, "pairs 2"],
    *,
    weights: Weights = None,
) -> Float[Array, "3 3"]:
    """The homography of 4 pairs of points, or of more by least squares.

    With more than 4 pairs it minimises ``Σ wₖ ‖dₖ (T(pₖ) − qₖ)‖²``, where ``d`` is the map's
    denominator, which is 1 at the mean of the target points. This is the linear algorithm, in
    coordinates whose origins are the means of the points. The mean lies in front of the camera.

    Args:
      target: Points ``[N, 2]`` of the output, at least 4.
      source: As in :func:`affine`.
      weights: As in :func:`affine`.

    Returns:
      Matrix ``[3, 3]``, target to source. NaN where traced points do not determine a map, for
      instance if three of 4 target or source points lie on one line.

    Raises:
      ValueError, TypeError: As :func:`affine`.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import estimation
      >>> target = jnp.array([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
      >>> source = target.at[:2, 0].multiply(0.5)  # the upper side is read from half its length
      >>> abs(3 * estimation.homography(target, source)).round(4).tolist()
      [[2.0, 0.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 3.0]]

    Reference:
      Hartley and Zisserman, Multiple View Geometry in Computer Vision, section 4.1 and algorithm
      4.2; the inhomogeneous solution, whose scale is fixed where it cannot vanish.
    """
    target, source, weights, known = _operands(target, source, weights, lambda _: 4, ndims=(2,))
    (p, q), centres, scales = _normalized(target, source, weights)
    one, zero = jnp.ones_like(p[:, :1]), jnp.zeros_like(p)
    row = jnp.concatenate([p, one, zero, zero[:, :1]], axis=1)
    rows = [
        jnp.concatenate([jnp.roll(row, 3 * k, axis=1), -q[:, k : k + 1] * p], axis=1)
        for k in (0, 1)
    ]
    solved = _least_squares(
        jnp.concatenate(rows), q.T.reshape(-1, 1), jnp.concatenate([weights, weights])
    )
    matrix = jnp.concatenate([solved[:, 0], jnp.ones_like(solved[0])]).reshape(3, 3)
    regular = jnp.abs(matrices.determinant(matrix)) > _tolerance(matrix)
    matrix = jnp.where(regular, matrix, jnp.nan)
    from_mean, to_mean = (
        _about(jnp.eye(2, dtype=matrix.dtype) * scale, origin, centre)
        for scale, origin, centre in (
            (1 / scales[0], centres[0], jnp.zeros_like(centres[0])),
            (scales[1], jnp.zeros_like(centres[1]), centres[1]),
        )
    )
    last = jnp.eye(3, dtype=matrix.dtype)[2:]
    whole = matrices.product(matrix, jnp.concatenate([from_mean, last]))
    whole = matrices.product(jnp.concatenate([to_mean, last]), whole)
    return _answer(whole, known, "three of four points on one line")


def _procrustes(target: AnyArray, source: AnyArray, weights: Weights, *, has_scale: bool) -> Array:
    """Umeyama's solution for rotation, translation and, if wanted, scale."""
    target, source, weights, known = _operands(target, source, weights, lambda ndim: ndim)
    (p, q), centres, scales = _normalized(target, source, weights)
    covariance = matrices.product((weights[:, None] * q).T, p) / jnp.sum(weights)
    rotation = _nearest_rotation(covariance)
    singular = jnp.linalg.svd(jax.lax.stop_gradient(covariance), compute_uv=False)
    mirrored = jnp.sign(matrices.determinant(jax.lax.stop_gradient(covariance)))
    determined = singular[-2] + mirrored * singular[-1] > _tolerance(p)
    # No division by the spread of the points: they are scaled to a mean square of 1.
    stretch = jnp.sum(rotation * covariance) * scales[1] / scales[0] if has_scale else 1.0
    linear = jnp.where(determined, stretch * rotation, jnp.nan)
    return _answer(_about(linear, *centres), known, "points at one place or, in 3-D, on one line")


@jax.custom_jvp
def _nearest_rotation(matrix: Array) -> Array:
    """The rotation ``R`` that maximises ``Σ R · matrix``."""
    left, _, right = jnp.linalg.svd(matrix)
    mirrored = jnp.sign(matrices.determinant(left) * matrices.determinant(right))
    is_last = np.arange(len(matrix))[None] == len(matrix) - 1
    return matrices.product(jnp.where(is_last, mirrored, 1) * left, right)


@_nearest_rotation.defjvp
def _nearest_rotation_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    """From ``M = R S`` with a symmetric S: ``dR = R Ω``, ``Ω S + S Ω = D − Dᵀ``, ``D = Rᵀ dM``.

    Unlike the derivative of the SVD, it exists for equal singular values, too.
    """
    (matrix,), (change,) = primals, tangents
    rotation = _nearest_rotation(matrix)
    stretch = matrices.product(rotation.T, matrix)
    turn = matrices.product(rotation.T, change)
    turn = turn - turn.T
    if len(matrix) == 2:
        return rotation, matrices.product(rotation, turn / jnp.trace(stretch))
    eye = jnp.eye(3, dtype=matrix.dtype)
    vector = jnp.stack([turn[2, 1], turn[0, 2], turn[1, 0]])[:, None]
    angle = matrices.product(matrices.inverse(jnp.trace(stretch) * eye - stretch), vector)[:, 0]
    return rotation, matrices.product(rotation, jnp.cross(angle[None], -eye))


def _least_squares(rows: Array, values: Array, weights: Array) -> Array:
    """The ``x`` that minimises ``Σ w ‖rows x − values‖²``; NaN where it is not determined.

    A QR decomposition gives the solution, without derivatives. A correction by the normal
    equations, about 0 in value, gives the derivatives.
    """
    root = jnp.sqrt(jax.lax.stop_gradient(weights))[:, None]
    scaled, known = (root * jax.lax.stop_gradient(each) for each in (rows, values))
    orthogonal, triangle = jnp.linalg.qr(scaled)
    solve = functools.partial(solve_triangular, triangle)
    first = solve(matrices.product(orthogonal.T, known))

    def normal(x: Array) -> Array:
        return matrices.product(rows.T, weights[:, None] * matrices.product(rows, x))

    gap = matrices.product(rows.T, weights[:, None] * (values - matrices.product(rows, first)))
    correction = jax.lax.custom_linear_solve(
        normal, gap, lambda _, right: solve(solve(right, trans=1)), symmetric=True
    )
    diagonal = jnp.abs(jnp.diagonal(triangle))
    determined = diagonal.min() > _tolerance(rows) * diagonal.max()
    return jnp.where(determined, first + correction, jnp.nan)


def _operands(
    target: AnyArray, source: AnyArray, weights: Any, fewest: Any, *, ndims: Any = (2, 3)
) -> tuple[Array, Array, Array, bool]:
    """Checks points and weights; returns them in one dtype, and whether they are concrete."""
    known = not any(isinstance(each, jax.core.Tracer) for each in (target, source, weights))
    target, source = _checks.floating("target", target), _checks.floating("source", source)
    _checks.known_sizes("target", target.shape)
    ndim = target.shape[-1] if target.ndim == 2 else 0
    if ndim not in ndims or target.shape != source.shape or len(target) < fewest(ndim):
        pairs = " or ".join(f"[N, {n}] with N ≥ {fewest(n)}" for n in ndims)
        raise ValueError(
            f"target and source must be {pairs}, a pair of points per row; got shapes "
            f"{target.shape} and {source.shape}. Batch with jax.vmap."
        )
    if weights is None:
        weights = jnp.ones_like(target[:, 0])
    weights = _checks.vector("weights", weights, len(target), "one for each pair of points")
    if known and not bool((jnp.isfinite(weights) & (weights >= 0)).all()):
        raise ValueError("weights must be finite and at least 0; got a weight that is not.")
    target, source, weights = _checks.common_dtype(target, source, weights)
    return target, source, weights, known


def _normalized(target: Array, source: Array, weights: Array) -> Any:
    """The points relative to their means, in units of their spread; the means; the spreads."""
    share = weights[:, None] / jnp.sum(weights)
    centres = [jnp.sum(share * each, axis=0, keepdims=True) for each in (target, source)]
    moved = [each - centre for each, centre in zip((target, source), centres, strict=True)]
    scales = [jnp.sqrt(jnp.sum(share * each**2)) for each in moved]
    return [each / scale for each, scale in zip(moved, scales, strict=True)], centres, scales


def _about(linear: Array, origin: Array, image: Array) -> Array:
    """The matrix of ``linear (p − origin) + image``."""
    offset = image.T - matrices.product(linear, origin.T)
    return jnp.concatenate([linear, offset], axis=1)


def _tolerance(array: Array) -> float:
    """Numbers smaller than this, relative to the data, count as 0."""
    return 64 * float(jnp.finfo(array.dtype).eps)


def _answer(matrix: Array, known: bool, degenerate: str) -> Array:
    if known and not bool(jnp.isfinite(matrix).all()):
        raise ValueError(
            "target and source must determine a map; got points that are not finite, "
            f"{degenerate}, or too few with weight. Add pairs."
        )
    return matrix
