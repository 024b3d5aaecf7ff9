"""Laws of every augmentation: what moves together, what is exact, what a key decides."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from augmentations import KEY, NAMES, SHAPE, STILL, draws, keys, members

import stn_jax as stn
from stn_jax import augmentation as aug

pytestmark = pytest.mark.cross_section(4)


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
