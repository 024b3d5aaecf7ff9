"""The training loop: one jitted function runs many steps; all else is bookkeeping around it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Integer, PRNGKeyArray

from experiments.data.distortions import distort_batch, distort_test_images
from experiments.data.tasks import Task
from experiments.engine.devices import Parallel, make_parallel
from stn_jax import nn as stnn

_EVALUATION_BATCH = 256
# A coarse lattice shows what a map does as well as that of the output.
_MONITORED_SIDE = 8


class State(NamedTuple):
    """What a training step carries: arrays only."""

    params: Any
    opt_state: Any
    step: Array


class Trainer(NamedTuple):
    """The pure functions of a training, made once and compiled at their first call."""

    initial_state: Callable[[int], State]
    steps: Callable[[State, Array, Array, PRNGKeyArray, int], tuple[State, dict[str, Array]]]
    run: Callable[[State, Array, Array, PRNGKeyArray, int], tuple[State, dict[str, Array]]]
    monitor: Callable[[Array], dict[str, Array]]
    predict: Callable[[State, Array, Array], Array]
    follow: Callable[[State, Array], dict[str, Array]]
    targets: Callable[[np.ndarray], np.ndarray]
    parallel: Parallel
    convolves: bool


class SeedsAtOnce(NamedTuple):
    """The same of several seeds: states, keys, metrics and predictions have a leading axis."""

    initial_state: Callable[[Sequence[int]], State]
    run: Callable[[State, Array, Array, Array, int], tuple[State, dict[str, Array]]]
    monitor: Callable[[Array], dict[str, Array]]
    predict: Callable[[State, Array, Array], Array]
    targets: Callable[[np.ndarray], np.ndarray]


def make_trainer(
    create_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    task: Task,
    batch_size: int,
    *,
    penalty: float = 0.0,
    accumulate: int = 1,
    parallel: Parallel | None = None,
) -> Trainer:
    """The functions that train and test a model.

    Args:
      create_model: Makes a freshly initialised classifier whose state is parameters only.
      optimizer: From optax, with its schedule.
      task: Its distortion is drawn afresh for every image of every step.
      batch_size: Images in a step, drawn with replacement.
      penalty: Weight in the loss of the distance of maps from the identity.
      accumulate: Parts in which a step works through its batch, which they divide.
      parallel: How steps are spread over devices; over all in one program if ``None``.

    Returns:
      ``initial_state(seed)``; ``run(state, images, labels, key, num_steps)``, the compiled form of
      ``steps``, on what ``parallel.place`` placed, which gives the new
      state and means over those steps: the loss, the error in percent and, with a spatial
      transformer, the gradients' norms, beside the ``theta`` of the last batch;
      ``monitor(theta)``, what :func:`stn_jax.nn.diagnose` judges of it; ``predict(state, images,
      numbers)``, the predicted labels of those numbers of an undistorted test set, as in
      :func:`experiments.data.distortions.distort_test_images`; ``follow(state, images)``, what
      the model makes of distorted images; the task's ``targets(labels)``; and whether the model
      has convolutions.
    """
    abstract: Any = nnx.eval_shape(lambda: create_model(nnx.Rngs(0)))
    graph = nnx.graphdef(abstract)
    parallel = make_parallel("jit", batch_size) if parallel is None else parallel

    def initial_state(seed: int) -> State:
        params = nnx.state(create_model(nnx.Rngs(seed)))
        return State(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def loss_and_error(params: Any, images: Array, labels: Array) -> tuple[Array, dict[str, Array]]:
        model = nnx.merge(graph, params)
        logits, theta = model.look(images)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        metrics = {"loss": loss, "train_error": 100 * (logits.argmax(-1) != labels).mean()}
        if theta is not None:
            metrics["theta"] = theta
            if penalty:
                transform = model.transformer.composition
                loss += penalty * stnn.identity_penalty(transform, theta).mean()
        return loss, metrics

    def gradients(params: Any, batch: Array, targets: Array) -> tuple[Any, dict[str, Array]]:
        one = jax.grad(loss_and_error, has_aux=True)
        if accumulate == 1:
            return one(params, batch, targets)

        def add(total: Any, part: tuple[Array, Array]) -> tuple[Any, dict[str, Array]]:
            grads, metrics = one(params, *part)
            return jax.tree.map(jnp.add, total, grads), metrics

        # Every so-manieth image, so that a part lies on the devices that the batch lies on.
        parts = jax.tree.map(
            lambda a: jnp.moveaxis(a.reshape(-1, accumulate, *a.shape[1:]), 1, 0), (batch, targets)
        )
        total, metrics = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), parts)
        theta = metrics.pop("theta", None)
        grads, metrics = jax.tree.map(lambda a: a / accumulate, total), _means(metrics)
        if theta is not None:
            metrics["theta"] = jnp.moveaxis(theta, 0, 1).reshape(-1, *theta.shape[2:])
        return grads, metrics

    def steps(
        state: State, images: Array, labels: Array, key: PRNGKeyArray, num_steps: int
    ) -> tuple[State, dict[str, Array]]:
        def step(state: State, _: None) -> tuple[State, dict[str, Array]]:
            # The draw depends on the step alone, so a resumed run sees the same batches.
            batch_key, distortion_key = jax.random.split(jax.random.fold_in(key, state.step))
            chosen = jax.random.randint(batch_key, (batch_size,), 0, len(images))
            batch = distort_batch(
                task.distortion, distortion_key, images, chosen, part=parallel.part
            )
            targets = parallel.part(task.targets(labels[chosen]))
            grads, metrics = gradients(state.params, batch, targets)
            theta = metrics.pop("theta", None)
            grads, metrics = parallel.mean((grads, metrics))
            if theta is not None:
                metrics["theta"] = theta
                metrics |= stnn.gradient_norms(grads, stnn.localization_labels)
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return State(params, opt_state, state.step + 1), metrics

        state, metrics = jax.lax.scan(step, state, length=num_steps)
        theta = metrics.pop("theta", None)
        means = _means(metrics)
        return state, means if theta is None else means | {"theta": theta[-1]}

    @jax.jit
    def monitor(theta: Array) -> dict[str, Array]:
        transform = abstract.transformer.composition
        return stnn.monitor(transform, theta, transform.ndim * (_MONITORED_SIDE,))

    @jax.jit
    def predict(state: State, images: Array, numbers: Array) -> Array:
        distorted = distort_test_images(task.measured, images, numbers)
        return nnx.merge(graph, state.params)(distorted).argmax(-1)

    @jax.jit
    def follow(state: State, images: Array) -> dict[str, Array]:
        model = nnx.merge(graph, state.params)
        if model.transformer is None:
            return {"predictions": model(images).argmax(-1)}
        outputs, theta = model.transformer(images, return_theta=True)
        predictions = model.classify(outputs).argmax(-1)
        return {"theta": theta, "outputs": outputs, "predictions": predictions}

    run = parallel.compile(steps)
    convolves = any(isinstance(module, nnx.Conv) for _, module in nnx.iter_modules(abstract))
    return Trainer(
        initial_state, steps, run, monitor, predict, follow, task.targets, parallel, convolves
    )


def _means(metrics: dict[str, Array]) -> dict[str, Array]:
    return jax.tree.map(jnp.mean, metrics)


def at_once(trainer: Trainer) -> SeedsAtOnce:
    """The functions of a training for several seeds in one compiled program.

    Images and labels are common to all seeds, and test images are distorted once for all. Every
    seed ends as it would by itself, up to rounding.
    """

    def initial_state(seeds: Sequence[int]) -> State:
        return jax.tree.map(lambda *each: jnp.stack(each), *map(trainer.initial_state, seeds))

    def steps(
        states: State, images: Array, labels: Array, keys: Array, num_steps: int
    ) -> tuple[State, dict[str, Array]]:
        one = lambda state, key: trainer.steps(state, images, labels, key, num_steps)  # noqa: E731
        if len(keys) > 1 and trainer.convolves and jax.default_backend() != "cpu":
            # Convolutions with a kernel for each seed are grouped ones, which cuDNN runs slower
            # than one after the other.
            return jax.lax.map(lambda each: one(*each), (states, keys))
        if len(keys) > 1:
            return jax.vmap(one)(states, keys)
        # A product that is batched, be it by one, is slower than a plain one on the CPU.
        ended = one(*jax.tree.map(lambda each: each[0], (states, keys)))
        return jax.tree.map(lambda each: each[None], ended)

    monitor = jax.jit(jax.vmap(trainer.monitor))
    predict = jax.jit(jax.vmap(trainer.predict, in_axes=(0, None, None)))
    run = trainer.parallel.compile(steps)
    return SeedsAtOnce(initial_state, run, monitor, predict, trainer.targets)


def misread(
    trainer: Trainer | SeedsAtOnce,
    state: State,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    copies: int = 1,
) -> Bool[np.ndarray, "*seeds copies images"]:
    """Whether each distorted copy of each undistorted, labelled uint8 test image is misread."""
    read = predictions(trainer, state, images, copies=copies)
    wrong = read != np.tile(trainer.targets(labels), copies)
    return wrong.reshape(*wrong.shape[:-1], copies, len(labels))


def predictions(
    trainer: Trainer | SeedsAtOnce, state: State, images: np.ndarray, *, copies: int = 1
) -> Integer[np.ndarray, "*seeds total"]:
    """What each distorted copy of each undistorted uint8 test image is taken for."""
    resident, total = jnp.asarray(images), copies * len(images)
    parts = [
        # Always as many, so that there is one compilation; what is too much is left out.
        np.asarray(trainer.predict(state, resident, first + jnp.arange(_EVALUATION_BATCH)))
        for first in range(0, total, _EVALUATION_BATCH)
    ]
    return np.concatenate(parts, axis=-1)[..., :total]
