"""Each trick of the plain engine on a CPU is still needed, and still works."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

import stn_jax as stn
from stn_jax.sampling.backends import xla
from stn_jax.sampling.backends.base import Points
from stn_jax.sampling.backends.cpu_loops import CPU, PLAIN

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu",
    reason="the tricks are for CPUs; this machine has another device",
)


def program(loops, channels=3):
    """The lines of the compiled value and coordinates' gradient, from numbers called ``raw``."""
    formula = Points(ndim=2, filled=False, kernel="linear", padding="constant", align_corners=False)

    def both(image, raw, cotangent):
        pixels = [1.5 * raw[0] + 0.25, 0.75 * raw[1] - 0.5]
        operands = (image, jnp.zeros(channels), *pixels)
        value = xla.sample(formula, *operands, loops=loops)
        return value, xla.pull(formula, (2, 3), *operands, cotangent, loops=loops)

    image, raw = jnp.ones((64, 64, channels)), jnp.ones((2, 64, 64))
    text = jax.jit(both).lower(image, raw, jnp.ones((64, 64, channels))).compile().as_text()
    return text, text[text.index("ENTRY") :].splitlines()


@functools.cache
def readers_of_raw(loops):
    """How many loops read the numbers that coordinates are computed from."""
    _, entry = program(loops)
    return sum(bool(re.search(r"fusion\(.*%raw\.\d", line)) for line in entry)


def test_coordinates_are_computed_once():
    # A loop for each coordinate; without the trick every loop that needs one computes it.
    assert readers_of_raw(CPU) == 2
    assert readers_of_raw(PLAIN) > 2


def stored_gathers(loops):
    _, entry = program(loops)
    return sum("gather" in line.split("=")[0] for line in entry)


def test_gathers_are_not_stored():
    assert stored_gathers(CPU) == 0
    assert stored_gathers(CPU._replace(block_cse=PLAIN.block_cse)) > 0


def test_channels_are_summed_without_an_inner_loop():
    for channels in (3, 16):
        assert " reduce(" not in program(CPU, channels)[0]
        plain = CPU._replace(sum_over_channels=PLAIN.sum_over_channels)
        assert " reduce(" in program(plain, channels)[0]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_no_other_platform_gets_them(platform):
    warp = lambda image, theta: stn.warp(image, stn.affine(), theta)  # noqa: E731
    gradient = jax.jit(jax.grad(lambda *operands: warp(*operands).sum(), argnums=(0, 1)))
    traced = gradient.trace(jnp.ones((8, 8, 3)), jnp.ones(6))
    assert "optimization_barrier" not in traced.lower(lowering_platforms=(platform,)).as_text()
    named = jax.jit(lambda image, theta: stn.warp(image, stn.affine(), theta, implementation="xla"))
    text = named.lower(jnp.ones((8, 8, 3)), jnp.ones(6)).as_text()
    assert "optimization_barrier" in text
