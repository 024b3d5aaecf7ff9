"""The time that a spatial transformer adds to a model: ``python -m benchmarks.cost``.

It times the models of ``experiments/models`` with and without an affine spatial transformer before
the same classifier, whose width gives the plain model 400,000 parameters: a training step, as
``experiments/engine`` runs it with Adam, and the predictions of a batch. Images are random and
undistorted. For comparison: four transformers make the network of Jaderberg et al.,
arXiv:1506.02025, section 4.2, 6 % slower, on 64×64 pixels and with many more layers than here.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

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
from experiments.engine import all_devices, initial_states, make_program
from experiments.models import ModelName

_IN_SHAPE = (28, 28, 1)
PAIRS: dict[str, ModelName] = {"cnn": "st-cnn", "fcn": "st-fcn"}
STEP, BATCH = "training step", "predictions of a batch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """What to measure.

    Attributes:
      models: Models to put a transformer before.
      batch_size: Images in a training step, and in a batch to predict.
      width: Factor on the filters and units of the classifier.
      steps: Steps in one call.
    """

    models: tuple[Literal["cnn", "fcn"], ...] = ("cnn", "fcn")
    batch_size: int = 128
    width: float = 1.0
    steps: int = 10


def contenders(
    name: ModelName, width: float, arguments: Arguments
) -> tuple[int, dict[str, timing.Run]]:
    """The number of parameters of a model, and its timed functions; a call continues the training.

    Args:
      name: The model.
      width: Width of the classifier.
      arguments: The options.
    """
    batch_size, rng = arguments.batch_size, np.random.default_rng(arguments.seed)
    images = jnp.asarray(rng.integers(0, 256, (4 * batch_size, *_IN_SHAPE), np.uint8))
    labels = jnp.asarray(rng.integers(0, NUM_CLASSES, len(images)))
    numbers, keys = jnp.arange(batch_size), jnp.stack([jax.random.key(arguments.seed)])
    classifier = make_classifier(
        lambda rngs: models.build(name, "affine", _IN_SHAPE, NUM_CLASSES, width=width, rngs=rngs),
        optax.adam(LEARNING_RATE),
        TASKS["none"],
        batch_size,
    )
    program = make_program(classifier.problem, all_devices("jit", batch_size))
    states, constants = initial_states(classifier.problem, [arguments.seed])
    fixed = jax.tree.map(lambda each: jnp.copy(each[0]), states.params)
    size = sum(leaf.size for leaf in jax.tree.leaves(fixed))

    def step() -> object:
        nonlocal states
        # The compiled step donates the memory of the state that it gets.
        states, metrics = program.run(states, constants, (images, labels), keys, arguments.steps)
        return jax.block_until_ready((states, metrics))

    def predict() -> object:
        return jax.block_until_ready(classifier.predict(fixed, images, numbers))

    return size, {STEP: step, BATCH: predict}


def plan(arguments: Arguments) -> Iterator[Planned]:
    """Two rows for each pair of models."""
    if arguments.small:
        arguments = dataclasses.replace(arguments, batch_size=8, width=0.05, steps=2)

    @functools.lru_cache(maxsize=1)
    def pair(plain: ModelName) -> dict[str, tuple[int, dict[str, timing.Run]]]:
        """Both models, made once for the two rows."""
        full = models.width_for(models.PARAMETERS, plain, "affine", _IN_SHAPE, NUM_CLASSES)
        width = arguments.width * full
        return {name: contenders(name, width, arguments) for name in (plain, PAIRS[plain])}

    def row(labels: records.Row, plain: ModelName) -> records.Row:
        runs = {name: run[labels["what"]] for name, (_, run) in pair(plain).items()}
        seconds = timing.measure(runs, arguments.budget, seed=arguments.seed)
        each = {name: values / labels["steps"] for name, values in seconds.items()}
        sizes = {name: size for name, (size, _) in pair(plain).items()}
        row = labels | {"parameters": sizes} | timing.compare(each, plain)
        print(_sentence(row), flush=True)
        return row

    for plain, (what, units) in itertools.product(
        arguments.models, ((STEP, arguments.steps), (BATCH, 1))
    ):
        labels: records.Row = {"model": plain, "with a transformer": PAIRS[plain], "what": what}
        labels |= {"batch": arguments.batch_size, "width": arguments.width, "steps": units}
        yield Planned(labels, functools.partial(row, labels, plain))


def _sentence(row: records.Row) -> str:
    plain, other = row["model"], row["with a transformer"]
    took = {name: records.milliseconds(spread) for name, spread in row["seconds"].items()}
    sizes = row["parameters"]
    return (
        f"{row['what']}, batch {row['batch']}: {plain} {took[plain]} ms, {other} {took[other]} ms, "
        f"{records.times(row['ratios'][other])} times as long with "
        f"{sizes[other] / sizes[plain]:.3f} times the parameters ({sizes[other]:,} / "
        f"{sizes[plain]:,})"
    )


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("cost", Arguments, __doc__, plan, command_line)


if __name__ == "__main__":
    main()
