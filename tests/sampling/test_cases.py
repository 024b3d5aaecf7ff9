"""Users' programs that failed, by kind; expected values are NumPy's or the definition's."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from leaks import checking_leaks

import stn_jax as stn
from stn_jax.sampling.backends import xla
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS

pytestmark = pytest.mark.cross_section(3)

ENGINES = [each.name for each in stn.implementations() if each.available]
IDENTITY = jnp.array([1.0, 0, 0, 0, 1, 0])
SHRUNK = jnp.array([0.9, 0, 0, 0, 0.9, 0])
every_engine = pytest.mark.parametrize("engine", ENGINES)


@every_engine
def test_pixels_that_are_not_finite_stay_where_they_are(engine):
    @jax.jit
    def every_mode(image):
        return {
            (kernel, padding): stn.warp(
                image, stn.affine(), IDENTITY, kernel=kernel, padding=padding, implementation=engine
            )
            for kernel, padding in itertools.product(("nearest", "linear", "cubic"), PADDINGS)
        }

    image = np.random.default_rng(0).random((6, 7, 2)).astype(np.float32)
    for value in (np.nan, np.inf, -np.inf):
        image[3, 2, 0] = image[0, 6, 1] = value
        for mode, same in every_mode(image).items():
            np.testing.assert_array_equal(same, image, err_msg=str(mode))


@every_engine
def test_a_cotangent_that_is_not_finite_reaches_only_what_was_read(engine):
    image, point = jnp.ones((4, 5, 1)), jnp.zeros((1, 2))
    sample = lambda image: stn.grid_sample(image, point, implementation=engine)  # noqa: E731
    (gradient,) = jax.vjp(sample, image)[1](jnp.full((1, 1), jnp.nan))
    # The point lies between two rows, in the middle of a column.
    expected = np.zeros((4, 5), bool)
    expected[1:3, 2] = True
    np.testing.assert_array_equal(np.isnan(gradient[..., 0]), expected)


@every_engine
def test_a_fill_value_of_nan_spoils_no_gradient_that_is_masked_out(engine):
    image = jnp.ones((6, 8, 1)) * jnp.arange(8.0)[:, None]

    def loss(theta):
        options = {"fill_value": jnp.nan, "implementation": engine}
        return jnp.nansum(stn.warp(image, stn.translation(), theta, **options))

    gradient = jax.grad(loss)(jnp.array([0.1, 0.05]))
    # By differences of SciPy's shift, inside: 35 pixels move by 4 a unit along x.
    np.testing.assert_allclose(gradient, [140, 0], atol=1e-4)


@pytest.mark.parametrize("value", [-1, 300, 0.7, float("nan"), np.array([7, 256])])
def test_a_fill_value_must_fit_an_image_of_integers(value):
    labels = jnp.full((4, 4, 2), 7, jnp.uint8)
    shift = jnp.array([1.0, 0])
    with pytest.raises(ValueError, match="whole number from 0 to 255 for an image of uint8"):
        stn.warp(labels, stn.translation(), shift, kernel="nearest", fill_value=value)
    filled = stn.warp(labels, stn.translation(), shift, kernel="nearest", fill_value=255)
    assert set(np.unique(filled)) == {7, 255}


def test_a_fill_value_may_be_the_largest_of_its_dtype():
    labels, shift = np.full((2, 2, 2), 7, np.uint32), jnp.array([4.0, 0])
    for largest in (2**32 - 1, np.array([2**32 - 1, 3], np.uint32)):
        filled = stn.warp(labels, stn.translation(), shift, kernel="nearest", fill_value=largest)
        np.testing.assert_array_equal(filled, np.broadcast_to(np.uint32(largest), (2, 2, 2)))
    filled = stn.warp(labels.astype("f4"), stn.translation(), shift, fill_value=2**40)
    np.testing.assert_array_equal(filled, np.full((2, 2, 2), 2.0**40))


@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "dense"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_warp_can_be_transposed(engine, padding):
    image = jnp.ones((8, 9, 2))
    options = {"padding": padding, "implementation": engine}
    project = lambda image: stn.warp(image, stn.affine(), SHRUNK, **options)  # noqa: E731
    value, pull_back = jax.vjp(project, image)
    (transposed,) = jax.linear_transpose(project, image)(value)
    np.testing.assert_allclose(transposed, pull_back(value)[0], rtol=1e-6)


def test_a_kernels_parameter_leaks_nowhere_and_compiles_once():
    image, theta = jnp.ones((8, 9, 2)), SHRUNK
    traces = 0

    def weight(t, a):
        nonlocal traces
        traces += 1
        return KERNELS["cubic"].weight(t, a)

    def value(a):
        return stn.warp(
            image, stn.affine(), theta, kernel=stn.Kernel(2.0, weight, params=(a,))
        ).sum()

    for a in (-0.5, np.float32(-0.6), jnp.float32(-0.7), np.float64(-0.8)):
        value(a)
    once = traces
    value(-0.9), value(jnp.float32(-1.0))
    assert traces == once
    with checking_leaks():
        jax.vmap(lambda a: stn.warp(image, stn.affine(), theta, kernel=stn.cubic(a=a)).sum())(
            jnp.array([-0.5, -0.6])
        )


@pytest.mark.parametrize("align_corners", [False, True])
def test_export_for_images_of_any_height_and_width(align_corners):
    height, width, batch = export.symbolic_shape("h, w, b")
    shapes = (
        jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32),
        jax.ShapeDtypeStruct((batch, 6), jnp.float32),
    )
    image = np.random.default_rng(0).random((2, 13, 17, 3)).astype(np.float32)
    theta = np.tile(np.asarray(SHRUNK), (2, 1))
    for output_shape in ((8, 9), (1, 9), None):

        def crop(image, theta, output_shape=output_shape):
            options = {"output_shape": output_shape, "align_corners": align_corners}
            return stn.warp(image, stn.affine(), theta, **options)

        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            exported = export.export(jax.jit(jax.vmap(crop)))(*shapes)
        found = exported.call(image, theta)
        np.testing.assert_allclose(found, jax.vmap(crop)(image, theta), atol=1e-5)
    # A side of one pixel, which under align_corners has no step from corner to corner.
    found = exported.call(image[:, :1], theta)
    np.testing.assert_allclose(found, jax.vmap(crop)(image[:, :1], theta), atol=1e-5)


@pytest.mark.parametrize("kernel", ["nearest", "linear", "cubic", "lanczos3"])
def test_strict_modes_of_promotion(kernel):
    options = {"kernel": kernel, "fill_value": 0.5}
    for dtype, antialias in itertools.product((jnp.float32, jnp.bfloat16), (False, True)):
        image = jnp.ones((8, 9, 2), dtype)
        warp = functools.partial(stn.warp, antialias=antialias, **options)

        def loss(theta, image=image, warp=warp):
            return warp(image, stn.affine(), theta).astype(jnp.float32).sum()

        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            jax.eval_shape(jax.grad(loss), 2 * IDENTITY)


def test_images_with_more_pixels_than_an_int32_can_number():
    """By the indices of the program; the image itself would take 3 GB."""
    image = jax.ShapeDtypeStruct((70_000, 40_000, 1), jnp.uint8)
    index = [jax.ShapeDtypeStruct((5,), jnp.int32)] * 2
    _, flat = jax.eval_shape(xla._indexed, jax.ShapeDtypeStruct((4, 4, 1), jnp.uint8), index)
    _, by_axis = jax.eval_shape(xla._indexed, image, index)
    assert (flat.shape, by_axis.shape) == ((5, 1), (5, 2))


def test_dtypes_that_cannot_be_sampled(no_runtime_types):
    for dtype, message in (("int32", 'any kernel but "nearest"'), ("float8_e4m3fn", "16 bits")):
        with pytest.raises(TypeError, match=message):
            stn.warp(jnp.ones((4, 4, 1), dtype), stn.affine(), IDENTITY)


def test_an_engine_says_why_it_cannot_serve(no_runtime_types):
    with pytest.raises(ValueError, match="implementation must be one of 'native', 'xla', 'dense'"):
        stn.grid_sample(jnp.ones((4, 4, 1)), jnp.zeros((1, 2)), implementation="cuda")
    labels = jnp.ones((4, 4, 1), jnp.int32)
    with pytest.raises(NotImplementedError, match="floating images; got int32"):
        stn.grid_sample(labels, jnp.zeros((1, 2)), kernel="nearest", implementation="dense")


@pytest.mark.skipif("native" not in ENGINES, reason="stn-jax-native is not installed")
def test_the_native_engine_refuses_what_runs_elsewhere():
    warp = jax.jit(lambda image: stn.warp(image, stn.affine(), SHRUNK, implementation="native"))
    with pytest.raises(NotImplementedError, match="exported program"):
        export.export(warp)(jnp.ones((4, 4, 1)))
    with pytest.raises(NotImplementedError, match="compiled for 'cuda'"):
        warp.trace(jnp.ones((4, 4, 1))).lower(lowering_platforms=("cuda",))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kernel", ["linear", "cubic", "lanczos3"])
def test_the_gradient_at_a_nan_coordinate_is_0_along_every_axis(engine, kernel):
    image = jnp.asarray(np.arange(20.0).reshape(4, 5, 1) ** 2, jnp.float32)

    def total(pixels):
        return stn.sample_pixels(image, pixels, kernel=kernel, implementation=engine).sum()

    pixels = jnp.array([[jnp.nan, 1.3], [1.3, jnp.nan], [jnp.nan, jnp.nan]])
    np.testing.assert_array_equal(jax.grad(total)(pixels), 0)


@every_engine
@pytest.mark.parametrize("kernel", ["linear", pytest.param("lanczos3", marks=pytest.mark.slow)])
def test_a_tangent_without_the_batch_axis_of_its_operand(engine, kernel, rng):
    """It replaces the only operand that had that axis."""
    images, tangent = rng.normal(size=(3, 4, 5, 1)), rng.normal(size=(4, 5, 1))
    grid, grid_tangent, cotangent = rng.uniform(-1, 1, (3, 7, 2))

    def sample(image, grid):
        return stn.grid_sample(image, grid, kernel=kernel, implementation=engine)

    def along_image(image):
        return jax.jvp(lambda image: sample(image, grid), (image,), (tangent,))[1]

    def along_grid(image):
        def slope(image):
            return jax.jvp(lambda g: sample(image, g), (grid,), (grid_tangent,))[1]

        return jax.jvp(slope, (image,), (tangent,))[1]

    def pulled(image):
        gradient = jax.grad(lambda g: jnp.vdot(sample(image, g)[..., 0], cotangent[:, 0]))
        return jax.linearize(gradient, grid)[1](grid_tangent)

    images, tangent, grid, grid_tangent, cotangent = (
        jnp.asarray(each, jnp.float32) for each in (images, tangent, grid, grid_tangent, cotangent)
    )
    for function in (along_image, along_grid, pulled):
        expected = jnp.stack([function(image) for image in images])
        np.testing.assert_allclose(jax.vmap(function)(images), expected, atol=2e-4, rtol=1e-4)


def test_columns_of_a_jacobian_under_two_vmaps():
    transform = stn.chain(stn.displacement((3, 3)), stn.affine())
    theta = jnp.asarray(transform.identity, jnp.float32)
    image = jnp.asarray(np.arange(30.0).reshape(5, 6, 1), jnp.float32)

    def columns(theta):
        along = jax.linearize(lambda theta: stn.warp(image, transform, theta), theta)[1]
        return jax.vmap(along)(jnp.eye(len(theta)))

    found = jax.vmap(columns)(jnp.stack([theta, theta + 0.01]))
    np.testing.assert_allclose(found[1], columns(theta + 0.01), atol=1e-4)
