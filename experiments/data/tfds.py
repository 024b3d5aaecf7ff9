"""Sets for image classification as prepared by TensorFlow Datasets."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.data.datasets import Dataset, checked_dataset, data_error

# Side of the squares that images of several sizes become.
_TFDS_SIDE = 64


def load(argument: str) -> Dataset:
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
        raise data_error(where, expected, ", ".join(held) or "no split", remedy)
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
    return checked_dataset(name.partition("/")[0], stacked)


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
        raise data_error(where, "examples of one image and one label of a class", got, remedy)
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
        raise data_error(where, expected, got, remedy) from error
