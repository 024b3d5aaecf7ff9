"""Distorted MNIST: ``python -m experiments.distorted_mnist``.

Without a subcommand it trains single models; ``table`` makes a table of models × distortions ×
seeds with the paper's errors; ``recipes`` compares optimizers; ``pictures`` draws distorted
digits. ``--help`` and, for example, ``table --help`` list the options. The README beside this file
has the protocol.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from experiments.classification.config import (
    Arguments,
    PicturesArguments,
    RecipesArguments,
    TableArguments,
)
from experiments.classification.recipe_comparison import compare
from experiments.classification.run import check_model, execute, load_dataset
from experiments.classification.table import make_pictures, make_table
from experiments.distorted_mnist.published import PAPER
from experiments.engine import command_of, prepare_folder, prepare_folders, run_command
from experiments.report import build_report, error_table

_PROGRAM = "python -m experiments.distorted_mnist"


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    words = list(sys.argv[1:] if command_line is None else command_line)
    command = words.pop(0) if words and words[0] in _COMMANDS else ""
    return run_command(
        f"{_PROGRAM} {command}".rstrip(),
        *_COMMANDS[command],
        words,
        goes_on="goes on" if command else "with --resume goes on",
        commands=[name for name in _COMMANDS if name] if not command else (),
    )


def _train(arguments: Arguments) -> None:
    dataset = load_dataset(arguments)
    runs = arguments.runs()
    for run, _ in runs:
        check_model(run, dataset)
    resume, overwrite = arguments.resume, arguments.overwrite
    if len(runs) == 1:
        prepare_folder(*runs[0], resume=resume, overwrite=overwrite)
    else:
        prepare_folders(arguments, arguments.out, runs, resume=resume, overwrite=overwrite)
    results = [execute(run, folder, dataset, **arguments.watching) for run, folder in runs]
    print(error_table(results))
    command = command_of(_PROGRAM, arguments)
    report = build_report(arguments.out, [folder for _, folder in runs], command=command)
    print(f"report: {report}")


def _tabulate(arguments: TableArguments) -> None:
    command = command_of(f"{_PROGRAM} table", arguments)
    print(make_table(arguments, "Distorted MNIST", PAPER, command=command))
    print(f"report: {arguments.out / 'report.html'}")


def _compare(arguments: RecipesArguments) -> None:
    print(compare(arguments))


def _draw(arguments: PicturesArguments) -> None:
    print(f"picture: {make_pictures(arguments)}")


_COMMANDS: dict[str, tuple[Any, Callable[[Any], None]]] = {
    "": (Arguments, _train),
    "table": (TableArguments, _tabulate),
    "recipes": (RecipesArguments, _compare),
    "pictures": (PicturesArguments, _draw),
}


if __name__ == "__main__":
    sys.exit(main())
