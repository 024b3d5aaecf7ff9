"""Birds: CUB-200-2011, in its original folders or by TFDS, or a small drawn set.

Wah, Branson, Welinder, Perona and Belongie, The Caltech-UCSD Birds-200-2011 Dataset, 2011: 5,994
training and 5,794 test images of 200 classes, each with a box around the bird and the places of 15
parts. The text files number images, classes and parts from 1, with one entry per line. Boxes and
parts are only for measuring; a training never gets them. TFDS has the boxes but not the parts. The
test images are the benchmark's; for validation, the last training images of every class are held
out.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer

from experiments.birds import drawn as drawn_birds
from experiments.data.benchmarks import BenchmarkName
from experiments.data.datasets import DataError
from experiments.data.examples import Chosen, Examples, Files, Framing, Tfds

HEAD = ("beak", "crown", "forehead", "left eye", "nape", "right eye", "throat")
BODY = ("back", "belly", "breast", "left wing", "right wing", "tail")
_TFDS_NAME = "caltech_birds2011"
_FETCH = "fetch the data set again"
# Training and test images of CUB-200-2011.
_CUB_IMAGES = (5_994, 5_794)


@dataclasses.dataclass(frozen=True)
class Split:
    """A source of :mod:`experiments.data.examples`, and its labels ``[n]``."""

    examples: Examples
    labels: Integer[np.ndarray, " n"]

    def chosen(self, numbers: Integer[np.ndarray, " k"]) -> "Split":
        """The split with only the examples at these indices."""
        return Split(Chosen(self.examples, numbers), self.labels[numbers])

    def unannotated(self) -> Examples:
        """The examples without boxes and parts."""
        return Chosen(self.examples, np.arange(len(self.labels)), ("image", "label"))


@dataclasses.dataclass(frozen=True)
class Birds:
    """A data set of birds.

    Attributes:
      name: Its name in results.
      classes: Names of the classes, by their labels.
      parts: Names of the parts, in the order of the examples' ``parts``; empty if there are none.
      train: Training images.
      test: Test images.
      validation: The held-out training images, which are not in ``train``; ``None`` if there are
        none.
      benchmark: ``cub`` if the data are the whole of CUB-200-2011.
    """

    name: str
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None
    benchmark: BenchmarkName | None = None


def load(spec: str, framing: Framing, *, validation: float = 0.0, drawn: Path) -> Birds:
    """Opens a data set of birds; images are read when they are indexed.

    Args:
      spec: ``drawn`` (a small set drawn by a fixed seed), ``cub:FOLDER`` (the original folder),
        ``tfds`` or ``tfds:DATA_DIR`` (as prepared by TensorFlow Datasets).
      framing: How a picture becomes a square.
      validation: Share of the training images of every class to hold out, in ``[0, 1)``.
      drawn: Folder of the drawn set, which is written there if it is missing.

    Raises:
      ValueError: If ``validation`` is out of range, or leaves one of the two splits empty.
      DataError: If ``spec`` has none of these forms, or a file is missing or broken; names it, and
        the line.
    """
    name, colon, argument = spec.partition(":")
    if spec == "drawn":
        drawn_birds.write_once(drawn)
        birds = dataclasses.replace(read_cub(drawn, framing), name="drawn birds")
    elif name == "cub" and argument:
        birds = read_cub(Path(argument).expanduser(), framing)
    elif name == "tfds" and bool(colon) == bool(argument):
        birds = _read_tfds(str(Path(argument).expanduser()) if argument else "", framing)
    else:
        forms = "drawn, cub:FOLDER, tfds or tfds:DATA_DIR"
        raise DataError(f"data: expected one of {forms}; got {spec!r}; name birds in one of them")
    return _hold_out(birds, validation)


def read_cub(folder: Path, framing: Framing) -> Birds:
    """Opens the folder that contains ``images.txt``, or ``CUB_200_2011`` with that file in it.

    Raises:
      DataError: If a text file is missing or broken; names it and the line. A broken image raises
        when it is read.
    """
    roots = [root for root in (folder, folder / "CUB_200_2011") if (root / "images.txt").is_file()]
    if not roots:
        raise DataError(
            f"{folder}: expected the folder of CUB-200-2011, with images.txt in it; got "
            f"{'one without it' if folder.is_dir() else 'no such folder'}; name that folder"
        )
    root = roots[0]
    names, classes = _named(root / "images.txt"), _named(root / "classes.txt")
    label_of = _numbers(root / "image_class_labels.txt", names, 1, among=classes)
    is_training = _numbers(root / "train_test_split.txt", names, 1)
    boxes = _numbers(root / "bounding_boxes.txt", names, 4)
    parts = _named(root / "parts" / "parts.txt")
    places = _part_places(root / "parts" / "part_locs.txt", names, parts)
    label = {number: place for place, number in enumerate(classes)}
    images = list(names)
    labels = np.array([label[int(label_of[image][0])] for image in images], np.int32)
    corners = np.array([boxes[image] for image in images])
    corners[:, 2:] += corners[:, :2]
    files = Files(
        [root / "images" / names[image] for image in images],
        labels,
        framing,
        boxes=corners,
        parts=places,
    )
    training = np.array([is_training[image][0] == 1 for image in images])
    splits = []
    for name, own in (("training", training), ("test", ~training)):
        if not own.any():
            where = root / "train_test_split.txt"
            raise DataError(f"{where}: expected some {name} images; got none; {_FETCH}")
        splits.append(Split(Chosen(files, np.flatnonzero(own)), labels[own]))
    return _cub(tuple(classes.values()), tuple(parts.values()), *splits)


def _read_tfds(data_dir: str, framing: Framing) -> Birds:
    read = [Tfds(_TFDS_NAME, split, data_dir, framing) for split in ("train", "test")]
    splits = [Split(examples, examples.labels()) for examples in read]
    return _cub(tuple(read[0].class_names()), (), *splits)


def _cub(classes: tuple[str, ...], parts: tuple[str, ...], train: Split, test: Split) -> Birds:
    """The data set as a record; it is the benchmark only if CUB-200-2011 is complete."""
    whole = (len(train.labels), len(test.labels)) == _CUB_IMAGES
    return Birds("CUB-200-2011", classes, parts, train, test, benchmark="cub" if whole else None)


def _hold_out(birds: Birds, fraction: float) -> Birds:
    if not 0 <= fraction < 1:
        raise ValueError(f"validation must be a number in [0, 1); got {fraction}.")
    if fraction == 0:
        return birds
    labels = birds.train.labels
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        held_out[own[len(own) - round(fraction * len(own)) :]] = True
    if not 0 < held_out.sum() < len(labels):
        raise ValueError(
            f"validation must leave images on both sides; got {fraction} of {len(labels)} images "
            f"in {len(np.unique(labels))} classes, which holds out {held_out.sum()}."
        )
    return dataclasses.replace(
        birds,
        train=birds.train.chosen(np.flatnonzero(~held_out)),
        validation=birds.train.chosen(np.flatnonzero(held_out)),
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The non-empty lines of a text file, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable text file; got {error}; {_FETCH}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, line


def _broken(path: Path, number: int, expected: str, line: str) -> DataError:
    return DataError(f"{path}, line {number}: expected {expected}; got {line!r}; {_FETCH}")


def _named(path: Path) -> dict[int, str]:
    """The names by their numbers, from a file of lines with a number and a name."""
    names: dict[int, str] = {}
    for number, line in _lines(path):
        first, _, name = line.strip().partition(" ")
        if not first.isdecimal() or not name or int(first) in names:
            raise _broken(path, number, "a new whole number and a name", line)
        names[int(first)] = name
    if not names:
        raise DataError(f"{path}: expected a number and a name a line; got no lines; {_FETCH}")
    return names


def _rows(path: Path, columns: int, check: Callable[[list[float]], bool]) -> Iterator[list[float]]:
    """Reads lines of numbers; each line must pass a check."""
    for number, line in _lines(path):
        try:
            row = [float(word) for word in line.split()]
            fits = len(row) == columns and bool(np.isfinite(row).all()) and check(row)
        except ValueError:
            fits = False
        if not fits:
            expected = f"{columns} numbers, of images, classes or parts that there are, each once"
            raise _broken(path, number, expected, line)
        yield row


def _numbers(
    path: Path, images: Mapping[int, str], columns: int, *, among: Collection[int] | None = None
) -> dict[int, list[float]]:
    """The numbers of each image in a file.

    Args:
      path: A file; each line has the number of an image, then the image's numbers.
      images: Names by number; each must have a line.
      columns: How many numbers follow that of the image.
      among: The allowed numbers; all if ``None``.
    """
    found: dict[int, list[float]] = {}

    def check(row: list[float]) -> bool:
        known = among is None or all(value in among for value in row[1:])
        return row[0] in images and row[0] not in found and known

    for image, *values in _rows(path, 1 + columns, check):
        found[int(image)] = values
    missing = next((image for image in images if image not in found), None)
    if missing is not None:
        raise DataError(f"{path}: expected a line for each image; got none for {missing}; {_FETCH}")
    return found


def _part_places(path: Path, images: Mapping[int, str], parts: Mapping[int, str]) -> Any:
    """Places of parts in pixels, ``[images, parts, 2]``, NaN where a part is not visible."""
    image_rows = {image: row for row, image in enumerate(images)}
    part_rows = {part: row for row, part in enumerate(parts)}
    places = np.full((len(images), len(parts), 2), np.nan)

    def check(row: list[float]) -> bool:
        return row[0] in images and row[1] in parts and row[4] in (0, 1)

    for image, part, x, y, visible in _rows(path, 5, check):
        if visible:
            places[image_rows[int(image)], part_rows[int(part)]] = x, y
    return places
