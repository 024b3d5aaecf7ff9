"""Distorted MNIST: classifiers with and without a spatial transformer, on distorted digits.

``python -m experiments.distorted_mnist --help`` lists the options.

Protocol: Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 4.1 and
appendix A.4. Deviations: Adam with a cosine schedule instead of SGD with three constant rates; a
shorter training; a tenth of the training images held out for the validation curve; the widths
that :mod:`experiments.models` states. The test set is one fixed draw of the distortion. The
model tested is that of the last step: nothing is chosen on the test set.
"""

import os
import sys
from collections.abc import Sequence

import tyro

# A dispatch is one call into XLA, so its own log has nothing a user needs.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from experiments.config import Arguments
from experiments.data.sources import load, split_validation
from experiments.report import build_report, error_table
from experiments.run import Interrupted, check_model, execute, prepare_folder


def main(command_line: Sequence[str] | None = None) -> int:
    """Runs the command line, ``sys.argv`` unless given; returns the exit status."""
    try:
        arguments = tyro.cli(
            Arguments,
            prog="python -m experiments.distorted_mnist",
            args=command_line,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
        dataset = split_validation(load(arguments.data), arguments.validation)
        runs = arguments.runs()
        for run, _ in runs:
            check_model(run, dataset)
        for run, folder in runs:
            prepare_folder(run, folder, resume=arguments.resume, overwrite=arguments.overwrite)
        results = [execute(run, folder, dataset) for run, folder in runs]
        print(error_table(results))
        report = build_report(arguments.out, [folder for _, folder in runs])
        print(f"report: {report}")
    except Interrupted as stopped:
        print(f"stopped at {stopped}; the same command with --resume goes on", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
