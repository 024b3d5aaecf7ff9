"""A small trained classifier with a spatial transformer, for first steps and for tests.

:func:`load` reads it; the README beside this file is its card.
"""

from pathlib import Path

from experiments.classification.trained import Trained, load_run

FILE = Path(__file__).parent / "st_cnn_digits.safetensors"


def load() -> Trained:
    """The ST-CNN that tells turned digits apart, with its pipeline from pictures to its input."""
    return load_run(FILE)
