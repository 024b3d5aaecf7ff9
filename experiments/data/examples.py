"""Labelled pictures that are read one by one: from arrays, image files or TFDS.

Each source is a picklable sequence of examples with random access. An example is a dict of
``image``, uint8 ``[side, side, 3]``, and ``label``, int32. With annotations it also has ``box``,
float32 ``[4]``: left, top, right and bottom, and ``parts``, float32 ``[parts, 2]``: ``(x, y)``, NaN
where a part is not visible. Both are in normalised coordinates of the image, with −1 and 1 at its
outer edges. They may lie outside the image if it is a crop of the picture; boxes are clipped to the
whole picture.
"""

import io
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from experiments.data.datasets import DataError
from experiments.data.pictures import ENDINGS, FitName, as_rgb

Example = dict[str, np.ndarray]


@runtime_checkable
class Examples(Protocol):
    """A sequence of examples; arrays of one key have one shape and dtype."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> Example:
        """One example; a ``DataError`` names the file or record that cannot be read."""


class Framing(NamedTuple):
    """How a picture of any size becomes a square.

    Attributes:
      side: Side of the square, in pixels.
      fit: ``crop``: the shorter side fills the square, and the longer one is cut equally at both
        ends; ``whole``: the whole picture is squeezed into the square.
    """

    side: int
    fit: FitName = "crop"

    def region(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part that is kept of a picture of this size."""
        width, height = size
        if self.fit == "whole":
            return 0.0, 0.0, float(width), float(height)
        side = min(size)
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def image(self, picture: Image.Image) -> UInt8[np.ndarray, "side side 3"]:
        """The square, with antialiasing.

        Raises:
          ValueError: If the picture has 32 bits a channel.
        """
        resized = as_rgb(picture).resize(
            (self.side, self.side), Image.Resampling.BILINEAR, box=self.region(picture.size)
        )
        return np.asarray(resized)

    def points(
        self, points: Float[np.ndarray, "*n 2"], size: tuple[int, int]
    ) -> Float[np.ndarray, "*n 2"]:
        """Normalises points ``(x, y)``, given in pixels from the picture's left and top edge."""
        left, top, right, bottom = self.region(size)
        middle = np.array([left + right, top + bottom]) / 2
        half = np.array([right - left, bottom - top]) / 2
        return ((points - middle) / half).astype(np.float32)

    def box(self, box: Float[np.ndarray, " 4"], size: tuple[int, int]) -> Float[np.ndarray, " 4"]:
        """Clips a box, left, top, right and bottom, to the picture and normalises it."""
        clipped = np.clip(box.reshape(2, 2), 0, size)
        return self.points(clipped, size).reshape(4)


class Arrays:
    """Images and labels in memory, and further arrays with an entry for each image.

    Raises:
      ValueError: If the arrays differ in length.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w c"],
        labels: Integer[np.ndarray, " n"],
        **more: np.ndarray,
    ) -> None:
        self._arrays = {"image": images, "label": labels.astype(np.int32), **more}
        lengths = {name: len(array) for name, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"arrays must be of one length; got {lengths}.")

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._arrays["image"])

    def __getitem__(self, index: int) -> Example:
        """The example with this index."""
        return {name: np.asarray(array[index]) for name, array in self._arrays.items()}


class Files:
    """Image files; a file is read when its example is asked for.

    Args:
      paths: The files.
      labels: ``[n]``.
      framing: How a picture becomes a square.
      boxes: Left, top, right and bottom of a box in each picture, in its pixels, ``[n, 4]``.
      parts: ``(x, y)`` of each part, in pixels, NaN where it is not visible, ``[n, parts, 2]``.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Integer[np.ndarray, " n"],
        framing: Framing,
        *,
        boxes: Float[np.ndarray, "n 4"] | None = None,
        parts: Float[np.ndarray, "n parts 2"] | None = None,
    ) -> None:
        self.labels = labels.astype(np.int32)
        self._paths, self._framing = list(map(str, paths)), framing
        self._boxes, self._parts = boxes, parts

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        """The example with this index."""
        path = self._paths[index]
        with decoding(path), Image.open(path) as picture:
            example = {"image": self._framing.image(picture), "label": self.labels[index, ...]}
            size = picture.size
        if self._boxes is not None:
            example["box"] = self._framing.box(self._boxes[index], size)
        if self._parts is not None:
            example["parts"] = self._framing.points(self._parts[index], size)
        return example


def folder(root: Path, framing: Framing) -> Files:
    """The image files of a folder that has a folder for each class, named after it.

    Raises:
      DataError: If no class has an image file.
    """
    classes = sorted(each for each in root.iterdir() if each.is_dir()) if root.is_dir() else []
    found = [
        (path, label)
        for label, each in enumerate(classes)
        for path in sorted(each.iterdir())
        if path.suffix.lower() in ENDINGS
    ]
    if not found:
        raise DataError(
            f"{root}: expected a folder for each class with images in it; got none; name a folder "
            "that holds one for each class"
        )
    paths, labels = zip(*found, strict=True)
    return Files(paths, np.array(labels), framing)


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The image files among these files, and in these folders and the folders in them.

    Raises:
      DataError: If a path does not exist, or a folder has no image file in it; names the path.
    """
    found = []
    for path in paths:
        if path.is_dir():
            inside = [each for each in path.rglob("*") if each.suffix.lower() in ENDINGS]
            if not inside:
                raise DataError(
                    f"{path}: expected a folder with image files ({' '.join(ENDINGS)}); got none; "
                    "name another folder, or the files"
                )
            found += sorted(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(
                f"{path}: expected an image file or a folder of them; got nothing there; check "
                "the path"
            )
    return found


class Tfds:
    """A prepared data set of TensorFlow Datasets with ``image``, ``label`` and perhaps ``bbox``.

    Args:
      name: Name of the data set; the version that was prepared is read.
      split: ``train`` or ``test``.
      data_dir: The folder in which it was prepared; if empty, TFDS's own folder.
      framing: How a picture becomes a square.

    Raises:
      DataError: If the data set is missing or cannot be read.
    """

    def __init__(self, name: str, split: str, data_dir: str, framing: Framing) -> None:
        self._where = f"{f'tfds:{data_dir}' if data_dir else 'tfds'} ({name}, {split})"
        self._asked, self._framing = (name, split, data_dir), framing
        self._opened: Any = None
        self._length = len(self._records())

    def __getstate__(self) -> dict[str, Any]:
        """The state without open files; another process opens its own."""
        return self.__dict__ | {"_opened": None}

    def __len__(self) -> int:
        """The number of examples."""
        return self._length

    def __getitem__(self, index: int) -> Example:
        """The example with this index."""
        record = self._record(index)
        with (
            decoding(f"{self._where}, example {index}"),
            Image.open(io.BytesIO(record["image"])) as picture,
        ):
            size = picture.size
            label = np.array(record["label"], np.int32)
            example = {"image": self._framing.image(picture), "label": label}
        if "bbox" in record:
            # Top, left, bottom, right, as shares of the height and the width.
            top, left, bottom, right = np.asarray(record["bbox"], np.float64)
            pixels = np.array([left, top, right, bottom]) * np.tile(size, 2)
            example["box"] = self._framing.box(pixels, size)
        return example

    def labels(self) -> Integer[np.ndarray, " n"]:
        """The labels of all examples; reads all of them."""
        return np.array([self._record(k)["label"] for k in range(self._length)], np.int32)

    def class_names(self) -> list[str]:
        """The names of the classes, by label."""
        names: list[str] = list(self._records().dataset_info.features["label"].names)
        return names

    def _record(self, index: int) -> Mapping[str, Any]:
        records = self._records()
        with self._reading():
            return records[index]

    def _records(self) -> Any:
        if self._opened is None:
            # TFDS and its imports raise warnings of their own.
            with self._reading(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._opened = _open(*self._asked)
        return self._opened

    @contextmanager
    def _reading(self) -> Iterator[None]:
        name = self._asked[0]
        try:
            yield
        except Exception as error:  # TFDS raises errors of many types; the cause stays chained.
            raise DataError(
                f"{self._where}: expected {name} prepared by TFDS as array_record or parquet; got "
                f"{type(error).__name__}: {error}; run `tfds build {name} "
                "--file_format=array_record` where TensorFlow is installed, then name its folder "
                "as tfds:DATA_DIR"
            ) from error


def _open(name: str, split: str, data_dir: str) -> Any:
    """The records, with their images still encoded."""
    import tensorflow_datasets as tfds  # Imported here: heavy, and optional.

    builder = tfds.builder(f"{name}:*.*.*", data_dir=data_dir or None)
    images = [
        name
        for name, feature in builder.info.features.items()
        if isinstance(feature, tfds.features.Image)
    ]
    decoders = {name: tfds.decode.SkipDecoding() for name in images}
    return builder.as_data_source(split, decoders=decoders)


class Chosen:
    """Examples of another source, chosen by index; ``keys`` names the arrays that they keep."""

    def __init__(
        self,
        examples: Examples,
        numbers: Integer[np.ndarray, " n"],
        keys: Sequence[str] | None = None,
    ) -> None:
        self._examples, self._numbers, self._keys = examples, numbers, keys

    def __len__(self) -> int:
        """The number of examples."""
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:
        """The example with this index."""
        example = self._examples[int(self._numbers[index])]
        return example if self._keys is None else {key: example[key] for key in self._keys}


@contextmanager
def decoding(where: str | os.PathLike[str]) -> Iterator[None]:
    """Raises a :class:`DataError` that names a picture if it cannot be read."""
    try:
        yield
    # Pillow's errors; the last is for pictures that are far too large.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        got = f"{type(error).__name__}: {error}"
        remedy = "fetch it again, or save it with 8 bits a channel"
        raise DataError(f"{where}: expected a readable image; got {got}; {remedy}") from error
