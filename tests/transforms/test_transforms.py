"""The laws of transforms; a new family is tested by being listed in ``families.py``."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conformance import cases
from families import MEMBERS
from hypothesis import strategies as st
from members import (
    apply,
    every_member,
    every_member_with_an_identity,
    first_derivatives,
    invert,
    second_derivatives,
    single,
)

import stn_jax as stn
from stn_jax import diagnostics

pytestmark = [pytest.mark.conformance("member"), pytest.mark.cross_section(13)]


seeds = st.integers(0, 2**32 - 1)
OUT_SHAPES = {1: (5,), 2: (5, 4), 3: (2, 3, 4)}


@every_member
def test_the_same_arguments_make_one_record(member):
    t = MEMBERS[member].transform
    assert t is MEMBERS[member].make(), "a record is a static argument: jit compiles once"
    hash(t)
    assert t.identity.shape == (t.num_params,)
    assert t.identity.dtype == np.float64
    assert str(t.num_params) in repr(t)


@every_member_with_an_identity
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_identity_is_exact(member, dtype):
    t = MEMBERS[member].transform
    points = jnp.asarray(MEMBERS[member].points(1, 50, extent=1.5), dtype)
    for map_points in (apply, invert):
        mapped = map_points(t, jnp.asarray(t.identity, jnp.float32), points)
        assert mapped.dtype == jnp.float32
        np.testing.assert_array_equal(mapped, points.astype(jnp.float32))


@every_member_with_an_identity
@pytest.mark.parametrize("align_corners", [False, True])
def test_warping_by_the_identity_is_exact(member, align_corners):
    t = MEMBERS[member].transform
    theta = jnp.asarray(t.identity, jnp.float32)
    warp = jax.jit(lambda i, v: stn.warp(i, t, v, align_corners=align_corners))
    for shape in {1: [(7,)], 2: [(7, 10), (1, 3)], 3: [(3, 1, 5)]}[t.ndim]:
        image = jnp.asarray(np.random.default_rng(0).normal(size=(*shape, 2)), jnp.float32)
        np.testing.assert_array_equal(warp(image, theta), image)


@pytest.mark.cross_section(3)
@every_member
@cases(seed=seeds)
def test_apply_matches_the_oracle(member, seed):
    t, oracle, tolerance = (
        getattr(MEMBERS[member], k) for k in ["transform", "oracle", "tolerance"]
    )
    theta, points = MEMBERS[member].theta(seed), MEMBERS[member].points(seed, 7, extent=1.6)
    expected = oracle(theta, points)
    np.testing.assert_allclose(apply(t, *single(theta, points)), expected, atol=1e-5, rtol=1e-5)
    with jax.enable_x64(True):
        mapped = apply(t, jnp.asarray(theta), jnp.asarray(points))
        np.testing.assert_allclose(mapped, expected, atol=tolerance, rtol=tolerance)


@every_member
@cases(seed=seeds)
def test_invert_undoes_apply(member, seed):
    t = MEMBERS[member].transform
    theta, points = single(MEMBERS[member].theta(seed, 0.7), MEMBERS[member].points(seed, 7))
    for first, second in ((apply, invert), (invert, apply)):
        back = second(t, theta, first(t, theta, points))
        np.testing.assert_allclose(back, points, atol=2e-5)


@every_member
def test_a_chain_composes(member, x64):
    t, oracle = MEMBERS[member].transform, MEMBERS[member].oracle
    first, second = (MEMBERS[member].theta(seed, 0.5) for seed in (4, 5))
    points = MEMBERS[member].points(6, 9)
    chained = apply(stn.chain(t, t), jnp.concatenate([first, second]), jnp.asarray(points))
    expected = oracle(second, oracle(first, points))
    tolerance = 10 * MEMBERS[member].tolerance
    np.testing.assert_allclose(chained, expected, atol=tolerance)


@every_member
def test_the_matrix_is_the_map(member, x64):
    t, theta = MEMBERS[member].transform, MEMBERS[member].theta(3)
    points = MEMBERS[member].points(7, 9)
    if t.homogeneous is None:
        with pytest.raises(ValueError, match="has no matrix"):
            t.matrix(jnp.asarray(theta))
        return
    matrix = np.asarray(t.matrix(jnp.asarray(theta)))
    assert matrix.shape == (t.ndim + 1, t.ndim + 1)
    tolerance = MEMBERS[member].tolerance
    expected = MEMBERS[member].oracle(theta, points)
    np.testing.assert_allclose(reference.act(matrix, points), expected, atol=tolerance)


@every_member
def test_jit_vmap_and_eager_agree(member):
    t = MEMBERS[member].transform
    thetas = jnp.stack(single(*(MEMBERS[member].theta(seed, 0.7) for seed in range(3))))
    (points,) = single(MEMBERS[member].points(7, 3, 5))
    for map_points, compiled in ((t.apply, apply), (t.invert, invert)):
        one_by_one = [compiled(t, *operands) for operands in zip(thetas, points, strict=True)]
        batched = jax.vmap(functools.partial(compiled, t))(thetas, points)
        chex.assert_trees_all_close(jnp.stack(one_by_one), batched, atol=1e-5)
        if map_points == t.apply or t.homogeneous:  # Newton's method takes long step by step.
            eager = map_points(thetas[0], points[0])
            chex.assert_trees_all_close(eager, one_by_one[0], atol=1e-5)


@every_member
def test_derivatives_in_both_modes(member, x64):
    t, oracle = MEMBERS[member].transform, MEMBERS[member].oracle
    points = MEMBERS[member].points(9, 4) * np.array([[1], [0.7], [1.6], [1]])
    tolerance = max(1e-8, 10 * MEMBERS[member].tolerance)
    for theta in (t.identity, MEMBERS[member].theta(8)):
        modes = first_derivatives(t, jnp.asarray(theta), jnp.asarray(points))
        functions = [(theta, lambda v: oracle(v, points))]
        functions += [(points, lambda p, theta=theta: oracle(theta, p))]
        for argument, (at, function) in enumerate(functions):
            expected = reference.central_differences(function, at, MEMBERS[member].step)
            for jacobians in modes:
                np.testing.assert_allclose(jacobians[argument], expected, atol=tolerance)


@every_member
def test_second_derivatives(member, x64):
    t = MEMBERS[member].transform
    first = MEMBERS[member].theta(11) if MEMBERS[member].kinks_at_identity else t.identity
    for theta in (first, MEMBERS[member].theta(8)):
        operands = jnp.asarray(theta), jnp.asarray(MEMBERS[member].points(9, 4))
        along = tuple(np.random.default_rng(2).normal(size=each.shape) for each in operands)

        # First derivatives are tested, so their difference quotients are an oracle for the second.
        def gradient(step, operands=operands, along=along):
            moved = (each + step * way for each, way in zip(operands, along, strict=True))
            return second_derivatives(t, tuple(moved), along)[0]

        expected = jax.tree.map(lambda a, b: (a - b) / 2e-6, gradient(1e-6), gradient(-1e-6))
        for way in second_derivatives(t, operands, along)[1]:
            chex.assert_trees_all_close(way, expected, atol=1e-6)


@every_member
def test_points_that_are_not_numbers_stay_so(member):
    t = MEMBERS[member].transform
    (theta,) = single(MEMBERS[member].theta(10))
    points = jnp.where(jnp.eye(t.ndim, dtype=bool), jnp.nan, 0.0)
    assert bool(jnp.isnan(apply(t, theta, points)).any(axis=-1).all())


@every_member
def test_warp_and_its_gradient_match_the_oracle(member, x64):
    t, oracle, step = MEMBERS[member].transform, MEMBERS[member].oracle, MEMBERS[member].step
    align_corners = bool(list(MEMBERS).index(member) % 2)
    shape, out_shape = {1: (6,), 2: (6, 7), 3: (4, 5, 6)}[t.ndim], OUT_SHAPES[t.ndim]
    rng = np.random.default_rng(11)
    image, weights = rng.normal(size=(*shape, 2)), rng.normal(size=(*out_shape, 2))
    theta, along = MEMBERS[member].theta(10), rng.normal(size=t.num_params)
    lattice = reference.regular_grid(out_shape, align_corners)

    def expected_warp(theta):
        grid = oracle(theta, lattice)
        return reference.grid_sample(image, grid, "linear", "constant", 0.5, align_corners)

    def loss(theta):
        options = {"output_shape": out_shape, "fill_value": 0.5, "align_corners": align_corners}
        warped = stn.warp(jnp.asarray(image), t, theta, **options)
        return jnp.sum(warped * weights), warped

    @jax.jit
    def value_and_slopes(theta, along):
        gradient, warped = jax.grad(loss, has_aux=True)(theta)
        tangent = jax.jvp(lambda v: loss(v)[0], (theta,), (along,))[1]
        return warped, (gradient @ along, tangent)

    warped, slopes = value_and_slopes(theta, along)
    tolerance = 20 * MEMBERS[member].tolerance
    np.testing.assert_allclose(warped, expected_warp(theta), atol=tolerance)
    step = step / 10
    ends = (np.sum(expected_warp(theta + s * along) * weights) for s in (step, -step))
    expected = np.subtract(*ends) / (2 * step)
    np.testing.assert_allclose(slopes, [expected] * 2, atol=max(1e-6, 1e3 * tolerance))


@every_member
def test_diagnostics_know_it(member, x64):
    t, oracle = MEMBERS[member].transform, MEMBERS[member].oracle
    theta, points = MEMBERS[member].theta(12), MEMBERS[member].points(13, 3)
    shape = OUT_SHAPES[t.ndim]

    @jax.jit
    def look(theta, points):
        image = jnp.zeros((*[3] * t.ndim, 1))
        return (
            diagnostics.log_abs_det(t, theta, points),
            diagnostics.distance_from_identity(t, theta, shape),
            diagnostics.coverage(t, theta, shape),
            stn.warp(image, t, theta, output_shape=shape, return_coverage=True)[1],
        )

    volumes, distance, *coverages = look(theta, points)
    tolerance = 20 * MEMBERS[member].tolerance
    for point, volume in zip(points, volumes, strict=True):
        matrix = reference.central_differences(
            lambda p: oracle(theta, p), point, MEMBERS[member].step
        )
        expected = np.linalg.slogdet(matrix)[1]
        np.testing.assert_allclose(volume, expected, atol=max(1e-7, tolerance))
    lattice = reference.regular_grid(shape, False)
    moved = oracle(theta, lattice)
    expected = np.sqrt(np.mean(np.sum((moved - lattice) ** 2, -1)))
    np.testing.assert_allclose(distance, expected, atol=tolerance)
    for mask, fraction in coverages:
        np.testing.assert_array_equal(mask, (np.abs(moved) <= 1).all(-1))
        np.testing.assert_allclose(fraction, np.mean(mask))
