"""Agreement with the originals: PyTorch where it is installed, SciPy and OpenCV always."""

import itertools

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

import stn_jax as stn

pytestmark = pytest.mark.cross_section(6)

PYTORCH_KERNEL = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
PYTORCH_PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection"}
SCIPY_ORDER = {"nearest": 0, "linear": 1}
# SciPy's "constant" reaches only half a pixel out; "grid-constant" is a padding with pixels.
SCIPY_MODE = {
    "constant": "grid-constant",
    "border": "nearest",
    "reflection": "reflect",
    "wrap": "grid-wrap",
}
# PyTorch's cubic kernel; there is none for volumes.
OUR_KERNEL = {"nearest": "nearest", "linear": "linear", "cubic": stn.cubic(a=-0.75)}
OPENCV_PADDING = {
    "constant": cv2.BORDER_CONSTANT,
    "border": cv2.BORDER_REPLICATE,
    "reflection": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
}
PYTORCH_MODES = [
    (*mode, ndim)
    for *mode, ndim in itertools.product(PYTORCH_KERNEL, PYTORCH_PADDING, (2, 3))
    if not (mode[0] == "cubic" and ndim == 3)
]
PYTORCH_CASES = {
    2: [((5, 8), (4, 6), False), ((7, 1), (3, 5), True)],
    3: [((5, 2, 4), (3, 4, 2), False), ((2, 5, 3), (4, 2, 3), True)],
}
SCIPY_MODES = list(itertools.product(SCIPY_ORDER, SCIPY_MODE))
# Largest difference allowed, in a picture of values of order 1, by dtype.
TOLERANCE = {"float32": 3e-5, "float64": 1e-12}


def channels_first(x):
    return np.moveaxis(x, -1, 0)[None]


def channels_last(x):
    return np.moveaxis(x[0], 0, -1)


@pytest.mark.parametrize(("kernel", "padding", "ndim"), PYTORCH_MODES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@given(data=st.data())
def test_pytorch_values_and_gradients(kernel, padding, dtype, ndim, data):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    # Few shapes, since each is compiled; each with an alignment of its own.
    shape, out_shape, align_corners = data.draw(st.sampled_from(PYTORCH_CASES[ndim]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))
    image = rng.normal(size=(*shape, 2)).astype(dtype)
    theta = (np.eye(ndim, ndim + 1) + 0.4 * rng.normal(size=(ndim, ndim + 1))).astype(dtype)
    cotangent = rng.normal(size=(*out_shape, 2)).astype(dtype)

    their_image = torch.tensor(channels_first(image), requires_grad=True)
    their_theta = torch.tensor(theta[None], requires_grad=True)
    their_grid = torch.nn.functional.affine_grid(
        their_theta, (1, 2, *out_shape), align_corners=align_corners
    )
    theirs = torch.nn.functional.grid_sample(
        their_image,
        their_grid,
        mode=PYTORCH_KERNEL[kernel],
        padding_mode=PYTORCH_PADDING[padding],
        align_corners=align_corners,
    )
    theirs.backward(torch.tensor(channels_first(cotangent)))

    def ours(image, theta):
        grid = stn.affine_grid(theta, out_shape, align_corners=align_corners)
        return stn.grid_sample(
            image, grid, kernel=OUR_KERNEL[kernel], padding=padding, align_corners=align_corners
        )

    @jax.jit
    def run(image, theta, cotangent):
        value, pull_back = jax.vjp(ours, image, theta)
        grid = stn.affine_grid(theta, out_shape, align_corners=align_corners)
        return grid, value, *pull_back(cotangent)

    with jax.enable_x64(dtype == "float64"):
        operands = (jnp.asarray(x) for x in (image, theta, cotangent))
        grid, value, image_bar, theta_bar = run(*operands)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(grid, their_grid.detach()[0], atol=tolerance)
    pixels = stn.pixels_from_normalized(
        jnp.asarray(their_grid.detach()[0].numpy()), shape, align_corners=align_corners
    )
    # Where a coordinate lies on a kink, rounding alone decides on which side.
    kink = 0.5 if kernel == "nearest" else 0.0
    if np.abs((np.asarray(pixels) - kink + 0.5) % 1 - 0.5).min() < 1e-4:
        return
    np.testing.assert_allclose(value, channels_last(theirs.detach().numpy()), atol=tolerance)
    scale = max(1, *shape) * np.prod(out_shape)
    np.testing.assert_allclose(
        image_bar, channels_last(their_image.grad.numpy()), atol=tolerance * scale
    )
    np.testing.assert_allclose(theta_bar, their_theta.grad[0], atol=tolerance * scale)


@pytest.mark.parametrize(("kernel", "padding"), SCIPY_MODES)
@given(seed=st.integers(0, 2**32 - 1), ndim=st.sampled_from([1, 2, 3]))
def test_scipy_map_coordinates(kernel, padding, seed, ndim):
    rng = np.random.default_rng(seed)
    shape = (5, 4, 6)[:ndim]
    image = rng.normal(size=(*shape, 1))
    pixels = rng.uniform(-3, 8, (10, ndim))
    expected = scipy.ndimage.map_coordinates(
        image[..., 0],
        pixels[:, ::-1].T,
        order=SCIPY_ORDER[kernel],
        mode=SCIPY_MODE[padding],
        cval=0.5,
    )
    with jax.enable_x64(True):
        grid = stn.normalized_from_pixels(jnp.asarray(pixels), shape)
        ours = stn.grid_sample(
            jnp.asarray(image), grid, kernel=kernel, padding=padding, fill_value=0.5
        )
    np.testing.assert_allclose(ours[:, 0], expected, atol=1e-12)


def opencv_matrix(theta, shape, out_shape):
    """The same map between pixel centres, target to source."""
    (h, w), (out_h, out_w) = shape, out_shape
    to_pixels = np.array([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]])
    to_points = np.array([[2 / out_w, 0, 1 / out_w - 1], [0, 2 / out_h, 1 / out_h - 1], [0, 0, 1]])
    return to_pixels @ theta @ to_points


@pytest.mark.parametrize("name", ["affine", "projective"])
@pytest.mark.parametrize("padding", OPENCV_PADDING)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_opencv_warps(name, padding, channels, seed):
    """OpenCV takes linear weights in steps of 1/32 pixel, so a smooth image is what can agree."""
    rng = np.random.default_rng(seed)
    shape, out_shape = (24, 31), (20, 17)
    image = scipy.ndimage.gaussian_filter(rng.normal(size=(*shape, channels)), (3, 3, 0))
    image = (image / np.abs(image).max()).astype(np.float32)
    transform = getattr(stn, name)()
    spread = 0.2 if name == "affine" else 0.08
    theta = transform.identity + spread * rng.uniform(-1, 1, transform.num_params)
    matrix = opencv_matrix(np.asarray(transform.matrix(jnp.asarray(theta))), shape, out_shape)
    warp = cv2.warpPerspective if name == "projective" else cv2.warpAffine
    theirs = warp(
        image,
        matrix if name == "projective" else matrix[:2],
        out_shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=OPENCV_PADDING[padding],
        borderValue=[0.25] * 4,
    ).reshape(*out_shape, channels)
    ours = stn.warp(
        jnp.asarray(image),
        transform,
        jnp.asarray(theta, jnp.float32),
        output_shape=out_shape,
        padding=padding,
        fill_value=0.25,
    )
    np.testing.assert_allclose(ours, theirs, atol=1.25 / 32)
    np.testing.assert_allclose(np.mean(np.abs(ours - theirs)), 0, atol=4e-3)


@pytest.mark.parametrize("name", ["affine", "projective"])
def test_opencv_nearest_is_equal_away_from_ties(name, rng):
    shape, out_shape = (24, 31), (20, 17)
    image = rng.integers(0, 256, (*shape, 1)).astype(np.uint8)
    transform = getattr(stn, name)()
    theta = transform.identity + 0.1 * rng.uniform(-1, 1, transform.num_params)
    matrix = opencv_matrix(np.asarray(transform.matrix(jnp.asarray(theta))), shape, out_shape)
    warp = cv2.warpPerspective if name == "projective" else cv2.warpAffine
    theirs = warp(
        image,
        matrix if name == "projective" else matrix[:2],
        out_shape[::-1],
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=7,
    )
    ours = stn.warp(
        jnp.asarray(image),
        transform,
        jnp.asarray(theta, jnp.float32),
        output_shape=out_shape,
        kernel="nearest",
        fill_value=7,
    )[..., 0]
    points = transform.apply(jnp.asarray(theta, jnp.float32), stn.regular_grid(out_shape))
    pixels = np.asarray(stn.pixels_from_normalized(points, shape))
    clear = np.abs(np.abs(pixels - np.round(pixels)) - 0.5).min(-1) > 0.05
    assert clear.mean() > 0.7
    np.testing.assert_array_equal(np.asarray(ours)[clear], theirs[clear])
