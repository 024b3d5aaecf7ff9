"""Bending energy and inverse consistency against closed forms and NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stn_jax as stn
from stn_jax import registration

LINEAR = [stn.affine(), stn.similarity(), stn.affine(ndim=3), stn.rigid(ndim=3)]


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def bending_energy(t, theta, shape, align_corners=False):
    return registration.bending_energy(t, theta, shape, align_corners=align_corners)


def quadratic(ndim):
    """``T_k(p) = p_k + Σ θ_kij p_i p_j / 2``; its second derivatives are ``θ_kij + θ_kji`` / 2."""

    def displacement(theta, points):
        tensor = theta.reshape(ndim, ndim, ndim)
        return jnp.einsum("kij,...i,...j->...k", tensor, points, points) / 2

    return stn.Transform(
        name="quadratic",
        ndim=ndim,
        identity=np.zeros(ndim**3),
        displacement=displacement,
        inverse=lambda theta, points: points,
    )


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(7,), (5, 8), (4, 5, 6)])
def test_bending_energy_of_a_quadratic_map_is_that_of_its_derivatives(shape, align_corners, x64):
    ndim = len(shape)
    theta = np.random.default_rng(0).normal(size=ndim**3)
    tensor = theta.reshape((ndim,) * 3)
    second = (tensor + tensor.transpose(0, 2, 1)) / 2
    ours = bending_energy(quadratic(ndim), theta, shape, align_corners)
    np.testing.assert_allclose(ours, np.sum(second**2), rtol=1e-9)


@pytest.mark.parametrize("t", LINEAR, ids=lambda t: f"{t.name}-{t.ndim}d")
def test_linear_maps_do_not_bend(t, x64):
    theta = t.identity + 0.2 * np.random.default_rng(1).normal(size=t.num_params)
    energy = bending_energy(t, theta, (6, 7, 8)[: t.ndim])
    np.testing.assert_allclose(energy, 0, atol=1e-20)


@given(seed=st.integers(0, 2**32 - 1))
def test_bending_energy_of_a_flow_is_that_of_numpy(seed):
    shape = (6, 5)
    offsets = 0.1 * np.random.default_rng(seed).normal(size=(*shape, 2))
    rows, columns = 2 / 6, 2 / 5
    down, right = (np.gradient(offsets, step, axis=k) for k, step in enumerate((rows, columns)))
    yy = np.diff(offsets, n=2, axis=0)[:, 1:-1] / rows**2
    xx = np.diff(offsets, n=2, axis=1)[1:-1] / columns**2
    xy = np.gradient(down, columns, axis=1)[1:-1, 1:-1]
    np.testing.assert_allclose(xy, np.gradient(right, rows, axis=0)[1:-1, 1:-1])
    expected = np.mean(np.sum(xx**2 + yy**2 + 2 * xy**2, axis=-1))
    with jax.enable_x64(True):
        ours = bending_energy(stn.flow(shape), offsets.ravel(), shape)
    np.testing.assert_allclose(ours, expected, rtol=1e-8)


@pytest.mark.parametrize("t", LINEAR[::2], ids=lambda t: f"{t.name}-{t.ndim}d")
def test_a_map_and_its_inverse_are_consistent(t, x64):
    theta = t.identity + 0.05 * np.random.default_rng(2).normal(size=t.num_params)
    back = np.linalg.inv(t.matrix(theta))[:-1].ravel()
    consistency = registration.inverse_consistency(t, theta, back, (5, 6, 7)[: t.ndim])
    np.testing.assert_allclose(consistency, 0, atol=1e-20)


def test_inverse_consistency_is_the_mean_of_both_squares(x64):
    rng, t = np.random.default_rng(3), stn.affine()
    there, back = (t.identity + 0.1 * rng.normal(size=6) for _ in range(2))
    points = np.stack(np.meshgrid(np.arange(5) * 2 / 5 - 0.8, np.arange(4) * 2 / 4 - 0.75), axis=-1)

    def act(theta, p):
        matrix = theta.reshape(2, 3)
        return p @ matrix[:, :2].T + matrix[:, 2]

    expected = sum(
        np.mean(np.sum((act(b, act(a, points)) - points) ** 2, axis=-1))
        for a, b in ((there, back), (back, there))
    )
    ours = registration.inverse_consistency(t, there, back, (4, 5))
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@pytest.mark.usefixtures("no_runtime_types")
def test_bad_shapes_are_refused():
    t = stn.affine()
    theta = t.identity.astype(np.float32)
    with pytest.raises(ValueError, match="at least 3 along each axis"):
        registration.bending_energy(t, theta, (2, 5))
    with pytest.raises(ValueError, match="output_shape must have 2 entries"):
        registration.inverse_consistency(t, theta, theta, (2, 5, 5))
    with pytest.raises(ValueError, match="theta must have shape"):
        registration.inverse_consistency(t, theta, theta[:5], (4, 5))
