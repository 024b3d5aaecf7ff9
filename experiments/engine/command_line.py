"""What the commands have in common: options from a record, and how they end."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import tyro

from experiments.engine import devices as parallel
from experiments.engine.signals import Interrupted


def run(
    program: str,
    arguments_type: type[Any],
    body: Callable[[Any], None],
    words: Sequence[str] | None,
    *,
    goes_on: str = "with --resume goes on",
) -> int:
    """Runs a command; returns the exit status, 2 for bad input and 130 where it was stopped.

    Args:
      program: Its name in the help text.
      arguments_type: The record that the command line is made from.
      body: What it does with the arguments.
      words: The command line, ``sys.argv`` if ``None``.
      goes_on: How the same command goes on after it was stopped.
    """
    try:
        arguments = tyro.cli(
            arguments_type, prog=program, args=words, config=(tyro.conf.FlagCreatePairsOff,)
        )
        if getattr(arguments, "coordinator", None):
            parallel.start(arguments.coordinator, arguments.num_processes, arguments.process)
        with contextlib.ExitStack() as stack:
            if not parallel.is_first():
                # Every process does the same; one is heard.
                silence = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            body(arguments)
    except Interrupted as stopped:
        print(f"stopped at {stopped}; the same command {goes_on}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:  # Such as a disk that is full.
        print(f"error: {error}", file=sys.stderr)
        if parallel.are_several():
            # The others wait for this one, and would it for them at its end.
            os._exit(2)
        return 2
    return 0
