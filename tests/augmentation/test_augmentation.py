"""Laws of every augmentation: what moves together, what is exact, what a key decides."""

import copy
import math
import pickle

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stn_jax as stn
from stn_jax import augmentation as aug

pytestmark = pytest.mark.cross_section(4)

SHAPE = (48, 64)
KEY = jax.random.key(0)


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


def draws(augmentation, keys):
    """A theta for each key."""
    return jax.jit(jax.vmap(augmentation.draw))(keys)


def members(shape=SHAPE):
    """Every augmentation of images, with draws that move a centred blob visibly."""
    height, width = shape
    return {
        "affine": aug.random_affine(
            shape, angle=(-0.6, 0.6), scale=(0.8, 1.25), shear=(-0.2, 0.2), translation=(-4, 4)
        ),
        "homography": aug.random_homography(shape, amplitude=6.0),
        "elastic": aug.random_elastic(shape, amplitude=3.0, spacing=16),
        "crop": aug.random_crop(shape, (height - 8, width - 6)),
        "crop with a margin": aug.random_crop(shape, shape, margin=4),
        "resized crop": aug.random_resized_crop(shape, (40, 40), area=(0.8, 0.95)),
        "flip": aug.random_flip(shape, axes=(0, 1)),
        "jitter": aug.jitter(stn.thin_plate_spline((3, 3)), shape, spread=0.06),
        "sometimes": aug.sometimes(aug.random_homography(shape, amplitude=6.0)),
        "compose": aug.compose(
            aug.random_affine(shape, angle=(-0.3, 0.3), translation=(-3, 3)),
            aug.random_elastic(shape, amplitude=2.5, spacing=16),
            aug.random_flip(shape),
            aug.random_crop(shape, (44, 52)),
        ),
    }


NAMES = list(members())
STILL = {
    "affine": aug.random_affine(SHAPE),
    "homography": aug.random_homography(SHAPE, amplitude=0.0),
    "elastic": aug.random_elastic(SHAPE, amplitude=0, spacing=16),
    "crop": aug.random_crop(SHAPE, SHAPE),
    "resized crop": aug.random_resized_crop(SHAPE, SHAPE, area=(1, 1)),
    "flip": aug.random_flip(SHAPE, probability=0),
    "jitter": aug.jitter(stn.thin_plate_spline((3, 3)), SHAPE, spread=0.0),
    "sometimes": aug.sometimes(aug.random_affine(SHAPE, angle=(1, 2)), probability=0),
    "affine in 3-D": aug.random_affine((6, 8, 10)),
    "elastic in 3-D": aug.random_elastic((6, 8, 10), amplitude=0, spacing=4),
}
STILL["compose"] = aug.compose([STILL[n] for n in ("affine", "homography", "elastic", "crop")])


def blob(shape, centre, spread=2.0):
    """A bright spot ``[*shape, 1]`` about ``centre``, x first."""
    axes = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    square = sum((axis - c) ** 2 for axis, c in zip(axes, centre[::-1], strict=True))
    return np.exp(-square / (2 * spread**2))[..., None].astype(np.float32)


def centre_of(image):
    """The centre of mass of ``[*space, 1]``, x first, in pixels."""
    mass = np.asarray(image, np.float64)[..., 0]
    axes = np.meshgrid(*(np.arange(size) for size in mass.shape), indexing="ij")
    return np.array([np.sum(axis * mass) / mass.sum() for axis in reversed(axes)])


@pytest.mark.parametrize("name", NAMES)
def test_image_mask_points_and_boxes_move_together(name):
    augmentation, centre = members()[name], np.array([34.0, 21.0])
    image = blob(SHAPE, centre)
    sample = {
        "image": image,
        "mask": (image > 0.2).astype(np.uint8),
        "points": centre[None].astype(np.float32),
        "boxes": np.array([[*(centre - 3.6), *(centre + 3.6)]], np.float32),
    }
    moved = jax.jit(jax.vmap(lambda key: aug.augment(sample, augmentation, key)))(keys(4))
    assert moved["image"].shape[1:] == (*augmentation.output_shape, 1)
    for k in range(4):
        point = np.asarray(moved["points"][k, 0])
        np.testing.assert_allclose(centre_of(moved["image"][k]), point, atol=0.35)
        np.testing.assert_allclose(centre_of(moved["mask"][k]), point, atol=0.6)
        y, x = np.nonzero(np.asarray(moved["mask"][k, ..., 0]))
        box = np.asarray(moved["boxes"][k, 0])
        # The disc of radius 3.6 fills its box, and the box around the moved box is no smaller.
        assert box[0] <= x.min() + 1
        assert box[1] <= y.min() + 1
        assert x.max() - 1 <= box[2]
        assert y.max() - 1 <= box[3]
        assert np.prod(box[2:] - box[:2]) < 4.5 * (x.max() - x.min() + 1) * (y.max() - y.min() + 1)


def test_volume_its_mask_and_points_move_together():
    shape, centre = (20, 24, 28), np.array([15.0, 11.0, 9.0])
    both = aug.compose(
        aug.random_affine(shape, angle=(-0.4, 0.4), scale=(0.9, 1.1), translation=(-2, 2)),
        aug.random_elastic(shape, amplitude=1.5, spacing=10),
        aug.random_flip(shape, axes=(0, 1, 2)),
        aug.random_crop(shape, (18, 20, 24)),
    )
    volume = blob(shape, centre, 2.5)
    sample = {"image": volume, "mask": volume > 0.2, "points": centre.astype(np.float32)}
    moved = jax.jit(jax.vmap(lambda key: aug.augment(sample, both, key)))(keys(3))
    assert moved["mask"].dtype == bool
    for k in range(3):
        point = np.asarray(moved["points"][k])
        np.testing.assert_allclose(centre_of(moved["image"][k]), point, atol=0.35)
        np.testing.assert_allclose(centre_of(moved["mask"][k]), point, atol=0.6)


@pytest.mark.parametrize("name", NAMES)
def test_points_move_by_the_inverse(name, x64):
    augmentation = members()[name]
    points = np.random.default_rng(0).uniform(10, 36, (7, 2))

    @jax.jit
    def there_and_back(key):
        theta = augmentation.draw(key)
        moved = aug.move({"points": points}, augmentation, theta)["points"]
        grid = stn.normalized_from_pixels(moved, augmentation.output_shape)
        source = augmentation.transform.apply(theta, grid)
        return stn.pixels_from_normalized(source, augmentation.image_shape)

    np.testing.assert_allclose(there_and_back(KEY), points, atol=1e-9)


@pytest.mark.parametrize("name", STILL)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_ranges_of_zero_width_at_the_identity_change_no_bit(name, dtype):
    augmentation = STILL[name]
    shape = augmentation.image_shape
    values = np.random.default_rng(0).uniform(0, 255, (*shape, 2))
    image = jnp.asarray(values).astype(dtype)
    kind = aug.Mask() if dtype == "uint8" else aug.Image()
    moved = aug.augment({"x": image}, augmentation, KEY, kinds={"x": kind})["x"]
    assert moved.dtype == image.dtype
    np.testing.assert_array_equal(np.asarray(moved, float), np.asarray(image, float))
    np.testing.assert_array_equal(augmentation.draw(KEY), augmentation.transform.identity)


@pytest.mark.parametrize("name", NAMES)
def test_a_key_decides_the_draw(name):
    augmentation = members()[name]
    thetas = draws(augmentation, keys(64))
    assert thetas.shape == (64, augmentation.transform.num_params)
    np.testing.assert_array_equal(augmentation.draw(KEY), augmentation.draw(KEY))
    np.testing.assert_allclose(
        jax.jit(augmentation.draw)(KEY), augmentation.draw(KEY), rtol=1e-5, atol=1e-6
    )
    assert len(np.unique(np.asarray(thetas), axis=0)) > 3
    for k in (0, 5):
        np.testing.assert_allclose(augmentation.draw(keys(64)[k]), thetas[k], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_jit_and_eager_agree(name):
    augmentation = members()[name]
    sample = {
        "image": np.random.default_rng(0).normal(size=(*SHAPE, 2)).astype(np.float32),
        "points": np.array([[30.0, 20.0]], np.float32),
        "boxes": np.array([[20.0, 10.0, 30.0, 30.0]], np.float32),
    }
    theta = augmentation.draw(KEY)
    eager = aug.move(sample, augmentation, theta)
    jitted = jax.jit(aug.move)(sample, augmentation, theta)
    static = jax.jit(aug.move, static_argnums=1)(sample, augmentation, theta)
    for each in (jitted, static):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), eager, each)


def test_the_image_is_the_one_that_warp_gives(rng):
    augmentation = members()["compose"]
    theta, image = augmentation.draw(KEY), rng.normal(size=(*SHAPE, 3)).astype(np.float32)
    for options in ({"padding": "reflection"}, {"kernel": "cubic", "fill_value": 2.0}):
        kinds = {"image": aug.Image(**options)}
        moved = aug.move({"image": image}, augmentation, theta, kinds=kinds)["image"]
        warped = stn.warp(
            image, augmentation.transform, theta, output_shape=augmentation.output_shape, **options
        )
        np.testing.assert_allclose(moved, warped, atol=1e-3)


def test_antialiasing_is_that_of_warp(rng):
    crop = aug.random_resized_crop(SHAPE, (12, 16), area=(0.8, 1.0))
    theta, image = crop.draw(KEY), rng.normal(size=(*SHAPE, 1)).astype(np.float32)
    kinds = {"image": aug.Image(antialias=True)}
    moved = aug.move({"image": image}, crop, theta, kinds=kinds)["image"]
    warped = stn.warp(image, crop.transform, theta, output_shape=(12, 16), antialias=True)
    np.testing.assert_array_equal(moved, warped)
    assert moved.std() < 0.6 * aug.move(image, crop, theta).std()


@given(st.tuples(st.integers(1, 9), st.integers(1, 9)), st.integers(0, 2**31 - 1))
def test_two_flips_change_no_bit(shape, seed):
    flip = aug.random_flip(shape, axes=(0, 1))
    image = np.random.default_rng(seed).normal(size=(*shape, 2)).astype(np.float32)
    theta = flip.draw(jax.random.key(seed))
    once = aug.move(image, flip, theta)
    signs = np.asarray(theta)[[0, 4]]
    np.testing.assert_array_equal(once, image[:: int(signs[1]), :: int(signs[0])])
    np.testing.assert_array_equal(aug.move(once, flip, theta), image)


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 2**31 - 1),
)
def test_a_crop_is_a_slice_of_the_padded_image(shape, output, seed):
    margin = max(0, *(math.ceil((o - s) / 2) for o, s in zip(output, shape, strict=True))) + 1
    crop = aug.random_crop(shape, output, margin=margin)
    image = np.random.default_rng(seed).normal(size=(*shape, 1)).astype(np.float32)
    theta = np.asarray(crop.draw(jax.random.key(seed)), np.float64).reshape(2, 3)
    part = np.asarray(aug.move(image, crop, theta.ravel().astype(np.float32)))
    # The centre of the output's first pixel, in pixels of the input.
    first = [
        round((theta[k, k] * (1 / output[1 - k] - 1) + theta[k, 2] + 1) * shape[1 - k] / 2 - 0.5)
        for k in (0, 1)
    ]
    padded = np.pad(image, [(margin, margin), (margin, margin), (0, 0)])
    x, y = (each + margin for each in first)
    assert x >= 0
    assert y >= 0
    np.testing.assert_array_equal(part, padded[y : y + output[0], x : x + output[1]])


def test_all_places_of_a_crop_are_equally_likely():
    crop = aug.random_crop((1, 6), (1, 3))
    image = np.arange(1.0, 7)[None, :, None]
    moved = jax.jit(jax.vmap(lambda key: aug.augment(image, crop, key)))(keys(1200))
    seen, counts = np.unique(np.asarray(moved)[:, 0, 1, 0], return_counts=True)
    np.testing.assert_array_equal(seen, [2, 3, 4, 5])
    assert counts.min() > 240
    assert counts.max() < 360


_ANGLES = st.floats(-3, 3)


@given(
    st.tuples(st.integers(2, 80), st.integers(2, 80)),
    st.tuples(_ANGLES, st.floats(0, 0.1)),
    st.tuples(st.floats(0.3, 3), st.floats(1, 2)),
    st.tuples(st.floats(-9, 9), st.floats(0, 9)),
)
def test_an_affine_draw_keeps_to_its_ranges(shape, turns, factors, shifts):
    angle = (turns[0], turns[0] + turns[1])
    scale = (factors[0], factors[0] * factors[1])
    shift = (shifts[0], shifts[0] + shifts[1])
    affine = aug.random_affine(shape, angle=angle, scale=scale, translation=shift)
    half = np.array(shape[::-1]) / 2
    for theta in np.asarray(draws(affine, keys(16)), np.float64):
        matrix = np.vstack([theta.reshape(2, 3), [0, 0, 1]])
        stretch = np.diag([*half, 1])
        # How content moves, in pixels from the centre.
        forward = np.linalg.inv(stretch @ matrix @ np.linalg.inv(stretch))
        factor = np.sqrt(np.linalg.det(forward[:2, :2]))
        turned = forward[:2, :2] / factor
        # A rotation of pixels, also where the image is not square.
        np.testing.assert_allclose(turned @ turned.T, np.eye(2), atol=1e-4)
        found = np.arctan2(turned[1, 0], turned[0, 0])
        off = (found - angle[0] + np.pi) % (2 * np.pi) - np.pi
        assert -1e-4 <= off <= angle[1] - angle[0] + 1e-4
        assert scale[0] * (1 - 1e-4) <= factor <= scale[1] * (1 + 1e-4)
        assert (forward[:2, 2] >= shift[0] - 1e-3).all()
        assert (forward[:2, 2] <= shift[1] + 1e-3).all()


def test_an_affine_draw_is_that_of_opencv(rng):
    angle, scale, shift = 0.4, 1.3, (5.0, -3.0)
    affine = aug.random_affine(
        SHAPE,
        angle=(angle, angle),
        scale=(scale, scale),
        translation=np.array(shift)[:, None] * [1.0, 1.0],
    )
    centre = (SHAPE[1] - 1) / 2, (SHAPE[0] - 1) / 2
    # OpenCV's positive angles turn the other way.
    matrix = cv2.getRotationMatrix2D(centre, -np.degrees(angle), scale)
    matrix[:, 2] += shift
    points = rng.uniform(0, 40, (9, 2))
    moved = aug.augment({"points": points.astype(np.float32)}, affine, KEY)["points"]
    np.testing.assert_allclose(moved, points @ matrix[:, :2].T + matrix[:, 2], atol=5e-4)
    image = cv2.GaussianBlur(rng.uniform(size=SHAPE), (0, 0), 2).astype(np.float32)
    found = aug.augment(image[..., None], affine, KEY)[..., 0]
    np.testing.assert_allclose(found, cv2.warpAffine(image, matrix, SHAPE[::-1]), atol=0.04)


def test_a_turn_of_a_volume_has_its_angle():
    shape = (10, 20, 30)
    turn = aug.random_affine(shape, angle=(0.7, 0.7))
    half = np.diag(np.array(shape[::-1]) / 2)
    axes = []
    for theta in np.asarray(draws(turn, keys(400)), np.float64):
        rotation = half @ theta.reshape(3, 4)[:, :3] @ np.linalg.inv(half)
        np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-5)
        assert np.trace(rotation) == pytest.approx(1 + 2 * np.cos(0.7), abs=1e-5)
        skew = rotation - rotation.T
        axes.append(np.array([skew[2, 1], skew[0, 2], skew[1, 0]]) / (2 * np.sin(0.7)))
    # The axes are uniform on the sphere: their mean is 0 and their covariance 1/3.
    np.testing.assert_allclose(np.mean(axes, axis=0), 0, atol=0.12)
    np.testing.assert_allclose(np.cov(np.transpose(axes)), np.eye(3) / 3, atol=0.07)


@given(st.tuples(st.integers(8, 60), st.integers(8, 60)), st.floats(0, 0.99))
def test_a_homography_is_that_of_opencv(shape, share):
    amplitude = share * min(shape) / 4
    tilt = aug.random_homography(shape, amplitude=amplitude)
    theta = tilt.draw(KEY)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    source = np.asarray(tilt.transform.apply(theta, corners))
    off = np.abs(source - corners) * np.array(shape[::-1]) / 2
    assert off.max() <= amplitude * (1 + 1e-4) + 1e-4
    expected = cv2.getPerspectiveTransform(corners, source)
    np.testing.assert_allclose(np.append(theta, 1).reshape(3, 3), expected, atol=1e-3)
    # The region is convex, so no point of the output lies behind the camera.
    assert (np.abs(theta[6]) + np.abs(theta[7])) < 1


@pytest.mark.parametrize("shape", [(40, 72), (12, 16, 20)])
def test_an_elastic_draw_keeps_to_its_amplitude_and_never_folds(shape, x64):
    spacing = 12 if len(shape) == 2 else 6
    largest = 0.98 * min(s / round(s / spacing) for s in shape) / (1.5 * len(shape))
    bend = aug.random_elastic(shape, amplitude=largest, spacing=spacing)
    half = np.array(shape[::-1]) / 2
    points = jnp.asarray(np.random.default_rng(0).uniform(-1.2, 1.2, (300, len(shape))))
    thetas = draws(bend, keys(40))
    displaced = jax.jit(jax.vmap(lambda theta: bend.transform.displacement(theta, points)))
    moved = np.asarray(displaced(thetas)) * half
    assert np.abs(moved).max() <= largest
    inside = np.abs(np.asarray(points)).max(axis=-1) < 0.7
    root_mean_square = np.sqrt(np.mean(moved[:, inside] ** 2)) / largest
    assert root_mean_square == pytest.approx({2: 0.277, 3: 0.192}[len(shape)], rel=0.1)
    there = jax.jit(lambda theta: bend.transform.apply(theta, bend.transform.invert(theta, points)))
    for theta in thetas[:3]:
        np.testing.assert_allclose(there(theta), points, atol=1e-9)


def test_an_elastic_draw_is_a_spline_of_noise(x64):
    """The field is smooth: SciPy's cubic spline through every second value gives the others."""
    from scipy.interpolate import RectBivariateSpline

    bend = aug.random_elastic((128, 128), amplitude=8.0, spacing=32)
    field = np.asarray(bend.draw(KEY)).reshape(16, 16, 2)[..., 0] * 64
    rows = np.arange(16)
    coarse = RectBivariateSpline(rows[::2], rows[::2], field[::2, ::2])
    assert np.abs(coarse(rows[2:13], rows[2:13]) - field[2:13, 2:13]).max() < 0.3
    assert field.std() > 1


@given(
    st.tuples(st.integers(4, 80), st.integers(4, 80)),
    st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)),
    st.tuples(st.floats(0.3, 3), st.floats(0.3, 3)),
)
def test_a_resized_crop_keeps_to_its_ranges(shape, areas, aspects):
    area, aspect = sorted(areas), sorted(aspects)
    crop = aug.random_resized_crop(shape, (8, 8), area=area, aspect=aspect)
    for theta in np.asarray(draws(crop, keys(24)), np.float64):
        sx, zero, tx, other, sy, ty = theta
        assert zero == other == 0
        assert abs(tx) + sx <= 1 + 1e-5
        assert abs(ty) + sy <= 1 + 1e-5
        assert area[0] - 1e-4 <= sx * sy <= area[1] + 1e-4
        found, own = sx / sy * shape[1] / shape[0], shape[1] / shape[0]
        fits = np.log([own * sx * sy, own / (sx * sy)])
        low, high = np.clip(np.log(aspect), *fits)
        assert low - 1e-3 <= np.log(found) <= high + 1e-3


def test_a_resized_crop_without_a_fitting_aspect_takes_the_nearest():
    crop = aug.random_resized_crop((10, 100), (8, 8), area=(0.5, 0.5))
    sx, _, _, _, sy, _ = np.asarray(crop.draw(KEY))
    assert sy == pytest.approx(1, abs=1e-5)
    assert sx == pytest.approx(0.5, abs=1e-5)


def test_probabilities_are_kept():
    flip = aug.random_flip(SHAPE, axes=(0, 1), probability=0.3)
    signs = np.asarray(draws(flip, keys(2000)))[:, [0, 4]]
    np.testing.assert_allclose((signs < 0).mean(axis=0), 0.3, atol=0.04)
    assert abs(np.corrcoef(signs.T)[0, 1]) < 0.08
    shift = aug.sometimes(aug.random_affine(SHAPE, translation=(1, 2)), probability=0.8)
    moved = np.asarray(draws(shift, keys(2000)))[:, 2] != 0
    assert moved.mean() == pytest.approx(0.8, abs=0.04)


@pytest.mark.parametrize("name", ["compose", "homography"])
def test_gradients_flow_to_image_and_points(name, rng):
    augmentation = members()[name]
    image = rng.normal(size=(*SHAPE, 1)).astype(np.float32)
    points = np.array([[30.0, 20.0]], np.float32)
    weights = rng.normal(size=(*augmentation.output_shape, 1)).astype(np.float32)

    def loss(image, points):
        moved = aug.augment({"image": image, "points": points}, augmentation, KEY)
        return jnp.sum(weights * moved["image"]) + jnp.sum(moved["points"] ** 2)

    by_image, by_points = jax.jit(jax.grad(loss, (0, 1)))(image, points)
    direction = rng.normal(size=image.shape).astype(np.float32)
    # The loss is linear in the image, so the difference is exact but for rounding.
    change = loss(image + direction, points) - loss(image, points)
    np.testing.assert_allclose(jnp.sum(by_image * direction), change, rtol=2e-3, atol=2e-2)
    shift = np.array([[0.25, 0.0]], np.float32)
    slope = (loss(image, points + shift) - loss(image, points - shift)) / 0.5
    np.testing.assert_allclose(by_points[0, 0], slope, rtol=2e-2, atol=0.1)


def test_draws_are_differentiable_in_their_ranges(x64):
    def moved(strength):
        both = aug.compose(
            aug.random_affine(
                SHAPE, angle=strength * jnp.array([-0.3, 0.3]), translation=strength * jnp.ones(2)
            ),
            aug.random_elastic(SHAPE, amplitude=4 * strength, spacing=16),
        )
        return aug.augment({"points": jnp.array([[30.0, 20.0]])}, both, KEY)["points"][0, 0]

    slope = float(jax.jit(jax.grad(moved))(0.5))
    quotient = float(moved(0.5 + 1e-5) - moved(0.5 - 1e-5)) / 2e-5
    assert slope == pytest.approx(quotient, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_records_are_compared_copied_and_pickled_by_their_recipe(name):
    augmentation, again = members()[name], members()[name]
    assert augmentation == again
    assert hash(augmentation) == hash(again)
    assert copy.deepcopy(augmentation) is augmentation
    unpickled = pickle.loads(pickle.dumps(augmentation))
    assert unpickled == augmentation
    np.testing.assert_array_equal(unpickled.draw(KEY), augmentation.draw(KEY))
    assert repr(augmentation).startswith(f"<Augmentation {augmentation.name}: (48, 64) to (4")
    assert jax.tree.leaves(augmentation) == []


def test_traced_ranges_are_leaves():
    bend = aug.random_elastic(SHAPE, amplitude=jnp.array(2.0), spacing=16)
    assert len(jax.tree.leaves(bend)) == 1
    halved = jax.tree.map(lambda leaf: leaf / 2, bend)
    np.testing.assert_allclose(2 * halved.draw(KEY), bend.draw(KEY), rtol=1e-5)
    shapes = jax.eval_shape(lambda each: each.draw(KEY), bend)
    assert shapes.shape == (bend.transform.num_params,)
    placeholders = jax.tree.map(lambda leaf: None, bend)
    with pytest.raises(AttributeError, match="placeholders"):
        placeholders.draw  # noqa: B018
    assert "placeholders" in repr(placeholders)
    with pytest.raises(AttributeError, match="has no attribute 'theta'"):
        bend.theta  # noqa: B018


def test_pytrees_of_images_and_names_of_your_own(rng):
    flip = aug.random_flip((4, 5), probability=1)
    pair = {"left": np.arange(20.0).reshape(4, 5, 1), "right": np.ones((4, 5, 2))}
    sample = {"views": pair, "landmarks": {"eyes": np.array([[1.0, 2.0]])}, "label": "cat"}
    kinds = {"views": aug.Image(), "landmarks": aug.Points(), "label": None}
    moved = aug.augment(sample, flip, KEY, kinds=kinds)
    np.testing.assert_array_equal(moved["views"]["left"], pair["left"][:, ::-1])
    np.testing.assert_allclose(moved["landmarks"]["eyes"], [[3.0, 2.0]], atol=1e-6)
    assert moved["label"] == "cat"


def test_boxes_may_be_cut_off_and_outlined_finely():
    shift = aug.random_affine(SHAPE, translation=((40, 40), (0, 0)))
    boxes = np.array([[20.0, 10.0, 30.0, 20.0]], np.float32)
    assert aug.augment({"boxes": boxes}, shift, KEY)["boxes"][0, 2] == pytest.approx(70, abs=1e-4)
    cut = aug.augment({"boxes": boxes}, shift, KEY, kinds={"boxes": aug.Boxes(clip=True)})["boxes"]
    np.testing.assert_allclose(cut, [[60.0, 10.0, 63.5, 20.0]], atol=1e-4)
    bend, boxes = members()["elastic"], np.array([[8.0, 6.0, 56.0, 42.0]], np.float32)
    fine, coarse = (
        aug.augment({"boxes": boxes}, bend, KEY, kinds={"boxes": aug.Boxes(points_per_side=count)})[
            "boxes"
        ]
        for count in (33, 2)
    )
    assert (fine[0, :2] <= coarse[0, :2]).all()
    assert (fine[0, 2:] >= coarse[0, 2:]).all()
    assert not np.allclose(fine, coarse, atol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: aug.random_affine((8,)), "image_shape must be"),
        (lambda: aug.random_affine((8, 8), angle=0.3), "angle must be a pair"),
        (lambda: aug.random_affine((8, 8), angle=(0.3, -0.3)), "low not above high"),
        (lambda: aug.random_affine((8, 8), scale=(0.0, 1.0)), "scale must be .* positive"),
        (lambda: aug.random_affine((8, 8), scale=[(1, 1)] * 3), "one pair for each of 2 axes"),
        (lambda: aug.random_affine((8, 8), translation=(0, np.inf)), "finite"),
        (lambda: aug.random_homography((8, 8, 8), amplitude=1), "image_shape must have 2"),
        (lambda: aug.random_homography((8, 16), amplitude=2), "below 2, a quarter"),
        (lambda: aug.random_homography((8, 16), amplitude=-1), "at least 0"),
        (lambda: aug.random_elastic((64, 64), amplitude=6, spacing=16), "larger spacing"),
        (lambda: aug.random_elastic((64, 64), amplitude=1, spacing=0), "spacing must be"),
        (lambda: aug.random_crop((8, 8), (10, 8)), "must fit into the image"),
        (lambda: aug.random_crop((8, 8), (8, 8), margin=-1), "margin must be"),
        (lambda: aug.random_resized_crop((8, 8), (4, 4), area=(0.5, 1.5)), "at most 1"),
        (lambda: aug.random_resized_crop((8, 8), (4, 4), aspect=(0, 1)), "aspect must be"),
        (lambda: aug.random_flip((8, 8), axes=(2,)), "axes must name"),
        (lambda: aug.random_flip((8, 8), axes=(0, 0)), "each once"),
        (lambda: aug.random_flip((8, 8), probability=1.5), "probability must be"),
        (lambda: aug.sometimes(aug.random_flip((8, 8)), probability=(0, 1)), "one number"),
        (lambda: aug.jitter(stn.affine(), (8, 8), spread=-1.0), "spread must be at least 0"),
        (lambda: aug.jitter(stn.affine(), (8, 8), spread=[1.0]), "each of the 6 parameters"),
        (lambda: aug.compose(), "got none"),
        (
            lambda: aug.compose(aug.random_crop((8, 8), (4, 4)), aug.random_flip((8, 8))),
            r"gives images of \(4, 4\)",
        ),
    ],
)
def test_wrong_options_are_named(make, message, no_runtime_types):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_samples_are_named(no_runtime_types):
    flip, image = aug.random_flip((4, 5)), np.ones((4, 5, 1))
    with pytest.raises(ValueError, match="kinds must say how to move 'depth'"):
        aug.augment({"image": image, "depth": image}, flip, KEY)
    with pytest.raises(ValueError, match=r"image must have the spatial shape \(4, 5\)"):
        aug.augment(np.ones((5, 4, 1)), flip, KEY)
    with pytest.raises(ValueError, match="add a channel axis"):
        aug.augment(np.ones((4, 5)), flip, KEY)
    with pytest.raises(ValueError, match="points must have a last axis of length 2"):
        aug.augment({"points": np.ones((3, 3))}, flip, KEY)
    with pytest.raises(ValueError, match="boxes must be"):
        aug.augment({"boxes": np.ones((3, 3))}, flip, KEY)
    with pytest.raises(TypeError, match="points must have a floating dtype"):
        aug.augment({"points": np.ones((3, 2), int)}, flip, KEY)
    with pytest.raises(TypeError, match="floating dtype for any kernel"):
        aug.augment(image.astype(np.uint8), flip, KEY)
    with pytest.raises(TypeError, match="augmentation must be an Augmentation"):
        aug.augment(image, stn.affine(), KEY)
    with pytest.raises(TypeError, match="must be a Kind"):
        aug.augment({"image": image}, flip, KEY, kinds={"image": "nearest"})
    with pytest.raises(TypeError, match="transform must be a Transform"):
        aug.jitter("affine", (4, 5), spread=0.1)
    with pytest.raises(TypeError, match="augmentations must be an Augmentation"):
        aug.compose(flip, stn.affine())
