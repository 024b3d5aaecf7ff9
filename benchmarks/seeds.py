"""Seeds trained in one program or one after the other: ``python -m benchmarks.seeds``.

It trains the models of ``experiments/models``, at their size in the experiments, as ``python -m
experiments.distorted_mnist`` does, on random images turned as in set R; once with
``--seeds-at-once`` 1, once with all seeds at once. Both are timed if their losses agree.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import records, timing
from benchmarks.harness.unfinished import Planned
from benchmarks.train_step import LEARNING_RATE, NUM_CLASSES
from experiments import models
from experiments.classification.step import make_classifier
from experiments.data.tasks import TASKS
from experiments.engine import State, all_devices, initial_states, make_program
from experiments.models import ModelName, TransformName

_IN_SHAPE = (28, 28, 1)
APART, AT_ONCE = "one after the other", "at once"
# Both programs differ only by rounding, which a few steps of training magnify.
_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      models: Models to train, with affine maps.
      seeds: Number of seeds.
      batch_size: Images in a step.
      width: Factor on the filters and units of the classifier.
      steps: Steps in one call.
    """

    models: tuple[ModelName, ...] = ("fcn", "cnn", "st-fcn", "st-cnn")
    seeds: int = 3
    batch_size: int = 128
    width: float = 1.0
    steps: int = 10


def contenders(name: ModelName, arguments: Arguments) -> dict[str, timing.Run]:
    """Both ways to train all seeds for some steps; each call continues the training."""
    kind: tuple[ModelName, TransformName, tuple[int, ...], int]
    kind = name, "affine", _IN_SHAPE, NUM_CLASSES
    width = arguments.width * models.width_for(models.PARAMETERS, *kind)
    batch_size, seeds = arguments.batch_size, range(arguments.seeds)
    rng = np.random.default_rng(arguments.seed)
    images = jnp.asarray(rng.integers(0, 256, (4 * batch_size, *_IN_SHAPE), np.uint8))
    labels = jnp.asarray(rng.integers(0, NUM_CLASSES, len(images)))
    problem = make_classifier(
        lambda rngs: models.build(*kind, width=width, rngs=rngs),
        optax.adam(LEARNING_RATE),
        TASKS["R"],
        batch_size,
    ).problem
    program = make_program(problem, all_devices("jit", batch_size))
    keys = jnp.stack([jax.random.key(seed) for seed in seeds])

    def run(groups: list[jax.Array], states: list[State]) -> np.ndarray:
        losses = []
        for k, own in enumerate(groups):
            states[k], metrics = program.run(states[k], (), (images, labels), own, arguments.steps)
            losses.append(np.asarray(metrics["loss"]))
        return np.concatenate(losses)

    apart = [initial_states(problem, [seed])[0] for seed in seeds]
    return {
        APART: functools.partial(run, [keys[k : k + 1] for k in seeds], apart),
        AT_ONCE: functools.partial(run, [keys], [initial_states(problem, seeds)[0]]),
    }


def plan(arguments: Arguments) -> Iterator[Planned]:
    """A row for each model."""
    if arguments.small:
        arguments = dataclasses.replace(arguments, batch_size=8, width=0.05, steps=2)
    for name in arguments.models:
        labels: records.Row = {
            "model": name,
            "seeds": arguments.seeds,
            "batch": arguments.batch_size,
            "width": arguments.width,
        }
        yield Planned(labels, functools.partial(_row, name, arguments))


def _row(name: ModelName, arguments: Arguments) -> records.Row:
    runs = contenders(name, arguments)
    losses: dict[str, Any] = {way: run() for way, run in runs.items()}
    np.testing.assert_allclose(losses[AT_ONCE], losses[APART], rtol=_TOLERANCE)
    seconds = timing.measure(runs, arguments.budget, seed=arguments.seed)
    steps = {way: values / arguments.steps for way, values in seconds.items()}
    row = timing.compare(steps, AT_ONCE)
    spread = {way: records.milliseconds(each) for way, each in row["seconds"].items()}
    print(
        f"{name:7} a step of {arguments.seeds} seeds, batch {arguments.batch_size}: "
        f"{APART} {spread[APART]} ms, {AT_ONCE} {spread[AT_ONCE]} ms, "
        f"{row['ratios'][APART]['median']:.2f} times as fast",
        flush=True,
    )
    return row


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("seeds", Arguments, __doc__, plan, command_line)


if __name__ == "__main__":
    main()
