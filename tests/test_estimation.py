"""Maps from points beside scikit-image, OpenCV, SciPy and NumPy; derivatives beside differences."""

import functools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import optimize
from scipy.spatial import transform as spatial
from skimage import transform

from stn_jax import estimation

FEWEST = {
    ("affine", 2): 3,
    ("affine", 3): 4,
    ("similarity", 2): 2,
    ("similarity", 3): 3,
    ("rigid", 2): 2,
    ("rigid", 3): 3,
    ("homography", 2): 4,
}
# The same formulas as in another case of theirs.
SEEN_ELSEWHERE = {("affine", 2), ("similarity", 2), ("rigid", 3)}
kinds = pytest.mark.parametrize(("kind", "ndim"), FEWEST)


@functools.partial(jax.jit, static_argnums=0)
def estimate(kind, target, source, weights):
    return getattr(estimation, kind)(target, source, weights=weights)


def a_map(kind, ndim, rng):
    """A homogeneous matrix of the kind."""
    matrix = np.eye(ndim + 1)
    matrix[:ndim] += rng.uniform(-0.4, 0.4, (ndim, ndim + 1))
    if kind == "homography":
        matrix[2, :2] = rng.uniform(-0.2, 0.2, 2)
    elif kind != "affine":
        turn = reference.rotation(rng.uniform(-2, 2, 2 * ndim - 3))
        matrix[:ndim, :ndim] = (1.7 if kind == "similarity" else 1) * turn
    return matrix


def pairs(kind, ndim, rng, count, noise=0.0):
    target = rng.uniform(-1, 1, (count, ndim)) * 40 + 60
    matrix = a_map(kind, ndim, rng)
    scale = np.diag([50.0] * ndim + [1])
    matrix = scale @ matrix @ np.linalg.inv(scale)
    return matrix, target, reference.act(matrix, target) + noise * rng.normal(size=target.shape)


@kinds
def test_the_fewest_points_give_the_map(kind, ndim, rng):
    matrix, target, source = pairs(kind, ndim, rng, FEWEST[kind, ndim])
    single = (each.astype(np.float32) for each in (target, source))
    estimated = np.asarray(estimate(kind, *single, None), np.float64)
    if kind != "homography":
        estimated = np.vstack([estimated, matrix[-1]])
    probes = rng.uniform(40, 80, (9, ndim))
    np.testing.assert_allclose(
        reference.act(estimated, probes), reference.act(matrix, probes), atol=0.01
    )


@kinds
def test_many_points_give_the_least_squares(kind, ndim, rng, x64):
    """Weighted, beside SciPy's minimiser of the same sum from the matrix before the noise."""
    matrix, target, source = pairs(kind, ndim, rng, 9, noise=2.0)
    weights = rng.uniform(0, 2, 9)
    weights[0] = 0
    ours = np.asarray(estimate(kind, target, source, weights))

    def cost(estimated):
        return np.sum(weights[:, None] * residuals(kind, estimated, target, source, weights) ** 2)

    start = ours if kind == "homography" else np.vstack([ours, matrix[-1]])
    moved = [start @ step for step in neighbours(kind, ndim, rng)]
    assert cost(start) < min(cost(each) for each in moved), "a minimum among maps of its kind"


def residuals(kind, matrix, target, source, weights):
    if kind != "homography":
        return reference.act(matrix, target) - source
    # The linear algorithm weighs a pair by its denominator, which is 1 at the mean.
    mean = np.average(target, axis=0, weights=weights)
    denominator = np.append(target, np.ones((len(target), 1)), axis=1) @ matrix[2]
    denominator = denominator / (np.append(mean, 1) @ matrix[2])
    return denominator[:, None] * (reference.act(matrix, target) - source)


def neighbours(kind, ndim, rng):
    """Small maps of the kind, which change an estimate to another one nearby."""
    for _ in range(60):
        step = np.eye(ndim + 1)
        step[:ndim, ndim] = 1e-2 * rng.normal(size=ndim)
        if kind in ("affine", "homography"):
            step[:ndim, :ndim] += 1e-4 * rng.normal(size=(ndim, ndim))
        else:
            step[:ndim, :ndim] = reference.rotation(1e-4 * rng.normal(size=2 * ndim - 3))
        if kind == "similarity":
            step[:ndim, :ndim] *= 1 + 1e-4 * rng.normal()
        if kind == "homography":
            step[2, :2] = 1e-6 * rng.normal(size=2)
        yield step


@pytest.mark.parametrize("kind", ["affine", "similarity", "rigid"])
def test_the_estimates_are_those_of_scikit_image(kind, rng, x64):
    names = {"affine": "Affine", "similarity": "Similarity", "rigid": "Euclidean"}
    _, target, source = pairs(kind, 2, rng, 8, noise=3.0)
    theirs = getattr(transform, f"{names[kind]}Transform").from_estimate(target, source).params
    tolerance = 1e-9 if kind != "affine" else 0.1  # theirs is the homogeneous least squares
    ours = estimate(kind, target, source, None)
    probes = rng.uniform(40, 80, (9, 2))
    expected = reference.act(theirs, probes)
    found = reference.act(np.vstack([ours, [0, 0, 1]]), probes)
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_affine_estimates_are_those_of_lstsq(rng, x64):
    _, target, source = pairs("affine", 3, rng, 9, noise=3.0)
    root = np.sqrt(weights := rng.uniform(0.1, 1, 9))[:, None]
    columns = np.append(target, np.ones((9, 1)), axis=1)
    expected = np.linalg.lstsq(root * columns, root * source, rcond=None)[0].T
    np.testing.assert_allclose(estimate("affine", target, source, weights), expected, atol=1e-9)


def test_rotations_of_volumes_are_those_of_scipy(rng, x64):
    _, target, source = pairs("rigid", 3, rng, 9, noise=20.0)
    weights = rng.uniform(0.1, 1, 9)
    means = [np.average(each, axis=0, weights=weights) for each in (target, source)]
    theirs = spatial.Rotation.align_vectors(source - means[1], target - means[0], weights)[0]
    ours = estimate("rigid", target, source, weights)
    np.testing.assert_allclose(ours[:, :3], theirs.as_matrix(), atol=1e-9)


def test_four_points_are_those_of_opencv(rng, x64):
    _, target, source = pairs("homography", 2, rng, 4)
    theirs = cv2.getPerspectiveTransform(target.astype(np.float32), source.astype(np.float32))
    ours = estimate("homography", target, source, None)
    np.testing.assert_allclose(ours / ours[2, 2], theirs, rtol=1e-4, atol=1e-4)


def test_homographies_are_near_the_geometric_minimum(rng, x64):
    _, target, source = pairs("homography", 2, rng, 40, noise=0.5)

    def error(h):
        return (reference.act(np.append(h, 1).reshape(3, 3), target) - source).ravel()

    ours = np.asarray(estimate("homography", target, source, None))
    ours = (ours / ours[2, 2]).ravel()[:8]
    best = optimize.least_squares(error, ours, x_scale=np.abs(ours) + 1e-6)
    assert np.sum(error(ours) ** 2) < 1.02 * 2 * best.cost


@pytest.mark.parametrize(
    ("kind", "ndim"),
    [pytest.param(*each, marks=[pytest.mark.slow] * (each in SEEN_ELSEWHERE)) for each in FEWEST],
)
def test_derivatives_in_both_modes(kind, ndim, rng, x64):
    _, target, source = pairs(kind, ndim, rng, FEWEST[kind, ndim] + 2, noise=1.0)
    weights = rng.uniform(0.5, 1, len(target))
    weights[1] = 0
    operands, where = (target, source, weights), (0, 1, 2)
    function = functools.partial(estimate, kind)
    modes = jax.jit(lambda *at: [mode(function, where)(*at) for mode in (jax.jacrev, jax.jacfwd)])
    reverse, forward = modes(*operands)
    for k, operand in enumerate(operands):
        expected = one_sided_differences(
            lambda each, k=k: np.asarray(estimate(kind, *operands[:k], each, *operands[k + 1 :])),
            operand,
        )
        np.testing.assert_allclose(reverse[k], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(forward[k], reverse[k], rtol=1e-8, atol=1e-10)


def one_sided_differences(function, x, step=1e-5):
    """Of the second order, forward alone, since a weight of 0 cannot be less."""
    columns = []
    for index in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[index] = step
        ends = [function(x + k * shift) for k in range(3)]
        columns.append((-3 * ends[0] + 4 * ends[1] - ends[2]) / (2 * step))
    return np.stack(columns, axis=-1).reshape(*columns[0].shape, *x.shape)


@pytest.mark.parametrize("kind", ["homography", "rigid"])
def test_second_derivatives(kind, rng, x64):
    _, target, source = pairs(kind, 2, rng, 6, noise=1.0)
    function = lambda t: jnp.sum(jnp.sin(getattr(estimation, kind)(t, source)))  # noqa: E731
    along = rng.normal(size=target.shape)
    product = jax.jit(lambda t: jax.jvp(jax.grad(function), (t,), (along,))[1])(target)
    gradient = jax.jit(jax.grad(function))
    step = 1e-4
    expected = (gradient(target + step * along) - gradient(target - step * along)) / (2 * step)
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-6)


def test_symmetric_points_have_finite_derivatives(x64):
    """Singular values of a regular polygon are alike, where those of vectors are not defined."""
    angle = np.arange(4) * np.pi / 2
    square = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    cube = np.array([[x, y, z] for x in (-1, 1.0) for y in (-1, 1.0) for z in (-1, 1.0)])
    for kind, points in (("similarity", square), ("rigid", cube)):
        slope = jax.jit(jax.jacrev(getattr(estimation, kind)))(points, points)
        assert bool(jnp.isfinite(slope).all())


DEGENERATE = {
    "points at one place": ("similarity", np.ones((4, 2))),
    "a line": ("affine", np.outer(np.arange(4.0), [1.0, 0.5])),
    "a plane": ("affine", np.random.default_rng(0).normal(size=(6, 3)) * [1, 1, 0] + 1),
    "a line in a volume": ("rigid", np.outer(np.arange(5.0), [1.0, 0.5, 2.0])),
    "three of four on a line": ("homography", np.array([[0, 0], [1, 1], [2, 2], [0, 1.0]])),
}  # fmt: skip


@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_points(case):
    kind, points = DEGENERATE[case]
    target = jnp.asarray(points, jnp.float32)
    source = jnp.asarray(np.random.default_rng(1).normal(size=points.shape), jnp.float32)
    with pytest.raises(ValueError, match="must determine a map"):
        getattr(estimation, kind)(target, source)
    batch = jnp.stack([source, target])
    both = jax.jit(jax.vmap(lambda t: estimate(kind, t, source, None)))(batch)
    assert bool(jnp.isfinite(both[0]).all()), "the others of a batch are not touched"
    assert bool(jnp.isnan(both[1]).any())


def test_weights_may_leave_too_few(rng):
    points = jnp.asarray(rng.normal(size=(4, 2)), jnp.float32)
    with pytest.raises(ValueError, match="too few with weight"):
        estimation.affine(points, points, weights=jnp.array([1.0, 1.0, 0.0, 0.0]))


POINTS = np.random.default_rng(0).normal(size=(5, 2))
ERRORS = {
    "too few": (lambda: estimation.affine(POINTS[:2], POINTS[:2]), r"N ≥ 3 or .*N ≥ 4.*\(2, 2\)"),
    "other numbers": (lambda: estimation.rigid(POINTS, POINTS[:4]), r"\(5, 2\) and \(4, 2\)"),
    "a batch": (lambda: estimation.rigid(POINTS[None], POINTS[None]), r"vmap"),
    "homography of volumes": (
        lambda: estimation.homography(np.ones((5, 3)), np.ones((5, 3))),
        r"\[N, 2\] with N ≥ 4, a pair.*\(5, 3\)",
    ),
    "negative weight": (
        lambda: estimation.affine(POINTS, POINTS, weights=-np.ones(5)),
        r"weights must be finite and at least 0",
    ),
    "other weights": (
        lambda: estimation.affine(POINTS, POINTS, weights=np.ones(4)),
        r"weights must have shape \(5,\)",
    ),
    "not finite": (lambda: estimation.affine(POINTS * np.nan, POINTS), r"not finite"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_error(case, no_runtime_types):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
