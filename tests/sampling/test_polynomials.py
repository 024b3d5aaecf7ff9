"""Kernels as polynomials: the tables, and the engines that read them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax.sampling.padding import PADDINGS
from stn_jax.sampling.polynomials import POLYNOMIALS, polynomial

ENGINES = [each.name for each in stn.implementations() if each.available and each.name != "xla"]
FRACTIONS = np.arange(64) / 64


@pytest.mark.parametrize("kernel", POLYNOMIALS)
def test_weights_and_slopes_are_those_of_the_kernel(kernel, x64):
    offset = jnp.asarray(FRACTIONS + kernel.radius - 1)
    weights, slopes = jax.jvp(kernel.weights, (offset,), (jnp.ones_like(offset),))
    for row, weight, slope in zip(POLYNOMIALS[kernel], weights, slopes, strict=True):
        table = np.polynomial.Polynomial(row)
        np.testing.assert_allclose(table(FRACTIONS), weight, atol=1e-15)
        np.testing.assert_allclose(table.deriv()(FRACTIONS), slope, atol=1e-14)
        # A weight of 0 leaves a pixel out, so it must be exact.
        assert table(0.0) == weight[0]


def test_a_kernel_with_traced_parameters_has_no_table():
    assert polynomial(stn.cubic()) is not None
    assert polynomial(stn.cubic(a=-0.6)) is None
    assert polynomial(stn.cubic(a=jnp.float32(-0.5))) is None
    assert polynomial(stn.Kernel(1.0, lambda t: 1 - jnp.abs(t))) is None


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("kernel", "padding", "ndim", "channels"),
    [
        (kernel, padding, 1 + number % 3, (1, 3, 6)[number // 2 % 3])
        for number, (kernel, padding) in enumerate(
            zip(POLYNOMIALS, itertools.cycle(PADDINGS), strict=False)
        )
    ],
)
def test_engines_agree(kernel, padding, ndim, channels, engine, rng, x64):
    if ndim == 3 and engine == "dense" and kernel.taps > 2:
        ndim = 2  # The dense engine's arrays would be large.
    image = jnp.asarray(rng.normal(size=(*(5, 4, 6)[:ndim], channels)))
    pixels = rng.uniform(-9, 12, (70, ndim))
    pixels[:6] = np.array([np.nan, np.inf, 2, -1, 1e9, 0.5])[:, None]
    pixels[6, 0] = np.nan
    cotangent = jnp.asarray(rng.normal(size=(70, channels)))

    def results(name):
        @jax.jit
        def both(image, pixels):
            def sample(*operands):
                return stn.sample_pixels(
                    *operands, kernel=kernel, padding=padding, implementation=name
                )

            value, pull_back = jax.vjp(sample, image, pixels)
            return value, *pull_back(cotangent)

        return both(image, jnp.asarray(pixels))

    for found, expected in zip(results(engine), results("xla"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-12, rtol=1e-12)
