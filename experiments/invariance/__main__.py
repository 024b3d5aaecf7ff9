"""Invariance to rotation: ``python -m experiments.invariance``.

``--help`` lists the options; the README beside this file has the protocol.
"""

import sys
from collections.abc import Sequence

from experiments.classification.run import execute, load_dataset
from experiments.engine import command_of, prepare_folders, run_command
from experiments.engine.files import environment, write_json
from experiments.invariance.config import Arguments
from experiments.invariance.measure import measure, runs_of
from experiments.invariance.report import ComparedModel, InvarianceResult, build_page, table
from experiments.report import text_table

_PROGRAM = "python -m experiments.invariance"


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command(_PROGRAM, Arguments, _compare, command_line, goes_on="goes on")


def _compare(arguments: Arguments) -> None:
    """Trains and measures the models, prints the table, writes the report."""
    dataset = load_dataset(arguments)
    runs = runs_of(arguments, dataset)
    folders = {
        name: arguments.out / f"{run.model}-{'upright' if run.distortion == 'none' else 'turned'}"
        for name, run in runs.items()
    }
    prepare_folders(
        arguments,
        arguments.out,
        [(run, folders[name]) for name, run in runs.items()],
        resume=True,
        overwrite=False,
        extends=True,
    )
    compared = []
    for name, run in runs.items():
        found = execute(run, folders[name], dataset, **arguments.watching)
        compared.append(
            ComparedModel(
                name=name,
                model=found.model,
                transform=found.transform,
                distortion=found.distortion,
                num_parameters=found.num_parameters,
                test_errors=found.test_errors,
            )
        )
    errors = [
        measure(run, folders[name], dataset, arguments.angles, name).tolist()
        for name, run in runs.items()
    ]
    result = InvarianceResult(
        models=tuple(compared),
        seeds=arguments.seeds,
        angles=arguments.angles,
        errors=tuple(tuple(map(tuple, of_model)) for of_model in errors),
        dataset=dataset.name,
        test_images=len(dataset.test.labels),
        settings={name: run.settings for name, run in runs.items()},
        **environment(),
    )
    write_json(arguments.out / "invariance.json", result.to_json())
    report = build_page(
        arguments.out, result, list(folders.values()), command=command_of(_PROGRAM, arguments)
    )
    print("mean test error in percent")
    print(text_table(*table(result)))
    print(f"report: {report}")


if __name__ == "__main__":
    sys.exit(main())
