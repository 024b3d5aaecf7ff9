"""The settings of a prediction: a frozen, keyword-only record; the command line is made from it."""

import dataclasses
from pathlib import Path

import tyro

from experiments.data.pictures import FitName
from experiments.engine.options import Options, check_at_least


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(Options):
    """Classify image files by a trained model.

    Prints a table, and writes predictions.csv, predictions.json and, if the model has a spatial
    transformer, pictures.png to the output folder.
    """

    run: tyro.conf.Positional[Path]
    """The folder of a finished run of a classifier, or its file, such as
    experiments/pretrained/st_cnn_digits.safetensors."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """One or more image files, or folders of them."""
    seed: int | None = None
    """The training to take, of a run of several seeds; the first by default."""
    invert: bool = False
    """Swap dark and bright: for dark ink on paper if the training images are bright on black."""
    fit: FitName = "crop"
    """crop: the largest part in the middle with the proportions of the training images | whole: the
    whole picture, squeezed or stretched"""
    most_pictures: int = 10
    """The number of images in pictures.png, at most."""
    out: Path = Path("runs/predict")
    """Output folder; files of an earlier prediction are replaced."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, most_pictures=1)
        if not self.images:
            raise ValueError("images must be one or more files or folders; got none.")
