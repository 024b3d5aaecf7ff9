"""What the page on conventions says of this library and of its peers, where they are installed."""

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
from jax.ops import segment_sum
from PIL import Image

import stn_jax as stn
from stn_jax import conversions

ROW = np.arange(8, dtype=np.float32)[None].repeat(2, axis=0)
HALVES = np.array([0.5, 1.5, 2.5, 3.5], np.float32)


def at(image, x, y, **options):
    """Our image ``[h, w]`` at pixel coordinates."""
    points = stn.normalized_from_pixels(
        jnp.stack([jnp.asarray(x), jnp.asarray(y)], axis=-1),
        image.shape,
        align_corners=options.get("align_corners", False),
    )
    return np.asarray(stn.grid_sample(jnp.asarray(image)[..., None], points, **options))[..., 0]


def torch_sample(image, x, y, **options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    points = [
        (2 * np.asarray(each) + 1) / size - 1
        for each, size in zip((x, y), image.shape[::-1], strict=True)
    ]
    grid = torch.tensor(np.stack(points, axis=-1).astype(np.float32)).reshape(1, 1, -1, 2)
    sample = torch.nn.functional.grid_sample
    return (
        sample(torch.tensor(image)[None, None], grid, align_corners=False, **options)
        .ravel()
        .numpy()
    )


def test_nan_coordinates():
    image = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    nan = np.full(1, np.nan, np.float32)
    for padding in ("constant", "border", "reflection", "wrap"):
        assert np.isnan(at(image, nan, nan, padding=padding)).all()
    assert np.isnan(torch_sample(image, nan, nan, padding_mode="zeros")).all()
    assert torch_sample(image, nan, nan, padding_mode="border").tolist() == [1]
    import torch

    volume, grid = torch.arange(1.0, 25).reshape(1, 1, 2, 3, 4), torch.full((1, 1, 1, 1, 3), nan[0])
    for padding, expected in (("zeros", 0), ("border", 24)):
        found = torch.nn.functional.grid_sample(
            volume, grid, padding_mode=padding, align_corners=False
        )
        assert found.item() == expected


def test_half_way_between_two_pixels():
    zeros = np.zeros(4, np.float32)
    up, even = [1, 2, 3, 4], [0, 2, 2, 4]
    assert at(ROW, HALVES, zeros, kernel="nearest").tolist() == up
    assert scipy.ndimage.map_coordinates(ROW, [zeros, HALVES], order=0).tolist() == up
    found = jax.scipy.ndimage.map_coordinates(jnp.asarray(ROW), [zeros, HALVES], order=0)
    assert found.tolist() == up
    shift, flags = np.array([[1, 0, 0.5], [0, 1, 0]]), cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    for dtype in (np.uint8, np.uint16, np.int16, np.float32, np.float64):
        found = cv2.remap(ROW.astype(dtype), HALVES[None], zeros[None], cv2.INTER_NEAREST)
        assert found.ravel().tolist() == even
        found = cv2.warpAffine(ROW.astype(dtype), shift, (4, 1), flags=flags).ravel().tolist()
        assert found == (up if dtype in (np.int16, np.float64) else even)
    assert torch_sample(ROW, HALVES, zeros, mode="nearest").tolist() == even


def keys(a):
    """Keys' weight at a distance of 1.5."""
    return a / 8


IMPULSE = np.zeros((16, 16), np.float32)
IMPULSE[:, 8] = 1
# Output pixel 6 reads at 6.5.
HALF = np.array([[1, 0, 0.5], [0, 1, 0], [0, 0, 1.0]])


def test_cubic_kernels():
    shape, options = (15, 16), {"resample": Image.Resampling.BICUBIC}
    picture = Image.fromarray(IMPULSE)
    shifted = picture.transform(shape, Image.Transform.AFFINE, HALF.ravel()[:6], **options)
    assert np.asarray(shifted)[8, 6] == pytest.approx(keys(-1))
    # Twice as large, pixel 14 lies at 6.75, 1.25 away.
    larger = picture.resize((32, 16), Image.Resampling.BICUBIC)
    a, t = -0.5, 1.25
    assert np.asarray(larger)[8, 14] == pytest.approx(a * (t**3 - 5 * t**2 + 8 * t - 4), abs=1e-6)
    eight, six = np.full((1, 1), 8, np.float32), np.full((1, 1), 6.5, np.float32)
    found = cv2.remap(IMPULSE, six, eight, cv2.INTER_CUBIC)
    assert found.item() == pytest.approx(keys(-0.75), abs=1e-6)
    assert at(IMPULSE, six, eight, kernel="cubic").item() == pytest.approx(keys(-0.5))


def test_scikit_image():
    from skimage import transform

    options = {"order": 3, "output_shape": (16, 15), "mode": "edge", "clip": False}
    for inverse_map in (HALF, transform.AffineTransform(matrix=HALF)):
        assert transform.warp(IMPULSE, inverse_map, **options)[8, 6] == pytest.approx(keys(-0.5))
    spline = scipy.ndimage.map_coordinates(IMPULSE, [[8], [6.5]], order=3, mode="nearest")
    found = transform.warp(IMPULSE, lambda points: points + np.array([0.5, 0]), **options)[8, 6]
    assert found == pytest.approx(spline.item(), abs=1e-4)
    assert abs(found - keys(-0.5)) > 0.01
    # What the kernel overshoots is clipped to the range of the image unless told otherwise.
    image, half = np.full((4, 4), 0.7, np.float32), np.array([[1, 0, -1.5], [0, 1, 0], [0, 0, 1]])
    clipped, free = (transform.warp(image, half, order=3, clip=clip)[0] for clip in (True, False))
    np.testing.assert_allclose(clipped, [0, 0.35, 0.7, 0.7], atol=1e-6)
    np.testing.assert_allclose(free, [-0.04375, 0.35, 0.74375, 0.7], atol=1e-6)
    x, y = np.arange(4) - 1.5, np.zeros(4)
    np.testing.assert_allclose(at(image, x, y, kernel="cubic"), free, atol=1e-6)


@pytest.mark.parametrize(
    ("padding", "align_corners", "mode"),
    [
        ("constant", False, "grid-constant"),
        ("border", False, "nearest"),
        ("reflection", False, "reflect"),
        ("reflection", True, "mirror"),
        ("wrap", False, "grid-wrap"),
    ],
)
def test_paddings_of_scipy(padding, align_corners, mode, rng, x64):
    image, (x, y) = rng.random((5, 6)), rng.uniform(-9, 14, (2, 99))
    found = at(image, x, y, padding=padding, align_corners=align_corners)
    expected = scipy.ndimage.map_coordinates(image, [y, x], order=1, mode=mode)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_constant_of_scipy(rng, x64):
    """Its own ``constant`` is 0 as soon as a point leaves the centres of the outer pixels."""
    image, (x, y) = rng.random((5, 6)), rng.uniform(-3, 8, (2, 99))
    inside = (x >= 0) & (x <= 5) & (y >= 0) & (y <= 4)
    found = np.where(inside, at(image, x, y, padding="border"), 0)
    expected = scipy.ndimage.map_coordinates(image, [y, x], order=1, mode="constant")
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kernel", ["linear", "cubic", "lanczos3"])
def test_weights_renormalised_at_the_edge(kernel, rng):
    """jax.image divides by the weights of the pixels that are there."""
    image = jnp.asarray(rng.random((6, 5, 2)), jnp.float32)
    options = {"output_shape": (12, 10), "kernel": kernel}
    resize = lambda image: stn.warp(image, stn.translation(), jnp.zeros(2), **options)  # noqa: E731
    found = resize(image) / resize(jnp.ones_like(image))
    expected = jax.image.resize(image, (12, 10, 2), kernel)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_gradients_of_bfloat16_images_are_summed_exactly():
    """A thousand points read one pixel; sums in bfloat16 stop at 256, where 256 + 1 is 256."""
    number, image = 1000, jnp.zeros((3, 4, 1), jnp.bfloat16)
    points = jnp.broadcast_to(
        stn.normalized_from_pixels(jnp.array([1.0, 2.0]), (3, 4)), (number, 2)
    )
    ones, places = jnp.ones(number, jnp.bfloat16), jnp.zeros(number, int)
    for implementation in (None, "xla"):
        sample = lambda image, i=implementation: stn.grid_sample(image, points, implementation=i)  # noqa: E731
        (gradient,) = jax.vjp(sample, image)[1](ones[:, None])
        assert gradient[2, 1, 0] == number
        assert gradient.astype(jnp.float32).sum() == number
    assert segment_sum(ones, places, 1).item() == 256
    assert jnp.bincount(places, weights=ones, length=1).item() == 256


def test_order_of_chains():
    """``chain(a, b)`` is ``b`` after ``a``, the matrix product ``B A``."""
    a = np.array([[0.9, 0.3, 0.4], [-0.2, 0.8, 1.3], [0, 0, 1]])
    b = np.array([[1, 0.2, -0.5], [0.1, 1.0, 0.2], [0, 0, 1]])
    theta = jnp.asarray(np.concatenate([a[:2].ravel(), b[:2].ravel()]), jnp.float32)
    found = stn.chain(stn.affine(), stn.affine()).apply(theta, jnp.array([1.0, 2.0]))
    expected = (b @ a @ [1, 2, 1])[:2]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(
        stn.chain(stn.affine(), stn.affine()).matrix(theta), b @ a, atol=1e-5
    )
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    steps = [sitk.AffineTransform(m[:2, :2].ravel().tolist(), m[:2, 2].tolist()) for m in (b, a)]
    assert sitk.CompositeTransform(steps).TransformPoint((1.0, 2.0)) == pytest.approx(expected)


def blob(shape, centre):
    y, x = np.indices(shape)
    return np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 18).astype(np.float32)


def middle(image):
    """The centre of mass, normalised."""
    y, x = np.indices(image.shape)
    pixels = jnp.asarray([(x * image).sum(), (y * image).sum()]) / image.sum()
    return np.asarray(stn.normalized_from_pixels(pixels, image.shape))


def test_theta_across_the_levels_of_a_pyramid():
    """It holds where levels share their outer edges."""
    even, odd = blob((32, 32), (20.3, 11.6)), blob((31, 31), (20.3, 11.6))

    def means(image):
        n = len(image) // 2
        return image[: 2 * n, : 2 * n].reshape(n, 2, n, 2).mean(axis=(1, 3))

    def resized(image):
        output_shape = tuple(n // 2 for n in image.shape)
        options = {"output_shape": output_shape, "antialias": True, "padding": "border"}
        moved = stn.warp(jnp.asarray(image)[..., None], stn.translation(), jnp.zeros(2), **options)
        return np.asarray(moved)[..., 0]

    pixel = 2 / 32
    for smaller in (means, resized, lambda image: cv2.resize(image, (16, 16))):
        np.testing.assert_allclose(middle(smaller(even)), middle(even), atol=0.02 * pixel)
    np.testing.assert_allclose(middle(resized(odd)), middle(odd), atol=0.1 * pixel)
    for smaller, image in (
        (means, odd),
        (cv2.pyrDown, even),
        (lambda image: image[::2, ::2], even),
    ):
        assert np.abs(middle(smaller(image)) - middle(image)).max() > 0.3 * pixel


def test_points_and_boxes_of_torchvision():
    """Boxes count from the edge; key points as indices in flips, from the edge elsewhere."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    try:
        import torch
        from torchvision import tv_tensors
        from torchvision.transforms.v2 import functional
    except (ImportError, RuntimeError) as error:  # It may be built for another PyTorch.
        pytest.skip(f"torchvision cannot be imported: {error}")
    size = (20, 30)
    point = tv_tensors.KeyPoints(torch.tensor([[3.0, 4.0]]), canvas_size=size)
    box = tv_tensors.BoundingBoxes(
        torch.tensor([[3.0, 4.0, 8.0, 9.0]]), format="XYXY", canvas_size=size
    )
    assert functional.horizontal_flip(point).tolist() == [[26, 4]]
    np.testing.assert_allclose(functional.rotate(point, 180), [[27, 16]], atol=1e-4)
    np.testing.assert_allclose(functional.resize(point, [40, 60]), [[6, 8]])
    assert functional.horizontal_flip(box).tolist() == [[22, 4, 27, 9]]
    np.testing.assert_allclose(functional.rotate(box, 180), [[22, 11, 27, 16]], atol=1e-4)
    # Ours, for edges: half a pixel off, there and back.
    theta = conversions.matrix_from_box((0, 0, 30, 20), size) * [[-1], [1]]
    edges = stn.normalized_from_pixels(jnp.array([[3.0, 4.0], [8.0, 9.0]]) - 0.5, size)
    moved = stn.warp_points(edges, stn.affine(), jnp.asarray(theta.ravel(), jnp.float32))
    found = stn.pixels_from_normalized(moved, size) + 0.5
    np.testing.assert_allclose(np.sort(found, axis=0), [[22, 4], [27, 9]], atol=1e-4)


def bending_energy(apply, steps=60):
    """The integral of the squared second derivatives over a square, by differences."""
    axis = np.linspace(-2, 2, steps)
    values = apply(np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2))
    values, step = values.reshape(steps, steps, 2), axis[1] - axis[0]
    xx, yy = (
        np.diff(values, 2, axis=a)[inner] for a, inner in ((1, np.s_[1:-1]), (0, np.s_[:, 1:-1]))
    )
    xy = (values[2:, 2:] - values[2:, :-2] - values[:-2, 2:] + values[:-2, :-2]) / 4
    return float((xx**2 + yy**2 + 2 * xy**2).sum() / step**2)


def test_thin_plate_spline_of_kornia(rng, x64):
    """Its spline passes through the points and bends more than needed; ours is SciPy's."""
    kornia = pytest.importorskip("kornia", reason="Kornia is not installed")
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    source = rng.uniform(-1, 1, (8, 2))
    target = source + rng.uniform(-0.3, 0.3, source.shape)
    own = stn.thin_plate_spline(control_points=source)
    centres = torch.tensor(target)[None]
    weights = kornia.geometry.transform.get_tps_transform(torch.tensor(source)[None], centres)

    def ours(points):
        return np.asarray(own.apply(jnp.asarray(target.ravel()), jnp.asarray(points)))

    def theirs(points):
        moved = kornia.geometry.transform.warp_points_tps(
            torch.tensor(points)[None], centres, *weights
        )
        return moved[0].numpy()

    smoothest = scipy.interpolate.RBFInterpolator(source, target, kernel="thin_plate_spline")
    points = rng.uniform(-1, 1, (99, 2))
    np.testing.assert_allclose(theirs(source), target, atol=1e-3)
    np.testing.assert_allclose(ours(points), smoothest(points), atol=1e-9)
    assert np.abs(theirs(points) - smoothest(points)).max() > 0.05
    assert bending_energy(theirs) > 1.2 * bending_energy(ours)
