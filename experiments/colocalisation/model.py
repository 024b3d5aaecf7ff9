"""The encoder, the localizer and the triplet loss, as problems of the engine."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray

import stn_jax as stn
from experiments.colocalisation.localization import SpatialSoftmaxLocalization
from experiments.colocalisation.scenes import (
    REACH,
    canvas_shape,
    crop,
    crop_boxes,
    draw_canvas,
    intersection_over_union,
)
from experiments.engine.optimizers import adam_cosine
from experiments.engine.options import PrecisionName
from experiments.engine.problem import Problem, Shard
from experiments.models import ConvolutionalClassifier, compute_in
from stn_jax import nn as stnn

TargetsName = Literal["constant", "free"]

_FILTERS = (8, 16)
_ENCODER_BATCH = 64
# The lattice on which crops are monitored; they are all alike but for their places.
_MONITORED = (4, 4)


class Network(NamedTuple):
    """A network as pure functions.

    Attributes:
      problem: The problem to train, without data and measurements.
      apply: ``apply(params, images)`` gives the logits of images with pixels in [0, 1], or theta of
        canvases.
    """

    problem: Problem
    apply: Callable[[Any, Array], Array]


class Kind(NamedTuple):
    """The data that networks are made for, and the networks' precision."""

    image_shape: tuple[int, int, int]
    num_classes: int
    precision: PrecisionName = "float32"


class Batch(NamedTuple):
    """A batch of canvases.

    Attributes:
      canvases: ``[batch, height, width, channels]``.
      boxes: The true boxes, ``[batch, 4]``; only metrics read them.
      places: Centres of random crops, ``[batch, crops, 2]``.
    """

    canvases: Array
    boxes: Array
    places: Array


def triplet_loss(
    found: Float[Array, "batch features"],
    target: Float[Array, "batch features"],
    random: Float[Array, "crops batch features"],
    *,
    margin: float = 1.0,
) -> Float[Array, ""]:
    """The hinge loss of co-localisation: the mean over all pairs of images and random crops.

    ``max(0, ||e(I_n) − e(I_m)||² − ||e(I_n) − e(I_n^rand)||² + margin)`` over ``m ≠ n``.

    Args:
      found: Encodings of each image's predicted crop, I_n.
      target: The same encodings as I_m; a separate argument, so that it may be constant in the
        gradient.
      random: Encodings of random crops of each image.
      margin: How much nearer than random crops the predicted crops should be.
    """
    batch = len(found)
    between = jnp.square(found[:, None] - target[None]).sum(axis=-1)
    away = jnp.square(found - random).sum(axis=-1)
    hinge = jax.nn.relu(between - away[:, :, None] + margin)
    return jnp.where(jnp.eye(batch, dtype=bool), 0, hinge).sum() / (
        len(random) * batch * (batch - 1)
    )


def most_unlike(
    random: Float[Array, "crops batch features"], places: Float[Array, "crops batch 2"]
) -> Float[Array, "batch 2"]:
    """The place of each image's random crop whose encoding is farthest from those of the others."""
    distances = jnp.square(random[:, None] - random[None]).sum(axis=(1, 3))
    chosen = distances.argmax(axis=0)
    return jnp.take_along_axis(places, chosen[None, :, None], axis=0)[0]


def encode(
    classifier: ConvolutionalClassifier, images: Float[Array, "batch h w c"]
) -> Float[Array, "batch features"]:
    """The activations of all three layers of a classifier, concatenated."""
    return jnp.concatenate(classifier.activations(images), axis=-1).astype(jnp.float32)


def make_encoder(kind: Kind, *, steps: int, learning_rate: float) -> Network:
    """The encoder, a classifier; its data are all training images and their labels."""
    create = functools.partial(_create_classifier, kind)
    graph = _graph_of(create)

    def init(seed: int) -> tuple[Any, Any]:
        return nnx.state(create(nnx.Rngs(seed))), ()

    def draw(key: PRNGKeyArray, data: tuple[Array, Array], shard: Shard) -> tuple[Array, Array]:
        images, labels = data
        chosen = shard(jax.random.randint(key, (_ENCODER_BATCH,), 0, len(images)))
        return images[chosen].astype(jnp.float32) / 255, labels[chosen]

    def loss(
        params: Any, constants: Any, batch: tuple[Array, Array], key: PRNGKeyArray
    ) -> tuple[Array, dict[str, Array]]:
        del constants, key
        images, labels = batch
        logits = nnx.merge(graph, params)(images)
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean(), {"train_error": 100 * (logits.argmax(-1) != labels).mean()}

    @jax.jit
    def apply(params: Any, images: Array) -> Array:
        return nnx.merge(graph, params)(images)

    problem = Problem(
        init=init,
        loss=loss,
        draw=draw,
        optimizer=adam_cosine(learning_rate, steps),
        batch_size=_ENCODER_BATCH,
        one_after_the_other=True,
    )
    return Network(problem, apply)


def make_localizer(
    kind: Kind,
    *,
    patches: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    random_crops: int,
    margin: float,
    guidance: float,
    targets: TargetsName,
) -> Network:
    """The spatial transformer that finds the digits of one class by the triplet loss.

    Its data are all training images, uint8, from which clutter is cut; the indices of the class's
    images, padded at the end; and the number of these without padding. Its constants are the
    encoder's parameters, so replace ``init`` by a function that gives them.

    Args:
      kind: The data; the encoder was trained on the same.
      patches: Patches of clutter on a canvas.
      steps: Steps of the whole training.
      batch_size: Canvases in a step; each is paired with all others of its part of the batch.
      learning_rate: Adam's rate at the start; it falls to zero along a cosine.
      random_crops: Random crops of each canvas.
      margin: Of the triplet loss.
      guidance: Weight of the squared distance between each crop's centre and :func:`most_unlike`.
      targets: Whether I_m is constant in the gradient of the loss.
    """
    shape, size = canvas_shape(kind.image_shape), kind.image_shape[:2]

    def create(rngs: nnx.Rngs) -> nnx.Module:
        localization = SpatialSoftmaxLocalization(shape[-1], rngs=rngs)
        model = stnn.SpatialTransformer(localization, crop(), output_shape=size)
        compute_in(model, kind.precision)
        return model

    graph, encoder = _graph_of(create), _graph_of(functools.partial(_create_classifier, kind))

    def init(seed: int) -> tuple[Any, Any]:
        return nnx.state(create(nnx.Rngs(seed))), ()

    def draw(key: PRNGKeyArray, data: tuple[Array, Array, Array], shard: Shard) -> Batch:
        images, members, number = data
        chosen_key, canvas_key, crop_key = jax.random.split(key, 3)
        chosen = members[jax.random.randint(chosen_key, (batch_size,), 0, number)]
        places = jax.random.uniform(
            crop_key, (random_crops, batch_size, 2), minval=-REACH, maxval=REACH
        )
        drawn = chosen, jax.random.split(canvas_key, batch_size), jnp.moveaxis(places, 1, 0)
        chosen, keys, places = shard(drawn)
        one = functools.partial(draw_canvas, pool=images, patches=patches)
        canvases, boxes = jax.vmap(one)(keys, images[chosen])
        return Batch(canvases, boxes, places)

    def sample(canvas: Array, theta: Array) -> Array:
        return stn.warp(canvas, crop(), theta, output_shape=size)

    def loss(
        params: Any, constants: Any, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Array, dict[str, Array]]:
        del key
        classifier = nnx.merge(encoder, constants)
        places = jnp.moveaxis(batch.places, 1, 0)
        anywhere = jax.vmap(jax.vmap(sample), in_axes=(None, 0))(batch.canvases, places)
        random = encode(classifier, anywhere.reshape(-1, *kind.image_shape))
        random = random.reshape(*places.shape[:2], -1)
        crops, theta = nnx.merge(graph, params)(batch.canvases, return_theta=True)
        found = encode(classifier, crops)
        target = jax.lax.stop_gradient(found) if targets == "constant" else found
        value = triplet_loss(found, target, random, margin=margin)
        value += guidance * jnp.square(theta - most_unlike(random, places)).sum(axis=-1).mean()
        # Only for the log: the boxes do not reach the gradient.
        overlap = intersection_over_union(crop_boxes(theta, shape), batch.boxes)
        return value, {"train_correct": 100 * (overlap > 0.5).mean(), "theta": theta}

    def monitor(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return stnn.monitor(crop(), arrays["theta"], _MONITORED)

    @jax.jit
    def locate(params: Any, canvases: Array) -> Array:
        return nnx.merge(graph, params).localize(canvases)

    problem = Problem(
        init=init,
        loss=loss,
        draw=draw,
        optimizer=adam_cosine(learning_rate, steps),
        batch_size=batch_size,
        monitor=monitor,
        one_after_the_other=True,
    )
    return Network(problem, locate)


def _create_classifier(kind: Kind, rngs: nnx.Rngs) -> ConvolutionalClassifier:
    shape, classes, precision = kind
    model = ConvolutionalClassifier(shape, classes, features=_FILTERS, rngs=rngs)
    compute_in(model, precision)
    return model


def _graph_of(create: Callable[[nnx.Rngs], nnx.Module]) -> Any:
    abstract: Any = nnx.eval_shape(lambda: create(nnx.Rngs(0)))
    return nnx.graphdef(abstract)
