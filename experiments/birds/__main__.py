"""Birds: species told by crops of parts, which parallel spatial transformers find by themselves.

``python -m experiments.birds --help`` lists the options.

Protocol of Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 4.3 and
appendix: CUB-200-2011; N crops of half the image's side, whose centres alone are learnt; ``--side
448`` of which crops are read at 224 pixels; ``--recipe paper`` (a); random crops and mirror images
in training (b). Marks as in :mod:`experiments.data.distortions`. What is chosen of the networks
stands in :mod:`experiments.birds.model`.

Choices and deviations:

- The plain CNN is the same backbone on the whole image, reduced to the size of a crop. The paper's
  CNN of 224 pixels is this one with ``--side 448``.
- A picture's shorter side becomes the side of the image, and the middle is cut out of the longer
  one; ``--fit whole`` keeps all, squeezed. Test images are seen without an eighth of their margin,
  which is the room for the random crops.
- Momentum 0.9, and batches of 32.
- Boxes and places of parts are used to measure what crops hold, and for nothing else. Beside what
  was found stands what crops in the middle of the image hold, and what the first ones do, which
  tile it. Transformers are in no order; of every seed, that with most of head over body is first.
- ``--data drawn`` needs nothing to be fetched: small drawn birds, whose class is told by two signs
  that a crop can hold one at a time. There the network is small and begins from nothing, by Adam.
  The signs were drawn so small that the plain CNN reads them badly, crops of twice its resolution
  well; the recipe was chosen among 14 of two crops, on 600 further birds of neither set, and the
  plain CNN has its rate, the better of two.
"""

import functools
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from experiments import models
from experiments.birds import data as birds
from experiments.birds import drawn as drawn_birds
from experiments.birds import train as bird_training
from experiments.birds.config import Arguments, Birds
from experiments.birds.data import Split
from experiments.birds.measure import Found, crops_held, on_view
from experiments.birds.model import PartModel
from experiments.birds.report import Pictured, build_birds, tables
from experiments.birds.train import State, Trainer
from experiments.classification.run import prepare_folder
from experiments.data import pipeline
from experiments.data.examples import Examples
from experiments.data.pipeline import Reading, Shard
from experiments.engine import intervals as statistics
from experiments.engine.checkpoint import Checkpoints
from experiments.engine.command_line import run as run_command
from experiments.engine.devices import in_any, is_first, make_parallel, wait_for_all
from experiments.engine.files import environment, read_json, write_json
from experiments.engine.metrics import MetricsLog
from experiments.engine.signals import Interrupted, stop_signal
from experiments.models.backbones.weights import load_weights
from experiments.report import text_table

# Accuracy in percent, by the number of transformers and the side of the image they read; backbones
# see 224 pixels, to which the plain CNN's image is reduced.
PAPER = {(0, 224): 82.3, (2, 224): 83.1, (0, 448): 82.3, (2, 448): 83.9, (4, 448): 84.1}
_PAPER_SEEN = 224
_SECONDS_BETWEEN_CHECKPOINTS = 60
_VALIDATIONS = 10
_PICTURED = 8


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command("python -m experiments.birds", Arguments, _classify, command_line)


def name_of(num_transforms: int) -> str:
    """What a model is called."""
    return f"{num_transforms}xst-cnn" if num_transforms else "cnn"


def _classify(arguments: Arguments) -> None:
    """Trains what is not trained yet; measures, reports and prints the tables."""
    result_file = arguments.out / "result.json"
    # What may be wrong is tried before a folder is touched.
    data = None if result_file.exists() and arguments.resume else check(arguments)
    prepare_folder(arguments, arguments.out, resume=arguments.resume, overwrite=arguments.overwrite)
    if not result_file.exists():
        if data is None:
            if is_first():
                drawn_birds.write_once(arguments.out / "drawn")
            wait_for_all("drawn birds")
            data = _read_data(arguments)
        trainers = {n: make_trainer(arguments, n, data) for n in arguments.num_transforms}
        log = MetricsLog(arguments.out / "metrics.jsonl", key="training")
        rows, pictured = [], {}
        with closing(log), stop_signal() as stop:
            for number, trainer in trainers.items():
                train = functools.partial(_train, arguments, number, trainer, data, log, stop)
                row, pictures = _train_seeds(arguments, number, trainer, data, train)
                rows.append(row)
                if pictures is not None:
                    pictured[name_of(number)] = pictures
        result = _result(arguments, data, rows) | {
            "wall_time_s": round(log.total_seconds(), 2),
            **environment(),
        }
        logged = {
            name_of(number): [
                line for seed in arguments.seeds for line in log.rows(_training_name(number, seed))
            ]
            for number in arguments.num_transforms
        }
        if is_first():
            build_birds(arguments.out, result, logged, pictured)
            write_json(result_file, result)
        wait_for_all(str(result_file))
    for table in tables(read_json(result_file)):
        print(text_table(*table), end="\n\n")
    print(f"report: {arguments.out / 'report.html'}")


def check(arguments: Arguments) -> birds.Birds | None:
    """Tries what may be wrong with the options; gives the data unless they are yet to be drawn.

    Raises:
      ValueError: If the batch does not divide over the devices, a model cannot be built, or data or
        weights cannot be read.
    """
    make_parallel(arguments.parallel, arguments.settled.batch_size)
    for number in arguments.num_transforms:
        _abstract_model(arguments, number, 1)
    if arguments.weights is not None:
        _load(arguments, _create_model(arguments, 0, 1, nnx.Rngs(0)))
    return None if arguments.data == "drawn" else _read_data(arguments)


def _read_data(arguments: Arguments) -> birds.Birds:
    return birds.load(
        arguments.data,
        arguments.framing,
        validation=arguments.validation,
        drawn=arguments.out / "drawn",
    )


def _train_seeds(
    arguments: Arguments,
    num_transforms: int,
    trainer: Trainer,
    data: birds.Birds,
    train: Callable[[int], tuple[State, Any]],
) -> tuple[dict[str, Any], Pictured | None]:
    """What the result says of a model, and pictures of its first seed if it has transformers."""
    found, pictures = [], None
    for seed in arguments.seeds:
        state, constants = train(seed)
        look = functools.partial(trainer.look, state.params, constants)
        found.append(_found(arguments, look, _measured(arguments, data)))
        if num_transforms and pictures is None:
            pictures = _pictured(arguments, look, data)
    start = _start(trainer, data, arguments.settled.batch_size)
    return row_of(arguments, num_transforms, found, data, start), pictures


def make_trainer(experiment: Birds, num_transforms: int, data: birds.Birds) -> Trainer:
    """The trainer of a model.

    Raises:
      ValueError: If the model cannot be built for images of that size.
    """
    settled = experiment.settled

    create = functools.partial(_create_model, experiment, num_transforms, len(data.classes))
    optimizer = bird_training.make_optimizer(
        experiment.recipe,
        settled.learning_rate,
        settled.steps,
        localization_rate=settled.localization_rate if num_transforms else None,
        frozen_steps=settled.localization_frozen_steps,
    )
    parallel = make_parallel(experiment.parallel, settled.batch_size)
    return bird_training.make_trainer(
        create, functools.partial(_load, experiment), optimizer, settled.batch_size, parallel
    )


def _create_model(
    experiment: Birds, num_transforms: int, num_classes: int, rngs: nnx.Rngs
) -> PartModel:
    return PartModel(
        experiment.backbone,
        experiment.side,
        num_classes,
        num_transforms=num_transforms,
        crop_size=experiment.seen_side,
        dropout=experiment.settled.dropout,
        dtype=jnp.dtype(experiment.precision),
        remat=experiment.remat,
        rngs=rngs,
    )


def _abstract_model(experiment: Birds, num_transforms: int, num_classes: int) -> Any:
    return nnx.eval_shape(
        lambda: _create_model(experiment, num_transforms, num_classes, nnx.Rngs(0))
    )


def _load(experiment: Birds, model: PartModel) -> None:
    """Gives all backbones the published weights, if there are any."""
    if experiment.weights is not None:
        for backbone in model.backbones:
            load_weights(backbone, Path(experiment.weights).expanduser())


def _training_name(num_transforms: int, seed: int) -> str:
    return f"{name_of(num_transforms)}-seed-{seed}"


def _measured(experiment: Birds, data: birds.Birds) -> Split:
    """What is measured at the end."""
    if experiment.on == "test":
        return data.test
    assert data.validation is not None
    return data.validation


def _train(
    arguments: Arguments,
    num_transforms: int,
    trainer: Trainer,
    data: birds.Birds,
    log: MetricsLog,
    stop: dict[str, bool],
    seed: int,
) -> tuple[State, Any]:
    """One training, from its last checkpoint to the end; gives its state and the constants.

    Raises:
      Interrupted: If Ctrl-C or a termination signal came; the state is saved.
    """
    name, parallel, settled = (
        _training_name(num_transforms, seed),
        trainer.parallel,
        arguments.settled,
    )
    state, constants = trainer.initial(seed)
    with closing(Checkpoints(arguments.out / "checkpoints" / name)) as checkpoints:
        step, state = checkpoints.resume(state) or (0, state)
        log.forget_after([name], step)
        if step == settled.steps:
            return state, constants
        resident, fixed, key = map(parallel.place, (state, constants, jax.random.key(seed)))
        from_host = pipeline.shuffled(
            data.train.unannotated(),
            settled.batch_size,
            seed=seed,
            start=step,
            shard=Shard(jax.process_index(), jax.process_count()),
            reading=_reading(arguments),
        )
        before, started = log.seconds(name), time.perf_counter()
        saved_at = started
        # Nothing is said of it in the first, so that TQDM_DISABLE is heeded.
        silent = {} if is_first() else {"disable": True}
        lines_between = max(1, settled.steps // arguments.steps_per_line // _VALIDATIONS)
        with (
            closing(pipeline.placed_ahead(from_host, parallel.feed)) as batches,
            tqdm(total=settled.steps, initial=step, unit="step", desc=name, **silent) as bar,
        ):
            while step < settled.steps:
                count = min(arguments.steps_per_line, settled.steps - step)
                tick, each = time.perf_counter(), []
                for _ in range(count):
                    batch = next(batches)
                    resident, metrics = trainer.step(
                        resident, fixed, batch["image"], batch["label"], key
                    )
                    # Not read yet, so that the host runs ahead of the device.
                    each.append(metrics)
                state, lines = parallel.fetch((resident, each))
                row = {k: float(np.mean([line[k] for line in lines])) for k in lines[0]}
                rate = count * settled.batch_size / (time.perf_counter() - tick)
                step += count
                due = step // arguments.steps_per_line % lines_between == 0
                if data.validation is not None and (due or step == settled.steps):
                    look = functools.partial(trainer.look, state.params, constants)
                    read = _found(arguments, look, data.validation).predictions
                    row["validation_error"] = 100 * float((read != data.validation.labels).mean())
                timing = {
                    "images_per_second": round(rate, 1),
                    "seconds": round(before + time.perf_counter() - started, 2),
                }
                log.append({"training": name, "seed": seed, "step": step, **row, **timing})
                bar.update(count)
                bar.set_postfix(loss=f"{row['loss']:.4f}", error=f"{row['train_error']:.1f}%")
                stopping = in_any(stop["requested"])
                late = time.perf_counter() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS
                if stopping or late or step == settled.steps:
                    checkpoints.save(step, state)
                    saved_at = time.perf_counter()
                if stopping:
                    raise Interrupted(f"{name}, step {step} of {settled.steps}")
    return state, constants


def _reading(arguments: Arguments) -> Reading:
    return Reading(workers=arguments.workers, threads=arguments.threads)


def _found(arguments: Arguments, look: Any, split: Split) -> Found:
    """What a model makes of all images of a split."""
    batch_size, number = arguments.settled.batch_size, len(split.labels)
    # Threads are there at once, and there is too little to do for processes.
    batches = pipeline.in_order(split.examples, batch_size, reading=Reading(threads=2))
    predictions, theta, boxes, parts = [], [], [], []
    for batch in batches:
        logits, centres = look(batch["image"])
        predictions.append(np.asarray(logits).argmax(-1))
        if centres is not None:
            theta.append(np.asarray(centres))
        boxes.append(batch["box"].reshape(-1, 2, 2))
        parts.append(batch.get("parts", np.zeros((batch_size, 0, 2), np.float32)))
    view = functools.partial(on_view, stored=arguments.framing.side, side=arguments.side)
    return Found(
        np.concatenate(predictions)[:number],
        np.concatenate(theta)[:number] if theta else None,
        view(np.concatenate(boxes)[:number]).reshape(-1, 4),
        view(np.concatenate(parts)[:number]),
    )


def _start(trainer: Trainer, data: birds.Birds, batch_size: int) -> np.ndarray | None:
    """Centres of the first crops ``[transforms, 2]``, the same of every image."""
    state, constants = trainer.initial(0)
    images = _as_batch(data.train.examples, np.array([0]), batch_size)
    theta = trainer.look(state.params, constants, images)[1]
    return None if theta is None else np.asarray(theta)[0]


def _as_batch(examples: Examples, numbers: np.ndarray, size: int) -> np.ndarray:
    """Images over and over, as many as there are in a batch, so that nothing is compiled anew."""
    return np.stack([examples[int(k)]["image"] for k in np.resize(numbers, size)])


def row_of(
    experiment: Birds,
    num_transforms: int,
    found: Sequence[Found],
    data: birds.Birds,
    start: np.ndarray | None,
) -> dict[str, Any]:
    """What a result says of a model, given what each seed's training found.

    Args:
      experiment: The settings.
      num_transforms: Of the model.
      found: For each seed.
      data: That was measured.
      start: Centres of the first crops, ``[transforms, 2]``.
    """
    labels = _measured(experiment, data).labels
    wrong = np.stack([each.predictions != labels for each in found])[:, None]
    low, high = statistics.interval(wrong)
    paper = None
    if data.name.startswith("CUB") and experiment.seen_side == _PAPER_SEEN:
        paper = PAPER.get((num_transforms, experiment.side))
    model = _abstract_model(experiment, num_transforms, len(data.classes))
    row = {
        "model": name_of(num_transforms),
        "num_parameters": models.count_parameters(model),
        "accuracies": (100 - 100 * wrong.mean(axis=(1, 2))).tolist(),
        "accuracy": float(100 - 100 * wrong.mean()),
        "interval": [100 - high, 100 - low],
        "paper": paper,
    }
    if start is None:
        return row
    held = [crops_held(each, each.theta, data.parts) for each in found if each.theta is not None]
    first = found[0]
    number = len(first.boxes)
    constant = lambda centres: np.broadcast_to(centres, (number, len(centres), 2))  # noqa: E731
    return row | {
        "held": held,
        "held_by_first_crops": crops_held(first, constant(start), data.parts),
        "held_in_the_middle": crops_held(first, constant(np.zeros((1, 2))), data.parts),
    }


def _pictured(arguments: Arguments, look: Any, data: birds.Birds) -> Pictured:
    """The first measured image of each of some classes, and where crops of it are read."""
    split, batch_size = _measured(arguments, data), arguments.settled.batch_size
    chosen = np.sort(np.unique(split.labels, return_index=True)[1])
    chosen = chosen[: min(_PICTURED, batch_size)]
    images = _as_batch(split.examples, chosen, batch_size)
    logits, theta = (np.asarray(each)[: len(chosen)] for each in look(images))
    seen = bird_training.middle(images[: len(chosen)] / np.float32(255), arguments.side)
    right = split.labels[chosen] == logits.argmax(-1)
    return Pictured(np.asarray(seen), theta, right, arguments.seen_side)


def _result(
    experiment: Birds, data: birds.Birds, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What ``result.json`` holds but for time and place."""
    measured = _measured(experiment, data)
    return {
        "rows": list(rows),
        "interval_method": statistics.INTERVAL_METHOD,
        "dataset": data.name,
        "on": experiment.on,
        "num_classes": len(data.classes),
        "train_images": len(data.train.labels),
        "images": len(measured.labels),
        "seeds": list(experiment.seeds),
        # Which data, not where they lie.
        "settings": {k: v for k, v in experiment.to_json().items() if k not in ("data", "weights")},
    }


if __name__ == "__main__":
    sys.exit(main())
