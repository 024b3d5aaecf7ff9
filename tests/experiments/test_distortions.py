"""The distortions: each against SciPy and NumPy in float64, and the sets they make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage

from experiments.data import distortions
from experiments.data.distortions import (
    DISTORTIONS,
    distort_batch,
    distort_test_images,
    distorted_shape,
)

SHAPES = {
    "none": (28, 28, 1),
    "R": (28, 28, 1),
    "RTS": (42, 42, 1),
    "P": (28, 28, 1),
    "E": (28, 28, 1),
    "TC": (60, 60, 1),
}
SETS = tuple(name for name in DISTORTIONS if name != "none")


@pytest.fixture
def digits(rng):
    """Smooth blobs in uint8."""
    noise = scipy.ndimage.gaussian_filter(rng.normal(size=(12, 28, 28, 1)), (0, 3, 3, 0))
    return np.uint8(255 * (noise - noise.min()) / np.ptp(noise))


@pytest.fixture
def image(digits):
    return jnp.asarray(digits[0] / 255, jnp.float32)


def uniform(key, low, high):
    return float(jax.random.uniform(key, minval=low, maxval=high))


def sampled(image, pixels):
    """The image at pixels ``[h, w, 2]``, ``(x, y)``, in float64."""
    image = np.asarray(image, np.float64)[..., 0]
    coordinates = np.moveaxis(pixels[..., ::-1], -1, 0)
    return scipy.ndimage.map_coordinates(image, coordinates, order=1, mode="grid-constant")


def lattice(height, width):
    """Pixels ``[h, w, 2]``, ``(x, y)``."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(float)


def blob(x, y, size=28):
    """A spot whose centroid is a pixel."""
    squares = ((lattice(size, size) - (x, y)) ** 2).sum(axis=-1)
    return np.exp(-squares / 8)


def centroids(images):
    """The centroid, ``(x, y)``, of every channel: ``[batch, channels, 2]``."""
    images = np.asarray(images, np.float64)
    weights = images / images.sum(axis=(1, 2), keepdims=True)
    return np.einsum("bhwc,hwk->bck", weights, lattice(*images.shape[1:3]))


@pytest.mark.parametrize("seed", range(3))
def test_rts_is_scipy_s(image, seed):
    key = jax.random.key(seed)
    angle_key, scale_key, place_key = jax.random.split(key, 3)
    angle = uniform(angle_key, -np.pi / 4, np.pi / 4)
    scale = uniform(scale_key, 0.7, 1.2)
    place = 14 * np.asarray(jax.random.uniform(place_key, (2,)), np.float64)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    pixels = 13.5 + (lattice(42, 42) - place - 13.5) @ turn.T / scale
    ours = distortions.rotate_scale_translate(key, image)
    np.testing.assert_allclose(ours[..., 0], sampled(image, pixels), atol=2e-5)


def test_rts_turns_scales_and_places_as_the_protocol_says():
    """Measured on the pictures: where two spots, one in the centre, come to lie."""
    spots = jnp.asarray(np.stack([blob(13.5, 13.5), blob(18.5, 13.5)], axis=-1), jnp.float32)
    keys = jax.random.split(jax.random.key(0), 400)
    images = jax.jit(jax.vmap(distortions.rotate_scale_translate, (0, None)))(keys, spots)
    centre, spot = np.moveaxis(centroids(images), 1, 0)
    scale = np.linalg.norm(spot - centre, axis=-1) / 5
    angle = np.degrees(np.arctan2(*(spot - centre).T[::-1]))
    for values, low, high, slack in (
        (scale, 0.7, 1.2, 0.01),
        (angle, -45, 45, 1),
        (centre[:, 0], 13.5, 27.5, 0.1),
        (centre[:, 1], 13.5, 27.5, 0.1),
    ):
        assert low - slack <= values.min() <= low + 0.03 * (high - low)
        assert high - 0.03 * (high - low) <= values.max() <= high + slack
        # A uniform distribution has a mean error of 1.4 % of its range at 400 draws.
        assert abs(values.mean() - (low + high) / 2) < 0.06 * (high - low)
    # The image before it is turned and scaled lies inside the canvas, and draws are independent.
    assert np.abs(np.corrcoef([scale, angle, *centre.T]) - np.eye(4)).max() < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_p_moves_the_corners(image, seed):
    key = jax.random.key(seed)
    scale_key, corners_key = jax.random.split(key)
    scale = uniform(scale_key, 0.75, 1)
    moves = 5 * np.asarray(jax.random.normal(corners_key, (8, 4, 2)), np.float64)[0]
    corners = np.array([[-0.5, -0.5], [27.5, -0.5], [-0.5, 27.5], [27.5, 27.5]])
    moved = 13.5 + scale * (corners - 13.5) + moves
    # The homography from moved corners to corners, by its eight equations.
    rows = [
        row
        for (x, y), (u, v) in zip(moved, corners, strict=True)
        for row in ([x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y])
    ]
    matrix = np.append(np.linalg.solve(rows, corners.ravel()), 1).reshape(3, 3)
    np.testing.assert_allclose(homogeneous(matrix, moved), corners, atol=1e-9)
    expected = sampled(image, homogeneous(matrix, lattice(28, 28)))
    np.testing.assert_allclose(distortions.project(key, image)[..., 0], expected, atol=5e-4)


def homogeneous(matrix, points):
    mapped = np.concatenate([points, np.ones((*points.shape[:-1], 1))], axis=-1) @ matrix.T
    return mapped[..., :2] / mapped[..., 2:]


def test_p_draws_corners_anew_that_would_fold_the_image():
    square = np.array([[-1.0, -1], [1, -1], [-1, 1], [1, 1]])
    dented, crossed, mirrored = square.copy(), square[[1, 0, 2, 3]], square * (-1, 1)
    dented[0] = 0.1
    for corners, convex in ((square, True), (dented, False), (crossed, False), (mirrored, False)):
        areas = distortions._opposite_areas(jnp.asarray(corners))
        assert bool((areas > 0).all()) == convex
    # Some first draws of many are folded, and none of the pictures.
    keys = jax.random.split(jax.random.key(1), 2000)
    first = jax.vmap(lambda key: jax.random.normal(jax.random.split(key)[1], (8, 4, 2))[0])(keys)
    scale = jax.vmap(lambda key: jax.random.uniform(jax.random.split(key)[0], (1, 1)))(keys)
    corners = (0.75 + scale / 4) * square + 5 / 14 * first
    folded = ~np.asarray((distortions._opposite_areas(corners) > 0).all(axis=-1))
    assert 2 <= folded.sum() <= 100
    left_to_right = jnp.broadcast_to(jnp.arange(28.0)[None, :, None] + 1, (28, 28, 1)) / 28
    for key in keys[folded][:5]:
        assert float(distortions.project(key, left_to_right).max()) > 0.5


@pytest.mark.parametrize("seed", range(3))
def test_e_is_scipy_s_thin_plate_spline_through_its_control_points(image, seed):
    key = jax.random.key(seed)
    scale_key, points_key = jax.random.split(key)
    scale = uniform(scale_key, 0.75, 1)
    moves = 1.5 * np.asarray(jax.random.normal(points_key, (16, 2)), np.float64)
    control = -0.5 + 28 / 3 * lattice(4, 4).reshape(16, 2)
    spline = scipy.interpolate.RBFInterpolator(
        control, 13.5 + (control + moves - 13.5) / scale, kernel="thin_plate_spline", degree=1
    )
    pixels = spline(lattice(28, 28).reshape(-1, 2)).reshape(28, 28, 2)
    np.testing.assert_allclose(
        distortions.bend(key, image)[..., 0], sampled(image, pixels), atol=2e-4
    )


def test_tc_puts_the_digit_and_a_patch_of_each_other_on_a_canvas(rng):
    """Every pixel tells by its value whose it is, and from where in that image."""
    image = jnp.asarray(0.9 + rng.uniform(0, 0.1, (28, 28, 1)), jnp.float32)
    others = np.arange(1, 1 + 6 * 784).reshape(6, 28, 28, 1) / 10_000
    keys = jax.random.split(jax.random.key(0), 40)
    canvases = jax.jit(jax.vmap(distortions.clutter, (0, None, None)))(
        keys, image, jnp.asarray(others, jnp.float32)
    )
    places = set()
    for canvas in np.asarray(canvases)[..., 0]:
        ys, xs = np.nonzero(canvas >= 0.9)
        top, left = ys.min(), xs.min()
        places.add((top, left))
        own = canvas[top : top + 28, left : left + 28]
        np.testing.assert_array_equal(own, image[..., 0])
        seen = 0
        clutter = np.where(canvas >= 0.9, 0, canvas)
        for y, x in zip(*np.nonzero(clutter), strict=True):
            number, row, column = np.unravel_index(round(10_000 * clutter[y, x]) - 1, (6, 28, 28))
            assert clutter[y, x] == np.float32(others[number, row, column, 0])
            seen |= 1 << number
        # Each other has one patch; what the pixels of a patch have in common is its shift.
        for number in range(6):
            if seen >> number & 1:
                values = np.rint(10_000 * clutter).astype(int) - 1
                mine = (clutter > 0) & (values // 784 == number)
                ys, xs = np.nonzero(mine)
                rows, columns = values[mine] % 784 // 28, values[mine] % 28
                assert len(set(zip(ys - rows, xs - columns, strict=True))) == 1
                assert np.ptp(ys) < 6
                assert np.ptp(xs) < 6
    assert len(places) > 30
    assert all(0 <= top <= 32 and 0 <= left <= 32 for top, left in places)


def test_tc_patches_are_six_by_six():
    others = jnp.ones((6, 28, 28, 1)) * (jnp.arange(6.0) + 1)[:, None, None, None] / 10
    keys = jax.random.split(jax.random.key(0), 50)
    canvases = jax.jit(jax.vmap(distortions.clutter, (0, None, None)))(
        keys, jnp.zeros((28, 28, 1)), others
    )
    # The brightest is never hidden, and in some pictures no other is.
    counts = [[int((canvas == others[k, 0, 0, 0]).sum()) for k in range(6)] for canvas in canvases]
    assert all(count[5] == 36 for count in counts)
    assert max(map(sum, counts)) == 6 * 36


@pytest.mark.parametrize("whole", [distort_test_images, None])
def test_tc_cuts_clutter_from_other_images_alone(whole):
    """Each image is of its own brightness; its own shows within its place alone."""
    images = np.broadcast_to(np.arange(20, 28)[:, None, None, None], (8, 28, 28, 1))
    images = images.astype(np.uint8)
    batch = (
        distort_test_images(distortions.clutter, images)
        if whole
        else distort_batch(distortions.clutter, jax.random.key(0), jnp.asarray(images))
    )
    values = np.rint(255 * np.asarray(batch)).astype(int)
    for number, canvas in enumerate(values):
        own = 20 + number
        clutter = set(np.unique(canvas)) - {0, own}
        # The next six, round the end, as far as the digit does not hide them.
        assert clutter <= {20 + (number + step) % 8 for step in range(1, 7)}
        ys, xs = np.nonzero(canvas[..., 0] == own)
        assert max(np.ptp(ys), np.ptp(xs)) == 27
        assert len(ys) <= 784


@pytest.mark.parametrize("name", DISTORTIONS)
def test_shapes_and_pixels(name, digits):
    batch = distort_batch(DISTORTIONS[name], jax.random.key(0), jnp.asarray(digits))
    assert batch.shape[1:] == distorted_shape(DISTORTIONS[name], (28, 28, 1)) == SHAPES[name]
    assert batch.dtype == jnp.float32
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1 + 1e-6
    again = distort_batch(DISTORTIONS[name], jax.random.key(0), jnp.asarray(digits))
    np.testing.assert_array_equal(batch, again)
    if name != "none":
        other = distort_batch(DISTORTIONS[name], jax.random.key(1), jnp.asarray(digits))
        assert not np.allclose(batch, other, atol=0.1)


@pytest.mark.parametrize("name", SETS)
def test_jit_vmap_and_eager_agree(name, digits):
    keys = jax.random.split(jax.random.key(0), 3)
    images = jnp.asarray(digits[:3] / 255, jnp.float32)
    others = jnp.asarray(digits[3:9] / 255, jnp.float32)
    batch = jax.jit(jax.vmap(DISTORTIONS[name], (0, 0, None)))(keys, images, others)
    for k in range(3):
        alone = DISTORTIONS[name](keys[k], images[k], others)
        np.testing.assert_allclose(batch[k], alone, atol=2e-5)


@pytest.mark.parametrize("name", SETS)
def test_the_test_set_is_one_draw_however_it_is_cut(name, digits):
    read = jax.jit(lambda numbers: distort_test_images(DISTORTIONS[name], digits, numbers))
    whole = read(jnp.arange(12))
    parts = jnp.concatenate([read(numbers) for numbers in jnp.split(jnp.arange(12)[::-1], 3)])
    np.testing.assert_array_equal(whole, parts[::-1])
    # A further copy of an image is another draw.
    assert not np.allclose(whole, read(12 + jnp.arange(12)), atol=0.1)


def test_images_that_do_not_fit(image):
    large = jnp.zeros((50, 50, 1))
    with pytest.raises(ValueError, match="50×50 pixels do not fit on 42×42"):
        distorted_shape(DISTORTIONS["RTS"], large.shape)
    with pytest.raises(ValueError, match=r"others must hold .*; got None"):
        distortions.clutter(jax.random.key(0), image)
