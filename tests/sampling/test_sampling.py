"""The laws of the sampler; a new kernel, padding or engine is tested by being listed."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conformance import cases
from hypothesis import strategies as st

import stn_jax as stn
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS

pytestmark = [pytest.mark.conformance("engine", "kernel", "padding"), pytest.mark.cross_section(13)]

ENGINES = [each.name for each in stn.implementations() if each.available]

# Every kernel with every padding; the alignment alternates, so that each meets both.
PAIRS = list(itertools.product(KERNELS, PADDINGS))
MODES = [(*pair, bool(i % 2 ^ i // len(PADDINGS) % 2)) for i, pair in enumerate(PAIRS)]


def listed(modes, slow=()):
    """Parameters for every engine; those of ``slow`` kernels run with the slow tests.

    Matrix products do not depend on kernels and paddings, so two of each suffice.
    """
    return [
        pytest.param(engine, *mode, marks=[pytest.mark.slow] * (mode[0] in slow))
        for engine in ENGINES
        for mode in modes
        if engine != "dense" or mode[:2] in (("linear", "constant"), ("cubic", "reflection"))
    ]


every_mode = pytest.mark.parametrize(
    ("engine", "kernel", "padding", "align_corners"), listed(MODES)
)
# The widest kernels' programs take longest to compile, minutes for second derivatives.
WIDE = ("lanczos3", "lanczos5")
every_mode_of_narrow_kernels = pytest.mark.parametrize(
    ("engine", "kernel", "padding", "align_corners"), listed(MODES, slow=WIDE)
)
# Compilations grow with the support to the power of the dimensions, so the wide kernels meet
# lines and volumes once, and the others always.
SPATIAL_MODES = [
    (*mode, ndim)
    for mode, ndim in itertools.product(MODES, (1, 2, 3))
    if ndim < 3 or KERNELS[mode[0]].radius <= 1 or mode[:2] == ("cubic", "border")
]
every_spatial_mode = pytest.mark.parametrize(
    ("engine", "kernel", "padding", "align_corners", "ndim"), listed(SPATIAL_MODES)
)
every_spatial_mode_of_narrow_kernels = pytest.mark.parametrize(
    ("engine", "kernel", "padding", "align_corners", "ndim"), listed(SPATIAL_MODES, slow=WIDE)
)
SHAPES = {1: (9,), 2: (6, 7), 3: (4, 5, 6)}
OUT_SHAPES = {1: (5,), 2: (5, 4), 3: (2, 3, 4)}


def an_image(ndim, channels=2, seed=0):
    return np.random.default_rng(seed).normal(size=(*SHAPES[ndim], channels))


def a_grid(ndim, seed=1, extent=1.6):
    """Random points inside and outside; away from kinks, where derivatives differ by side."""
    return np.random.default_rng(seed).uniform(-extent, extent, (*OUT_SHAPES[ndim], ndim))


def bind(engine, kernel, padding, align_corners, fill_value=0.0):
    """``grid_sample`` and its oracle with the same options."""

    def ours(image, grid):
        return stn.grid_sample(
            image,
            grid,
            kernel=kernel,
            padding=padding,
            align_corners=align_corners,
            fill_value=fill_value,
            implementation=engine,
        )

    def oracle(image, grid, **options):
        fill = np.asarray(fill_value)
        return reference.grid_sample(image, grid, kernel, padding, fill, align_corners, **options)

    return ours, oracle


def test_every_member_has_an_oracle():
    assert set(KERNELS) == set(reference.KERNELS)


@every_spatial_mode
def test_values_match_the_oracle(engine, kernel, padding, align_corners, ndim):
    fill = np.array([0.5, -2.0])
    ours, oracle = bind(engine, kernel, padding, align_corners, fill)
    image, grid = an_image(ndim), a_grid(ndim)
    expected = oracle(image, grid)
    if kernel == "linear":
        image32, grid32 = jnp.asarray(image, jnp.float32), jnp.asarray(grid, jnp.float32)
        np.testing.assert_allclose(ours(image32, grid32), expected, atol=2e-5)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            ours(jnp.asarray(image), jnp.asarray(grid)), expected, atol=1e-13
        )


@pytest.mark.parametrize(("engine", "kernel", "padding"), listed(PAIRS, slow=WIDE))
@cases(align_corners=st.booleans(), data=st.data())
def test_any_shape_matches_the_oracle(engine, kernel, padding, align_corners, data):
    sizes = st.sampled_from([1, 2, 5])
    if KERNELS[kernel].radius <= 1:
        shape = tuple(data.draw(sizes) for _ in range(data.draw(st.sampled_from([2, 3]), "ndim")))
        out_shape = tuple(data.draw(sizes) for _ in shape)
    else:  # Compiling takes long, so there are fewer shapes to draw from.
        shape, out_shape = (data.draw(sizes), data.draw(sizes)), (3, 4)
    rng = np.random.default_rng(data.draw(st.integers(0, 999), "seed"))
    image = rng.normal(size=(*shape, data.draw(st.sampled_from([1, 3]), "channels")))
    grid = rng.uniform(-2, 2, (*out_shape, len(shape)))
    ours, oracle = bind(engine, kernel, padding, align_corners)
    with jax.enable_x64(True):
        result = ours(jnp.asarray(image), jnp.asarray(grid))
    np.testing.assert_allclose(result, oracle(image, grid), atol=1e-12)


def assert_identity(image, families, modes, engine):
    """Warps by the identity's parameters, in one compilation; the parameters are arguments."""

    @jax.jit
    def warp_all(image, thetas):
        results = {}
        for kernel, padding, align_corners in modes:
            options = {"kernel": kernel, "padding": padding, "align_corners": align_corners}
            options["implementation"] = engine
            grid = stn.regular_grid(image.shape[:-1], align_corners=align_corners)
            results[f"grid_sample {options}"] = stn.grid_sample(image, grid, **options)
            for t in families:
                results[f"{t.name} {options}"] = stn.warp(image, t, thetas[t.name], **options)
        return results

    thetas = {t.name: jnp.asarray(t.identity, jnp.float32) for t in families}
    for name, value in warp_all(image, thetas).items():
        assert value.dtype == image.dtype
        np.testing.assert_array_equal(value, image, err_msg=name)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "dense"])
@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [(name, dtype) for name in KERNELS for dtype in ("bfloat16", "float16", "float32", "float64")],
)
def test_identity_is_exact_in_every_mode(engine, kernel, dtype):
    modes = [mode for mode in MODES if mode[0] == kernel]
    if KERNELS[kernel].radius <= 1:  # Each is compiled; the accuracy benchmark runs all.
        modes = list(itertools.product([kernel], PADDINGS, [False, True]))
    with jax.enable_x64(dtype == "float64"):
        image = jnp.asarray(np.random.default_rng(0).normal(size=(7, 10, 2)), dtype)
        assert_identity(image, [stn.affine()], modes, engine)


@every_mode
def test_linear_in_the_image(engine, kernel, padding, align_corners, x64):
    ours, _ = bind(engine, kernel, padding, align_corners)
    a, b, grid = (jnp.asarray(v) for v in (an_image(2, seed=1), an_image(2, seed=2), a_grid(2)))
    mixed = ours(2 * a - 3 * b, grid)
    np.testing.assert_allclose(mixed, 2 * ours(a, grid) - 3 * ours(b, grid), atol=1e-13)


@every_mode
def test_a_constant_image_stays_constant(engine, kernel, padding, align_corners):
    ours, oracle = bind(engine, kernel, padding, align_corners, fill_value=3.0)
    image, grid = jnp.full((6, 7, 1), 3.0), jnp.asarray(a_grid(2, extent=3), jnp.float32)
    # An antisymmetric padding continues it by its negative.
    expected = 3.0 if PADDINGS[padding].sign is None else oracle(image, grid)
    np.testing.assert_allclose(ours(image, grid), expected, rtol=1e-6, atol=1e-5)


@every_mode_of_narrow_kernels
def test_jit_vmap_and_eager_agree(engine, kernel, padding, align_corners):
    ours, _ = bind(engine, kernel, padding, align_corners)
    images = jnp.asarray([an_image(2, seed=s) for s in range(3)], jnp.float32)
    grids = jnp.asarray([a_grid(2, seed=s) for s in range(3)], jnp.float32)
    with jax.disable_jit():
        eager = jnp.stack([ours(*operands) for operands in zip(images, grids, strict=True)])
    batched = jax.vmap(ours)(images, grids)
    compiled = jax.jit(jax.vmap(ours))(images, grids)
    chex.assert_trees_all_close(eager, batched, compiled, atol=1e-5)


@every_spatial_mode_of_narrow_kernels
def test_derivatives_in_both_modes(engine, kernel, padding, align_corners, ndim, x64):
    ours, oracle = bind(engine, kernel, padding, align_corners, fill_value=0.7)
    image, grid = an_image(ndim), a_grid(ndim)
    rng = np.random.default_rng(5)
    image_dot, grid_dot = rng.normal(size=image.shape), rng.normal(size=grid.shape)
    cotangent = rng.normal(size=(*grid.shape[:-1], 2))
    slopes = [oracle(image, grid, derivative_along=k) for k in range(ndim)]

    operands = jnp.asarray(image), jnp.asarray(grid)
    tangents = jnp.asarray(image_dot), jnp.asarray(grid_dot)
    _, tangent = jax.jit(lambda *both: jax.jvp(ours, *both))(operands, tangents)
    # The fill value is constant along this direction of the image, so its part is zero.
    along_image = oracle(image_dot, grid) - oracle(np.zeros_like(image), grid)
    along_grid = sum(slope * grid_dot[..., k, None] for k, slope in enumerate(slopes))
    # The slope of the Lanczos oracle is itself a difference quotient.
    tolerance = 1e-8 if kernel.startswith("lanczos") else 1e-12
    np.testing.assert_allclose(tangent, along_image + along_grid, atol=tolerance)

    pull_back = jax.jit(lambda operands, cotangent: jax.vjp(ours, *operands)[1](cotangent))
    image_bar, grid_bar = pull_back(operands, jnp.asarray(cotangent))
    expected = np.stack([(slope * cotangent).sum(-1) for slope in slopes], axis=-1)
    np.testing.assert_allclose(grid_bar, expected, atol=tolerance)
    # The adjoint, by its definition: <image_bar, v> = <cotangent, A v> for every v.
    np.testing.assert_allclose(
        np.sum(image_bar * image_dot), np.sum(cotangent * along_image), rtol=1e-10
    )


@every_mode_of_narrow_kernels
def test_second_derivatives(engine, kernel, padding, align_corners, x64):
    ours, _ = bind(engine, kernel, padding, align_corners)
    image, grid = jnp.asarray(an_image(2)), a_grid(2)
    rng = np.random.default_rng(3)
    along = jnp.asarray(rng.normal(size=image.shape)), jnp.asarray(rng.normal(size=grid.shape))

    def value(image, grid):
        return jnp.sum(jnp.sin(ours(image, grid)))

    def slope(*operands):
        return jax.jvp(value, operands, along)[1]

    def product(*operands):
        gradient = jax.grad(value, argnums=(0, 1))(*operands)
        return sum(jnp.sum(a * b) for a, b in zip(gradient, along, strict=True))

    @jax.jit
    def derivatives(*operands):
        gradient, forward_reverse = jax.jvp(jax.grad(value, argnums=(0, 1)), operands, along)
        others = (jax.grad(f, argnums=(0, 1))(*operands) for f in (slope, product))
        return gradient, (forward_reverse, *others)

    # First derivatives are tested, so their difference quotients are an oracle for the second.
    operands = image, jnp.asarray(grid)
    ends = [
        derivatives(*(x + step * way for x, way in zip(operands, along, strict=True)))[0]
        for step in (1e-6, -1e-6)
    ]
    expected = jax.tree.map(lambda a, b: (a - b) / 2e-6, *ends)
    for way in derivatives(*operands)[1]:
        chex.assert_trees_all_close(way, expected, atol=1e-6)


def test_the_kink_takes_the_cell_on_the_right(x64):
    image = jnp.asarray([1.0, 5.0, 2.0, 10.0])[:, None]
    at_pixel = lambda x: stn.grid_sample(  # noqa: E731
        image, stn.normalized_from_pixels(x[None], (4,)), padding="border"
    )[0]
    for differentiate in (jax.jacrev, jax.jacfwd):
        slopes = [differentiate(at_pixel)(jnp.asarray([float(i)])).item() for i in range(4)]
        np.testing.assert_allclose(slopes, [4, -3, 8, 0])


@every_mode_of_narrow_kernels
def test_coordinates_that_are_not_finite(engine, kernel, padding, align_corners):
    ours, _ = bind(engine, kernel, padding, align_corners, fill_value=-1.0)
    image = jnp.arange(1.0, 13.0).reshape(3, 4, 1)
    inf, nan, huge = jnp.inf, jnp.nan, 3e38
    grid = jnp.asarray(
        [
            [inf, 0],
            [-inf, 0],
            [huge, huge],
            [-huge, inf],
            [0, -inf],
            [nan, 0],
            [0, nan],
            [nan, inf],
        ],
        jnp.float32,
    )
    result = ours(image, grid)[:, 0]
    if padding == "constant":
        np.testing.assert_allclose(result[:5], -1.0, rtol=2e-7)
    elif padding == "border":
        rows = ours(image, jnp.asarray([[9.0, 0], [-9.0, 0], [9.0, 9.0], [-9.0, 9.0], [0, -9.0]]))
        np.testing.assert_array_equal(result[:5], rows[:, 0])
    assert bool(jnp.all(jnp.isnan(result[5:])))

    image_bar, grid_bar = jax.grad(
        lambda image, grid: jnp.nansum(ours(image, grid)), argnums=(0, 1)
    )(image, grid)
    assert bool(jnp.all(jnp.isfinite(image_bar)))
    assert bool(jnp.all(jnp.isfinite(grid_bar)))
    np.testing.assert_array_equal(grid_bar[jnp.abs(grid) > 1e30], 0)
    np.testing.assert_array_equal(grid_bar[5:], 0)
    only_nan = jax.grad(lambda image: jnp.sum(ours(image, grid[5:])))(image)
    np.testing.assert_array_equal(only_nan, 0)


@pytest.mark.parametrize("padding", [n for n, rule in PADDINGS.items() if rule.sign is None])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_integer_images_with_the_nearest_kernel(padding, dtype):
    image = np.random.default_rng(0).integers(0, 2**31 - 1, (5, 6, 2)).astype(dtype)
    grid = a_grid(2)
    result = stn.grid_sample(
        jnp.asarray(image), jnp.asarray(grid), kernel="nearest", padding=padding
    )
    assert result.dtype == dtype
    expected = reference.grid_sample(image, grid, "nearest", padding, 0, False)
    np.testing.assert_array_equal(result, expected.astype(dtype))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_rounded_once(dtype):
    image = jnp.asarray(an_image(2), dtype)
    grid = jnp.asarray(a_grid(2), jnp.float32)
    ours, oracle = bind(None, "linear", "border", False)
    exact = jnp.asarray(oracle(np.asarray(image, np.float64), grid), jnp.float32)
    spacing = jnp.finfo(dtype).eps * jnp.abs(exact)
    error = jnp.abs(ours(image, grid).astype(jnp.float32) - exact)
    assert bool(jnp.all(error <= 0.51 * spacing + 1e-6))
    # The image's gradient is summed in float32 as well: 4,096 terms of 1 in bfloat16 stop at 256.
    point = jnp.zeros((4096, 2))
    gradient = jax.grad(lambda i: jnp.sum(ours(i, point).astype(jnp.float32)))(
        jnp.ones((1, 1, 1), dtype)
    )
    assert float(gradient.sum()) == 4096


def test_gradient_of_the_fill_value(x64):
    image, grid = jnp.asarray(an_image(2)), jnp.asarray(a_grid(2))
    sample = lambda fill: stn.grid_sample(image, grid, fill_value=fill)  # noqa: E731
    fill = jnp.asarray([0.3, -0.2])
    share_outside = sample(jnp.ones(2)) - sample(jnp.zeros(2))
    for differentiate in (jax.jacrev, jax.jacfwd):
        jacobian = differentiate(sample)(fill)
        np.testing.assert_allclose(jnp.diagonal(jacobian, axis1=-2, axis2=-1), share_outside)


def test_an_input_that_is_not_differentiated_costs_nothing():
    image, grid = jnp.ones((8, 8, 3)), jnp.zeros((4, 4, 2))
    gradient = jax.grad(lambda g: jnp.sum(stn.grid_sample(image, g)))
    assert "scatter" not in str(jax.make_jaxpr(gradient)(grid))


def test_index_and_weight_agree_about_the_coordinate(rng):
    """A coordinate that is computed twice may round differently: once 406.99998, once 407."""
    size, batch = 512, 4
    angle, scale = rng.uniform(-0.3, 0.3, batch), rng.uniform(0.8, 1.2, batch)
    cos, sin, zero = scale * np.cos(angle), scale * np.sin(angle), 0.05 * angle
    thetas = jnp.asarray(np.stack([cos, -sin, zero, sin, cos, zero], axis=-1), jnp.float32)
    image, bar = rng.normal(size=(2, batch, size, size, 3)).astype(np.float32)
    warp = jax.vmap(lambda image, theta: stn.warp(image, stn.affine(), theta))

    @jax.jit
    def value_and_slopes(images, bar):
        value, pull_back = jax.vjp(warp, images, thetas)
        return value, *pull_back(bar)

    value, image_bar, _ = value_and_slopes(image, bar)
    axis = reference.regular_axis(size, False)
    lattice = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    for n, theta in enumerate(thetas):
        points = reference.act(reference.matrix("affine", theta, 2), lattice)
        x, y = reference.pixel(points, size, False).T
        padded = np.pad(image[n], [(1, 1), (1, 1), (0, 0)])
        expected, expected_bar = np.zeros((size**2, 3)), np.zeros(padded.shape)
        for dy, dx in itertools.product((0, 1), (0, 1)):
            row, column = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
            weight = ((1 - np.abs(y - row)) * (1 - np.abs(x - column)))[:, None]
            inside = ((row >= 0) & (row < size) & (column >= 0) & (column < size))[:, None]
            place = np.clip(row, -1, size) + 1, np.clip(column, -1, size) + 1
            expected += inside * weight * padded[place]
            np.add.at(expected_bar, place, weight * bar[n].reshape(-1, 3))
        np.testing.assert_allclose(value[n].reshape(-1, 3), expected, atol=5e-3)
        np.testing.assert_allclose(image_bar[n], expected_bar[1:-1, 1:-1], atol=5e-3)
