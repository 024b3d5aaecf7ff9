"""Measures whether a training waits for its images: ``python -m benchmarks.pipeline``.

It times the input pipeline of ``experiments/data/pipeline.py`` alone, the training step of the
birds alone, on a batch that is already on the device, and both together as ``python -m
experiments.birds`` runs them. Images are random, once as arrays in memory and once as JPEG files of
CUB-200-2011's usual size, which are read, decoded and resized. If both together take as long as the
slower one alone, they overlap completely.
"""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from benchmarks.harness import records, timing
from benchmarks.harness.unfinished import Planned
from experiments.birds.model import PartModel
from experiments.birds.train import make_classifier, make_optimizer, stored_side
from experiments.data import pipeline
from experiments.data.examples import Arrays, Examples, Framing, folder
from experiments.data.pipeline import Reading
from experiments.engine import all_devices, initial_states, make_program
from experiments.engine.feed import placed_ahead
from experiments.models.backbones import BackboneName

PIPELINE, STEP, TOGETHER = "pipeline alone", "step alone", "together"
_NUM_CLASSES = 10
_PHOTOGRAPH = (500, 375)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      backbone: The model's backbone.
      side: Side of the model's input images, in pixels; 32 with ``--small``.
      batch_size: Images in a step.
      num_transforms: Spatial transformers of the model.
      workers: Processes that read; with 0 the threads of this process do.
      threads: Threads in each process.
      images: How many images there are.
      steps: Batches, steps, or both, in a timed call.
    """

    backbone: BackboneName = "small"
    side: int = 224
    batch_size: int = 32
    num_transforms: int = 2
    workers: int = 0
    threads: int = 2
    images: int = 256
    steps: int = 4


def arrays(arguments: Arguments) -> Arrays:
    """Random images in memory."""
    rng = np.random.default_rng(arguments.seed)
    side = stored_side(arguments.side)
    images = rng.integers(0, 256, (arguments.images, side, side, 3), np.uint8)
    return Arrays(images, np.arange(arguments.images) % _NUM_CLASSES)


def photographs(arguments: Arguments, root: Path) -> Examples:
    """JPEG files of smooth random images; their files are as large as those of photographs."""
    rng = np.random.default_rng(arguments.seed)
    for number in range(arguments.images):
        own = root / f"{number % _NUM_CLASSES}"
        own.mkdir(exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (75, 100, 3), np.uint8))
        coarse.resize(_PHOTOGRAPH, Image.Resampling.BICUBIC).save(own / f"{number}.jpg", quality=90)
    return folder(root, Framing(stored_side(arguments.side)))


def contenders(
    examples: Examples, arguments: Arguments
) -> tuple[dict[str, timing.Run], list[Generator[Any, None, None]]]:
    """The three timed functions, and the iterators to close; each call continues the last one."""
    batch_size, devices = arguments.batch_size, all_devices("jit", arguments.batch_size)
    problem = make_classifier(
        lambda rngs: PartModel(
            arguments.backbone,
            arguments.side,
            _NUM_CLASSES,
            num_transforms=arguments.num_transforms,
            rngs=rngs,
        ),
        lambda model: None,
        make_optimizer("adam", 1e-3, 10_000, localization_rate=0.1),
        batch_size,
    ).problem
    program = make_program(problem, devices)
    reading = Reading(workers=arguments.workers, threads=arguments.threads)
    read = functools.partial(
        pipeline.shuffled, examples, batch_size, seed=arguments.seed, reading=reading
    )
    alone, fed = (placed_ahead(read(), devices.put_batch) for _ in range(2))
    ready = jax.block_until_ready(next(alone))
    states_and_constants = initial_states(problem, [0])
    keys = jax.numpy.stack([jax.random.key(0)])
    state, constants, keys = map(devices.replicate, (*states_and_constants, keys))
    states = {STEP: state, TOGETHER: jax.tree.map(jax.numpy.copy, state)}

    def take() -> None:
        jax.block_until_ready(list(itertools.islice(alone, arguments.steps)))

    def step(name: str, batches: Iterator[dict[str, jax.Array]]) -> None:
        for batch in itertools.islice(batches, arguments.steps):
            states[name], _ = program.step(states[name], constants, (batch,), keys)
        jax.block_until_ready(states[name])

    runs: dict[str, timing.Run] = {
        PIPELINE: take,
        STEP: lambda: step(STEP, itertools.repeat(ready)),
        TOGETHER: lambda: step(TOGETHER, fed),
    }
    return runs, [alone, fed]


def row_of(name: str, examples: Examples, arguments: Arguments) -> records.Row:
    """Measures and prints a row."""
    runs, to_close = contenders(examples, arguments)
    try:
        seconds = timing.measure(runs, arguments.budget, seed=arguments.seed)
    finally:
        for batches in to_close:
            batches.close()
    row: records.Row = {"ours": TOGETHER} | timing.compare(seconds, TOGETHER)
    number = arguments.steps * arguments.batch_size
    row["images_per_second"] = {
        each: number / spread["median"] for each, spread in row["seconds"].items()
    }
    print(f"{name}, {arguments.side} pixels, batches of {arguments.batch_size}")
    for each, spread in row["seconds"].items():
        rate = row["images_per_second"][each]
        print(
            f"    {each:20}{records.milliseconds(spread):>20} ms{rate:>12,.0f} images/s", flush=True
        )
    return row


def plan(arguments: Arguments) -> Iterator[Planned]:
    """A row for arrays and one for files."""
    if arguments.small:
        arguments = dataclasses.replace(arguments, side=32, batch_size=4, images=16, steps=2)

    def of_arrays() -> records.Row:
        return row_of("arrays", arrays(arguments), arguments)

    def of_files() -> records.Row:
        with tempfile.TemporaryDirectory() as root:
            return row_of("JPEG files", photographs(arguments, Path(root)), arguments)

    for name, measure in {"arrays": of_arrays, "JPEG files": of_files}.items():
        labels: records.Row = {
            "images": name,
            "side": arguments.side,
            "batch size": arguments.batch_size,
        }
        yield Planned(labels, measure)


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Runs the command line; ``sys.argv`` unless given."""
    return records.run_command("pipeline", Arguments, __doc__, plan, command_line)


if __name__ == "__main__":
    main()
