"""Training on birds as pure functions: the draw of crops and mirror images, and the step.

Images come from the host as uint8, a little larger than what the networks see. A training step sees
a random crop of each, mirrored or not; what is measured sees the middle.
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
from experiments.engine.devices import Parallel
from stn_jax import nn as stnn
from stn_jax._types import AnyArray


class State(NamedTuple):
    """What a training step carries: arrays only."""

    params: Any
    opt_state: Any
    step: Array


class Trainer(NamedTuple):
    """The functions of a training, compiled at their first call.

    Attributes:
      initial: Of a seed, the state at the start and the constants: what the model holds beside
        parameters, such as the statistics of its normalisations.
      step: Of a state, the constants, a batch of images and labels and a key, the next state and
        metrics: the loss, the error in percent and, with transformers, the gradients' norms.
      look: Of parameters, constants and images as they come from the host, the logits and theta,
        ``None`` without transformers.
      parallel: How steps are spread over devices.
    """

    initial: Callable[[int], tuple[State, Any]]
    step: Callable[[State, Any, Array, Array, PRNGKeyArray], tuple[State, dict[str, Array]]]
    look: Callable[[Any, Any, Any], tuple[Array, Array | None]]
    parallel: Parallel


def stored_side(side: int) -> int:
    """Side of the images that come from the host, to be cut to a side: 256 for 224."""
    return 8 * round(side / 7)


def cut_and_flip(
    key: PRNGKeyArray, image: Float[Array, "h w c"], side: int
) -> Float[Array, "side side c"]:
    """A square at a random place of an image, in half of the cases mirrored.

    The place is one of whole pixels, so every pixel of the result is one of the image's.
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
    images: Shaped[AnyArray, "batch h w c"], side: int
) -> Shaped[AnyArray, "batch side side c"]:
    """The square in the middle of each image."""
    top, left = ((size - side) // 2 for size in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def make_optimizer(
    recipe: str, rate: float, steps: int, *, localization_rate: float | None, frozen_steps: int = 0
) -> optax.GradientTransformation:
    """That of a recipe of :mod:`experiments.birds`.

    Args:
      recipe: ``adam`` or ``paper``.
      rate: At the start.
      steps: Of the whole training.
      localization_rate: Factor on the rate of the localization network; ``None`` if there is none.
      frozen_steps: First steps in which it does not move.
    """
    optimizer = _OPTIMIZERS[recipe](rate, steps)
    if localization_rate is None:
        return optimizer
    slower = stnn.localization_rate(multiplier=localization_rate, frozen_steps=frozen_steps)
    return optax.chain(optimizer, slower)


def _adam_along_a_cosine(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def _sgd_of_the_paper(rate: float, steps: int) -> optax.GradientTransformation:
    """Divided by ten at 10,000, 20,000 and 25,000 of 30,000 steps; the momentum is chosen here."""
    boundaries = [round(steps * share) for share in (1 / 3, 2 / 3, 5 / 6)]
    schedules = [optax.constant_schedule(rate / 10**k) for k in range(4)]
    sgd = optax.sgd(optax.join_schedules(schedules, boundaries), momentum=0.9)
    return optax.chain(optax.add_decayed_weights(1e-5), sgd)


_OPTIMIZERS: dict[str, Callable[[float, int], optax.GradientTransformation]] = {
    "adam": _adam_along_a_cosine,
    "paper": _sgd_of_the_paper,
}


def make_trainer(
    create_model: Callable[[nnx.Rngs], PartModel],
    prepare: Callable[[PartModel], object],
    optimizer: optax.GradientTransformation,
    batch_size: int,
    parallel: Parallel,
) -> Trainer:
    """The functions that train a model.

    Args:
      create_model: Makes a freshly initialised one.
      prepare: What is done with it before the training, such as to load weights.
      optimizer: From optax, with its schedule.
      batch_size: Images in a step, over all processes.
      parallel: How steps are spread over devices.
    """
    abstract: Any = nnx.eval_shape(lambda: create_model(nnx.Rngs(0)))
    graph = nnx.graphdef(abstract)
    side = abstract.image_size

    def initial(seed: int) -> tuple[State, Any]:
        model = create_model(nnx.Rngs(seed))
        prepare(model)
        params, constants = nnx.state(model, nnx.Param, ...)
        return State(params, optimizer.init(params), jnp.zeros((), jnp.int32)), constants

    def loss_and_metrics(
        params: Any, constants: Any, images: Array, labels: Array, key: PRNGKeyArray
    ) -> tuple[Array, dict[str, Array]]:
        logits, _ = nnx.merge(graph, params, constants).look(images, key)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, {"loss": loss, "train_error": 100 * (logits.argmax(-1) != labels).mean()}

    def step(
        state: State, constants: Any, images: Array, labels: Array, key: PRNGKeyArray
    ) -> tuple[State, dict[str, Array]]:
        # The draw depends on the step alone, so a resumed run sees the same crops.
        crop_key, drop_key = jax.random.split(jax.random.fold_in(key, state.step))
        keys = parallel.part(jax.random.split(crop_key, batch_size))
        cut = jax.vmap(cut_and_flip, in_axes=(0, 0, None))(keys, _in_unit_range(images), side)
        # Where each device has a program of its own, each has a key of its own.
        own_key = parallel.part(jax.random.split(drop_key, parallel.devices))[0]
        grads, metrics = jax.grad(loss_and_metrics, has_aux=True)(
            state.params, constants, cut, labels, own_key
        )
        grads, metrics = parallel.mean((grads, metrics))
        if abstract.transformer is not None:
            metrics |= stnn.gradient_norms(grads, stnn.localization_labels)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, state.step + 1), metrics

    @jax.jit
    def look(params: Any, constants: Any, images: Any) -> tuple[Array, Array | None]:
        return nnx.merge(graph, params, constants).look(middle(_in_unit_range(images), side))

    return Trainer(initial, parallel.compile_step(step), look, parallel)


def _in_unit_range(images: UInt8[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
    return jnp.asarray(images).astype(jnp.float32) / 255
