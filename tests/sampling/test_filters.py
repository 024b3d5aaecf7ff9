"""Antialiasing by filters with names, beside the libraries that they are from and by definition."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from skimage import transform as skimage_transform

import stn_jax as stn
from stn_jax.sampling.filters import FILTERS
from stn_jax.sampling.padding import PADDINGS

SHAPE = (23, 31)
every_filter = pytest.mark.parametrize("name", FILTERS)


def an_image(shape=SHAPE, seed=0):
    return np.random.default_rng(seed).normal(size=(*shape, 2))


def resized(image, shape, **options):
    return stn.warp(image, stn.translation(), jnp.zeros(2), output_shape=shape, **options)


def test_the_kernel_as_in_pytorch(x64):
    """The height is reduced, the width enlarged."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    image, shape = an_image(), (9, 40)
    x = torch.tensor(np.moveaxis(image, -1, 0)[None])
    for mode, kernel in (("bilinear", "linear"), ("bicubic", "cubic")):
        theirs = torch.nn.functional.interpolate(x, shape, mode=mode, antialias=True)[0]
        ours = resized(image, shape, kernel=kernel, padding="renormalized", antialias="kernel")
        np.testing.assert_allclose(ours, np.moveaxis(theirs.numpy(), 0, -1), atol=1e-13)


@pytest.mark.parametrize(
    "kernel",
    ["linear", "cubic", *(pytest.param(f"lanczos{k}", marks=pytest.mark.slow) for k in (3, 5))],
)
def test_the_kernel_as_in_jax(kernel, x64):
    """A crop that reaches beyond the image, where ``jax.image`` gives 0."""
    image, shape = an_image(), (7, 10)
    options = {"kernel": kernel, "padding": "renormalized", "antialias": "kernel"}
    # Pixels of the output, from the edge, are so many times those of the input, and moved so far.
    scale, shift = jnp.array([0.25, 0.31]), jnp.array([1.1, -2.3])
    theirs = jax.image.scale_and_translate(image, (*shape, 2), (0, 1), scale, shift, kernel)
    pixels = jnp.array(
        [[1 / scale[1], 0, -shift[1] / scale[1]], [0, 1 / scale[0], -shift[0] / scale[0]]]
    )
    theta = stn.conversions.matrix_from_pixels(pixels, SHAPE, shape, pixel_centers=0.5).ravel()
    ours = stn.warp(image, stn.affine(), theta, output_shape=shape, **options)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 10), (23, 5)])
def test_area_as_in_opencv(shape):
    image = np.float32(an_image())
    theirs = cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(
        resized(image, shape, antialias="area"), theirs.reshape(*shape, 2), atol=1e-6
    )


@pytest.mark.parametrize(
    ("padding", "mode"), [("reflection", "symmetric"), ("border", "edge"), ("wrap", "wrap")]
)
def test_gaussian_as_in_scikit_image(padding, mode, x64):
    image = an_image()
    theirs = skimage_transform.resize(image, (9, 40), order=1, mode=mode, anti_aliasing=True)
    ours = resized(image, (9, 40), padding=padding, antialias="gaussian")
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


def defined(name, x, width, kernel, m):
    """The weights of the pixels m for a footprint around x, before they are made to sum to 1."""
    if name == "area":
        low, high = np.maximum(m - 0.5, x - width / 2), np.minimum(m + 0.5, x + width / 2)
        return np.maximum(high - low, 0)
    value = reference.KERNELS[kernel][0]
    if name == "kernel":
        weigh = {"linear": lambda t: np.maximum(0, 1 - abs(t)), "cubic": reference.keys_weight}
        return weigh[kernel]((x - m) / width)
    deviation = (width - 1) / 2
    reach = int(4 * deviation + 0.5)
    if deviation == 0:
        return value(np.array(x), m)
    offset = np.arange(-reach, reach + 1)
    bell = np.exp(-((offset / deviation) ** 2) / 2)
    return np.convolve(value(np.array(x), m), bell, mode="same")


def by_definition(image, theta, shape, name, kernel, padding, fill):
    """A crop of attention; equation 3 with the weights of a filter, on the extended image."""
    margin, ndim = 60, len(shape)
    value = reference.extend(image, margin, padding, fill, False)
    outside = np.zeros((1,) * ndim, bool)
    for axis, (size, out) in enumerate(zip(image.shape[:-1], shape, strict=True)):
        m = np.arange(-margin, size + margin)
        points = theta[0] * reference.regular_axis(out, False) + theta[ndim - axis]
        centres = reference.pixel(points, size, False)
        width = max(1, abs(theta[0]) * size / out)
        weights = np.stack([defined(name, x, width, kernel, m) for x in centres])
        if padding == "renormalized":
            weights = np.where((m >= 0) & (m < size), weights, 0)
            away = (centres < -0.5) | (centres > size - 0.5)
            outside = outside | np.expand_dims(away, [k for k in range(ndim) if k != axis])
        total = weights.sum(1, keepdims=True)
        weights = weights / np.where(total == 0, 1, total)
        value = np.moveaxis(np.tensordot(weights, value, (1, axis)), 0, axis)
    return np.where(outside[..., None], fill, value)


@every_filter
def test_crops_by_definition(name, x64):
    """Every padding; crops from inside, across the edge and beyond it, mirrored, and enlarged."""
    image, shape, fill = an_image((9, 8)), (3, 4), np.array([0.5, -2.0])
    kernel = "linear" if name == "area" else "cubic"
    thetas = np.array([[0.9, 0.05, -0.1], [-1.0, 0.3, 0.2], [0.7, -1.4, 2.6], [0.2, 0.6, 0.1]])

    @jax.jit
    def ours(theta):
        options = {"kernel": kernel, "fill_value": fill, "antialias": name, "output_shape": shape}
        return {
            padding: stn.warp(image, stn.attention(), theta, padding=padding, **options)
            for padding in PADDINGS
        }

    for theta in thetas:
        for padding, found in ours(theta).items():
            expected = by_definition(image, theta, shape, name, kernel, padding, fill)
            np.testing.assert_allclose(found, expected, atol=1e-12, err_msg=f"{padding} {theta}")


@every_filter
def test_a_volume_by_definition(name, x64):
    volume, theta = (
        np.random.default_rng(1).normal(size=(6, 7, 8, 1)),
        np.array([0.9, 0.05, 0.1, 0]),
    )
    options = {"output_shape": (2, 3, 4), "padding": "reflection", "antialias": name}
    found = stn.warp(volume, stn.attention(ndim=3), theta, **options)
    expected = by_definition(volume, theta, (2, 3, 4), name, "linear", "reflection", 0)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_spline_through_a_constant_stays_constant():
    options = {"kernel": "bspline3", "padding": "border", "antialias": "kernel"}
    np.testing.assert_allclose(resized(np.ones((9, 9, 1)), (3, 3), **options), 1, atol=1e-5)


@every_filter
def test_what_is_not_made_smaller_is_unchanged_bit_for_bit(name):
    image = np.float32(an_image((9, 8)))

    @jax.jit
    def both(theta):
        return [
            stn.warp(image, stn.attention(), theta, padding="reflection", antialias=each)
            for each in (False, name)
        ]

    for theta in np.float32([[1, 0, 0], [0.6, 0.2, -0.1], [-1, 0, 0]]):
        plain, filtered = both(theta)
        np.testing.assert_array_equal(filtered, plain)
    np.testing.assert_array_equal(both(np.float32([1, 0, 0]))[1], image)


@pytest.mark.parametrize(
    "name", ["kernel", *(pytest.param(n, marks=pytest.mark.slow) for n in ("area", "gaussian"))]
)
def test_derivatives_in_both_modes(name, x64):
    image = an_image((9, 8))
    weights = np.random.default_rng(2).normal(size=(3, 2, 2))
    theta = np.array([0.93, 0.05, -0.11])
    options = {"output_shape": (3, 2), "padding": "renormalized", "antialias": name}

    @jax.jit
    def loss(theta, image):
        return jnp.sum(stn.warp(image, stn.attention(), theta, **options) * weights)

    @jax.jit
    def slopes(theta, image):
        return *jax.grad(loss, (0, 1))(theta, image), jax.jacfwd(loss)(theta, image)

    expected = reference.central_differences(lambda v: np.asarray(loss(v, image)), theta, 1e-6)
    reverse, image_bar, forward = slopes(theta, image)
    for slope in (reverse, forward):
        np.testing.assert_allclose(slope, expected, rtol=1e-6)
    other = an_image((9, 8), seed=3)
    np.testing.assert_allclose(jnp.sum(image_bar * other), loss(theta, other), rtol=1e-9)


def test_what_is_not_finite():
    image = np.ones((8, 8, 1), np.float32)
    nan = stn.warp(image, stn.attention(), jnp.array([1, jnp.nan, 0]), antialias="kernel")
    assert bool(jnp.isnan(nan).all())


def test_maps_that_keep_the_axes_apart(no_runtime_types):
    """By their family, also with a traced theta and in combinations, or by a known theta."""
    image = np.float32(an_image((8, 8)))

    def reduced(transform, theta):
        return stn.warp(image, transform, theta, output_shape=(4, 4), antialias="area")

    upright = stn.chain(stn.attention(), stn.inverted(stn.translation()))
    assert jax.jit(lambda theta: reduced(upright, theta))(jnp.array([1.0, 0, 0, 0, 0])).shape
    expected = reduced(stn.translation(), jnp.zeros(2))
    np.testing.assert_array_equal(reduced(stn.affine(), stn.affine().identity), expected)
    with pytest.raises(ValueError, match="map affine with a traced theta"):
        jax.jit(lambda theta: reduced(stn.affine(), theta))(jnp.ones(6))
    with pytest.raises(ValueError, match=r"the map rigid with theta=\[0.5"):
        reduced(stn.rigid(), jnp.array([0.5, 0, 0]))
    with pytest.raises(ValueError, match="the map flow"):
        reduced(stn.flow((2, 2)), jnp.zeros(8))


def test_errors(no_runtime_types):
    image = np.float32(an_image((8, 8)))
    with pytest.raises(
        ValueError, match=r"antialias must be True, False or one of 'area', .*'yes'"
    ):
        resized(image, (4, 4), antialias="yes")
    with pytest.raises(ValueError, match="antialias must be True, False or one of"):
        resized(image, (4, 4), antialias=1)
    with pytest.raises(ValueError, match='kernel must be "linear"'):
        resized(image, (4, 4), antialias="area", kernel="cubic")
    with pytest.raises(TypeError, match="floating dtype to be antialiased"):
        resized(np.ones((4, 4, 1), np.uint8), (2, 2), kernel="nearest", antialias="kernel")
