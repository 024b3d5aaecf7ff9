"""Co-localisation: ``python -m experiments.colocalisation``.

``--help`` lists the options; the README beside this file has the protocol.
"""

import json
import sys
from collections.abc import Sequence

import numpy as np

from experiments.colocalisation.config import Arguments
from experiments.colocalisation.records import ColocalisationResult
from experiments.colocalisation.report import Followed, build_detections, table
from experiments.colocalisation.run import (
    Found,
    classes_of,
    followed_canvases,
    label_of,
    make_networks,
    result_of,
    train_all,
)
from experiments.colocalisation.scenes import SetName, crop, places_of
from experiments.data.datasets import Dataset
from experiments.data.sources import load_split
from experiments.engine import (
    command_of,
    intervals,
    open_session,
    prepare_folder,
    run_command,
)
from experiments.engine.devices import is_first, wait_for_all
from experiments.engine.files import environment, write_json
from experiments.report import text_table, verdicts

_PROGRAM = "python -m experiments.colocalisation"


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command(_PROGRAM, Arguments, _colocalise, command_line)


def _colocalise(arguments: Arguments) -> None:
    """Trains all networks that are not trained yet; measures, reports and prints the table."""
    dataset = load_split(arguments.data, arguments.validation, on=arguments.on)
    digits = classes_of(arguments, dataset)
    networks = make_networks(arguments, dataset)
    prepare_folder(arguments, arguments.out, resume=arguments.resume, overwrite=arguments.overwrite)
    result_file = arguments.out / "result.json"
    if not result_file.exists():
        with open_session(arguments.out, key="training", **arguments.watching) as session:
            found, errors = train_all(arguments, dataset, digits, networks, session)
            names = ["encoder", *(label_of(*place) for place in found)]
            seconds = sum(session.seconds(name, arguments.seed_groups) for name in names)
        result = _result(arguments, dataset, found, errors, seconds)
        if is_first():
            followed: dict[str, list[Followed]] = {
                name: [_followed(arguments, dataset, name, digit, found) for digit in digits]
                for name in arguments.sets
            }
            command = command_of(_PROGRAM, arguments)
            diagnosed = _diagnosed(arguments, [label_of(*place) for place in found])
            build_detections(arguments.out, result, followed, diagnosed, command=command)
            write_json(result_file, result.to_json())
        wait_for_all(str(result_file))
    print(text_table(*table(ColocalisationResult.read(result_file))))
    print(f"report: {arguments.out / 'report.html'}")


def _result(
    arguments: Arguments, dataset: Dataset, found: Found, errors: Sequence[float], seconds: float
) -> ColocalisationResult:
    comparable = dataset.benchmark == "mnist"
    rows = [
        result_of(name, [digit], [each], comparable=comparable)
        for (name, digit), each in found.items()
    ]
    sets = []
    for name in arguments.sets:
        of_set = {digit: each for (own, digit), each in found.items() if own == name}
        sets.append(result_of(name, list(of_set), list(of_set.values()), comparable=comparable))
    return ColocalisationResult(
        rows=tuple(rows),
        sets=tuple(sets),
        interval_method=intervals.INTERVAL_METHOD,
        dataset=dataset.name,
        benchmark=dataset.benchmark,
        seeds=arguments.seeds,
        steps=arguments.steps,
        encoder_errors=tuple(errors),
        settings=arguments.settings,
        wall_time_s=round(seconds, 2),
        **environment(),
    )


def _diagnosed(arguments: Arguments, names: Sequence[str]) -> list[verdicts.Diagnosed]:
    """The diagnosis of each training, by the names of the trainings."""
    logged = (arguments.out / "metrics.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in logged]
    return [
        each
        for name in names
        for each in verdicts.of_seeds(
            name, [line for line in lines if line["training"].startswith(f"{name}-seed-")]
        )
    ]


def _followed(
    arguments: Arguments, dataset: Dataset, name: SetName, digit: int, found: Found
) -> Followed:
    """The followed canvases, from the snapshots of the first seed."""
    canvases, boxes = followed_canvases(dataset, name, digit)
    with np.load(arguments.out / "snapshots" / f"{label_of(name, digit)}.npz") as saved:
        steps, theta = saved["steps"].tolist(), saved["theta"]
    return Followed(
        digit,
        np.asarray(canvases),
        np.asarray(places_of(boxes, canvases.shape[1:])),
        found[name, digit][0].overlap[: len(canvases)],
        steps,
        theta,
        crop(),
    )


if __name__ == "__main__":
    sys.exit(main())
