"""Trains a model of birds and measures it."""

import dataclasses
import functools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from experiments import models
from experiments.birds import data as birds
from experiments.birds import train
from experiments.birds.config import Arguments, Birds
from experiments.birds.data import Split
from experiments.birds.measure import Predicted, crop_rates, predict
from experiments.birds.model import PartModel
from experiments.birds.records import ModelResult
from experiments.birds.report import Pictured
from experiments.birds.train import BirdClassifier
from experiments.data import pipeline
from experiments.data.examples import Examples
from experiments.data.pipeline import Reading, Shard
from experiments.engine import (
    Fitted,
    Problem,
    State,
    all_devices,
    fit,
    intervals,
    make_program,
)
from experiments.engine.session import Session
from experiments.models.backbones.weights import load_weights

# Jaderberg et al., arXiv:1506.02025, section 4.3: accuracy in percent, by number of transformers
# and side of the image.
PAPER = {(0, 224): 82.3, (2, 224): 83.1, (0, 448): 82.3, (2, 448): 83.9, (4, 448): 84.1}
# Side of the input of the paper's backbones, to which the plain CNN's image is reduced.
_PAPER_INPUT = 224
_PICTURED = 8
_Forward = Callable[[Any], tuple[Array, Array | None]]


def name_of(num_transforms: int) -> str:
    """The name of a model."""
    return f"{num_transforms}xst-cnn" if num_transforms else "cnn"


def check(arguments: Arguments) -> birds.Birds | None:
    """Checks the options; returns the data, or ``None`` if they are not drawn yet.

    Raises:
      ValueError: If the batch does not divide over the devices, a model cannot be built, or data or
        weights cannot be read.
    """
    arguments.check_training(arguments.resolved.batch_size, validates=arguments.validation > 0)
    for number in arguments.num_transforms:
        _abstract_model(arguments, number, 1)
    if arguments.weights is not None:
        _load(arguments, _create_model(arguments, 0, 1, nnx.Rngs(0)))
    return None if arguments.data == "drawn" else read_data(arguments)


def read_data(arguments: Arguments) -> birds.Birds:
    """Opens the data set; a drawn one is in the output folder."""
    return birds.load(
        arguments.data,
        arguments.framing,
        validation=arguments.validation,
        drawn=arguments.out / "drawn",
    )


def measured_split(experiment: Birds, data: birds.Birds) -> Split:
    """The images to measure at the end."""
    if experiment.on == "test":
        return data.test
    assert data.validation is not None
    return data.validation


def train_and_test(
    arguments: Arguments, num_transforms: int, data: birds.Birds, session: Session
) -> tuple[ModelResult, Pictured | None]:
    """Trains a model for all seeds; returns its result, and pictures of the first seed's crops.

    Args:
      arguments: The options.
      num_transforms: Number of transformers of the model; with 0 there are no pictures.
      data: The data to train on and to measure.
      session: The session of the output folder.
    """
    classifier = build_classifier(arguments, num_transforms, data)
    problem = _with_data(arguments, classifier, data)
    devices = all_devices(arguments.parallel, problem.batch_size)
    program = make_program(problem, devices, accumulate=arguments.accumulate)
    split, predicted, pictures = measured_split(arguments, data), [], None
    for seeds in arguments.seed_groups:
        name = name_of(num_transforms)
        fitted = fit(problem, program, arguments.schedule, session, seeds, name=name)
        for place in range(len(seeds)):
            forward = functools.partial(classifier.forward, *fitted.of_seed(place))
            predicted.append(predict(arguments, forward, split))
            if num_transforms and pictures is None:
                pictures = _pictured(arguments, forward, split)
    start = _first_crops(classifier, data, problem.batch_size)
    return result_of(arguments, num_transforms, predicted, data, start), pictures


def build_classifier(experiment: Birds, num_transforms: int, data: birds.Birds) -> BirdClassifier:
    """The functions that train and test a model.

    Raises:
      ValueError: If the model cannot be built for images of that size.
    """
    resolved = experiment.resolved
    optimizer = train.make_optimizer(
        experiment.recipe,
        resolved.learning_rate,
        resolved.steps,
        localization_rate=resolved.localization_rate if num_transforms else None,
        frozen_steps=resolved.localization_frozen_steps,
    )
    create = functools.partial(_create_model, experiment, num_transforms, len(data.classes))
    prepare = functools.partial(_load, experiment)
    return train.make_classifier(create, prepare, optimizer, resolved.batch_size)


def _with_data(arguments: Arguments, classifier: BirdClassifier, data: birds.Birds) -> Problem:
    """The problem with its batches from the host and the measurement of held-out images."""
    examples, held_out = data.train.unannotated(), data.validation

    def batches(seed: int, start: int) -> Generator[dict[str, np.ndarray], None, None]:
        return pipeline.shuffled(
            examples,
            classifier.problem.batch_size,
            seed=seed,
            start=start,
            shard=Shard(jax.process_index(), jax.process_count()),
            reading=Reading(workers=arguments.workers, threads=arguments.threads),
        )

    def evaluate(states: State, constants: Any) -> dict[str, np.ndarray]:
        assert held_out is not None
        errors = []
        for place in range(len(states.step)):
            own = Fitted(states, constants).of_seed(place)
            found = predict(arguments, functools.partial(classifier.forward, *own), held_out)
            errors.append(100 * float((found.labels != held_out.labels).mean()))
        return {"validation_error": np.array(errors)}

    return dataclasses.replace(
        classifier.problem, batches=batches, evaluate=None if held_out is None else evaluate
    )


def _create_model(
    experiment: Birds, num_transforms: int, num_classes: int, rngs: nnx.Rngs
) -> PartModel:
    return PartModel(
        experiment.backbone,
        experiment.side,
        num_classes,
        num_transforms=num_transforms,
        crop_size=experiment.input_side,
        dropout=experiment.resolved.dropout,
        dtype=jnp.dtype(experiment.precision),
        remat=experiment.remat,
        rngs=rngs,
    )


def _abstract_model(experiment: Birds, num_transforms: int, num_classes: int) -> Any:
    return nnx.eval_shape(
        lambda: _create_model(experiment, num_transforms, num_classes, nnx.Rngs(0))
    )


def _load(experiment: Birds, model: PartModel) -> None:
    """Loads the published weights, if a file was given, into all backbones."""
    if experiment.weights is not None:
        for backbone in model.backbones:
            load_weights(backbone, Path(experiment.weights).expanduser())


def _first_crops(
    classifier: BirdClassifier, data: birds.Birds, batch_size: int
) -> np.ndarray | None:
    """Centres of the untrained crops, ``[transforms, 2]``; they are the same in every image."""
    images = _as_batch(data.train.examples, np.array([0]), batch_size)
    theta = classifier.forward(*classifier.problem.init(0), images)[1]
    return None if theta is None else np.asarray(theta)[0]


def _as_batch(examples: Examples, numbers: np.ndarray, size: int) -> np.ndarray:
    """Repeats images to the size of a batch, so that nothing is recompiled."""
    return np.stack([examples[int(k)]["image"] for k in np.resize(numbers, size)])


def result_of(
    experiment: Birds,
    num_transforms: int,
    predicted: Sequence[Predicted],
    data: birds.Birds,
    start: np.ndarray | None,
) -> ModelResult:
    """The result of a model.

    Args:
      experiment: The settings.
      num_transforms: Number of transformers of the model.
      predicted: The model's predictions, by seed.
      data: Its data.
      start: Centres of the untrained crops, ``[transforms, 2]``.
    """
    labels = measured_split(experiment, data).labels
    wrong = np.stack([each.labels != labels for each in predicted])[:, None]
    low, high = intervals.interval(wrong)
    paper = None
    if data.benchmark == "cub" and experiment.input_side == _PAPER_INPUT:
        paper = PAPER.get((num_transforms, experiment.side))
    model = _abstract_model(experiment, num_transforms, len(data.classes))
    result = ModelResult(
        model=name_of(num_transforms),
        num_parameters=models.count_parameters(model),
        accuracies=tuple((100 - 100 * wrong.mean(axis=(1, 2))).tolist()),
        accuracy=float(100 - 100 * wrong.mean()),
        interval=(100 - high, 100 - low),
        paper=paper,
    )
    if start is None:
        return result
    first, parts = predicted[0], data.parts

    def constant(centres: np.ndarray) -> np.ndarray:
        return np.broadcast_to(centres, (len(first.boxes), len(centres), 2))

    held = [crop_rates(each, each.theta, parts) for each in predicted if each.theta is not None]
    return dataclasses.replace(
        result,
        held=tuple(held),
        held_by_first_crops=crop_rates(first, constant(start), parts),
        held_in_the_middle=crop_rates(first, constant(np.zeros((1, 2))), parts),
    )


def _pictured(arguments: Arguments, forward: _Forward, split: Split) -> Pictured:
    """The first image of each of some classes, with its crops."""
    batch_size = arguments.resolved.batch_size
    chosen = np.sort(np.unique(split.labels, return_index=True)[1])
    chosen = chosen[: min(_PICTURED, batch_size)]
    images = _as_batch(split.examples, chosen, batch_size)
    logits, theta = (np.asarray(each)[: len(chosen)] for each in forward(images))
    middle = train.middle(images[: len(chosen)] / np.float32(255), arguments.side)
    right = split.labels[chosen] == logits.argmax(-1)
    return Pictured(np.asarray(middle), theta, right, arguments.input_side)
