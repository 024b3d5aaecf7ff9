"""A classifier as a problem of the engine: its loss, its batches and its predictions."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer, PRNGKeyArray

from experiments.data.distortions import distort_batch, distort_test_images
from experiments.data.tasks import Task
from experiments.engine.evaluate import in_batches
from experiments.engine.optimizers import localization_gradient_norms
from experiments.engine.problem import Problem, Shard
from stn_jax import nn as stnn

_EVALUATION_BATCH = 256
# Monitor transforms on a coarse lattice; the finer lattice of the output adds nothing.
_MONITORED_SIDE = 8


class Classifier(NamedTuple):
    """A model that is trained to predict labels, as pure functions.

    Attributes:
      problem: The problem to train, without data. Set its ``data`` to all training images, uint8,
        and their labels.
      predict: ``predict(params, images, numbers)`` gives the predicted labels of some images of an
        undistorted test set, by their numbers as in
        :func:`experiments.data.distortions.distort_test_images`.
      predict_seeds: ``predict`` for parameters with a leading axis of seeds. Images are distorted
        once for all seeds.
      forward: ``forward(params, images)`` gives the predicted labels of distorted images and, with
        a spatial transformer, theta and its outputs.
      task: The distortion and its labels.
    """

    problem: Problem
    predict: Callable[[Any, Array, Array], Array]
    predict_seeds: Callable[[Any, Array, Array], Array]
    forward: Callable[[Any, Array], dict[str, Array]]
    task: Task


def make_classifier(
    create_model: Callable[[nnx.Rngs], nnx.Module],
    optimizer: optax.GradientTransformation,
    task: Task,
    batch_size: int,
    *,
    penalty: float = 0.0,
    label_smoothing: float = 0.0,
) -> Classifier:
    """The functions that train and test a model.

    Args:
      create_model: Makes a freshly initialised classifier whose state is parameters only.
      optimizer: From optax, with its schedule.
      task: Its distortion is drawn afresh for every image of every step.
      batch_size: Images in a step, drawn with replacement.
      penalty: Weight in the loss of the transforms' distance from the identity.
      label_smoothing: Share of each label that is spread over all classes.
    """
    abstract: Any = nnx.eval_shape(lambda: create_model(nnx.Rngs(0)))
    graph = nnx.graphdef(abstract)
    transformer = abstract.transformer

    def init(seed: int) -> tuple[Any, Any]:
        return nnx.state(create_model(nnx.Rngs(seed))), ()

    def draw(key: PRNGKeyArray, data: tuple[Array, Array], shard: Shard) -> tuple[Array, Array]:
        images, labels = data
        batch_key, distortion_key = jax.random.split(key)
        chosen = jax.random.randint(batch_key, (batch_size,), 0, len(images))
        batch = distort_batch(task.distortion, distortion_key, images, chosen, part=shard)
        return batch, shard(task.targets(labels[chosen]))

    def loss(
        params: Any, constants: Any, batch: tuple[Array, Array], key: PRNGKeyArray
    ) -> tuple[Array, dict[str, Array]]:
        del constants, key
        images, labels = batch
        model = nnx.merge(graph, params)
        logits, theta = model.forward(images)
        value = _cross_entropy(logits, labels, label_smoothing).mean()
        metrics = {"loss": value, "train_error": 100 * (logits.argmax(-1) != labels).mean()}
        if theta is not None:
            metrics["theta"] = theta
            if penalty:
                distance = stnn.identity_penalty(model.transformer.composition, theta)
                value += penalty * distance.mean()
        return value, metrics

    def monitor(arrays: Mapping[str, Array]) -> dict[str, Array]:
        transform = transformer.composition
        return stnn.monitor(transform, arrays["theta"], transform.ndim * (_MONITORED_SIDE,))

    @jax.jit
    def predict(params: Any, images: Array, numbers: Array) -> Array:
        distorted = distort_test_images(task.measured, images, numbers)
        return nnx.merge(graph, params)(distorted).argmax(-1)

    @jax.jit
    def forward(params: Any, images: Array) -> dict[str, Array]:
        model = nnx.merge(graph, params)
        if model.transformer is None:
            return {"predictions": model(images).argmax(-1)}
        outputs, theta = model.transformer(images, return_theta=True)
        predictions = model.classify(outputs).argmax(-1)
        return {"theta": theta, "outputs": outputs, "predictions": predictions}

    problem = Problem(
        init=init,
        loss=loss,
        draw=draw,
        optimizer=optimizer,
        batch_size=batch_size,
        monitor=None if transformer is None else monitor,
        gradient_metrics=None if transformer is None else localization_gradient_norms,
        one_after_the_other=any(isinstance(m, nnx.Conv) for _, m in nnx.iter_modules(abstract)),
    )
    predict_seeds = jax.jit(jax.vmap(predict, in_axes=(0, None, None)))
    return Classifier(problem, predict, predict_seeds, forward, task)


def _cross_entropy(
    logits: Float[Array, "batch classes"], labels: Integer[Array, "batch"], smoothing: float
) -> Float[Array, "batch"]:
    if not smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def predictions(
    classifier: Classifier, params: Any, images: np.ndarray, *, copies: int = 1
) -> Integer[np.ndarray, "seeds total"]:
    """The predicted label of each distorted copy of each undistorted uint8 test image.

    Args:
      classifier: The model.
      params: Its parameters, with a leading axis of seeds.
      images: The test set.
      copies: Distorted copies of each image.
    """
    resident = jnp.asarray(images)
    return in_batches(
        lambda numbers: classifier.predict_seeds(params, resident, jnp.asarray(numbers)),
        copies * len(images),
        _EVALUATION_BATCH,
        axis=-1,
    )


def error_mask(
    classifier: Classifier, params: Any, images: np.ndarray, labels: np.ndarray, *, copies: int = 1
) -> Bool[np.ndarray, "seeds copies images"]:
    """Whether each distorted copy of each undistorted, labelled uint8 test image is misclassified.

    Parameters have a leading axis of seeds.
    """
    predicted = predictions(classifier, params, images, copies=copies)
    wrong = predicted != np.tile(classifier.task.targets(labels), copies)
    return wrong.reshape(len(wrong), copies, len(labels))
