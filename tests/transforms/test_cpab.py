"""Tests of CPAB alone: exponentials in cells, exact inverses, paths of many pieces."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from oracles import cpab_oracle
from scipy import linalg

import stn_jax as stn

apply = jax.jit(lambda t, theta, points: t.apply(theta, points), static_argnums=0)
LATTICE = reference.regular_grid((4, 5), True)


def test_an_affine_velocity_is_an_exponential_whatever_the_cells(rng, x64):
    generator = np.zeros((3, 3))
    generator[:2] = rng.uniform(-0.3, 0.3, (2, 3))
    theta = LATTICE @ generator[:2, :2].T + generator[:2, 2]
    points = rng.uniform(-0.5, 0.5, (40, 2))
    expected = reference.act(linalg.expm(generator), points)
    np.testing.assert_allclose(apply(stn.cpab((4, 5)), theta.ravel(), points), expected, atol=1e-13)


@pytest.mark.parametrize("zoom", [-0.6, 0.4])
def test_points_may_move_along_the_borders_of_cells(zoom):
    """Lattice points, diagonals and lattice lines, on which a zoom keeps points."""
    points = np.float32(
        np.concatenate([LATTICE.reshape(-1, 2), [[x, x] for x in np.linspace(-1, 1, 9)]])
    )
    points = points[np.abs(points * np.exp(zoom)).max(axis=1) < 1]
    mapped = apply(
        stn.cpab((5, 5)), jnp.float32(zoom * reference.regular_grid((5, 5), True).ravel()), points
    )
    np.testing.assert_allclose(mapped, points * np.exp(zoom), atol=1e-6)


def test_the_opposite_velocity_is_the_exact_inverse(rng, x64):
    t, theta = stn.cpab((4, 5)), rng.uniform(-0.8, 0.8, 40)
    points = rng.uniform(-1, 1, (200, 2))
    there = apply(t, theta, points)
    assert np.abs(there - points).max() > 0.4
    np.testing.assert_allclose(apply(t, -theta, there), points, atol=1e-13)


def test_strong_velocities_in_many_cells_in_float32(rng):
    t, theta = stn.cpab((6, 6), pieces=48), np.float32(rng.uniform(-0.6, 0.6, 72))
    points = np.float32(rng.uniform(-1, 1, (40, 2)))
    expected = cpab_oracle((6, 6))(np.float64(theta), np.float64(points))
    np.testing.assert_allclose(apply(t, theta, points), expected, atol=1e-5)


def test_a_path_of_more_pieces_is_nan_and_others_are_not():
    theta = np.zeros((5, 5, 2), np.float32)
    theta[..., 0] = 1.0
    points = jnp.array([[-0.75, 0.3], [2.0, 0.3], [0.4, jnp.nan], [jnp.inf, 0.0], [1e9, -1e30]])
    few, enough = (apply(stn.cpab((5, 5), pieces=n), theta.ravel(), points) for n in (2, 16))
    assert np.isnan(few[0]).all()
    np.testing.assert_allclose(enough[:2], [[0.25, 0.3], [3.0, 0.3]], atol=1e-6)
    assert np.isnan(enough[2]).all()
    assert not np.isnan(enough[3:]).any()


def test_a_border_may_be_held(rng):
    free = np.pad(np.ones((3, 3, 2), bool), [(1, 1), (1, 1), (0, 0)]).ravel()
    t = stn.fixed(stn.cpab((5, 5)), {int(k): 0.0 for k in np.flatnonzero(~free)})
    theta = np.float32(rng.uniform(-0.4, 0.4, t.num_params))
    side = np.linspace(-1, 1, 11)
    border = np.float32(
        [[s, e] for s in side for e in (-1, 1)] + [[e, s] for s in side for e in (-1, 1)]
    )
    np.testing.assert_allclose(apply(t, theta, border), border, atol=1e-6)


@pytest.mark.parametrize("size", [1e-9, 1e-6, 1e-3])
def test_points_on_borders_of_cells_move_slowly(size, rng):
    theta = np.float32(rng.uniform(-size, size, 40))
    points = np.float32(LATTICE.reshape(-1, 2))
    moved = jax.jit(stn.cpab((4, 5)).displacement)(theta, points)
    np.testing.assert_allclose(moved, theta.reshape(-1, 2), atol=20 * size**2 + 1e-5 * size)


def test_derivatives_of_signals(rng, x64):
    """Few instructions, so this runs with the quick tests; the laws of all members are slow."""
    t, theta, points = stn.cpab((6,), pieces=12), rng.uniform(-0.4, 0.4, 6), np.linspace(-1, 1, 9)
    points = points[:, None]
    expected = reference.central_differences(lambda v: cpab_oracle((6,))(v, points), theta, 1e-4)
    modes = jax.jit(lambda v: [mode(t.apply)(v, points) for mode in (jax.jacrev, jax.jacfwd)])
    for found in modes(theta):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_derivatives_where_paths_cross_cells(rng, x64):
    """First and second derivatives against difference quotients."""
    t, theta = stn.cpab((3, 4)), rng.uniform(-0.5, 0.5, 24)
    points = rng.uniform(-0.9, 0.9, (6, 2))
    along = rng.normal(size=24), rng.normal(size=(6, 2))
    operands = theta, points
    value = lambda theta, points: jnp.sum(jnp.sin(2 * t.apply(theta, points)))  # noqa: E731
    gradient = jax.jit(jax.grad(value, (0, 1)))

    @jax.jit
    def products(*operands):
        forward = jax.jvp(jax.grad(value, (0, 1)), operands, along)[1]
        reverse = jax.grad(
            lambda *o: sum(
                jnp.vdot(a, b) for a, b in zip(jax.grad(value, (0, 1))(*o), along, strict=True)
            ),
            (0, 1),
        )(*operands)
        return forward, reverse, jax.jvp(value, operands, along)[1]

    moved = functools.partial(jax.tree.map, lambda a, b, s: a + s * b, operands, along)
    step = 1e-6
    ends = [moved(jax.tree.map(lambda _, s=s: s, operands)) for s in (step, -step)]
    forward, reverse, slope = products(*operands)
    expected = (value(*ends[0]) - value(*ends[1])) / (2 * step)
    np.testing.assert_allclose(slope, expected, atol=1e-7)
    dot = sum(jnp.vdot(a, b) for a, b in zip(gradient(*operands), along, strict=True))
    np.testing.assert_allclose(slope, dot, rtol=1e-9)
    differences = jax.tree.map(
        lambda a, b: (a - b) / (2 * step), gradient(*ends[0]), gradient(*ends[1])
    )
    chex.assert_trees_all_close(forward, differences, atol=1e-6)
    chex.assert_trees_all_close(reverse, differences, atol=1e-6)


def test_errors(no_runtime_types):
    with pytest.raises(ValueError, match=r"rows, columns.*got \(1, 4\)"):
        stn.cpab((1, 4))
    with pytest.raises(ValueError, match=r"pieces must be an integer of at least 1; got 0"):
        stn.cpab((3, 3), pieces=0)
