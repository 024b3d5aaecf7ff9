"""Stability of training: ``python -m experiments.stability``.

``--help`` lists the options, and ``obvious --help`` those of the comparison of the head with and
without its scale. The README beside this file has the protocol.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.classification.config import Run, Training
from experiments.classification.recipes import RecipeName
from experiments.classification.run import execute, load_dataset
from experiments.engine import command_of, prepare_folders, run_command
from experiments.engine.files import environment, write_json
from experiments.engine.options import Launch, OutputFolder
from experiments.stability.obvious import ObviousArguments, compare
from experiments.stability.report import StabilityResult, build_page, findings, summary, table

_PROGRAM = "python -m experiments.stability"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Training, Launch, OutputFolder):
    """Train an ST-CNN from several seeds, plainly and with the training kit.

    The kit is --localization-rate, --localization-frozen-steps and --identity-penalty.

    Writes the folder of a run for each recipe, report.html, training_stability.png and
    stability.json.
    """

    FIRST = (
        *("data", "distortion", "transform", "steps", "seeds", "out"),
        *("resume", "overwrite", "config"),
    )

    recipe: RecipeName = "adam"
    """The optimizer and its schedule, as in experiments.distorted_mnist."""
    steps: int = 1000
    """Training steps."""
    batch_size: int = 64
    """Images in a training step."""
    learning_rate: float = 1e-2
    """Adam's rate at the start; it falls to zero along a cosine."""
    width: float = 0.25
    """Factor on the filters and units of the classifier."""
    validation: float = 0.0
    """Share of the training images held out for the validation curve."""
    seeds: tuple[int, ...] = tuple(range(10, 20))
    """One training for each seed and recipe."""
    localization_rate: float = 0.1
    """The kit's factor on the learning rate of the localization network."""
    localization_frozen_steps: int = 50
    """The kit's number of first steps in which the localization network is not trained."""
    identity_penalty: float = 0.01
    """The kit's weight of the distance from the identity in the loss."""
    out: Path = Path("runs/stability")
    """Output folder."""

    def runs(self) -> dict[str, Run]:
        """The run of each recipe."""
        kit = Run(**self.resolved(Training), model="st-cnn")
        plain = dataclasses.replace(
            kit, localization_rate=1.0, localization_frozen_steps=0, identity_penalty=0.0
        )
        return {"plain": plain, "kit": kit}


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    words = list(sys.argv[1:] if command_line is None else command_line)
    if words[:1] == ["obvious"]:
        return run_command(f"{_PROGRAM} obvious", ObviousArguments, compare, words[1:])
    return run_command(_PROGRAM, Arguments, _compare, words, commands=["obvious"])


def _compare(arguments: Arguments) -> None:
    """Trains by both recipes, prints the table, writes the report."""
    dataset = load_dataset(arguments)
    runs = {recipe: (run, arguments.out / recipe) for recipe, run in arguments.runs().items()}
    prepare_folders(
        arguments,
        arguments.out,
        list(runs.values()),
        resume=arguments.resume,
        overwrite=arguments.overwrite,
    )
    rows = []
    for recipe, (run, folder) in runs.items():
        errors = execute(run, folder, dataset, **arguments.watching).test_errors
        rows.append(summary(recipe, errors, findings(folder, run.seeds)))
    result = StabilityResult(
        rows=tuple(rows),
        dataset=dataset.name,
        settings={recipe: run.settings for recipe, (run, _) in runs.items()},
        **environment(),
    )
    write_json(arguments.out / "stability.json", result.to_json())
    print(table(result.rows))
    folders = {recipe: folder for recipe, (_, folder) in runs.items()}
    report = build_page(
        arguments.out, folders, result.rows, command=command_of(_PROGRAM, arguments)
    )
    print(f"report: {report}")


if __name__ == "__main__":
    sys.exit(main())
