"""Tests of families by Lie algebras alone: small, large and opposite generators."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from oracles import generator
from scipy import linalg

import stn_jax as stn

GROUPS = {("rigid", 2): 3, ("similarity", 3): 7, ("affine", 2): 6, ("projective", 2): 8}
every_group = pytest.mark.parametrize(("group", "ndim"), GROUPS)


@jax.jit
def displacement_and_slopes(t, theta, points):
    return t.displacement(theta, points), jax.jacrev(t.displacement)(theta, points)


@every_group
@pytest.mark.parametrize("size", [1e-12, 1e-7, 1e-4, 1e-2, 1.0])
def test_small_motions_keep_their_digits_and_slopes_in_float32(group, ndim, size, rng):
    t, points = stn.exponential(group, ndim=ndim), rng.uniform(-1, 1, (5, ndim))
    direction = rng.normal(size=t.num_params)
    direction *= 0.5 / np.abs(direction).max()
    theta = np.float32(size * direction).astype(np.float64)
    points = np.float32(points).astype(np.float64)
    value, slopes = displacement_and_slopes(t, jnp.float32(theta), jnp.float32(points))

    def moved(theta):
        # exp(G) − 1 from the top right block of exp([G 1; 0 0]), which is (exp(G) − 1) / G.
        g, size = generator(group, theta, ndim), ndim + 1
        block = np.block([[g, np.eye(size)], [np.zeros((size, 2 * size))]])
        change = linalg.expm(block)[:size, size:] @ g
        homogeneous = np.append(points, np.ones((5, 1)), axis=1)
        top = homogeneous @ change.T
        return (top[:, :ndim] - top[:, ndim:] * points) / (1 + top[:, ndim:])

    np.testing.assert_allclose(value, moved(theta), atol=3e-6 * size)
    expected = reference.central_differences(moved, theta, 1e-5)
    np.testing.assert_allclose(slopes, expected, atol=5e-6)


@every_group
def test_minus_theta_is_the_inverse_and_half_of_it_half_the_way(group, ndim, rng):
    t = stn.exponential(group, ndim=ndim)
    theta = jnp.asarray(0.3 * rng.normal(size=t.num_params), jnp.float32)
    there, back, half = (
        np.asarray(t.matrix(each), np.float64) for each in (theta, -theta, theta / 2)
    )
    np.testing.assert_allclose(there @ back, np.eye(ndim + 1), atol=2e-6)
    np.testing.assert_allclose(half @ half, there, atol=2e-6)
    np.testing.assert_allclose(
        np.linalg.det(there), np.exp(np.trace(generator(group, np.float64(theta), ndim))), rtol=1e-5
    )


def test_large_turns_are_exact(x64):
    theta = np.array([25.0, 3.0, -2.0])
    expected = linalg.expm(generator("rigid", theta, 2))
    np.testing.assert_allclose(stn.exponential("rigid").matrix(theta), expected, atol=1e-12)


def test_errors(no_runtime_types):
    with pytest.raises(ValueError, match=r"group must be one of 'rigid', .*got 'special'"):
        stn.exponential("special")
    with pytest.raises(ValueError, match=r'"projective".*ndim = 2; got 3'):
        stn.exponential("projective", ndim=3)
