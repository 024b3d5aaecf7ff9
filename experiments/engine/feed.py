"""Batches from the host, put on the device ahead of their step."""

import collections
from collections.abc import Callable, Generator
from typing import TypeVar

Batch = TypeVar("Batch")
Placed = TypeVar("Placed")


def placed_ahead(
    batches: Generator[Batch, None, None], place: Callable[[Batch], Placed], *, number: int = 2
) -> Generator[Placed, None, None]:
    """The batches on the device, each put there while the device computes with earlier ones.

    Args:
      batches: From the host; closed together with this generator.
      place: Puts a batch on the device and does not wait for it, as ``jax.device_put``.
      number: How many batches are put on the device ahead.
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
