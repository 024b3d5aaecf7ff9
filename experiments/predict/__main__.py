"""Classifies image files: ``python -m experiments.predict RUN IMAGE...``.

RUN is the folder of a finished run of a classifier, or a file that ``Trained.save`` wrote, such as
``experiments/pretrained/st_cnn_digits.safetensors``. ``--help`` lists the options.
"""

import sys
from collections.abc import Sequence

from experiments.engine import run_command
from experiments.predict.config import Arguments
from experiments.predict.run import execute, table


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    return run_command("python -m experiments.predict", Arguments, _predict, command_line)


def _predict(arguments: Arguments) -> None:
    pipeline, predicted = execute(arguments)
    print(table(pipeline, predicted))
    for path in ("predictions.csv", "predictions.json"):
        print(f"written: {arguments.out / path}")
    if predicted.prediction.theta is not None:
        print(f"pictures: {arguments.out / 'pictures.png'}")


if __name__ == "__main__":
    sys.exit(main())
