"""Ctrl-C and termination signals, which stop a training after its dispatch."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tqdm import tqdm


class Interrupted(Exception):  # noqa: N818
    """The user asked the run to stop; its state is saved."""


@contextmanager
def stop_signal() -> Iterator[dict[str, bool]]:
    """Turns the first Ctrl-C or termination signal into a request; a second one stops at once."""
    stop = {"requested": False}

    def request(number: int, frame: FrameType | None) -> None:
        if stop["requested"]:
            raise KeyboardInterrupt
        stop["requested"] = True
        tqdm.write("stopping after this dispatch; once more to stop at once, unsaved")

    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
