"""The diagnostics against closed forms and counted pixels."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import stn_jax as stn
from stn_jax import diagnostics

FAMILIES = [stn.similarity(), stn.projective(), stn.affine(ndim=3)]
every_family = pytest.mark.parametrize("t", FAMILIES, ids=lambda t: f"{t.name}-{t.ndim}d")
alignments = pytest.mark.parametrize("align_corners", [False, True])
# x -> x + a sin(πx), which folds where 1 + aπ cos(πx) is not positive.
WAVE = stn.Transform(
    name="wave",
    ndim=2,
    identity=np.zeros(1),
    displacement=lambda theta, p: theta[0] * jnp.sin(jnp.pi * p) * jnp.array([1.0, 0.0]),
    inverse=lambda theta, p: p,
)

compiled = functools.partial(jax.jit, static_argnums=(0, 2), static_argnames="align_corners")
fold_fraction = compiled(diagnostics.fold_fraction)
coverage = compiled(diagnostics.coverage)
distance_from_identity = compiled(diagnostics.distance_from_identity)
jacobian = jax.jit(diagnostics.jacobian, static_argnums=0)
log_abs_det = jax.jit(diagnostics.log_abs_det, static_argnums=0)


def near_identity(t, seed, spread=0.1):
    return t.identity + spread * np.random.default_rng(seed).uniform(-1, 1, t.num_params)


@every_family
def test_jacobian_matches_central_differences(t, rng, x64):
    theta, points = near_identity(t, 1), rng.uniform(-1, 1, (2, 3, t.ndim))
    ours = jacobian(t, theta, points)
    assert ours.shape == (2, 3, t.ndim, t.ndim)
    matrix = reference.matrix(t.name, theta, t.ndim)
    for index in np.ndindex(2, 3):
        expected = reference.central_differences(lambda p: reference.act(matrix, p), points[index])
        np.testing.assert_allclose(ours[index], expected, atol=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
@given(seed=st.integers(0, 2**32 - 1))
def test_log_abs_det_of_an_affine_map_is_that_of_its_matrix(ndim, seed):
    rng = np.random.default_rng(seed)
    matrix, points = rng.normal(size=(ndim, ndim + 1)), rng.normal(size=(4, ndim))
    expected = np.linalg.slogdet(matrix[:, :ndim])[1]
    with jax.enable_x64(True):
        ours = log_abs_det(stn.affine(ndim=ndim), matrix.ravel(), points)
    np.testing.assert_allclose(ours, np.full(4, expected), atol=1e-9)


def test_log_abs_det_of_a_homography(rng, x64):
    """``det ∂T/∂p = det H / w³``."""
    t = stn.projective()
    theta, points = near_identity(t, 2), rng.uniform(-1, 1, (5, 2))
    matrix = np.append(theta, 1).reshape(3, 3)
    w = points @ matrix[2, :2] + 1
    expected = np.log(np.linalg.det(matrix) / w**3)
    np.testing.assert_allclose(log_abs_det(t, theta, points), expected, atol=1e-13)


def test_log_abs_det_of_a_singular_map_is_minus_infinity():
    assert log_abs_det(stn.affine(), jnp.zeros(6), jnp.zeros(2)).item() == -np.inf


@alignments
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_reflection_folds_everywhere_and_a_rotation_nowhere(ndim, align_corners):
    shape = (4, 3, 5)[:ndim]
    mirror = np.eye(ndim, ndim + 1)
    mirror[0, 0] = -1
    fraction = fold_fraction(
        stn.affine(ndim=ndim), mirror.ravel(), shape, align_corners=align_corners
    )
    assert fraction.item() == 1
    turn = jnp.ones(stn.rigid(ndim=ndim).num_params)
    fraction = fold_fraction(stn.rigid(ndim=ndim), turn, shape, align_corners=align_corners)
    assert fraction.item() == 0


def test_collapsed_and_nan_maps_count_as_folds():
    for value in (0.0, np.nan):
        fraction = fold_fraction(stn.affine(), jnp.full(6, value), (3, 3))
        assert fraction.item() == 1


@alignments
@pytest.mark.parametrize("amplitude", [0.3, -0.5])
def test_fold_fraction_of_a_wave_is_counted(align_corners, amplitude):
    shape = (3, 40)
    x = reference.regular_axis(40, align_corners)
    expected = np.mean(1 + amplitude * np.pi * np.cos(np.pi * x) <= 0)
    theta = jnp.asarray([amplitude], jnp.float32)
    fraction = fold_fraction(WAVE, theta, shape, align_corners=align_corners)
    assert fraction.item() == pytest.approx(expected, abs=1e-6)
    assert (expected > 0) == (abs(amplitude) > 1 / np.pi)


@alignments
@given(tx=st.floats(-2.5, 2.5), ty=st.floats(-2.5, 2.5))
def test_coverage_of_a_translation_is_counted(align_corners, tx, ty):
    points = reference.regular_grid((5, 8), align_corners) + np.array([tx, ty])
    theta = np.array([tx, ty], np.float32)
    mask, fraction = coverage(stn.translation(), theta, (5, 8), align_corners=align_corners)
    clear = np.abs(np.abs(points) - 1).min(-1) > 1e-5
    np.testing.assert_array_equal(np.asarray(mask)[clear], np.abs(points[clear]).max(-1) <= 1)
    assert fraction.item() == pytest.approx(np.asarray(mask).mean(), abs=1e-7)


@every_family
@alignments
def test_the_identity_covers_all_and_is_at_distance_0(t, align_corners):
    theta, shape = jnp.asarray(t.identity, jnp.float32), (5, 4, 3)[: t.ndim]
    mask, fraction = coverage(t, theta, shape, align_corners=align_corners)
    assert mask.shape == shape
    assert bool(mask.all())
    assert fraction.item() == 1
    distance = lambda v: distance_from_identity(  # noqa: E731
        t, v, shape, align_corners=align_corners
    )
    value, gradient = jax.jit(jax.value_and_grad(distance))(theta)
    assert value.item() == 0
    np.testing.assert_array_equal(gradient, np.zeros(t.num_params))


def test_nothing_is_covered_behind_the_plane():
    theta = jnp.asarray([1.0, 0, 0, 0, 1.0, 0, -2.0, 0])  # w = 1 − 2x
    mask, _ = coverage(stn.projective(), theta, (4, 8))
    x = reference.regular_axis(8, False)
    assert not np.asarray(mask)[:, x >= 0.5].any()
    assert np.asarray(mask)[:, np.abs(x) < 0.3].any()


@alignments
def test_distance_of_a_translation_is_its_length(align_corners):
    for theta in ([3.0, 4.0], [1.0, 2.0, 2.0]):
        t = stn.translation(ndim=len(theta))
        distance = distance_from_identity(
            t, jnp.asarray(theta), (6, 5, 4)[: t.ndim], align_corners=align_corners
        )
        assert distance.item() == pytest.approx(np.hypot(*theta[:2]) if t.ndim == 2 else 3)


@every_family
@alignments
def test_distance_and_its_gradient_match_the_oracle(t, align_corners, x64):
    theta, shape = near_identity(t, 3), (4, 3, 2)[: t.ndim]
    points = reference.regular_grid(shape, align_corners)

    def oracle(v):
        moved = reference.act(reference.matrix(t.name, v, t.ndim), points) - points
        return np.sqrt(np.mean(np.sum(moved**2, axis=-1)))

    distance = lambda v: distance_from_identity(  # noqa: E731
        t, v, shape, align_corners=align_corners
    )
    value, gradient = jax.jit(jax.value_and_grad(distance))(jnp.asarray(theta))
    np.testing.assert_allclose(value, oracle(theta), atol=1e-14)
    np.testing.assert_allclose(gradient, reference.central_differences(oracle, theta), atol=1e-8)


def test_a_distance_that_is_not_a_number_says_so():
    distance = distance_from_identity(stn.affine(), jnp.full(6, jnp.nan), (3, 3))
    assert np.isnan(distance.item())


def everything(t, theta, points):
    return (
        diagnostics.jacobian(t, theta, points),
        diagnostics.log_abs_det(t, theta, points),
        diagnostics.fold_fraction(t, theta, (4, 5)),
        diagnostics.coverage(t, theta, (4, 5)),
        diagnostics.distance_from_identity(t, theta, (4, 5)),
    )


@pytest.mark.parametrize("t", [stn.projective(), WAVE], ids=lambda t: t.name)
def test_batched_is_one_by_one(t, rng):
    thetas = jnp.asarray([near_identity(t, seed) for seed in range(3)], jnp.float32)
    points = jnp.asarray(rng.uniform(-1, 1, (3, 6, 2)), jnp.float32)
    one = jax.jit(lambda *operands: everything(t, *operands))
    each = [one(*operands) for operands in zip(thetas, points, strict=True)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    chex.assert_trees_all_close(stacked, jax.jit(jax.vmap(one))(thetas, points), atol=1e-6)


def test_everything_is_float32_at_least():
    t = stn.affine()
    low = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in [(6,), (2, 2)]]
    results = jax.eval_shape(lambda *operands: everything(t, *operands), *low)
    floating = [r for r in jax.tree.leaves(results) if r.dtype != bool]
    assert {r.dtype for r in floating} == {jnp.dtype("float32")}


def test_errors_name_the_argument():
    t = stn.affine()
    theta = jnp.asarray(t.identity, jnp.float32)
    with pytest.raises(ValueError, match=r"points must have a last axis of length 2"):
        diagnostics.jacobian(t, theta, jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"theta must have shape \(6,\)"):
        diagnostics.fold_fraction(t, theta[:5], (4, 4))
    with pytest.raises(ValueError, match="shape must have 2 entries"):
        diagnostics.distance_from_identity(t, theta, (4, 4, 4))
    with pytest.raises(ValueError, match="output_shape must hold sizes of at least 1"):
        diagnostics.coverage(t, theta, (0, 4))
