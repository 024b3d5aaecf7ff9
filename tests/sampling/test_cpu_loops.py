"""Each trick of the XLA engine on a CPU is still needed, and still works."""

import functools
import math
import re
import timeit

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import stn_jax as stn
from stn_jax.sampling.backends import xla
from stn_jax.sampling.backends.base import Points
from stn_jax.sampling.backends.cpu_loops import CPU, PLAIN, isolate_loop
from stn_jax.sampling.kernels import KERNELS

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu",
    reason="the tricks are for CPUs; this machine has another device",
)


LINEAR = Points(
    ndim=2, filled=False, kernel=KERNELS["linear"], padding="constant", align_corners=False
)


def program(loops, channels=3):
    """The lines of the compiled value and coordinates' gradient, from numbers called ``raw``."""
    formula = Points(
        ndim=2, filled=False, kernel=KERNELS["linear"], padding="constant", align_corners=False
    )

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
    """The number of loops that read the numbers from which coordinates are computed."""
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


def floors(isolate, steps=6):
    """How often a chain of steps is computed, each of which uses its points more than once."""
    table = jnp.arange(16.0)

    def step(points):
        whole = jnp.floor(points)
        return points + table[whole.astype(int)] * (points - whole)

    def chain(points):
        return functools.reduce(lambda points, _: isolate(step, points), range(steps), points)

    return len(re.findall(r" floor\(", jax.jit(chain).lower(jnp.ones(64)).compile().as_text()))


def test_an_isolated_loop_is_computed_once():
    assert floors(isolate_loop) == 6
    assert floors(lambda function, *operands: function(*operands)) > 6


def test_an_isolated_loop_has_its_derivatives_and_runs_in_shard_map():
    square = lambda x, y: isolate_loop(lambda x, y: x**2 * y, x, y)  # noqa: E731
    x = jnp.arange(4.0)
    np.testing.assert_allclose(jax.vmap(jax.grad(square))(x, x), 2 * x * x)
    np.testing.assert_allclose(jax.jvp(square, (x, x), (x, 0 * x))[1], 2 * x * x * x)
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    for specs in ((P("data"), P()), (P(), P("data"))):
        mapped = jax.shard_map(square, mesh=mesh, in_specs=specs, out_specs=P("data"))
        np.testing.assert_allclose(jax.jit(mapped)(x, x), x**3)
    with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Explicit,))):
        np.testing.assert_allclose(jax.jit(square)(jax.device_put(x, P("data")), x), x**3)


def test_windows_are_scattered():
    formula = Points(
        ndim=2, filled=False, kernel=KERNELS["linear"], padding="constant", align_corners=False
    )
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-3, 27, (2, 20, 30)).astype(np.float32)
    operands = (np.ones((24, 25, 3), np.float32), np.zeros(3, np.float32), x, y)
    cotangent = rng.normal(size=(20, 30, 3)).astype(np.float32)

    def pull(loops):
        return jax.jit(functools.partial(xla.pull, formula, (0,), loops=loops))

    def indices(loops):
        text = pull(loops).lower(*operands, cotangent).as_text()
        scattered = re.search(r"(?s)scatter\"\(.*?tensor<([\dx]+)xi32>", text)
        assert scattered is not None
        return math.prod(map(int, scattered[1].split("x")[:-1]))

    assert indices(CPU) == 20 * 30
    assert indices(PLAIN) == 4 * 20 * 30
    found, expected = (pull(loops)(*operands, cotangent)[0] for loops in (CPU, PLAIN))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_a_number_or_zero(dtype, x64):
    values = jnp.array([1.5, -2.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    assert jnp.array_equal(CPU.or_zero(values == values, values)[:-1], values[:-1])
    assert jnp.isnan(CPU.or_zero(values != values, values)[-1])
    zeros = CPU.or_zero(jnp.zeros(len(values), bool), values)
    assert zeros.dtype == dtype
    assert not zeros.any()


# Slow, since it compares times, which other programs disturb.
@pytest.mark.slow
def test_a_loop_without_selections_is_vectorized():
    operands = (jnp.ones((512, 512, 3)), jnp.zeros(3), *jnp.indices((512, 512)) + 0.5)

    def run(loops):
        sample = jax.jit(functools.partial(xla.sample, LINEAR, loops=loops))
        return lambda: jax.block_until_ready(sample(*operands))

    contenders = [run(CPU), run(CPU._replace(or_zero=PLAIN.or_zero))]
    times = [[timeit.timeit(each, number=1) for each in contenders] for _ in range(40)]
    with_it, without = np.min(times[5:], axis=0)
    assert without > 1.1 * with_it


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_no_other_platform_gets_them(platform):
    warp = lambda image, theta: stn.warp(image, stn.affine(), theta)  # noqa: E731
    gradient = jax.jit(jax.grad(lambda *operands: warp(*operands).sum(), argnums=(0, 1)))
    traced = gradient.trace(jnp.ones((8, 8, 3)), jnp.ones(6))
    assert "optimization_barrier" not in traced.lower(lowering_platforms=(platform,)).as_text()
    named = jax.jit(lambda image, theta: stn.warp(image, stn.affine(), theta, implementation="xla"))
    text = named.lower(jnp.ones((8, 8, 3)), jnp.ones(6)).as_text()
    assert "optimization_barrier" in text
