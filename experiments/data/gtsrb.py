"""The German traffic sign benchmark: PPM images and CSV files in folders, as published.

Stallkamp, Schlipsing, Salmen and Igel, Man vs. computer, Neural Networks 32, 2012. Training images
lie in a folder for each of 43 classes, with a CSV file beside them; a name such as
``00003_00017.ppm`` is frame 17 of track 3, and the thirty frames of a track show one sign as a car
comes nearer. Test images lie in one folder. CSV files have the columns Filename, Width, Height,
Roi.X1, Roi.Y1, Roi.X2, Roi.Y2 and ClassId, with semicolons between them; the region of interest is
the sign, without the margin around it of a tenth, but at least 5 pixels. We take X2 and Y2 as the
first column and row outside the region: then the right margin has 5 pixels in all but 16 of 39,209
training images. If X2 were the last column inside, most images would have a margin of 4.
"""

import csv
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from experiments.data.datasets import data_error
from experiments.data.pictures import as_rgb

SIDE = 48
# The published folder, and the one in the corrected archive, which torchvision downloads.
_TRAININGS = (Path("Final_Training/Images"), Path("Training"))
_TEST = Path("Final_Test/Images")
# This file has the classes; it is published separately from the images.
_TEST_FILE = "GT-final_test.csv"
_FETCH = "fetch the benchmark again, with the classes of the test images"
_COLUMNS = ("Filename", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")


class Signs(NamedTuple):
    """Images uint8 ``[n, SIDE, SIDE, 3]``, classes ``[n]``, and tracks ``[n]`` in training."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    tracks: NDArray[np.int32] | None


class _Entry(NamedTuple):
    path: Path
    region: tuple[int, int, int, int]
    label: int


def read(folder: Path, *, cut: bool = False) -> dict[str, Signs]:
    """Reads the training and the test images, all resized to ``SIDE``.

    Args:
      folder: Contains ``Final_Training`` or ``Training``, and ``Final_Test``; or a folder ``GTSRB``
        with them, or torchvision's ``gtsrb/GTSRB``.
      cut: Whether to cut images to their regions of interest.

    Raises:
      DataError: If a file is missing or broken; names it.
    """
    roots = [folder, folder / "GTSRB", folder / "gtsrb" / "GTSRB"]
    pairs = [(root, root / inner) for root in roots for inner in _TRAININGS]
    found = [(root, inner) for root, inner in pairs if inner.is_dir()]
    if not found:
        expected = f"a folder with {' or '.join(map(str, _TRAININGS))} in it"
        raise data_error(folder, expected, "none", "name that folder")
    root, classes = found[0]
    training = [
        entry
        for file in sorted(classes.glob("*/GT-*.csv"))
        for entry in _entries(file, file.parent)
    ]
    if not training:
        raise data_error(classes, "a folder with a CSV file for each class", "none", _FETCH)
    places = [root / _TEST, root, root.parent]
    files = [place / _TEST_FILE for place in places]
    present = [file for file in files if file.is_file()]
    if not present:
        raise data_error(files[0], "the classes of the test images", "no such file", _FETCH)
    tracks = [_track(entry.path) for entry in training]
    test = list(_entries(present[0], root / _TEST))
    return {
        "train": _decoded(training, cut, np.array(tracks, np.int32), "training signs"),
        "test": _decoded(test, cut, None, "test signs"),
    }


def _entries(file: Path, images: Path) -> Iterator[_Entry]:
    """The rows of a CSV file."""
    try:
        # Some editors begin a file with a byte order mark, which is not part of the first column.
        with file.open(newline="", encoding="utf-8-sig") as opened:
            rows = list(csv.DictReader(opened, delimiter=";"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise data_error(file, "a readable CSV file", error, _FETCH) from error
    for number, row in enumerate(rows, start=2):
        try:
            name, *numbers = (row[column] for column in _COLUMNS)
            left, top, right, bottom, label = map(int, numbers)
        except (KeyError, TypeError, ValueError) as error:
            expected = f"the columns {', '.join(_COLUMNS)} between semicolons"
            raise data_error(file, expected, f"{error!r} in line {number}", _FETCH) from error
        yield _Entry(images / name, (left, top, right, bottom), label)


def _track(path: Path) -> int:
    try:
        return int(path.stem.split("_")[0])
    except ValueError:
        raise data_error(path, "a name such as 00003_00017.ppm", path.name, _FETCH) from None


def _decoded(
    entries: list[_Entry], cut: bool, tracks: NDArray[np.int32] | None, name: str
) -> Signs:
    images = np.empty((len(entries), SIDE, SIDE, 3), np.uint8)

    def decode(number: int) -> None:
        path, region, _ = entries[number]
        try:
            with Image.open(path) as image:
                whole = as_rgb(image)
        except (OSError, ValueError) as error:
            raise data_error(path, "a readable image", error, _FETCH) from error
        seen = whole.crop(region) if cut else whole
        images[number] = np.asarray(seen.resize((SIDE, SIDE), Image.Resampling.BILINEAR))

    # Pillow releases Python's lock while it decodes and resizes.
    with ThreadPoolExecutor() as pool:
        numbers = range(len(entries))
        for _ in tqdm(pool.map(decode, numbers), desc=name, total=len(entries), disable=None):
            pass
    return Signs(images, np.array([entry.label for entry in entries], np.int32), tracks)
