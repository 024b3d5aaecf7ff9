"""Batches of examples, read and decoded ahead of the training; the only file that knows Grain.

The batch of a step depends only on the seed and the step, not on the threads and processes that
read it, so a resumed training sees the same batches. Each of several processes reads its own part
of every batch; the concatenated parts are the batch that one process would read.
"""

import dataclasses
from collections.abc import Generator

import grain
import numpy as np
from absl import flags

from experiments.data.examples import Example, Examples

Batch = dict[str, np.ndarray]
# How many batches each thread, or each process, prepares in advance.
_READY = 2


@dataclasses.dataclass(frozen=True)
class Shard:
    """The part of every batch that this process reads: number ``index`` of ``count``."""

    index: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """The processes and threads that read and decode.

    Attributes:
      workers: Processes that each make whole batches; with 0 the program's own threads do. A
        program that uses JAX must not fork, so they are spawned, which takes some seconds.
      threads: Threads in each process. Reading, decoding and resizing release Python's lock, so
        threads suffice until one process is busy with Python code. With 0 a batch is made when it
        is requested.
    """

    workers: int = 0
    threads: int = 2

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}.")


def shuffled(
    examples: Examples,
    batch_size: int,
    *,
    seed: int,
    start: int = 0,
    shard: Shard = Shard(),
    reading: Reading = Reading(),
) -> Generator[Batch, None, None]:
    """Endless batches: each epoch has every example once, in a new order.

    A batch at the end of an epoch is filled with examples of the next one.

    Args:
      examples: The examples to read.
      batch_size: Examples in a batch, over all processes.
      seed: Seed of the random orders.
      start: Step of the first batch.
      shard: The part of each batch to yield.
      reading: The processes and threads.

    Returns:
      An iterator. Its ``close`` ends the threads and processes that read for it.

    Raises:
      ValueError: If there are no examples, the batch does not divide over the shards, or a number
        is out of range.
      DataError: From the iterator, if an example cannot be read; names it.
    """
    own = _checked(examples, batch_size, shard)
    if start < 0:
        raise ValueError(f"start must not be negative; got {start}.")
    stream = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    # Slices are lazy: skipped batches are not read.
    return _read(
        stream.batch(own, drop_remainder=True)[shard.index :: shard.count][start:], reading
    )


def in_order(
    examples: Examples, batch_size: int, *, reading: Reading = Reading()
) -> Generator[Batch, None, None]:
    """Each example once, in order; the last batch is padded with the first examples.

    Arguments, result and errors are those of :func:`shuffled`.
    """
    own = _checked(examples, batch_size, Shard())
    number = -(-len(examples) // batch_size)
    stream = grain.MapDataset.source(examples).repeat()
    return _read(stream.batch(own, drop_remainder=True)[:number], reading)


def _checked(examples: Examples, batch_size: int, shard: Shard) -> int:
    """The size of a shard of a batch."""
    if len(examples) == 0:
        raise ValueError("examples must not be empty; got none.")
    if not 0 <= shard.index < shard.count:
        raise ValueError(f"shard must be a number from 0 to below its count; got {shard}.")
    if batch_size < 1 or batch_size % shard.count:
        raise ValueError(
            f"batch_size must be a positive multiple of the {shard.count} shards; got {batch_size}."
        )
    return batch_size // shard.count


def _read(batches: "grain.MapDataset[Example]", reading: Reading) -> Generator[Batch, None, None]:
    read = batches.to_iter_dataset(
        grain.ReadOptions(
            num_threads=reading.threads, prefetch_buffer_size=_READY * reading.threads
        )
    )
    if reading.workers and not flags.FLAGS.is_parsed():
        # Grain reads absl flags, which our command lines do not parse.
        flags.FLAGS.mark_as_parsed()
    options = grain.multiprocessing.MultiprocessingOptions(
        num_workers=reading.workers, per_worker_buffer_size=_READY
    )
    iterator = iter(read.mp_prefetch(options))

    def yielded() -> Generator[Batch, None, None]:
        try:
            yield from iterator
        finally:
            iterator.close()

    return yielded()
