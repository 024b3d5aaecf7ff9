"""Tests of the linear families alone: rotations, homographies, singular maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from families import LINEAR, MEMBERS

import stn_jax as stn


@pytest.mark.parametrize("member", LINEAR)
def test_theta_means_what_the_contract_says(member, x64):
    t, theta = MEMBERS[member].transform, MEMBERS[member].theta(3)
    expected = reference.matrix(t.name, theta, t.ndim)
    np.testing.assert_allclose(t.matrix(jnp.asarray(theta)), expected, atol=1e-15)


@pytest.mark.parametrize("member", LINEAR)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_identity_may_come_in_half_precision(member, dtype):
    t = MEMBERS[member].transform
    points = jnp.asarray(MEMBERS[member].points(0, 20), dtype)
    mapped = t.apply(jnp.asarray(t.identity, dtype), points)
    np.testing.assert_array_equal(mapped, points.astype(jnp.float32))


def test_the_plane_is_the_default():
    assert stn.affine() is stn.affine(ndim=2)


@pytest.mark.parametrize("angle", [1e-12, 1e-4, 0.0316, 0.0317, 1.0, 3.0])
def test_axis_angle_is_accurate_at_every_angle(angle, x64):
    axis = np.array([0.6, -0.48, 0.64])
    theta = np.append(angle * axis, np.zeros(3))
    expected = reference.matrix("rigid", theta, 3)
    np.testing.assert_allclose(stn.rigid(ndim=3).matrix(jnp.asarray(theta)), expected, atol=2e-15)


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
