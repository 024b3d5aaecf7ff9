"""The sampler's optional derivatives: linear fits around points, and deterministic sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import stn_jax as stn
from benchmarks import alignment

pytestmark = pytest.mark.cross_section(3)


def an_image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def some_points(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).uniform(-1.2, 1.2, shape), jnp.float32)


@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_the_fit_is_least_squares(ndim, x64):
    image = jnp.asarray(np.random.default_rng(0).normal(size=(*[7, 6, 5][:ndim], 2)))
    pixels = np.random.default_rng(1).uniform(0, 4, (3, ndim))
    shape = image.shape[:-1]

    def at(pixels):
        return stn.grid_sample(
            image, stn.normalized_from_pixels(pixels, shape), gradient=stn.Linearized(spread=1.5)
        )

    offsets = stn.Linearized(spread=1.5).offsets(ndim)
    np.testing.assert_allclose(np.mean(offsets**2, axis=0), 1.5**2)
    design = np.concatenate([np.ones((len(offsets), 1)), offsets], axis=1)
    around = at(jnp.asarray(pixels[:, None] + offsets))
    for differentiate in (jax.jacrev, jax.jacfwd):
        slopes = jax.vmap(differentiate(at))(jnp.asarray(pixels))
        for slope, samples in zip(slopes, around, strict=True):
            plane, *_ = np.linalg.lstsq(design, samples)
            np.testing.assert_allclose(slope, plane[1:].T, atol=1e-12)


def test_on_a_plane_the_fit_is_exact(x64):
    x, y = np.meshgrid(np.arange(20.0), np.arange(20.0))
    image = jnp.asarray(3 * x - 2 * y)[..., None]
    at = lambda p: stn.grid_sample(  # noqa: E731
        image, stn.normalized_from_pixels(p, (20, 20)), gradient="linearized"
    )[0]
    np.testing.assert_allclose(jax.grad(at)(jnp.asarray([9.3, 10.1])), [3, -2], atol=1e-12)


def test_the_fit_leaves_the_value_and_the_gradient_of_the_image(x64):
    image, grid = an_image(8, 9, 2), some_points(5, 6, 2)
    results = [
        jax.vjp(lambda i, gradient=g: stn.grid_sample(i, grid, gradient=gradient), image)
        for g in ("exact", "linearized")
    ]
    (value, pull), (other, other_pull) = results
    np.testing.assert_array_equal(value, other)
    np.testing.assert_array_equal(pull(value)[0], other_pull(value)[0])


def test_the_fit_of_a_fit_is_the_second_derivative(x64):
    image = jnp.asarray(an_image(12, 13, 1), float)
    point = np.array([5.2, 6.3])

    def at(pixels, gradient="linearized"):
        grid = stn.normalized_from_pixels(pixels, (12, 13))
        return stn.grid_sample(image, grid, gradient=gradient)[..., 0]

    offsets = stn.Linearized().offsets(2)
    weights = offsets / np.sum(offsets**2, axis=0)
    around = at(jnp.asarray(point + offsets[:, None] + offsets))
    expected = np.einsum("ik,jl,ij->kl", weights, weights, around)
    for outer in (jax.jacrev, jax.jacfwd):
        for inner in (jax.jacrev, jax.jacfwd):
            np.testing.assert_allclose(
                jax.jit(outer(inner(at)))(jnp.asarray(point)), expected, atol=1e-12
            )


def test_the_fit_widens_the_basin_of_convergence():
    exact, linearized = (
        alignment.shares_aligned(10, (10.0,), rule, steps=80)
        for rule in ("exact", "linearized, spread 4")
    )
    assert linearized > exact + 0.2


def test_bad_rules(no_runtime_types):
    with pytest.raises(ValueError, match="gradient must be one of 'exact', 'linearized'"):
        stn.grid_sample(jnp.ones((4, 4, 1)), jnp.zeros((2, 2)), gradient="fuzzy")
    with pytest.raises(ValueError, match="spread must be a positive number"):
        stn.Linearized(spread=0.0)


def image_gradient(image, grid, cotangent, **options):
    # The native engine adds in the order of the points, whatever the number of threads.
    options = {"implementation": "xla", "deterministic": True} | options
    sample = lambda i: stn.grid_sample(i, grid, **options)  # noqa: E731
    return jax.vjp(sample, image)[1](cotangent)[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
@pytest.mark.parametrize("padding", ["constant", "wrap"])
def test_the_order_of_the_points_does_not_change_a_bit(padding, dtype):
    """Shuffled points stand for parallel hardware, which adds in any order."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(dtype == "float64"):
        points = jnp.asarray(rng.uniform(-1.1, 1.1, (3000, 2)), jnp.float32)
        cotangent = jnp.asarray(rng.normal(size=(3000, 2)) * rng.lognormal(size=(3000, 1)), dtype)
        image = jnp.zeros((5, 6, 2), dtype)
        run = jax.jit(lambda *operands: image_gradient(*operands, padding=padding))
        expected = np.asarray(run(image, points, cotangent))
        for seed in range(3):
            order = np.random.default_rng(seed).permutation(3000)
            found = np.asarray(run(image, points[order], cotangent[order]))
            np.testing.assert_array_equal(found, expected)
        sample = lambda i: stn.grid_sample(i, points, padding=padding)  # noqa: E731
        plain = jax.vjp(sample, image)[1](cotangent)[0]
        tolerance = {"bfloat16": 1e-2, "float32": 2e-6, "float64": 1e-14}[dtype]
        np.testing.assert_allclose(
            np.asarray(expected, float), np.asarray(plain, float), rtol=tolerance,
            atol=tolerance * 300,
        )  # fmt: skip


def test_deterministic_derivatives_of_every_kind_agree_with_the_default(x64):
    image, grid = jnp.asarray(an_image(5, 6, 2), float), jnp.asarray(some_points(4, 3, 2), float)

    def loss(image, grid, deterministic):
        return jnp.sum(jnp.sin(stn.grid_sample(image, grid, deterministic=deterministic)))

    def everything(deterministic):
        f = lambda *operands: loss(*operands, deterministic)  # noqa: E731
        slope = jax.grad(f, argnums=(0, 1))
        dots = jnp.cos(image), jnp.sin(grid)
        return (
            slope(image, grid),
            jax.jvp(f, (image, grid), dots),
            jax.jvp(slope, (image, grid), dots),
            jax.grad(lambda i, g: sum(jnp.sum(s**2) for s in slope(i, g)), argnums=(0, 1))(
                image, grid
            ),
        )

    found, expected = (jax.jit(everything, static_argnums=0)(each) for each in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), found, expected)


@pytest.mark.parametrize("axes", [(0, 0), (None, 0), (0, None)])
def test_deterministic_batches(axes, x64):
    images, grids = (
        jnp.asarray(an_image(3, 5, 6, 2), float),
        jnp.asarray(some_points(3, 4, 4, 2), float),
    )
    operands = [x[0] if axis is None else x for x, axis in zip((images, grids), axes, strict=True)]

    def total(images, grids, deterministic):
        sample = lambda i, g: stn.grid_sample(i, g, deterministic=deterministic)  # noqa: E731
        return jnp.sum(jnp.sin(jax.vmap(sample, in_axes=axes)(images, grids)))

    slopes = [
        jax.jit(jax.grad(total, argnums=(0, 1)), static_argnums=2)(*operands, each)
        for each in (True, False)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), *slopes)


def test_deterministic_sums_that_are_not_finite():
    grid = jnp.zeros((2, 2))
    cotangent = jnp.asarray([[jnp.inf], [1.0]])
    assert not bool(jnp.isfinite(image_gradient(jnp.ones((1, 1, 1)), grid, cotangent)).any())
    zero = image_gradient(jnp.ones((3, 3, 1)), grid, jnp.zeros((2, 1)))
    np.testing.assert_array_equal(zero, 0)


def test_deterministic_central_differences(x64):
    image, grid = np.asarray(an_image(4, 4, 1), float), jnp.asarray(some_points(5, 2), float)
    value = jax.jit(lambda i: jnp.sum(stn.grid_sample(i, grid, deterministic=True) ** 2))
    expected = reference.central_differences(lambda i: np.asarray(value(i)), image)
    np.testing.assert_allclose(jax.jit(jax.grad(value))(jnp.asarray(image)), expected, atol=1e-8)
