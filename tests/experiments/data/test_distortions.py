"""The distortions against SciPy and NumPy in float64, and the sets that they make."""

import functools
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.interpolate
import scipy.ndimage
import scipy.spatial

from experiments.data import distortions
from experiments.data.distortions import (
    DISTORTIONS,
    distort_batch,
    distort_test_images,
    distorted_shape,
    hash_test_images,
)
from experiments.data.sources import load

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
    """Measures on the pictures the places of two spots, one of them in the centre."""
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
    amounts = 5 * np.asarray(jax.random.normal(corners_key, (8, 4, 1)), np.float64)
    corners = np.array([[-0.5, -0.5], [27.5, -0.5], [-0.5, 27.5], [27.5, 27.5]])
    moves = amounts * (corners - 13.5) / np.linalg.norm(corners - 13.5, axis=1, keepdims=True)
    moved = next(filter(in_order, 13.5 + scale * (corners - 13.5) + moves))
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


def in_order(corners):
    """Whether corners, row by row, are all on their hull, and in the order of a square's."""
    around = scipy.spatial.ConvexHull(corners).vertices.tolist()
    return set(around) == {0, 1, 2, 3} and np.roll(around, -around.index(0)).tolist() == [
        0,
        1,
        3,
        2,
    ]


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
    keys = jax.random.split(jax.random.key(0), 4000)
    first = jax.vmap(lambda key: jax.random.normal(jax.random.split(key)[1], (8, 4, 1))[0])(keys)
    scale = jax.vmap(lambda key: jax.random.uniform(jax.random.split(key)[0], (1, 1)))(keys)
    corners = (0.75 + scale / 4 + 5 / 14 / np.sqrt(2) * first) * square
    folded = ~np.asarray((distortions._opposite_areas(corners) > 0).all(axis=-1))
    assert 2 <= folded.sum() <= 40
    left_to_right = jnp.broadcast_to(jnp.arange(28.0)[None, :, None] + 1, (28, 28, 1)) / 28
    project = jax.jit(jax.vmap(distortions.project, (0, None)))
    pictures = project(keys[folded], left_to_right)
    # The visible part of a ramp rises to the right; a mirrored part would fall.
    middle = np.asarray(pictures)[:, 14, :, 0]
    rises = np.where((middle[:, 1:] > 0) & (middle[:, :-1] > 0), np.diff(middle), 0)
    assert (rises >= 0).mean() > 0.95


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
    """Every pixel's value encodes its image and its place in that image."""
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
        # Each other image has one patch, whose pixels all have the same shift.
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
    canvases = np.asarray(canvases)
    # The brightest patch is never hidden, and in some pictures no other patch is.
    counts = [[int((canvas == others[k, 0, 0, 0]).sum()) for k in range(6)] for canvas in canvases]
    assert all(count[5] == 36 for count in counts)
    assert max(map(sum, counts)) == 6 * 36


@pytest.mark.parametrize("whole", [True, False])
def test_tc_cuts_clutter_from_other_images_alone(whole):
    """Each image has another brightness; the digit's occurs only within the digit's place."""
    images = np.broadcast_to(np.arange(20, 28)[:, None, None, None], (8, 28, 28, 1))
    images = images.astype(np.uint8)
    if whole:
        batch = jax.jit(functools.partial(distort_test_images, distortions.clutter))(images)
    else:
        draw = jax.jit(functools.partial(distort_batch, distortions.clutter))
        batch = draw(jax.random.key(0), images)
    values = np.rint(255 * np.asarray(batch)).astype(int)
    for number, canvas in enumerate(values):
        own = 20 + number
        clutter = set(np.unique(canvas)) - {0, own}
        # The next six images, wrapping at the end, unless the digit hides them.
        assert clutter <= {20 + (number + step) % 8 for step in range(1, 7)}
        ys, xs = np.nonzero(canvas[..., 0] == own)
        assert max(np.ptp(ys), np.ptp(xs)) == 27
        assert len(ys) <= 784


@pytest.mark.parametrize("name", DISTORTIONS)
def test_batches(name, digits):
    read = jax.jit(functools.partial(distort_batch, DISTORTIONS[name]))
    batch = read(jax.random.key(0), digits)
    assert batch.shape[1:] == distorted_shape(DISTORTIONS[name], (28, 28, 1)) == SHAPES[name]
    assert batch.dtype == jnp.float32
    assert 0 <= float(batch.min()) < float(batch.max()) <= 1 + 1e-6
    np.testing.assert_array_equal(batch, read(jax.random.key(0), digits))
    again = read(jax.random.key(1), digits)
    assert np.allclose(batch, again, atol=0.1) == (name == "none")


@pytest.mark.parametrize("name", SETS)
def test_the_test_set_is_one_draw_however_it_is_cut(name, digits):
    read = jax.jit(functools.partial(distort_test_images, DISTORTIONS[name]))
    # Numbers from 12 on are further copies, and other draws.
    numbers = jnp.arange(24)
    parts = jnp.concatenate([read(digits, part) for part in jnp.split(numbers, 2)])
    mixed = jnp.concatenate([read(digits, part) for part in jnp.split(numbers[::-1], 2)])[::-1]
    np.testing.assert_array_equal(parts, mixed)
    assert not np.allclose(parts[:12], parts[12:], atol=0.1)
    # One by one, without jit and vmap, and together as one batch; matrix products may round.
    key = jax.random.fold_in(jax.random.key(1506_02025), 17)
    others = jnp.asarray(digits[(5 + np.arange(1, 7)) % 12] / 255, jnp.float32)
    alone = DISTORTIONS[name](key, jnp.asarray(digits[5] / 255, jnp.float32), others)
    np.testing.assert_allclose(parts[17], alone, atol=2e-5)


def test_images_that_do_not_fit(image):
    large = jnp.zeros((50, 50, 1))
    with pytest.raises(ValueError, match="42×42 pixels; got 50×50"):
        distorted_shape(DISTORTIONS["RTS"], large.shape)
    with pytest.raises(ValueError, match=r"others must hold .*; got None"):
        distortions.clutter(jax.random.key(0), image)


def test_hash_is_of_rounded_pixels_of_every_copy(digits):
    read = jax.jit(functools.partial(distort_test_images, distortions.rotate))

    def rounded(numbers):
        images = read(digits, numbers)
        return np.rint(255 * np.asarray(images)).astype(np.uint8).tobytes()

    for copies in (1, 30):
        pixels = b"".join(rounded(12 * copy + jnp.arange(12)) for copy in range(copies))
        expected = hashlib.sha256(pixels).hexdigest()
        assert hash_test_images(distortions.rotate, digits, copies=copies) == expected


# For the embedded digits: the hash, and the sum of all pixels weighted by noise.
TEST_SETS = {
    "R": ("1de505f716a0106c4ee4f6e3025b7edf18989d97370dfa1e9e0b9acbf19d6e08", 164.143),
    "RTS": ("3816a3d4e7343a1a80efb2f6a0d85758dcf3ad0eae105aee6110c3072ec794d9", 48.419),
    "P": ("7520771be45e022160c11cfd6c6c33916ddd9f5ea2c00aa955a0ee4c6bc8a65e", 50.898),
    "E": ("4ce768b65a6deef64b3b4083bca89059ad27e7d43acae7022824da9092c0a1d5", -163.027),
    "TC": ("b00754ac701baa2cfe7d33c544e543dacf34366364ce24a80662469eab52ce20", -253.316),
}


@pytest.mark.parametrize("name", TEST_SETS)
def test_the_test_sets_are_fixed(name):
    """Compares hashes or, on a machine that rounds otherwise, allows a few grey levels."""
    images = load("digits").test.images
    expected, weighed = TEST_SETS[name]
    if hash_test_images(DISTORTIONS[name], images) == expected:
        return
    read = jax.jit(functools.partial(distort_test_images, DISTORTIONS[name]))
    pixels = np.asarray(read(images), np.float64)
    noise = np.random.default_rng(0).normal(size=pixels.shape)
    # Another draw of a single image changes it by five and more.
    assert (noise * pixels).sum() == pytest.approx(weighed, abs=0.1)
