"""Co-localisation as pure functions: canvases, boxes, the encoder, the loss, and both trainings."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Integer, PRNGKeyArray, UInt8

import stn_jax as stn
from experiments import models
from experiments.data.distortions import scatter
from stn_jax import nn as stnn
from stn_jax._types import AnyArray

SetName = Literal["T", "TC"]
TargetsName = Literal["constant", "free"]

# Patches of clutter on a canvas of each set.
PATCHES: dict[SetName, int] = {"T": 0, "TC": 16}
# Sides of a canvas in those of a digit: 84 pixels for 28.
CANVAS = 3
MARGIN = 1.0
# How far from the centre a digit or a crop of a digit's size can be, in normalised coordinates.
_REACH = 1 - 1 / CANVAS
_FILTERS = (8, 16)
# Images at a time when something is measured.
_PART = 128
# Held-out canvases are one fixed draw, whatever the seed of a training.
_TEST_SEED = 1506_02025


class State(NamedTuple):
    """What a training step carries: arrays only."""

    params: Any
    opt_state: Any
    step: Array


class Trainer(NamedTuple):
    """The pure functions of a training.

    ``initial_state(seed)``; ``run(state, data, key, num_steps)``, the new state and mean metrics;
    ``apply(params, images)``, what the network makes of a batch.
    """

    initial_state: Callable[[int], State]
    run: Callable[[State, Any, PRNGKeyArray, int], tuple[State, dict[str, Array]]]
    apply: Callable[[Any, Array], Array]


class Measured(NamedTuple):
    """What was found on canvases.

    Attributes:
      boxes: True boxes, ``[images, 4]``.
      theta: Parameters of the crops, ``[images, 2]``.
      overlap: Intersection over union of both, ``[images]``.
    """

    boxes: np.ndarray
    theta: np.ndarray
    overlap: np.ndarray


class Scenes(NamedTuple):
    """What canvases are made from and judged by.

    Attributes:
      images: All training digits, which clutter is cut from.
      members: Numbers of those of the class to be found, padded at the end by any others.
      number: How many of them are not padding.
      encoder: Parameters of the encoder.
    """

    images: Array
    members: Array
    number: Array
    encoder: Any


def crop(*, bounded: bool = True) -> stn.Transform:
    """Crops of a digit's size from a canvas; bounded, wherever theta is, they lie inside it.

    An attention transform whose scale is fixed, so theta is ``(tx, ty)``, the centre of the crop.
    """
    free = stn.fixed(stn.attention(), {0: 1 / CANVAS})
    return stn.bounded(free, radius=_REACH) if bounded else free


def canvas_shape(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of the canvas of an image."""
    height, width, channels = image_shape
    return CANVAS * height, CANVAS * width, channels


def draw_canvas(
    key: PRNGKeyArray,
    image: UInt8[Array, "h w c"],
    pool: UInt8[Array, "n h w c"],
    *,
    patches: int,
) -> tuple[Float[Array, "H W c"], Float[Array, "4"]]:
    """A digit at a random place of a black canvas, among patches cut from random others.

    Args:
      key: Of the draw.
      image: The digit.
      pool: Digits that clutter is cut from.
      patches: Number of patches.

    Returns:
      The canvas with pixels in [0, 1], and the box ``(x0, y0, x1, y1)`` of the digit's image on it
      in pixels, from edge to edge.
    """
    chosen_key, scatter_key = jax.random.split(key)
    others = pool[jax.random.randint(chosen_key, (patches,), 0, len(pool))]
    digit, others = (each.astype(jnp.float32) / 255 for each in (image, others))
    scene, place = scatter(scatter_key, digit, others, canvas_shape(image.shape)[:2])
    size = np.array(image.shape[1::-1])
    return scene, jnp.concatenate([place, place + size]).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="patches")
def draw_held_out(
    numbers: Integer[AnyArray, " batch"], pool: UInt8[Array, "n h w c"], *, patches: int
) -> tuple[Float[Array, "batch H W c"], Float[Array, "batch 4"]]:
    """Canvases of some images of a pool, drawn by nothing but their numbers, and their boxes."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(_TEST_SEED), numbers)
    draw = functools.partial(draw_canvas, pool=pool, patches=patches)
    return jax.vmap(draw)(keys, pool[numbers])


def crop_boxes(theta: Float[Array, "batch 2"], shape: tuple[int, ...]) -> Float[Array, "batch 4"]:
    """The box that each bounded crop reads of a canvas of some shape, in pixels from edge to edge.

    ``(x0, y0, x1, y1)``.
    """
    corners = jnp.array([[-1.0, -1.0], [1.0, 1.0]])
    ends = jax.vmap(lambda each: crop().apply(each, corners))(theta)
    return ((ends + 1) / 2 * np.array(shape[1::-1])).reshape(-1, 4)


def places_of(boxes: Float[Array, "batch 4"], shape: tuple[int, ...]) -> Float[Array, "batch 2"]:
    """Theta of the crops, unbounded, that read boxes of a crop's size."""
    return (boxes[:, :2] + boxes[:, 2:]) / np.array(shape[1::-1]) - 1


def intersection_over_union(
    boxes: Float[Array, "batch 4"], others: Float[Array, "batch 4"]
) -> Float[Array, " batch"]:
    """Area common to two boxes ``(x0, y0, x1, y1)`` over that covered by either; 1 if equal."""
    low = jnp.maximum(boxes[:, :2], others[:, :2])
    high = jnp.minimum(boxes[:, 2:], others[:, 2:])
    common = jnp.clip(high - low, 0).prod(axis=1)
    first, second = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, others))
    return common / (first + second - common)


def triplet_loss(
    found: Float[Array, "batch features"],
    target: Float[Array, "batch features"],
    random: Float[Array, "crops batch features"],
    *,
    margin: float = MARGIN,
) -> Float[Array, ""]:
    """The hinge loss of co-localisation, its mean over all pairs of images and all random crops.

    ``max(0, ||e(I_n) − e(I_m)||² − ||e(I_n) − e(I_n^rand)||² + margin)`` over ``m ≠ n``.

    Args:
      found: Encodings of the crops found in each image, as I_n.
      target: The same, as I_m; apart, so that they may be held constant.
      random: Encodings of random crops of each image.
      margin: By how much the found crop is to be nearer.
    """
    batch = len(found)
    between = jnp.square(found[:, None] - target[None]).sum(axis=-1)
    away = jnp.square(found - random).sum(axis=-1)
    hinge = jax.nn.relu(between - away[:, :, None] + margin)
    return jnp.where(jnp.eye(batch, dtype=bool), 0, hinge).sum() / (
        len(random) * batch * (batch - 1)
    )


def encode(
    classifier: models.ConvolutionalClassifier, images: Float[Array, "batch h w c"]
) -> Float[Array, "batch features"]:
    """The activations of all three layers of a classifier, one after the other."""
    return jnp.concatenate(classifier.activations(images), axis=-1)


def make_encoder_trainer(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> Trainer:
    """Trains the classifier that encodes; its data are all training images and their labels.

    ``apply`` gives the logits of images with pixels in [0, 1].
    """

    def create(rngs: nnx.Rngs) -> nnx.Module:
        return _classifier(image_shape, num_classes, rngs)

    graph = nnx.graphdef(nnx.eval_shape(lambda: create(nnx.Rngs(0))))

    def loss(
        params: Any, data: tuple[Array, Array], key: PRNGKeyArray
    ) -> tuple[Array, dict[str, Array]]:
        images, labels = data
        chosen = jax.random.randint(key, (batch_size,), 0, len(images))
        logits = nnx.merge(graph, params)(images[chosen].astype(jnp.float32) / 255)
        wrong = logits.argmax(-1) != labels[chosen]
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen])
        return each.mean(), {"train_error": 100 * wrong.mean()}

    return _make_trainer(create, loss, _optimizer(learning_rate, steps))


def make_localizer_trainer(
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    patches: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    random_crops: int,
    targets: TargetsName,
) -> Trainer:
    """Trains a spatial transformer to find the digits of :class:`Scenes` by the triplet loss.

    Args:
      image_shape: Height, width and channels of a digit.
      num_classes: Number of classes that the encoder was trained on.
      patches: Patches of clutter on a canvas.
      steps: Steps of the whole training.
      batch_size: Canvases in a step; each is paired with all others.
      learning_rate: Adam's at the start; it falls to zero along a cosine.
      random_crops: Random crops of each canvas.
      targets: Whether I_m is held constant in the loss.

    Returns:
      ``apply`` gives theta of canvases.
    """
    shape = canvas_shape(image_shape)
    size = image_shape[:2]

    def create(rngs: nnx.Rngs) -> nnx.Module:
        localization = stnn.ConvolutionalLocalization(
            shape, crop(), features=(16, 32), hidden=64, downsample=4, rngs=rngs
        )
        return stnn.SpatialTransformer(localization, crop(), output_shape=size)

    graph = nnx.graphdef(nnx.eval_shape(lambda: create(nnx.Rngs(0))))
    encoder = nnx.graphdef(
        nnx.eval_shape(lambda: _classifier(image_shape, num_classes, nnx.Rngs(0)))
    )

    def read(canvas: Array, theta: Array) -> Array:
        return stn.warp(canvas, crop(bounded=False), theta, output_shape=size)

    def loss(params: Any, data: Scenes, key: PRNGKeyArray) -> tuple[Array, dict[str, Array]]:
        classifier = nnx.merge(encoder, data.encoder)
        chosen_key, canvas_key, crop_key = jax.random.split(key, 3)
        chosen = data.members[jax.random.randint(chosen_key, (batch_size,), 0, data.number)]
        draw = functools.partial(draw_canvas, pool=data.images, patches=patches)
        keys = jax.random.split(canvas_key, batch_size)
        canvases, boxes = jax.vmap(draw)(keys, data.images[chosen])
        places = jax.random.uniform(
            crop_key, (random_crops, batch_size, 2), minval=-_REACH, maxval=_REACH
        )
        anywhere = jax.vmap(jax.vmap(read), in_axes=(None, 0))(canvases, places)
        random = encode(classifier, anywhere.reshape(-1, *image_shape))
        crops, theta = nnx.merge(graph, params)(canvases, return_theta=True)
        found = encode(classifier, crops)
        target = jax.lax.stop_gradient(found) if targets == "constant" else found
        value = triplet_loss(found, target, random.reshape(random_crops, batch_size, -1))
        # For the log alone; nothing of it reaches the gradient.
        overlap = intersection_over_union(crop_boxes(theta, shape), boxes)
        return value, {"train_correct": 100 * (overlap > 0.5).mean()}

    trainer = _make_trainer(create, loss, _optimizer(learning_rate, steps))

    @jax.jit
    def locate(params: Any, canvases: Array) -> Array:
        return nnx.merge(graph, params).localize(canvases)

    return trainer._replace(apply=locate)


def measure(
    trainer: Trainer,
    params: Any,
    images: UInt8[np.ndarray, "n h w c"],
    numbers: Integer[np.ndarray, " k"],
    *,
    patches: int,
) -> Measured:
    """Looks for some of the images of a held-out set, each on its canvas."""
    pool, parts = jnp.asarray(images), []
    for part in in_parts(numbers):
        canvases, boxes = draw_held_out(part, pool, patches=patches)
        theta = trainer.apply(params, canvases)
        overlap = intersection_over_union(crop_boxes(theta, canvases.shape[1:]), boxes)
        parts.append((boxes, theta, overlap))
    columns = zip(*parts, strict=True)
    return Measured(*(np.concatenate(list(each))[: len(numbers)] for each in columns))


def in_parts(numbers: Integer[np.ndarray, " k"]) -> Iterator[Integer[np.ndarray, " part"]]:
    """Numbers in parts of one size, so that there is one compilation; the last is filled up."""
    for first in range(0, len(numbers), _PART):
        yield np.resize(numbers[first : first + _PART], _PART)


def _classifier(
    image_shape: tuple[int, int, int], num_classes: int, rngs: nnx.Rngs
) -> models.ConvolutionalClassifier:
    return models.ConvolutionalClassifier(image_shape, num_classes, features=_FILTERS, rngs=rngs)


def _optimizer(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _make_trainer(
    create: Callable[[nnx.Rngs], Any],
    loss: Callable[[Any, Any, PRNGKeyArray], tuple[Array, dict[str, Array]]],
    optimizer: optax.GradientTransformation,
) -> Trainer:
    graph = nnx.graphdef(nnx.eval_shape(lambda: create(nnx.Rngs(0))))

    def initial_state(seed: int) -> State:
        params = nnx.state(create(nnx.Rngs(seed)))
        return State(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    @functools.partial(jax.jit, static_argnames="num_steps", donate_argnames="state")
    def run(
        state: State, data: Any, key: PRNGKeyArray, num_steps: int
    ) -> tuple[State, dict[str, Array]]:
        def step(state: State, _: None) -> tuple[State, dict[str, Array]]:
            # The draw depends on the step alone, so a resumed run sees the same batches.
            step_key = jax.random.fold_in(key, state.step)
            (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
                state.params, data, step_key
            )
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return State(params, opt_state, state.step + 1), {"loss": value, **metrics}

        state, metrics = jax.lax.scan(step, state, length=num_steps)
        return state, jax.tree.map(jnp.mean, metrics)

    @jax.jit
    def apply(params: Any, images: Array) -> Array:
        return nnx.merge(graph, params)(images)

    return Trainer(initial_state, run, apply)
