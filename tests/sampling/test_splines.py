"""B-splines through an image, beside SciPy's in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import interpolate, ndimage

import stn_jax as stn

pytestmark = pytest.mark.cross_section(5)

# Our padding and alignment, and SciPy's name of the same.
MODES = {
    ("reflection", False): "reflect",
    ("reflection", True): "mirror",
    ("wrap", False): "grid-wrap",
    ("border", False): "nearest",
    ("constant", False): "grid-constant",
}
INDEX = {
    ("reflection", False): lambda i, n: min(i % (2 * n), 2 * n - 1 - i % (2 * n)),
    ("reflection", True): lambda i, n: abs((i + n - 1) % max(2 * n - 2, 1) - (n - 1)),
    ("wrap", False): lambda i, n: i % n,
}
ORDERS = [2, 3, 4, 5]
modes = pytest.mark.parametrize(("padding", "align_corners"), MODES)
# SciPy pads by twelve pixels unless an image repeats; the filter's response decays to this.
CUT = {2: 1e-8, 3: 1e-6, 4: 1e-4, 5: 1e-3}


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def sampled(image, grid, kernel, padding, align_corners):
    return stn.grid_sample(
        image, grid, kernel=kernel, padding=padding, fill_value=0.7, align_corners=align_corners
    )


@pytest.mark.parametrize("order", ORDERS)
@modes
def test_samples_are_scipys(order, padding, align_corners, rng, x64):
    image = rng.normal(size=(14, 17, 2))
    pixels = rng.uniform(-9, 25, size=(300, 2))
    grid = stn.normalized_from_pixels(pixels, (14, 17), align_corners=align_corners)
    found = sampled(image, grid, f"bspline{order}", padding, align_corners)
    mode = MODES[padding, align_corners]
    expected = [
        ndimage.map_coordinates(image[..., c], pixels[:, ::-1].T, order=order, mode=mode, cval=0.7)
        for c in range(2)
    ]
    exact = padding in ("reflection", "wrap")
    atol = 1e-10 if exact else CUT[order]
    np.testing.assert_allclose(found, np.stack(expected, -1), atol=atol)


def coefficients_by_a_linear_system(image, axis, order, padding, align_corners):
    """SciPy's filter is exact to a millionth only where an axis of few pixels is reflected."""
    size, reach = image.shape[axis], 2
    weights = interpolate.BSpline.basis_element(np.arange(order + 2) - (order + 1) / 2)
    system = np.zeros((size, size))
    for row in range(size):
        for k in range(-reach, reach + 1):
            column = INDEX[padding, align_corners](row + k, size)
            system[row, column] += np.nan_to_num(weights(k, extrapolate=False))
    return np.moveaxis(np.tensordot(np.linalg.inv(system), image, (1, axis)), 0, axis)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", INDEX)
@pytest.mark.parametrize("shape", [(30,), (3, 1), (2, 4, 5)])
def test_coefficients_solve_the_linear_system(order, mode, shape, rng, x64):
    image = rng.normal(size=shape)
    found = stn.spline_coefficients(
        image[..., None], order, padding=mode[0], align_corners=mode[1]
    )[..., 0]
    expected = image
    for axis in range(len(shape)):
        expected = coefficients_by_a_linear_system(expected, axis, order, *mode)
    np.testing.assert_allclose(found, expected, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("padding", ["constant", "border", "reflection", "wrap"])
def test_the_identity_to_rounding(dtype, padding, rng):
    image = jnp.asarray(rng.uniform(1, 2, size=(9, 11, 3)), dtype)
    same = stn.warp(image, stn.affine(), stn.affine().identity, kernel="bspline3", padding=padding)
    assert same.dtype == dtype
    np.testing.assert_allclose(
        np.float32(same), np.float32(image), rtol=float(4 * jnp.finfo(dtype).eps)
    )


def test_derivatives_in_both_modes(rng, x64):
    image, grid = rng.normal(size=(6, 5, 1)), rng.uniform(-1.2, 1.2, size=(4, 2))
    along = rng.normal(size=image.shape), rng.normal(size=grid.shape)

    def value(image, grid):
        return stn.grid_sample(image, grid, kernel="bspline3", padding="border").sum()

    @jax.jit
    def slopes(image, grid):
        by_image, by_grid = jax.grad(value, (0, 1))(image, grid)
        forward = jax.jvp(value, (image, grid), along)[1]
        return jnp.vdot(by_image, along[0]) + jnp.vdot(by_grid, along[1]), forward

    moved = [value(image + s * along[0], grid + s * along[1]) for s in (1e-5, -1e-5)]
    np.testing.assert_allclose(slopes(image, grid), (moved[0] - moved[1]) / 2e-5, rtol=1e-7)


def test_coefficients_once_for_many_samples(rng):
    image, grids = rng.normal(size=(8, 9, 1)), rng.uniform(-2, 2, size=(3, 5, 2))
    coefficients = stn.spline_coefficients(np.float32(image), padding="wrap")
    kernel = stn.b_spline(3, prefilter=False)
    for grid in np.float32(grids):
        once = stn.grid_sample(coefficients, grid, kernel=kernel, padding="wrap")
        each = stn.grid_sample(np.float32(image), grid, kernel="bspline3", padding="wrap")
        np.testing.assert_allclose(once, each, atol=1e-5)


def test_antialiased_means_are_those_of_the_spline(rng):
    """Reduced by a whole number, a constant stays, and a line is read at the middle of a block."""
    x = np.arange(32, dtype=np.float32)
    image = np.stack(np.broadcast_arrays(np.ones(32, np.float32), x), -1)[None].repeat(32, 0)
    options = {"kernel": "bspline3", "padding": "border", "antialias": True}
    small = stn.warp(image, stn.affine(), stn.affine().identity, output_shape=(8, 8), **options)
    inner = np.asarray(small)[2:-2, 2:-2]
    np.testing.assert_allclose(inner[..., 0], 1, atol=1e-5)
    np.testing.assert_allclose(
        inner[..., 1], np.tile(x.reshape(8, 4).mean(1)[2:-2], (4, 1)), atol=1e-4
    )


def test_errors(rng, no_runtime_types):
    image = rng.normal(size=(4, 4, 1))
    with pytest.raises(ValueError, match=r"order must be one of 2, 3, 4, 5; got 1"):
        stn.spline_coefficients(image, 1)
    with pytest.raises(ValueError, match=r"order must be one of 2, 3, 4, 5; got 6"):
        stn.b_spline(6)
    with pytest.raises(TypeError, match="floating"):
        stn.spline_coefficients(np.zeros((4, 4, 1), np.uint8))
    with pytest.raises(ValueError, match="padding must be one of"):
        stn.spline_coefficients(image, padding="mirror")
