"""Labelled images from folders of one's own: a folder for each class, named after it."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8
from PIL import Image

from experiments.data.datasets import DataError, data_error
from experiments.data.pictures import ENDINGS, as_array

# Side of the squares that images of several sizes become.
SIDE = 64
# Without a folder of test images, every fifth image of each class is one.
TEST_EVERY = 5
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
_GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L")


class Folder(NamedTuple):
    """The images of one split.

    Attributes:
      images: Of one shape.
      labels: The number of each image's class.
    """

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]


def read(root: Path) -> tuple[dict[str, Folder], tuple[str, ...]]:
    """The splits of a folder, and the names of the classes by their numbers.

    ``root`` has a folder for each class, or folders ``train`` and ``test``, and perhaps ``val`` or
    ``validation``, that do. Without ``test``, every fifth image of each class, in the order of
    their names, is a test image. Classes are in the order of their names; of whole numbers, in
    their own order. Images are grey if all are, else RGB. If they have several sizes, each is cut
    to its middle square and resized to 64×64 pixels.

    Raises:
      DataError: If there are less than two classes, a class has no images, a split has a class
        that ``train`` has not, or an image cannot be read.
    """
    if not root.is_dir():
        got = "a file" if root.exists() else "nothing there"
        raise data_error(root, "a folder with a folder for each class", got, "check the path")
    split_folders = {
        split: root / name for name, split in _SPLITS.items() if (root / name).is_dir()
    }
    if "train" in split_folders:
        names = _classes(split_folders["train"])
        files = {split: _files(folder, names) for split, folder in split_folders.items()}
    else:
        names = _classes(root)
        files = {"train": _files(root, names)}
    if "test" not in files:
        files["train"], files["test"] = _parted(files["train"])
    shape = _common_shape([path for split in files.values() for path, _ in split])
    splits = {
        split: Folder(
            np.stack([_read_one(path, shape) for path, _ in found]),
            np.array([label for _, label in found], np.int32),
        )
        for split, found in files.items()
    }
    return splits, names


def _classes(folder: Path) -> tuple[str, ...]:
    names = [each.name for each in folder.iterdir() if each.is_dir()]
    if len(names) < 2:
        raise data_error(
            folder,
            "a folder for each of two classes or more",
            f"the folders {', '.join(names)}" if names else "none",
            "put the images of each class into a folder that is named after it",
        )
    numeric = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=int) if numeric else sorted(names))


def _files(folder: Path, names: Sequence[str]) -> list[tuple[Path, int]]:
    """The images in the folders of the classes, with the numbers of these."""
    others = sorted({each.name for each in folder.iterdir() if each.is_dir()} - set(names))
    if others:
        raise data_error(
            folder,
            f"the classes of the training images, {', '.join(names)}",
            f"{', '.join(others)}, too",
            "name its folders as those of train",
        )
    found = []
    for label, name in enumerate(names):
        inside = folder / name
        own = sorted(inside.glob("*")) if inside.is_dir() else []
        own = [path for path in own if path.suffix.lower() in ENDINGS]
        if not own:
            raise data_error(
                inside, f"images ({' '.join(ENDINGS)})", "none", "add some, or remove the class"
            )
        found += [(path, label) for path in own]
    return found


def _parted(
    files: Sequence[tuple[Path, int]],
) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    """Training and test images: every fifth of each class is a test image."""
    train: list[tuple[Path, int]] = []
    test: list[tuple[Path, int]] = []
    for label in sorted({label for _, label in files}):
        own = [each for each in files if each[1] == label]
        if len(own) < TEST_EVERY:
            raise data_error(
                own[0][0].parent,
                f"{TEST_EVERY} images or more, since every fifth is a test image",
                f"{len(own)}",
                "add some, or make folders train and test",
            )
        for number, each in enumerate(own):
            (test if number % TEST_EVERY == TEST_EVERY - 1 else train).append(each)
    return train, test


def _common_shape(paths: Sequence[Path]) -> tuple[int, int, int]:
    """Height, width and channels that all images get; opens each, and reads none."""
    sizes, modes = set(), set()
    for path in paths:
        try:
            with Image.open(path) as picture:
                sizes.add(picture.size)
                modes.add(picture.mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise _unreadable(path, error) from error
    channels = 1 if modes <= set(_GREY) else 3
    if len(sizes) > 1:
        return SIDE, SIDE, channels
    ((width, height),) = sizes
    return height, width, channels


def _read_one(
    path: Path, shape: tuple[int, int, int]
) -> UInt8[np.ndarray, "height width channels"]:
    try:
        with Image.open(path) as picture:
            return as_array(picture, shape)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    return data_error(
        path,
        "a readable image",
        f"{type(error).__name__}: {error}",
        "fetch it again, or save it with 8 bits a channel",
    )
