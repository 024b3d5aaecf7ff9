"""Runs a command: reads its options, reports its errors, returns its exit status."""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments.engine import devices
from experiments.engine.metrics import load_writer
from experiments.engine.settings import read_command
from experiments.engine.signals import Interrupted


def run_command(
    program: str,
    arguments_type: type[Any],
    body: Callable[[Any], None],
    words: Sequence[str] | None,
    *,
    goes_on: str = "with --resume goes on",
    commands: Sequence[str] = (),
) -> int:
    """Runs a command; returns the exit status, 2 for bad input and 130 where it was stopped.

    Args:
      program: Its name in the help text.
      arguments_type: The record of its options.
      body: Called with the options.
      words: The command line, ``sys.argv`` if ``None``.
      goes_on: Ends the message "the same command …" of a stopped command.
      commands: Names of further commands, which stand before all options.
    """
    try:
        arguments = read_command(program, arguments_type, words, commands=commands)
        if getattr(arguments, "metrics_writer", None):
            load_writer(arguments.metrics_writer)  # Refuse a wrong writer before writing.
        if getattr(arguments, "distributed", False):
            devices.start()
        elif getattr(arguments, "coordinator", None):
            devices.start(arguments.coordinator, arguments.num_processes, arguments.process)
        with contextlib.ExitStack() as stack:
            if not devices.is_first():
                # All processes do the same work, and only the first prints.
                silence = stack.enter_context(Path(os.devnull).open("w"))
                stack.enter_context(contextlib.redirect_stdout(silence))
            body(arguments)
    except Interrupted as stopped:
        print(f"stopped at {stopped}; the same command {goes_on}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:  # An OSError may be a full disk.
        print(f"error: {error}", file=sys.stderr)
        if devices.are_several():
            # The other processes may block in a collective; a normal exit would wait for them.
            os._exit(2)
        return 2
    return 0
