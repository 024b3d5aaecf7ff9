"""Data sets in memory: their form, the checks that bring them to it, and what is held out."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.data import benchmarks
from experiments.data.benchmarks import BenchmarkName


class DataError(ValueError):
    """Unusable data: names the source, what was expected and got, and the remedy."""


@dataclasses.dataclass(frozen=True)
class Split:
    """Images ``[n, height, width, channels]`` with values 0 to 255, and labels ``[n]``.

    ``groups`` ``[n]``, if given, holds the same number for images that are nearly alike, such as
    the frames of one track. All images of a group have the same label.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int32]
    groups: NDArray[np.int32] | None = None


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory; labels of all its splits lie in ``[0, num_classes)``.

    ``benchmark`` names the published benchmark, if the source recognises the data as one. Only then
    are errors compared with published ones. ``class_names`` holds the names of the classes by their
    labels, if the source has names.
    """

    name: str
    train: Split
    test: Split
    validation: Split | None
    num_classes: int
    benchmark: BenchmarkName | None = None
    class_names: tuple[str, ...] | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels


def data_error(where: object, expected: str, got: object, remedy: str) -> DataError:
    """The error about a place: what was expected there and got, and the remedy."""
    return DataError(f"{where}: expected {expected}; got {got}; {remedy}")


def checked_dataset(name: str, splits: Mapping[str, tuple[Any, Any, str]]) -> Dataset:
    """Checks the images and labels of each split, and converts them to one form."""
    # Find the range of all splits together: a dark split in 0..255 alone might look like 0..1. The
    # margin allows for resized images, whose rounding errors may exceed 1.
    floats = [images for images, _, _ in splits.values() if images.dtype.kind == "f"]
    scale = 255 if all(images.max(initial=0) < 1.001 for images in floats) else 1
    made: dict[str, Split] = {}
    for split, (raw_images, raw_labels, where) in splits.items():
        images, labels = _as_images(raw_images, scale, where), _as_labels(raw_labels, where)
        if len(images) != len(labels):
            got = f"{len(images)} images and {len(labels)} labels"
            raise data_error(
                where, "one label for each image", got, "check that they belong together"
            )
        made[split] = Split(images, labels)
        shape, first = images.shape[1:], made["train"].images.shape[1:]
        if shape != first:
            expected = f"images of shape {first}, as in training"
            raise data_error(where, expected, shape, "bring all splits to one shape")
    num_classes = 1 + max(int(split.labels.max()) for split in made.values())
    validation = made.get("validation")
    num_training = len(made["train"].labels) + (0 if validation is None else len(validation.labels))
    benchmark = benchmarks.recognise(num_training, made["test"].labels)
    return Dataset(name, made["train"], made["test"], validation, num_classes, benchmark)


# What to do about labels that are no numbers of classes.
_RENUMBER = (
    "number the classes from 0, alike in all splits: classes = numpy.unique(y_train); y_train = "
    "numpy.searchsorted(classes, y_train); y_test = numpy.searchsorted(classes, y_test)"
)
# The numbers of channels of pictures.
_CHANNELS = (1, 2, 3, 4)


def _as_images(array: NDArray[Any], scale: int, where: str) -> NDArray[np.uint8]:
    """Converts images to uint8 ``[n, height, width, channels]``; multiplies floats by ``scale``."""
    given = f"{array.dtype} of shape {array.shape}"
    if array.ndim == 2:
        # Flattened squares: one channel if the length is a square number, else three.
        for channels in (1, 3):
            side = math.isqrt(array.shape[1] // channels)
            if side * side * channels == array.shape[1]:
                array = array.reshape(len(array), side, side, channels)
                break
    elif array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.size == 0 or array.dtype.kind not in "iuf":
        expected = "numeric images [n, height, width], [n, height, width, channels] or [n, size]"
        remedy = "convert or reshape them, to squares if flattened"
        if array.ndim == 1:
            remedy = "perhaps images and labels are exchanged: x_ holds images, y_ labels"
        raise data_error(where, expected, given, remedy)
    # Axis 1 has as many entries as an image has channels, so it is not the height of an image.
    if array.shape[1] in _CHANNELS and min(array.shape[2:]) >= 8:
        expected = "the channels on the last axis, [n, height, width, channels]"
        remedy = "transpose them, numpy.moveaxis(images, 1, -1)"
        raise data_error(where, expected, f"{given}, whose axis 1 looks like channels", remedy)
    if array.dtype == np.uint8:
        return array
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # Written so that NaN fails, too.
        expected = "finite image values from 0 to 255, or from 0 to 1 as floats"
        raise data_error(where, expected, f"{low} to {high}", "rescale them")
    if array.dtype.kind == "f":
        array = np.rint(array * np.float32(scale))
    return array.astype(np.uint8)


def _as_labels(array: NDArray[Any], where: str) -> NDArray[np.int32]:
    """Converts labels, one-hot or not, to int32 ``[n]``."""
    given = f"{array.dtype} of shape {array.shape}"
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "biuf":
        expected = "labels [n], [n, 1] or one-hot [n, classes], not empty"
        raise data_error(where, expected, given, _RENUMBER)
    if array.ndim == 2 and array.shape[1] > 1:
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            got = f"{given} with rows that are not one 1 and else 0"
            raise data_error(where, "one-hot labels", got, "give one whole number for each image")
        array = array.argmax(axis=1)
    array = array.reshape(-1)
    limit = np.iinfo(np.int32).max
    low, high = array.min(), array.max()
    if not (low >= 0 and high < limit and (array.astype(np.int64) == array).all()):
        expected = f"labels that are whole numbers from 0 to {limit - 1}"
        raise data_error(where, expected, f"{given}, {low} to {high}", _RENUMBER)
    return array.astype(np.int32)


def without_gaps(dataset: Dataset, where: str) -> Dataset:
    """The data set itself, if training images of every class are there.

    Otherwise the model would have an output for a class that it never sees: for 0 if the classes
    are numbered from 1.
    """
    trained, *others = (
        np.unique(split.labels)
        for split in (dataset.train, dataset.test, dataset.validation)
        if split is not None
    )
    missing = np.setdiff1d(np.arange(dataset.num_classes), trained)
    if not len(missing):
        return dataset
    low, high = trained[0], trained[-1]
    never_trained = np.setdiff1d(np.concatenate(others), trained)
    if len(never_trained):
        remedy = f"add training images of {_listed(never_trained)}, or leave out those to test"
    elif high - low + 1 == len(trained):
        remedy = f"subtract {low} from all labels, also those to test"
    else:
        remedy = _RENUMBER
    raise data_error(
        where,
        f"training labels that number all classes from 0 on, 0 to {dataset.num_classes - 1}",
        f"{low} to {high}, without {_listed(missing)}",
        remedy,
    )


def _listed(labels: NDArray[Any], most: int = 5) -> str:
    """Labels with commas between them; if there are many, the first of them."""
    shown = ", ".join(map(str, labels[:most]))
    return shown if len(labels) <= most else f"{shown} and {len(labels) - most} more"


def with_tracks(dataset: Dataset, tracks: NDArray[Any] | None, where: str) -> Dataset:
    """The data set with its training images grouped by their class and track."""
    if tracks is None:
        return dataset
    labels = dataset.train.labels
    tracks = tracks.reshape(len(tracks), -1)[:, :1]
    if len(tracks) != len(labels) or tracks.dtype.kind not in "iu":
        got = f"{tracks.dtype} of {len(tracks)} tracks"
        raise data_error(where, f"a whole number for each of {len(labels)} images", got, "mend it")
    pairs = np.column_stack([labels, tracks])
    groups = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
    train = dataclasses.replace(dataset.train, groups=groups)
    return dataclasses.replace(dataset, train=train)


def split_validation(dataset: Dataset, fraction: float) -> Dataset:
    """Holds out the last training images for validation, if the data have no validation split yet.

    The last ``round(fraction * n)`` training images become the validation split. Where images are
    in groups, the last ``round(fraction * groups)`` groups of every class do, so that no group is
    in both splits. Nothing is shuffled, so the same data have the same splits on every machine.

    Args:
      dataset: The data set.
      fraction: Share of the training images to hold out, in ``[0, 1)``.

    Returns:
      A data set with a validation split; ``dataset`` itself when it already has one or
      ``fraction`` is 0.

    Raises:
      ValueError: If ``fraction`` is outside ``[0, 1)``, or leaves one of the two splits empty.
    """
    if not 0 <= fraction < 1:
        raise ValueError(
            f"validation: expected a share of the training images in [0, 1); got {fraction}; write "
            "0.1 for a tenth of them, 0 for none"
        )
    if dataset.validation is not None or fraction == 0:
        return dataset
    held_out = _held_out(dataset.train, fraction)
    if not 0 < held_out.sum() < len(held_out):
        got = f"{fraction} of {len(held_out)} images, which keeps {len(held_out) - held_out.sum()}"
        raise ValueError(
            f"validation: expected to leave images in both splits; got {got}; choose another "
            "share, or 0 for none"
        )
    train, validation = (_chosen(dataset.train, chosen) for chosen in (~held_out, held_out))
    return dataclasses.replace(dataset, train=train, validation=validation)


def _held_out(split: Split, fraction: float) -> NDArray[np.bool_]:
    if split.groups is None:
        return np.arange(len(split.labels)) >= len(split.labels) - round(
            fraction * len(split.labels)
        )
    groups, first = np.unique(split.groups, return_index=True)
    of_label = split.labels[first]
    last = []
    for label in np.unique(of_label):
        own = groups[of_label == label]
        last.append(own[len(own) - round(fraction * len(own)) :])
    return np.isin(split.groups, np.concatenate(last))


def _chosen(split: Split, chosen: NDArray[np.bool_]) -> Split:
    groups = None if split.groups is None else split.groups[chosen]
    return Split(split.images[chosen], split.labels[chosen], groups)
