"""Sampling at pixel coordinates: against SciPy, OpenCV and PyTorch, and at exact halves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import ndimage

import stn_jax as stn

pytestmark = pytest.mark.cross_section(3)

ENGINES = [each.name for each in stn.implementations() if each.available]
# SciPy's name of each padding, under both alignments.
SCIPY_MODES = [
    ("constant", False, "grid-constant"),
    ("border", False, "nearest"),
    ("reflection", False, "reflect"),
    ("reflection", True, "mirror"),
    ("wrap", False, "grid-wrap"),
]
SHAPES = {1: (9,), 2: (6, 7), 3: (4, 5, 6)}


def scipy_sample(image, pixels, **options):
    """``map_coordinates`` of each channel; its coordinates are ordered as the array's axes."""
    places = np.moveaxis(pixels[..., ::-1], -1, 0)
    channels = [
        ndimage.map_coordinates(each, places, **options) for each in np.moveaxis(image, -1, 0)
    ]
    return np.stack(channels, axis=-1)


def an_image_and_points(ndim, rng):
    shape = SHAPES[ndim]
    image = rng.normal(size=(*shape, 2))
    # Far outside as well.
    return image, rng.uniform(-1, 2, (5, 4, ndim)) * np.array(shape[::-1])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("padding", "align_corners", "mode"), SCIPY_MODES)
def test_equals_scipy(engine, padding, align_corners, mode, rng, x64):
    fill = {"fill_value": 0.5} if padding == "constant" else {}
    for ndim in (1, 2, 3) if engine != "dense" else (2,):
        image, pixels = an_image_and_points(ndim, rng)
        for kernel, order in (("linear", 1), ("nearest", 0)):
            found = stn.sample_pixels(
                image, pixels, kernel=kernel, padding=padding, align_corners=align_corners,
                implementation=engine, **fill,
            )  # fmt: skip
            expected = scipy_sample(image, pixels, order=order, mode=mode, cval=0.5)
            np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize("border", ["CONSTANT", "REPLICATE", "REFLECT", "REFLECT_101", "WRAP"])
def test_equals_opencv(border, rng):
    cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
    image = rng.normal(size=(8, 9, 3)).astype(np.float32)
    pixels = rng.uniform(-4, 12, (6, 7, 2)).astype(np.float32)
    expected = cv2.remap(
        image, pixels[..., 0].copy(), pixels[..., 1].copy(), cv2.INTER_LINEAR,
        borderMode=getattr(cv2, f"BORDER_{border}"),
    )  # fmt: skip
    padding = {"CONSTANT": "constant", "REPLICATE": "border", "WRAP": "wrap"}
    found = stn.sample_pixels(
        image,
        pixels,
        padding=padding.get(border, "reflection"),
        align_corners=border == "REFLECT_101",
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_value_and_gradients_equal_pytorch(rng):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    image, pixels = an_image_and_points(2, rng)
    bar = rng.normal(size=(5, 4, 2))
    x = torch.tensor(np.moveaxis(image, -1, 0)[None], requires_grad=True)
    places = torch.tensor(pixels[None], requires_grad=True)
    size = torch.tensor([7.0, 6.0], dtype=torch.float64)
    theirs = torch.nn.functional.grid_sample(x, (2 * places + 1) / size - 1, align_corners=False)
    theirs.backward(torch.tensor(np.moveaxis(bar, -1, 0)[None]))
    with jax.enable_x64(True):
        value, pull_back = jax.vjp(stn.sample_pixels, jnp.asarray(image), jnp.asarray(pixels))
        image_bar, pixels_bar = pull_back(jnp.asarray(bar))
    np.testing.assert_allclose(value, np.moveaxis(theirs.detach().numpy()[0], 0, -1), atol=1e-12)
    np.testing.assert_allclose(image_bar, np.moveaxis(x.grad.numpy()[0], 0, -1), atol=1e-12)
    np.testing.assert_allclose(pixels_bar, places.grad.numpy()[0], atol=1e-12)


def test_pytorch_has_no_slope_on_the_border(rng):
    """What the page on conventions says of the derivative there, and of ours."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    row = np.array([1.0, 3.0, 7.0, 4.0], np.float32)
    point = np.array([[[-1.0, 0.0]]], np.float32)  # the centre of the first pixel
    for padding in ("border", "reflection"):
        place = torch.tensor(point[None], requires_grad=True)
        torch.nn.functional.grid_sample(
            torch.tensor(row[None, None, None]), place, padding_mode=padding, align_corners=True
        ).sum().backward()
        options = {"padding": padding, "align_corners": True}
        ours = jax.grad(lambda p: stn.grid_sample(row[None, :, None], p, **options).sum())(point)  # noqa: B023
        assert place.grad[0, 0, 0, 0] == 0
        assert ours[0, 0, 0] == (3.0 - 1.0) * 1.5  # pixels per unit


@pytest.mark.parametrize("engine", [each for each in ENGINES if each != "dense"])
@pytest.mark.parametrize("dtype", ["uint8", "bfloat16", "float32"])
def test_halves_read_the_right_pixel_and_whole_ones_their_own(engine, dtype):
    image = jnp.arange(40)[None, :, None].astype(dtype)
    for length in (1, 5, 79):
        x = jnp.broadcast_to(jnp.arange(79)[:, None] / 2, (79, length))
        pixels = jnp.stack([x, jnp.zeros_like(x)], axis=-1)
        found = stn.sample_pixels(image, pixels, kernel="nearest", implementation=engine)
        np.testing.assert_array_equal(found[..., 0], jnp.floor(x + 0.5).astype(dtype))
    if dtype == "float32":
        linear = stn.sample_pixels(image, pixels, implementation=engine)
        np.testing.assert_array_equal(linear[..., 0], x)


@pytest.mark.parametrize("kernel", ["linear", "cubic"])
def test_gradients_are_those_of_differences(kernel, rng, x64):
    image, pixels = an_image_and_points(2, rng)
    bar = rng.normal(size=(5, 4, 2))
    loss = jax.jit(
        lambda image, pixels: jnp.sum(
            bar * stn.sample_pixels(image, pixels, kernel=kernel, padding="reflection")
        )
    )
    for k, found in enumerate(jax.jit(jax.grad(loss, argnums=(0, 1)))(image, pixels)):
        operands = [image, pixels]

        def moved(x):
            return np.asarray(loss(*operands[:k], x, *operands[k + 1 :]))  # noqa: B023

        expected = reference.central_differences(moved, operands[k])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_vmap_and_jit_give_the_same(rng):
    images = jnp.asarray(rng.normal(size=(3, 6, 7, 2)), jnp.float32)
    pixels = jnp.asarray(rng.uniform(-1, 7, (3, 4, 2)), jnp.float32)
    each = [stn.sample_pixels(i, p) for i, p in zip(images, pixels, strict=True)]
    np.testing.assert_allclose(
        jax.jit(jax.vmap(stn.sample_pixels))(images, pixels), jnp.stack(each), atol=1e-6
    )


def test_it_is_grid_sample_without_the_way_through_normalised_points(rng):
    image = jnp.asarray(rng.normal(size=(6, 7, 2)), jnp.float32)
    pixels = jnp.asarray(rng.uniform(-2, 9, (5, 4, 2)), jnp.float32)
    options = {"kernel": "cubic", "fill_value": jnp.array([1.0, 2.0])}
    for align_corners in (False, True):
        points = stn.normalized_from_pixels(pixels, (6, 7), align_corners=align_corners)
        expected = stn.grid_sample(image, points, align_corners=align_corners, **options)
        np.testing.assert_allclose(stn.sample_pixels(image, pixels, **options), expected, atol=2e-5)


def test_points_that_are_not_finite():
    image = jnp.ones((4, 5, 1))
    pixels = jnp.array([[jnp.nan, 0.0], [jnp.inf, 0.0], [-jnp.inf, 1.0], [1e30, 1.0], [1.0, 1.0]])
    found = stn.sample_pixels(image, pixels, fill_value=2.0)[:, 0]
    np.testing.assert_array_equal(found, [jnp.nan, 2, 2, 2, 1])


def test_errors_name_the_argument(no_runtime_types):
    image, pixels = jnp.ones((4, 5, 1)), jnp.zeros((3, 2))
    with pytest.raises(TypeError, match="pixels must have a floating dtype"):
        stn.sample_pixels(image, jnp.zeros((3, 2), int))
    with pytest.raises(
        ValueError, match=r"pixels must have 1, 2 or 3 coordinates on its last axis"
    ):
        stn.sample_pixels(image, jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="image must"):
        stn.sample_pixels(jnp.ones((4, 5)), pixels)
    with pytest.raises(ValueError, match="padding must be one of"):
        stn.sample_pixels(image, pixels, padding="zeros")
    with pytest.raises(ValueError, match="fill_value must be a scalar"):
        stn.sample_pixels(image, pixels, fill_value=jnp.ones(2))
    with pytest.raises(TypeError, match="nearest"):
        stn.sample_pixels(image.astype(int), pixels)
