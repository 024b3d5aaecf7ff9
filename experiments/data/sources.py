"""Labelled images from an installed package, IDX files, an NPZ file, folders of images or TFDS.

Every source reads and checks everything, then returns a :class:`Dataset` in memory. A broken file
raises a :class:`DataError` that names the file.
"""

import contextlib
import dataclasses
import functools
import gzip
import math
import os
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import stn_jax as stn
from experiments.data import benchmarks, folders, gtsrb
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


def load(spec: str) -> Dataset:
    """Loads a data set.

    Args:
      spec: ``digits`` (1,797 real handwritten digits, installed with scikit-learn),
        ``idx:FOLDER`` (the four original MNIST files), ``npz:FILE`` (``x_train``, ``y_train``,
        ``x_test``, ``y_test`` and perhaps ``x_val``, ``y_val``, and ``track_train``, the number
        of each training image's track within its class, or several numbers with that first),
        ``folder:FOLDER`` (image files in a folder for each class, or in ``train`` and ``test``
        with a folder for each class),
        ``gtsrb:FOLDER`` or ``gtsrb-roi:FOLDER`` (the German traffic signs as published, whole or
        cut to their regions of interest), ``tfds:NAME`` or ``tfds:NAME@DATA_DIR`` (a set for image
        classification as prepared by TensorFlow Datasets; without a split ``test`` its
        ``validation`` is taken; images of several sizes are cut to their middle square and resized
        to 64×64 pixels), ``tfds`` or ``tfds:DATA_DIR`` (MNIST of it). ``~`` stands for the home
        folder.

    Returns:
      The data set.

    Raises:
      DataError: If ``spec`` has none of these forms, or the data are missing, damaged or of the
        wrong kind.
    """
    name, colon, argument = spec.partition(":")
    for form, read in LOADERS.items():
        if form.partition(":")[:2] == (name, colon) and bool(argument) == bool(colon):
            # Not Path.expanduser, which would spoil the "//" of a bucket's address.
            return read(os.path.expanduser(argument))  # noqa: PTH111
    raise _error("data", f"one of {', '.join(LOADERS)}", repr(spec), _meant(spec))


def _meant(spec: str) -> str:
    """The remedy for a source that has none of the forms."""
    path = Path(spec)
    if path.is_dir():
        return f"for the original MNIST files in that folder write idx:{spec}"
    if path.suffix == ".npz":
        return f"for an NPZ file write npz:{spec}"
    if "mnist" in spec.lower():
        return "for MNIST write idx:FOLDER, the folder of its four files, or tfds"
    if spec.rstrip(":") in ("idx", "npz", "gtsrb", "gtsrb-roi"):
        return "name the folder or the file after the colon"
    return "name a source in one of these forms"


def load_split(spec: str, validation: float, *, on: Literal["test", "validation"]) -> Dataset:
    """Loads a data set and holds out training images.

    Args:
      spec: As for :func:`load`.
      validation: As ``fraction`` for :func:`split_validation`.
      on: If ``validation``, the held-out images replace the test set.
    """
    dataset = split_validation(load(spec), validation)
    if on == "test":
        return dataset
    assert dataset.validation is not None
    return dataclasses.replace(dataset, name=f"{dataset.name}, held out", test=dataset.validation)


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


def _error(where: object, expected: str, got: object, remedy: str) -> DataError:
    return DataError(f"{where}: expected {expected}; got {got}; {remedy}")


def _load_digits(_: str) -> Dataset:
    try:  # Imported here: it takes a second, and only this source needs it.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise _error("digits", "scikit-learn, which holds them", error, "install it") from error
    digits = load_digits()
    # As in MNIST, the digit fills the middle 20x20 of 28x28 pixels.
    theta = jnp.array([28 / 20, 0.0, 0.0])
    enlarge = jax.vmap(lambda image: stn.warp(image, stn.attention(), theta, output_shape=(28, 28)))
    small = jnp.asarray(digits.images[..., None] * (255 / 16), jnp.float32)
    images = np.rint(np.asarray(jax.jit(enlarge)(small))).clip(0, 255).astype(np.uint8)
    train, test = train_test_split(
        np.arange(len(images)), train_size=1000, stratify=digits.target, random_state=0
    )
    rows = {"train": train, "test": test}
    splits = {split: (images[i], digits.target[i], "digits") for split, i in rows.items()}
    return _dataset("digits", splits)


# Raised by a missing, damaged, encrypted or pickled file; gzip's errors are OSErrors.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)

# The name of each file without its ending, and the number of dimensions of its array.
_IDX_FILES = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}
# If several of these exist, the last one is read.
_IDX_ENDINGS = (".idx{}-ubyte.gz", "-idx{}-ubyte.gz", ".idx{}-ubyte", "-idx{}-ubyte")


def _load_idx(argument: str) -> Dataset:
    folder = Path(argument)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise _error(folder, "a folder with the four MNIST files", got, "name their folder")
    spellings = {
        name: [folder / (name + ending.format(ndim)) for ending in _IDX_ENDINGS]
        for name, ndim in _IDX_FILES.items()
    }
    paths = {name: path for name, tried in spellings.items() for path in tried if path.exists()}
    missing = ", ".join(tried[-1].name for name, tried in spellings.items() if name not in paths)
    if missing:
        expected = "the four MNIST files, plain or .gz"
        raise _error(folder, expected, f"a folder without {missing}", "put them there")
    splits = {}
    for split, stem in {"train": "train", "test": "t10k"}.items():
        images, labels = paths[f"{stem}-images"], paths[f"{stem}-labels"]
        splits[split] = (_read_idx(images, 3), _read_idx(labels, 1), f"{images} and {labels.name}")
    return _dataset(folder.resolve().name, splits)


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Reads one IDX file of bytes: a magic number, ``ndim`` sizes, then the values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except _UNREADABLE as error:
        raise _error(path, "a readable IDX file", error, "fetch it again") from error
    start = 4 + 4 * ndim
    if len(content) < start:
        got = f"{len(content)} bytes in all"
        raise _error(path, f"a header of {start} bytes", got, "it is truncated, fetch it again")
    magic, *shape = struct.unpack(f">{1 + ndim}I", content[:start])
    right = 0x0800 + ndim  # The code 8 means unsigned bytes.
    if magic != right:
        expected = f"the magic number 0x{right:08x} (unsigned bytes, {ndim} dimensions)"
        raise _error(path, expected, f"0x{magic:08x}", "check that it is what its name says")
    if len(content) - start != math.prod(shape):
        expected = f"{math.prod(shape)} bytes after the header, for shape {tuple(shape)}"
        remedy = "it is truncated or has trailing bytes, fetch it again"
        raise _error(path, expected, len(content) - start, remedy)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# This array holds the track of each training image, numbered within its class.
_TRACKS = "track_train"
# Names that an NPZ file may use for each split; the arrays are x_NAME and y_NAME.
_NPZ_NAMES = {"train": ("train",), "test": ("test",), "validation": ("val", "valid", "validation")}


def _load_npz(argument: str) -> Dataset:
    path = Path(argument)
    known = {f"{kind}_{name}" for names in _NPZ_NAMES.values() for name in names for kind in "xy"}
    try:
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            keys = [key for key in archive.files if key.lower() in known]
            arrays = {key.lower(): np.asarray(archive[key]) for key in keys}
            tracks = np.asarray(archive[_TRACKS]) if _TRACKS in archive.files else None
            found = ", ".join(archive.files) or "no arrays"
    except _UNREADABLE as error:
        got, remedy = str(error), "save it again with numpy.savez, without object arrays"
        if not path.exists():
            got, remedy = "nothing there", "check the path; a relative one begins where you are"
        elif path.is_dir():
            got, remedy = "a folder", "name the file in it, or write idx:FOLDER for MNIST's files"
        elif path.suffix == ".npy":
            got = "a file of one array"
            remedy = "save all arrays with numpy.savez(FILE, x_train=…, y_train=…, …)"
        raise _error(path, "a readable .npz archive of plain numbers", got, remedy) from error
    splits = {}
    for split, names in _NPZ_NAMES.items():
        for name in names:
            x, y = f"x_{name}", f"y_{name}"
            if x in arrays and y in arrays and split not in splits:
                splits[split] = (arrays.pop(x), arrays.pop(y), f"{path} ({x}, {y})")
    # A remaining array has no partner, or belongs to a second validation split.
    if arrays or len(keys) != 2 * len(splits) or not splits.keys() >= {"train", "test"}:
        expected = "x_train, y_train, x_test, y_test and perhaps one pair x_val, y_val, each once"
        raise _error(path, f"{expected} and in upper or lower case", found, "rename the arrays")
    return _with_tracks(_dataset(path.stem, splits), tracks, f"{path} ({_TRACKS})")


def _load_signs(folder: str, *, cut: bool = False) -> Dataset:
    try:
        found = gtsrb.read(Path(folder), cut=cut)
    except gtsrb.SignsError as error:
        raise _error(error.where, error.expected, error.got, error.remedy) from error
    splits = {name: (each.images, each.labels, folder) for name, each in found.items()}
    return _with_tracks(_dataset("gtsrb", splits), found["train"].tracks, folder)


def _load_folder(argument: str) -> Dataset:
    root = Path(argument)
    try:
        found, names = folders.read(root)
    except folders.FolderError as error:
        raise _error(error.where, error.expected, error.got, error.remedy) from error
    splits = {split: (*own, f"{root} ({split})") for split, own in found.items()}
    dataset = _dataset(root.resolve().name, splits)
    # A group of its own for each image, so that validation takes as large a share of each class.
    groups = np.arange(len(dataset.train.labels), dtype=np.int32)
    train = dataclasses.replace(dataset.train, groups=groups)
    return dataclasses.replace(dataset, train=train, class_names=names)


def _with_tracks(dataset: Dataset, tracks: NDArray[Any] | None, where: str) -> Dataset:
    """The data set with its training images grouped by their class and track."""
    if tracks is None:
        return dataset
    labels = dataset.train.labels
    tracks = tracks.reshape(len(tracks), -1)[:, :1]
    if len(tracks) != len(labels) or tracks.dtype.kind not in "iu":
        got = f"{tracks.dtype} of {len(tracks)} tracks"
        raise _error(where, f"a whole number for each of {len(labels)} images", got, "mend it")
    pairs = np.column_stack([labels, tracks])
    groups = np.unique(pairs, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
    train = dataclasses.replace(dataset.train, groups=groups)
    return dataclasses.replace(dataset, train=train)


# Side of the squares that images of several sizes become.
_TFDS_SIDE = 64


def _load_tfds(argument: str) -> Dataset:
    """Reads MNIST from a folder of TFDS, or the named set, ``NAME`` or ``NAME@DATA_DIR``."""
    name, at, data_dir = argument.partition("@")
    if not at and not _is_tfds_name(name):
        name, data_dir = "mnist", argument
    where = f"tfds:{argument}" if argument else "tfds"
    with _reading_tfds(where, name):
        import tensorflow_datasets as tfds  # Imported here: heavy, and optional.

        # The stars match the version that was prepared.
        builder = tfds.builder(f"{name}:*.*.*", data_dir=data_dir or None)
        features, held = builder.info.features, list(builder.info.splits)
        if not held:
            raise FileNotFoundError(f"nothing is prepared in {builder.data_dir}")
    image, label = _image_and_label(tfds.features, features, where)
    test = next((each for each in ("test", "validation") if each in held), None)
    if "train" not in held or test is None:
        expected = "the splits train and test, or train and validation"
        remedy = (
            "save two parts of it as x_train, y_train, x_test, y_test and read them as npz:FILE"
        )
        raise _error(where, expected, ", ".join(held) or "no split", remedy)
    splits = {}
    for split, source in {"train": "train", "test": test}.items():
        with _reading_tfds(where, name):
            examples = list(builder.as_data_source(source))
            images = [np.asarray(example[image]) for example in examples]
            labels = np.array([example[label] for example in examples])
        splits[split] = (images, labels, f"{where} ({source})")
    if len({each.shape for images, _, _ in splits.values() for each in images}) > 1:
        splits = {
            split: ([_squared(each) for each in images], labels, named)
            for split, (images, labels, named) in splits.items()
        }
    stacked = {
        split: (np.stack(images), labels, named)
        for split, (images, labels, named) in splits.items()
    }
    return _dataset(name.partition("/")[0], stacked)


def _is_tfds_name(word: str) -> bool:
    """Whether a word is the name of a set, perhaps with a configuration, rather than a folder."""
    return bool(re.fullmatch(r"[a-z][a-z0-9_]*(/[\w.-]+)?", word)) and not Path(word).is_dir()


def _image_and_label(kinds: Any, features: Any, where: str) -> tuple[str, str]:
    """The names of the only image and the only label of a class in each example."""
    found: list[list[str]] = [
        [name for name, feature in dict(features).items() if isinstance(feature, kind)]
        for kind in (kinds.Image, kinds.ClassLabel)
    ]
    if [len(names) for names in found] != [1, 1]:
        got = f"images {', '.join(found[0]) or 'none'}; labels {', '.join(found[1]) or 'none'}"
        remedy = "choose a set for image classification, or save yours as npz:FILE"
        raise _error(where, "examples of one image and one label of a class", got, remedy)
    return found[0][0], found[1][0]


def _squared(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle square of an image of any size, resized."""
    side = min(image.shape[:2])
    top, left = ((size - side) // 2 for size in image.shape[:2])
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    small = picture.resize(
        (_TFDS_SIDE, _TFDS_SIDE),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
    )
    return np.asarray(small).reshape(_TFDS_SIDE, _TFDS_SIDE, image.shape[-1])


@contextlib.contextmanager
def _reading_tfds(where: str, name: str) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TFDS and its imports raise warnings of their own.
            yield
    except Exception as error:  # TFDS raises errors of many types; the cause stays chained.
        # TFDS's own messages go on for lines, with remedies that do not apply here.
        got = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        remedy = (
            f"run `tfds build {name} --file_format=array_record` where TensorFlow is installed, "
            f"then name its folder as tfds:{name}@DATA_DIR, or use idx:FOLDER or npz:FILE"
        )
        expected = f"{name} prepared by TFDS as array_record or parquet"
        raise _error(where, expected, got, remedy) from error


# How each source is written on the command line, and its reader.
LOADERS: dict[str, Callable[[str], Dataset]] = {
    "digits": _load_digits,
    "idx:FOLDER": _load_idx,
    "npz:FILE": _load_npz,
    "folder:FOLDER": _load_folder,
    "gtsrb:FOLDER": _load_signs,
    "gtsrb-roi:FOLDER": functools.partial(_load_signs, cut=True),
    "tfds": _load_tfds,
    "tfds:NAME": _load_tfds,
    "tfds:NAME@DATA_DIR": _load_tfds,
    "tfds:DATA_DIR": _load_tfds,
}


def _dataset(name: str, splits: Mapping[str, tuple[Any, Any, str]]) -> Dataset:
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
            raise _error(where, "one label for each image", got, "check that they belong together")
        made[split] = Split(images, labels)
        shape, first = images.shape[1:], made["train"].images.shape[1:]
        if shape != first:
            expected = f"images of shape {first}, as in training"
            raise _error(where, expected, shape, "bring all splits to one shape")
    num_classes = 1 + max(int(split.labels.max()) for split in made.values())
    validation = made.get("validation")
    num_training = len(made["train"].labels) + (0 if validation is None else len(validation.labels))
    benchmark = benchmarks.recognise(num_training, made["test"].labels)
    return Dataset(name, made["train"], made["test"], validation, num_classes, benchmark)


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
        raise _error(where, expected, given, remedy)
    # Axis 1 has as many entries as an image has channels, so it is not the height of an image.
    if array.shape[1] in _CHANNELS and min(array.shape[2:]) >= 8:
        expected = "the channels on the last axis, [n, height, width, channels]"
        remedy = "transpose them, numpy.moveaxis(images, 1, -1)"
        raise _error(where, expected, f"{given}, whose axis 1 looks like channels", remedy)
    if array.dtype == np.uint8:
        return array
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 255):  # Written so that NaN fails, too.
        expected = "finite image values from 0 to 255, or from 0 to 1 as floats"
        raise _error(where, expected, f"{low} to {high}", "rescale them")
    if array.dtype.kind == "f":
        array = np.rint(array * np.float32(scale))
    return array.astype(np.uint8)


def _as_labels(array: NDArray[Any], where: str) -> NDArray[np.int32]:
    """Converts labels, one-hot or not, to int32 ``[n]``."""
    given = f"{array.dtype} of shape {array.shape}"
    if array.ndim not in (1, 2) or array.size == 0 or array.dtype.kind not in "biuf":
        expected = "labels [n], [n, 1] or one-hot [n, classes], not empty"
        remedy = "convert them to integers, numpy.unique(labels, return_inverse=True)[1]"
        raise _error(where, expected, given, remedy)
    if array.ndim == 2 and array.shape[1] > 1:
        if not (np.isin(array, (0, 1)).all() and (array.sum(axis=1) == 1).all()):
            got = f"{given} with rows that are not one 1 and else 0"
            raise _error(where, "one-hot labels", got, "give one whole number for each image")
        array = array.argmax(axis=1)
    array = array.reshape(-1)
    limit = np.iinfo(np.int32).max
    low, high = array.min(), array.max()
    if not (low >= 0 and high < limit and (array.astype(np.int64) == array).all()):
        expected = f"labels that are whole numbers from 0 to {limit - 1}"
        raise _error(where, expected, f"{given}, {low} to {high}", "number the classes from 0")
    return array.astype(np.int32)
