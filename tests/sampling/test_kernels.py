"""Kernels of a user, and what kernels refuse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import stn_jax as stn
from stn_jax.sampling.padding import PADDINGS


def operands(rng):
    """An image, and a grid of which a part lies outside."""
    return jnp.asarray(rng.normal(size=(6, 7, 2))), jnp.asarray(rng.uniform(-1.6, 1.6, (5, 4, 2)))


MAKE_KERNEL = {
    "cubic": lambda phi: stn.cubic(a=phi),
    "gaussian": lambda phi: stn.Kernel(2.0, lambda t: jnp.exp(-phi * t**2), normalize=True),
}


@pytest.mark.parametrize("name", MAKE_KERNEL)
def test_parameters_of_a_kernel_receive_gradients(name, rng, x64):
    image, grid = operands(rng)

    def sample(phi, grid):
        return stn.grid_sample(image, grid, kernel=MAKE_KERNEL[name](phi))

    expected = reference.central_differences(lambda phi: np.asarray(sample(float(phi), grid)), 0.7)
    for differentiate in (jax.jacrev, jax.jacfwd):
        jacobian = jax.jit(differentiate(sample))(0.7, grid)
        np.testing.assert_allclose(jacobian, expected, atol=1e-8)
    gradient = jax.jit(jax.grad(lambda *both: jnp.sum(sample(*both)), argnums=(0, 1)))
    phi_bar, grid_bar = gradient(0.7, grid)
    np.testing.assert_allclose(phi_bar, expected.sum(), atol=1e-7)
    assert bool(jnp.any(grid_bar != 0))


def test_a_kernel_of_your_own(rng, x64):
    """A kernel equal to the linear one, but written with twice its support."""
    wide = stn.Kernel(2.0, lambda t: jnp.where(jnp.abs(t) < 1, jnp.where(t < 0, 1 + t, 1 - t), 0.0))
    image, grid = operands(rng)
    for padding in PADDINGS:
        np.testing.assert_allclose(
            stn.grid_sample(image, grid, kernel=wide, padding=padding),
            stn.grid_sample(image, grid, kernel="linear", padding=padding),
            atol=1e-14,
        )


def test_a_prefilter_is_the_order_of_a_b_spline():
    with pytest.raises(ValueError, match=r"prefilter must be None or the order.*2, 3, 4, 5; got 7"):
        stn.Kernel(2.0, jnp.ones_like, prefilter=7)
