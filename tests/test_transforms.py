"""The laws of transforms; a new family is tested by being listed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import stn_jax as stn

FAMILIES = [
    stn.translation(),
    stn.rigid(),
    stn.similarity(),
    stn.attention(),
    stn.affine(),
    stn.projective(),
    stn.translation(ndim=3),
    stn.rigid(ndim=3),
    stn.similarity(ndim=3),
    stn.attention(ndim=3),
    stn.affine(ndim=3),
]
every_family = pytest.mark.parametrize("t", FAMILIES, ids=lambda t: f"{t.name}-{t.ndim}d")
alignments = pytest.mark.parametrize("align_corners", [False, True])


def near_identity(t, seed, spread=0.3):
    """Random parameters around the identity; a homography's plane stays in front."""
    noise = np.random.default_rng(seed).uniform(-1, 1, t.num_params)
    return t.identity + noise * (spread / 3 if t.name == "projective" else spread)


def some_points(t, seed, *shape):
    return np.random.default_rng(seed).uniform(-1, 1, (*shape, t.ndim))


def oracle(t, theta, points):
    return reference.act(reference.matrix(t.name, theta, t.ndim), points)


@every_family
def test_record(t):
    assert t.identity.shape == (t.num_params,)
    assert t.identity.dtype == np.float64
    assert getattr(stn, t.name)(ndim=t.ndim) is t, "one record, so that jit compiles once"
    assert stn.affine() is stn.affine(ndim=2)
    hash(t)


@every_family
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_identity_is_exact(t, dtype):
    points = jnp.asarray(some_points(t, 1, 50), dtype)
    for map_points in (t.apply, t.invert):
        mapped = map_points(jnp.asarray(t.identity, dtype), points)
        assert mapped.dtype == jnp.float32
        np.testing.assert_array_equal(mapped, points.astype(jnp.float32))


@every_family
@given(seed=st.integers(0, 2**32 - 1))
def test_apply_matches_the_oracle(t, seed):
    theta, points = near_identity(t, seed), some_points(t, seed, 7)
    expected = oracle(t, theta, points)
    np.testing.assert_allclose(t.apply(jnp.asarray(theta), points), expected, atol=2e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(t.apply(jnp.asarray(theta), points), expected, atol=1e-14)


@every_family
def test_matrix_matches_the_oracle(t, x64):
    theta = near_identity(t, 3)
    expected = reference.matrix(t.name, theta, t.ndim)
    np.testing.assert_allclose(t.matrix(jnp.asarray(theta)), expected, atol=1e-15)


@every_family
@given(seed=st.integers(0, 2**32 - 1))
def test_invert_undoes_apply(t, seed):
    theta = jnp.asarray(near_identity(t, seed, 0.2), jnp.float32)
    points = jnp.asarray(some_points(t, seed, 7), jnp.float32)
    np.testing.assert_allclose(t.invert(theta, t.apply(theta, points)), points, atol=1e-5)
    np.testing.assert_allclose(t.apply(theta, t.invert(theta, points)), points, atol=1e-5)


@every_family
def test_composition_is_the_product_of_matrices(t, x64):
    first, second = (jnp.asarray(near_identity(t, seed)) for seed in (4, 5))
    points = some_points(t, 6, 9)
    product = np.asarray(t.matrix(second)) @ np.asarray(t.matrix(first))
    composed = t.apply(second, t.apply(first, points))
    np.testing.assert_allclose(composed, reference.act(product, points), atol=1e-13)


@every_family
def test_jit_vmap_and_eager_agree(t):
    thetas = jnp.asarray([near_identity(t, seed) for seed in range(3)], jnp.float32)
    points = jnp.asarray(some_points(t, 7, 3, 5), jnp.float32)
    for map_points in (t.apply, t.invert):
        eager = jnp.stack([map_points(*operands) for operands in zip(thetas, points, strict=True)])
        batched = jax.vmap(map_points)(thetas, points)
        compiled = jax.jit(jax.vmap(map_points))(thetas, points)
        chex.assert_trees_all_close(eager, batched, compiled, atol=1e-6)


@every_family
@pytest.mark.parametrize("at_identity", [True, False])
def test_gradients_in_both_modes(t, at_identity, x64):
    theta = t.identity if at_identity else near_identity(t, 8)
    points = some_points(t, 9, 4)
    expected = reference.central_differences(lambda v: oracle(t, v, points), theta)
    for differentiate in (jax.jacrev, jax.jacfwd):
        jacobian = jax.jit(differentiate(t.apply))(jnp.asarray(theta), points)
        np.testing.assert_allclose(jacobian, expected, atol=1e-8)
    expected = reference.central_differences(lambda p: oracle(t, theta, p), points)
    for differentiate in (jax.jacrev, jax.jacfwd):
        jacobian = jax.jit(differentiate(t.apply, argnums=1))(jnp.asarray(theta), points)
        np.testing.assert_allclose(jacobian, expected, atol=1e-8)


@every_family
@pytest.mark.parametrize("at_identity", [True, False])
def test_second_derivatives(t, at_identity, x64):
    theta = t.identity if at_identity else near_identity(t, 8)
    points = some_points(t, 9, 4)
    value = lambda v: jnp.sum(jnp.sin(t.apply(v, points)))  # noqa: E731
    gradient = jax.jit(jax.grad(value))
    expected = reference.central_differences(lambda v: np.asarray(gradient(v)), theta)
    hessian = jax.jit(jax.hessian(value))(jnp.asarray(theta))
    np.testing.assert_allclose(hessian, expected, atol=1e-7)


@pytest.mark.parametrize("angle", [1e-12, 1e-4, 0.0316, 0.0317, 1.0, 3.0])
def test_axis_angle_is_accurate_at_every_angle(angle, x64):
    axis = np.array([0.6, -0.48, 0.64])
    theta = np.append(angle * axis, np.zeros(3))
    expected = reference.matrix("rigid", theta, 3)
    np.testing.assert_allclose(stn.rigid(ndim=3).matrix(jnp.asarray(theta)), expected, atol=2e-15)


@given(h=st.integers(1, 9), w=st.integers(1, 9), align_corners=st.booleans())
def test_regular_grid_matches_the_oracle(h, w, align_corners):
    grid = stn.regular_grid((h, w), align_corners=align_corners)
    expected = reference.regular_grid((h, w), align_corners)
    np.testing.assert_allclose(grid, expected, atol=6e-8)


@alignments
def test_affine_grid_is_the_affine_map_of_the_lattice(align_corners, rng, x64):
    for shape in [(4, 7), (3, 4, 5)]:
        matrix = rng.normal(size=(len(shape), len(shape) + 1))
        expected = reference.act(
            np.vstack([matrix, np.eye(len(shape) + 1)[-1]]),
            reference.regular_grid(shape, align_corners),
        )
        grid = stn.affine_grid(jnp.asarray(matrix), shape, align_corners=align_corners)
        np.testing.assert_allclose(grid, expected, atol=1e-14)


@alignments
def test_pixels_and_normalized_coordinates_are_inverse(align_corners, rng, x64):
    points = jnp.asarray(rng.normal(size=(20, 3)))
    shape = (5, 8, 3)
    pixels = stn.pixels_from_normalized(points, shape, align_corners=align_corners)
    for k, size in enumerate(reversed(shape)):
        expected = reference.pixel(np.asarray(points[:, k]), size, align_corners)
        np.testing.assert_allclose(pixels[:, k], expected, atol=1e-14)
    back = stn.normalized_from_pixels(pixels, shape, align_corners=align_corners)
    np.testing.assert_allclose(back, points, atol=1e-14)


def test_points_behind_the_plane_are_far_outside_with_finite_gradients():
    t = stn.projective()
    theta = jnp.asarray([1.0, 0.1, 0.0, 0.2, 1.0, 0.0, -2.0, 0.0])  # w = 1 − 2 x
    points = jnp.asarray([[0.5, 0.0], [0.50001, 0.3], [0.75, 0.3], [1.0, -1.0], [0.5 - 4e-7, 1.0]])
    mapped = t.apply(theta, points)
    assert bool(jnp.all(jnp.isfinite(mapped)))
    assert bool(jnp.all(jnp.abs(mapped[:-1]) > 1e5))
    for differentiate in (jax.jacrev, jax.jacfwd):
        for argument in (0, 1):
            jacobian = jax.jit(differentiate(t.apply, argnums=argument))(theta, points)
            assert bool(jnp.all(jnp.isfinite(jacobian)))
    image = jnp.ones((9, 9, 1))
    warped = stn.warp(image, t, theta, fill_value=-3.0)
    assert bool(jnp.all(warped[:, 7:] == -3.0)), "columns with w ≤ 0 hold the fill value"
    loss = lambda v: jnp.sum(stn.warp(image, t, v, padding="border") ** 2)  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(theta)
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_a_singular_map_inverts_to_something_not_finite():
    collapsed = jnp.zeros(6)
    assert not bool(jnp.any(jnp.isfinite(stn.affine().invert(collapsed, jnp.ones(2)))))
