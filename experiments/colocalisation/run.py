"""Trains the networks of a co-localisation and measures their crops."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Integer, UInt8

from experiments.colocalisation.config import Arguments, Colocalisation
from experiments.colocalisation.model import Kind, Network, make_encoder, make_localizer
from experiments.colocalisation.records import SetResult
from experiments.colocalisation.scenes import (
    PATCHES,
    SetName,
    crop_boxes,
    draw_held_out,
    intersection_over_union,
)
from experiments.data.datasets import Dataset, Split
from experiments.engine import (
    Problem,
    Program,
    Snapshots,
    State,
    all_devices,
    fit,
    in_batches,
    intervals,
    make_program,
)
from experiments.engine.session import Session

# Jaderberg et al., arXiv:1506.02025, appendix: percent correct, smallest and largest of the ten
# classes.
PAPER: dict[SetName, tuple[float, float]] = {"T": (100.0, 100.0), "TC": (75.0, 94.0)}
_FOLLOWED = 6
# Adam's rate for the encoder, at the start.
_ENCODER_RATE = 1.4e-3
_EVALUATION_BATCH = 128


class Measured(NamedTuple):
    """The crops that a localizer predicts on canvases.

    Attributes:
      boxes: True boxes, ``[images, 4]``.
      theta: Parameters of the crops, ``[images, 2]``.
      overlap: Intersection over union of box and crop, ``[images]``.
    """

    boxes: np.ndarray
    theta: np.ndarray
    overlap: np.ndarray


# By set and class, the crops of each seed.
Found = dict[tuple[SetName, int], list[Measured]]


class Networks(NamedTuple):
    """The networks of a co-localisation."""

    encoder: Network
    localizers: Mapping[SetName, Network]


def classes_of(experiment: Colocalisation, dataset: Dataset) -> tuple[int, ...]:
    """The classes to co-localise, checked.

    Raises:
      ValueError: If the data have no image of one of them.
    """
    present = np.intersect1d(dataset.train.labels, dataset.test.labels).tolist()
    digits = tuple(present) if experiment.digits is None else experiment.digits
    missing = sorted(set(digits) - set(present))
    if missing:
        raise ValueError(
            f"digits must be classes of {dataset.name}, which are {present}; got {missing}."
        )
    return digits


def make_networks(experiment: Colocalisation, dataset: Dataset) -> Networks:
    """The encoder, and a localizer for each set.

    Raises:
      ValueError: If the images are too small, or batches do not divide over the devices.
    """
    kind = Kind(dataset.image_shape, dataset.num_classes, experiment.precision)
    encoder = make_encoder(kind, steps=experiment.encoder_steps, learning_rate=_ENCODER_RATE)
    localizers = {
        name: make_localizer(
            kind,
            patches=PATCHES[name],
            steps=experiment.steps,
            batch_size=experiment.batch_size,
            learning_rate=experiment.learning_rate,
            random_crops=experiment.random_crops,
            margin=experiment.margin,
            guidance=experiment.guidance,
            targets=experiment.targets,
        )
        for name in experiment.sets
    }
    validates = dataset.validation is not None
    for batch_size in (encoder.problem.batch_size, experiment.batch_size):
        experiment.check_training(batch_size, validates=validates)
    return Networks(encoder, localizers)


def train_all(
    arguments: Arguments,
    dataset: Dataset,
    digits: Sequence[int],
    networks: Networks,
    session: Session,
) -> tuple[Found, list[float]]:
    """Trains all networks; returns the crops by set, class and seed, and the encoders' errors.

    Args:
      arguments: The options.
      dataset: The data.
      digits: The classes.
      networks: From :func:`make_networks`.
      session: The session of the output folder.
    """
    found: Found = {(name, digit): [] for name in arguments.sets for digit in digits}
    errors: list[float] = []
    encoder = _encoder_problem(arguments, networks.encoder, dataset)
    program = _program(arguments, encoder)
    programs = {k: _program(arguments, each.problem) for k, each in networks.localizers.items()}
    for seeds in arguments.seed_groups:
        dispatch = arguments.steps_per_dispatch
        schedule = arguments.schedule_of(arguments.encoder_steps, dispatch)
        encoders = fit(encoder, program, schedule, session, seeds, name="encoder").states.params
        errors += [
            _error(networks.encoder, _of(encoders, k), dataset.test) for k in range(len(seeds))
        ]
        for (name, digit), each in found.items():
            network = networks.localizers[name]
            constants = {seed: _of(encoders, k) for k, seed in enumerate(seeds)}
            problem = dataclasses.replace(
                _localizer_problem(arguments, network, dataset, name, digit, session),
                init=_with_constants(network.problem.init, constants),
            )
            schedule = arguments.schedule_of(arguments.steps, dispatch)
            label = label_of(name, digit)
            fitted = fit(problem, programs[name], schedule, session, seeds, name=label)
            each += [
                measure(network, fitted.of_seed(k)[0], dataset.test, name, digit)
                for k in range(len(seeds))
            ]
    return found, errors


def label_of(name: SetName, digit: int) -> str:
    """The name of the trainings of a class of a set."""
    return f"{name}-digit-{digit}"


def followed_canvases(dataset: Dataset, name: SetName, digit: int) -> tuple[Array, Array]:
    """The first held-out canvases of a class, and the true boxes on them."""
    numbers = np.flatnonzero(dataset.test.labels == digit)[:_FOLLOWED]
    return draw_held_out(numbers, jnp.asarray(dataset.test.images), patches=PATCHES[name])


def measure(localizer: Network, params: Any, split: Split, name: SetName, digit: int) -> Measured:
    """The crops of one seed on all canvases of a class, one for each image of a split."""
    pool, numbers = jnp.asarray(split.images), np.flatnonzero(split.labels == digit)

    def part(places: Integer[np.ndarray, " batch"]) -> tuple[Array, Array, Array]:
        canvases, boxes = draw_held_out(numbers[places], pool, patches=PATCHES[name])
        theta = localizer.apply(params, canvases)
        overlap = intersection_over_union(crop_boxes(theta, canvases.shape[1:]), boxes)
        return boxes, theta, overlap

    return Measured(*in_batches(part, len(numbers), _EVALUATION_BATCH))


def result_of(
    name: SetName,
    digits: Sequence[int],
    found: Sequence[Sequence[Measured]],
    *,
    comparable: bool = True,
) -> SetResult:
    """The result of some classes of a set.

    Args:
      name: The set.
      digits: The classes; the result of several is over all their canvases.
      found: For each class, the crops of each seed.
      comparable: Whether the data are the benchmark that the paper used.
    """
    wrong = np.concatenate(
        [np.stack([each.overlap <= 0.5 for each in seeds]) for seeds in found], axis=1
    )[:, None]
    low, high = intervals.interval(wrong)
    return SetResult(
        set=name,
        digits=tuple(digits),
        correct=tuple((100 - 100 * wrong.mean(axis=(1, 2))).tolist()),
        mean=float(100 - 100 * wrong.mean()),
        interval=(100 - high, 100 - low),
        canvases=wrong.shape[-1],
        mean_overlap=float(np.mean([each.overlap.mean() for k in found for each in k])),
        paper=PAPER[name] if comparable else None,
    )


def _program(arguments: Arguments, problem: Problem) -> Program:
    devices = all_devices(arguments.parallel, problem.batch_size)
    return make_program(problem, devices, accumulate=arguments.accumulate)


def _of(params: Any, place: int) -> Any:
    """The parameters of one of the seeds."""
    return jax.tree.map(lambda each: each[place], params)


def _with_constants(
    init: Callable[[int], tuple[Any, Any]], constants: Mapping[int, Any]
) -> Callable[[int], tuple[Any, Any]]:
    """An ``init`` whose constants are those of the seed."""
    return lambda seed: (init(seed)[0], constants[seed])


def _encoder_problem(arguments: Arguments, encoder: Network, dataset: Dataset) -> Problem:
    """The encoder's problem with its data; it is validated only if a training may stop early."""
    held_out = dataset.validation if arguments.early_stopping is not None else None

    def evaluate(states: State, constants: Any) -> dict[str, np.ndarray]:
        del constants
        assert held_out is not None
        each = [_error(encoder, _of(states.params, k), held_out) for k in range(len(states.step))]
        return {"validation_error": np.array(each)}

    return dataclasses.replace(
        encoder.problem,
        data=(dataset.train.images, dataset.train.labels),
        evaluate=None if held_out is None else evaluate,
    )


def _localizer_problem(
    arguments: Arguments,
    localizer: Network,
    dataset: Dataset,
    name: SetName,
    digit: int,
    session: Session,
) -> Problem:
    """The problem of a class of a set, with its data and snapshots of a few canvases."""
    labels, held_out = dataset.train.labels, None
    members = np.flatnonzero(labels == digit)
    # Pad to the same length for all classes, so that there is one compilation.
    padded = np.resize(members, np.bincount(labels).max())
    if arguments.early_stopping is not None:
        held_out = dataset.validation

    def evaluate(states: State, constants: Any) -> dict[str, np.ndarray]:
        del constants
        assert held_out is not None
        overlaps = [
            measure(localizer, _of(states.params, k), held_out, name, digit).overlap
            for k in range(len(states.step))
        ]
        return {"validation_error": np.array([100 * (each <= 0.5).mean() for each in overlaps])}

    canvases, _ = followed_canvases(dataset, name, digit)
    snapshots = Snapshots(
        session.folder / "snapshots" / f"{label_of(name, digit)}.npz",
        lambda params, constants: {"theta": localizer.apply(params, canvases)},
        {},
        seed=arguments.seeds[0],
    )
    return dataclasses.replace(
        localizer.problem,
        data=(dataset.train.images, padded, np.asarray(len(members))),
        evaluate=None if held_out is None else evaluate,
        snapshots=snapshots,
    )


def _error(encoder: Network, params: Any, split: Split) -> float:
    """The percentage of the plain images of a split that the encoder's logits misclassify."""
    images: UInt8[np.ndarray, "n h w c"] = split.images
    predicted = in_batches(
        lambda part: encoder.apply(params, jnp.asarray(images[part], jnp.float32) / 255).argmax(-1),
        len(images),
        _EVALUATION_BATCH,
    )
    return float(100 * (predicted != split.labels).mean())
