"""Batches of examples, read and decoded ahead of the training; the only file that knows Grain.

The batch of a step depends on the seed and the step's number alone, not on how it is read, so a
training that goes on at any step sees what it would have seen. Of several processes, each reads its
own part of every batch; the parts one after the other are the batch that one process would read.
"""

import collections
import dataclasses
from collections.abc import Callable, Generator
from typing import TypeVar

import grain
import numpy as np
from absl import flags

from experiments.data.examples import Example, Examples

Batch = dict[str, np.ndarray]
Placed = TypeVar("Placed")
# Batches that each thread, or each process, has ready beforehand.
_READY = 2


@dataclasses.dataclass(frozen=True)
class Shard:
    """Which part of every batch this process reads: ``index`` of ``count``."""

    index: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """Who reads and decodes.

    Attributes:
      workers: Processes that do, each whole batches; with 0 the program's own threads do. They are
        started afresh rather than forked, which JAX forbids, and that takes some seconds.
      threads: Of each such process. Reading, decoding and resizing let other threads run, so they
        are as good as processes until Python's own work is too much for one. With 0 a batch is made
        when it is asked for.
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
    """Batches without end: in every epoch each example once, in another order.

    An epoch may end within a batch, which the next one fills up.

    Args:
      examples: What to read.
      batch_size: Of the batch of all processes together.
      seed: Of the orders.
      start: Step of the first batch.
      shard: Which part of a batch to yield.
      reading: Who reads.

    Returns:
      An iterator, to be closed by its ``close`` before its time, which ends what reads for it.

    Raises:
      ValueError: If there are no examples, the batch does not divide over the shards, or a number
        is out of range.
      DataError: From the iterator, if an example cannot be read; names it.
    """
    own = _checked(examples, batch_size, shard)
    if start < 0:
        raise ValueError(f"start must not be negative; got {start}.")
    stream = grain.MapDataset.source(examples).seed(seed).shuffle().repeat()
    # Lazily, and nothing is read of what is left out.
    return _read(
        stream.batch(own, drop_remainder=True)[shard.index :: shard.count][start:], reading
    )


def in_order(
    examples: Examples,
    batch_size: int,
    *,
    shard: Shard = Shard(),
    reading: Reading = Reading(),
) -> Generator[Batch, None, None]:
    """Each example once, in their order; the last batch is filled up with the first ones.

    Arguments, result and errors are those of :func:`shuffled`.
    """
    own = _checked(examples, batch_size, shard)
    number = -(-len(examples) // batch_size)
    stream = grain.MapDataset.source(examples).repeat()
    batches = stream.batch(own, drop_remainder=True)
    return _read(batches[shard.index : number * shard.count : shard.count], reading)


def placed_ahead(
    batches: Generator[Batch, None, None], place: Callable[[Batch], Placed], *, number: int = 2
) -> Generator[Placed, None, None]:
    """The batches on the device, each put there while earlier ones are still computed with.

    Args:
      batches: From the host; closed when this is.
      place: Puts a batch on the device and does not wait for it, as ``jax.device_put``.
      number: How many are under way at once.
    """
    under_way: collections.deque[Placed] = collections.deque()
    try:
        for batch in batches:
            under_way.append(place(batch))
            if len(under_way) == number:
                yield under_way.popleft()
        yield from under_way
    finally:
        batches.close()


def _checked(examples: Examples, batch_size: int, shard: Shard) -> int:
    """The size of a shard's part of a batch."""
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
        # Grain looks at flags of absl, which no command line here has.
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
