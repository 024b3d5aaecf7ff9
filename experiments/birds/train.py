"""The training on birds: random crops and mirror images, the optimizers, and the loss.

The host hands over uint8 images that are a little larger than the networks' input. A training step
takes a random crop of each, mirrored or not; a measurement takes the centre crop.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

import stn_jax as stn
from experiments.birds.model import PartModel
from experiments.engine.optimizers import (
    adam_cosine,
    localization_gradient_norms,
    sgd_staircase,
    with_localization_rate,
)
from experiments.engine.problem import Problem, Shard

_Images = Array | np.ndarray


class BirdClassifier(NamedTuple):
    """A model of birds, as pure functions.

    Attributes:
      problem: The problem to train, without batches and measurements. Its constants are the model's
        variables that are not parameters, such as the statistics of normalisations. Its batches
        hold ``image``, uint8, and ``label``.
      forward: ``forward(params, constants, images)`` gives the logits of images from the host, and
        the centres of the crops, ``None`` without transformers.
    """

    problem: Problem
    forward: Callable[[Any, Any, Any], tuple[Array, Array | None]]


def stored_side(side: int) -> int:
    """The side of the images from the host for a side of the random crops: 256 for 224."""
    return 8 * round(side / 7)


def cut_and_flip(
    key: PRNGKeyArray, image: Float[Array, "h w c"], side: int
) -> Float[Array, "side side c"]:
    """A square at a random place of an image, mirrored in half of the cases.

    The place is a whole pixel, so every pixel of the result is a pixel of the image.
    """
    height, width, _ = image.shape
    place_key, flip_key = jax.random.split(key)
    room = jnp.array([width - side, height - side])
    corner = jax.random.randint(place_key, (2,), 0, room + 1)
    x, y = (2 * corner + side) / np.array([width, height]) - 1
    flip = jnp.where(jax.random.bernoulli(flip_key), -1, 1)
    zero = jnp.zeros(())
    theta = jnp.stack([flip * side / width, zero, x, zero, zero + side / height, y])
    return stn.warp(image, stn.affine(), theta, output_shape=(side, side))


def middle(
    images: Shaped[_Images, "batch h w c"], side: int
) -> Shaped[_Images, "batch side side c"]:
    """The square in the middle of each image."""
    top, left = ((size - side) // 2 for size in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def make_optimizer(
    recipe: str, rate: float, steps: int, *, localization_rate: float | None, frozen_steps: int = 0
) -> optax.GradientTransformation:
    """The optimizer of a recipe.

    Args:
      recipe: ``adam``, its rate falling along a cosine, or ``paper``: SGD, its rate divided by ten
        after 10,000, 20,000 and 25,000 of 30,000 steps. The paper does not state the momentum.
      rate: The learning rate at the start.
      steps: Steps of the whole training.
      localization_rate: Factor on the rate of the localization network; ``None`` if there is none.
      frozen_steps: Number of steps at the start in which the localization network is not trained.
    """
    if recipe == "adam":
        optimizer = adam_cosine(rate, steps)
    else:
        shares = (1 / 3, 2 / 3, 5 / 6)
        optimizer = sgd_staircase(rate, steps, shares, momentum=0.9, weight_decay=1e-5)
    if localization_rate is None:
        return optimizer
    return with_localization_rate(optimizer, localization_rate, frozen_steps)


def make_classifier(
    create_model: Callable[[nnx.Rngs], PartModel],
    prepare: Callable[[PartModel], object],
    optimizer: optax.GradientTransformation,
    batch_size: int,
) -> BirdClassifier:
    """The functions that train and test a model.

    Args:
      create_model: Makes a freshly initialised model.
      prepare: Called on the model before the training, for instance to load weights.
      optimizer: From optax, with its schedule.
      batch_size: Images in a step, over all processes.
    """
    abstract: Any = nnx.eval_shape(lambda: create_model(nnx.Rngs(0)))
    graph = nnx.graphdef(abstract)
    side = abstract.image_size

    def init(seed: int) -> tuple[Any, Any]:
        model = create_model(nnx.Rngs(seed))
        prepare(model)
        params, constants = nnx.state(model, nnx.Param, ...)
        return params, constants

    def draw(key: PRNGKeyArray, data: Any, shard: Shard) -> tuple[Array, Array]:
        crop_key, _ = _keys(key)
        keys = shard(jax.random.split(crop_key, batch_size))
        images = jax.vmap(cut_and_flip, in_axes=(0, 0, None))(
            keys, _in_unit_range(data["image"]), side
        )
        return images, data["label"]

    def loss(
        params: Any, constants: Any, batch: tuple[Array, Array], key: PRNGKeyArray
    ) -> tuple[Array, dict[str, Array]]:
        images, labels = batch
        _, dropout_key = _keys(key)
        logits, _ = nnx.merge(graph, params, constants).forward(images, dropout_key)
        value = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return value, {"train_error": 100 * (logits.argmax(-1) != labels).mean()}

    @jax.jit
    def forward(params: Any, constants: Any, images: Any) -> tuple[Array, Array | None]:
        model = nnx.merge(graph, params, constants)
        return model.forward(middle(_in_unit_range(images), side))

    problem = Problem(
        init=init,
        loss=loss,
        draw=draw,
        optimizer=optimizer,
        batch_size=batch_size,
        gradient_metrics=None if abstract.transformer is None else localization_gradient_norms,
        one_after_the_other=True,
    )
    return BirdClassifier(problem, forward)


def _keys(key: PRNGKeyArray) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The keys of the random crops and of the dropout in a step."""
    crop_key, dropout_key = jax.random.split(key)
    # The second split keeps the draws of earlier versions, which split a key for each device.
    return crop_key, jax.random.split(dropout_key, 1)[0]


def _in_unit_range(images: UInt8[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
    return jnp.asarray(images).astype(jnp.float32) / 255
