"""Birds: ``python -m experiments.birds``.

``--help`` lists the options; the README beside this file has the protocol.
"""

import sys
from collections.abc import Sequence

from experiments.birds import data as birds
from experiments.birds import drawn
from experiments.birds.config import Arguments
from experiments.birds.records import BirdsResult
from experiments.birds.report import build_birds, tables
from experiments.birds.run import check, measured_split, name_of, read_data, train_and_test
from experiments.engine import (
    command_of,
    intervals,
    open_session,
    prepare_folder,
    run_command,
)
from experiments.engine.devices import is_first, wait_for_all
from experiments.engine.files import environment, write_json
from experiments.report import text_table

_PROGRAM = "python -m experiments.birds"


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command(_PROGRAM, Arguments, _classify, command_line)


def _classify(arguments: Arguments) -> None:
    """Trains all models that are not trained yet; measures, reports and prints the tables."""
    result_file = arguments.out / "result.json"
    # Check the options before a folder is touched.
    data = None if result_file.exists() and arguments.resume else check(arguments)
    prepare_folder(arguments, arguments.out, resume=arguments.resume, overwrite=arguments.overwrite)
    if not result_file.exists():
        if data is None:
            if is_first():
                drawn.write_once(arguments.out / "drawn")
            wait_for_all("drawn birds")
            data = read_data(arguments)
        _train(arguments, data)
    for table in tables(BirdsResult.read(result_file)):
        print(text_table(*table), end="\n\n")
    print(f"report: {arguments.out / 'report.html'}")


def _train(arguments: Arguments, data: birds.Birds) -> None:
    """Trains and tests all models; writes the report and the result."""
    rows, pictured, seconds = [], {}, 0.0
    numbers, result_file = arguments.num_transforms, arguments.out / "result.json"
    with open_session(arguments.out, key="training", **arguments.watching) as session:
        for number in numbers:
            row, pictures = train_and_test(arguments, number, data, session)
            rows.append(row)
            seconds += session.seconds(name_of(number), arguments.seed_groups)
            if pictures is not None:
                pictured[name_of(number)] = pictures
        logged = {name: session.rows(name, arguments.seeds) for name in map(name_of, numbers)}
    result = BirdsResult(
        rows=tuple(rows),
        interval_method=intervals.INTERVAL_METHOD,
        dataset=data.name,
        on=arguments.on,
        num_classes=len(data.classes),
        train_images=len(data.train.labels),
        images=len(measured_split(arguments, data).labels),
        seeds=arguments.seeds,
        settings=arguments.settings,
        wall_time_s=round(seconds, 2),
        **environment(),
    )
    if is_first():
        command = command_of(_PROGRAM, arguments)
        build_birds(arguments.out, result, logged, pictured, command=command)
        write_json(result_file, result.to_json())
    wait_for_all(str(result_file))


if __name__ == "__main__":
    sys.exit(main())
