import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.birds.model import PartModel, reduce
from experiments.models.backbones import Backbone
from stn_jax import nn as stnn

CLASSES = 3
IMAGES = np.random.default_rng(0).random((24, 32, 32, 3), np.float32)
# Rows and columns that the crops of an untrained model read of 32×32 pixels.
MIDDLE, FIRST, LAST = slice(8, 24), slice(0, 16), slice(16, 32)
TILES = {
    1: [(MIDDLE, MIDDLE)],
    2: [(FIRST, MIDDLE), (LAST, MIDDLE)],
    4: [(FIRST, FIRST), (FIRST, LAST), (LAST, FIRST), (LAST, LAST)],
}


def make(number, **options):
    return PartModel("small", 32, CLASSES, num_transforms=number, rngs=nnx.Rngs(0), **options)


@functools.partial(jax.jit, static_argnums=0)
def look(graph, state, images, key=None):
    return nnx.merge(graph, state).forward(images, key)


@functools.partial(jax.jit, static_argnums=0)
def describe(graph, state, images):
    return nnx.merge(graph, state)(images)


@functools.partial(jax.jit, static_argnums=0)
def gradients(graph, params, rest, images, labels):
    def loss(params):
        logits, _ = nnx.merge(graph, params, rest).forward(images, None)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean(), (logits.argmax(-1) == labels).mean()

    return jax.value_and_grad(loss, has_aux=True)(params)


def gradients_of(model):
    parts = nnx.split(model, nnx.Param, ...)
    return gradients(*parts, IMAGES, jnp.arange(len(IMAGES)) % CLASSES)[1]


@pytest.mark.parametrize("number", TILES)
def test_untrained_crops_tile_the_image_and_are_described_in_turn(number):
    model = make(number)
    logits, theta = look(*nnx.split(model), IMAGES)
    assert logits.shape == (len(IMAGES), CLASSES)
    assert theta.shape == (len(IMAGES), number, 2)
    centres = [[(s.start + s.stop) / 32 - 1 for s in tile[::-1]] for tile in TILES[number]]
    np.testing.assert_allclose(theta, np.broadcast_to(centres, theta.shape), atol=1e-6)
    # The same by hand: at half the scale a crop is the pixels themselves.
    described = [
        describe(*nnx.split(backbone), IMAGES[:, rows, columns])
        for backbone, (rows, columns) in zip(model.describers, TILES[number], strict=True)
    ]
    features = np.concatenate(described, axis=-1)
    expected = features @ model.logits.kernel[...] + model.logits.bias[...]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    different = len({np.asarray(each).tobytes() for each in described})
    assert different == number


@pytest.mark.parametrize(("crop_size", "seen"), [(32, lambda x: x), (None, None)])
def test_without_transforms_the_image_is_described(crop_size, seen):
    model = make(0, crop_size=crop_size)
    logits, theta = look(*nnx.split(model), IMAGES)
    assert theta is None
    read = seen(IMAGES) if seen else reduce(jnp.asarray(IMAGES), 16)
    features = describe(*nnx.split(model.describers[0]), read)
    expected = features @ model.logits.kernel[...] + model.logits.bias[...]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_reducing_averages_blocks_and_leaves_the_same_size_alone():
    images = jnp.asarray(IMAGES)
    np.testing.assert_array_equal(reduce(images, 32), images)
    quarters = [IMAGES[:, y::2, x::2] for y in (0, 1) for x in (0, 1)]
    np.testing.assert_allclose(reduce(images, 16), np.mean(quarters, axis=0), atol=1e-6)


@pytest.mark.parametrize("size", [8, 6])
def test_reducing_keeps_ramps_and_greys_what_is_too_fine(size):
    rows, columns = np.mgrid[:16, :16]
    pair = np.stack([(columns + 0.5) / 16, (rows + columns) % 2], axis=-1)
    ramp, fine = jnp.moveaxis(reduce(jnp.asarray(pair, jnp.float32)[None], size)[0], -1, 0)
    inner = slice(1, -1)
    expected = np.broadcast_to((np.arange(size) + 0.5) / size, (size, size))
    np.testing.assert_allclose(ramp[inner, inner], expected[inner, inner], atol=0.02)
    np.testing.assert_allclose(fine[inner, inner], 0.5, atol=0.1)


def test_localization_and_rest_are_told_apart():
    model = make(2)
    labels = stnn.localization_labels(model)
    state = nnx.state(model, nnx.Param)
    labelled = {"localization": 0, "rest": 0}
    for label, leaf in zip(jax.tree.leaves(labels), jax.tree.leaves(state), strict=True):
        labelled[label] += leaf.size
    localization = nnx.state(model.transformer.localization, nnx.Param)
    assert labelled["localization"] == sum(leaf.size for leaf in jax.tree.leaves(localization))
    # Reduction to 128 maps of 2×2, 128 units, the centres of two crops.
    head = (64 + 1) * 128 + (4 * 128 + 1) * 128 + (128 + 1) * 4
    one = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model.describers[0], nnx.Param)))
    assert labelled == {"localization": one + head, "rest": 2 * one + (128 + 1) * CLASSES}
    assert set(jax.tree.leaves(stnn.localization_labels(make(0)))) == {"rest"}


def test_all_backbones_are_at_hand_to_load_weights_into():
    model = make(2)
    backbones = model.backbones
    assert len({id(each) for each in backbones}) == 3
    assert all(isinstance(each, Backbone) for each in backbones)
    assert {id(each) for each in model.describers} < {id(each) for each in backbones}
    assert len(make(0).backbones) == 1


def test_gradient_reaches_every_part_and_is_the_same_with_remat():
    gradient = gradients_of(make(2))
    localization = gradient["transformer"]["localization"]
    assert abs(localization["head"]["linear"]["kernel"][...]).max() > 0
    for number in range(2):
        kernel = gradient["describers"][number]["convolutions"][0]["kernel"][...]
        assert abs(kernel).max() > 0
    again = gradients_of(make(2, remat=True))
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(abs(a).max()) + 1e-9)


def test_half_precision_is_of_the_convolutions_alone():
    model = make(2, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    logits, theta = look(*nnx.split(model), IMAGES)
    assert logits.dtype == theta.dtype == jnp.float32
    exact, _ = look(*nnx.split(make(2)), IMAGES)
    assert 0 < abs(logits - exact).max() < 0.02 * abs(exact).max()


def test_dropout_is_drawn_from_the_key_alone():
    split = nnx.split(make(1))
    plain, _ = look(*split, IMAGES)
    first, second = (look(*split, IMAGES, jax.random.key(seed))[0] for seed in (0, 1))
    assert abs(first - second).max() > 0
    assert abs(first - plain).max() > 0
    np.testing.assert_array_equal(first, look(*split, IMAGES, jax.random.key(0))[0])


def test_small_backbones_learn_from_nothing_in_a_few_steps():
    # Stripes along one of two diagonals, at random phases.
    number = len(IMAGES)
    rows, columns = np.mgrid[:32, :32]
    phases = np.random.default_rng(0).uniform(0, 2 * np.pi, (number, 1, 1))
    labels = jnp.arange(number) % 2
    sign = np.asarray(2 * labels - 1)[:, None, None]
    images = 0.5 + 0.5 * np.sin((rows + sign * columns) / 1.5 + phases)
    images = np.repeat(images[..., None], 3, axis=-1).astype(np.float32)
    graph, params, rest = nnx.split(make(2), nnx.Param, ...)
    optimizer = optax.adam(3e-3)
    state = optimizer.init(params)

    @jax.jit
    def update(grads, state, params):
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state

    for _ in range(30):
        (loss, correct), grads = gradients(graph, params, rest, images, labels)
        params, state = update(grads, state, params)
    assert correct > 0.95
    assert loss < 0.3


BAD = {
    "backbone": ({"backbone": "vgg"}, r"backbone must be small \| resnet50 .*got 'vgg'"),
    "num_transforms": ({"num_transforms": -1}, "num_transforms must not be negative; got -1"),
    "dropout": ({"dropout": 1.0}, r"dropout must be in \[0, 1\); got 1.0"),
    "crop_size": ({"crop_size": 20}, "multiples of 8, .* got 20×20"),
    "image_size": ({"image_size": 40}, "multiples of 8, .* got 20×20"),
}


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused(name):
    options, message = BAD[name]
    options = {"backbone": "small", "image_size": 32, "num_transforms": 1} | options
    with pytest.raises(ValueError, match=message):
        PartModel(num_classes=CLASSES, rngs=nnx.Rngs(0), **options)


def test_images_of_another_size_are_refused():
    model = make(0)
    with pytest.raises(ValueError, match=r"images must be 32×32, .* got 24×32"):
        model(jnp.zeros((1, 24, 32, 3)))
