"""Labelled images from an installed package, IDX files, an NPZ file, folders of images or TFDS.

Every source reads and checks everything, then returns a data set in memory. A broken file raises a
:class:`~experiments.data.datasets.DataError` that names the file.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from experiments.data import arrays, folders, gtsrb, tfds
from experiments.data.datasets import (
    Dataset,
    checked_dataset,
    data_error,
    split_validation,
    with_tracks,
)


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
    raise data_error("data", f"one of {', '.join(LOADERS)}", repr(spec), _meant(spec))


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


def _load_digits(_: str) -> Dataset:
    try:  # Imported here: it takes a second, and only this source needs it.
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise data_error("digits", "scikit-learn, which holds them", error, "install it") from error
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
    return checked_dataset("digits", splits)


def _load_signs(folder: str, *, cut: bool = False) -> Dataset:
    found = gtsrb.read(Path(folder), cut=cut)
    splits = {name: (each.images, each.labels, folder) for name, each in found.items()}
    return with_tracks(checked_dataset("gtsrb", splits), found["train"].tracks, folder)


def _load_folder(argument: str) -> Dataset:
    root = Path(argument)
    found, names = folders.read(root)
    splits = {split: (*own, f"{root} ({split})") for split, own in found.items()}
    dataset = checked_dataset(root.resolve().name, splits)
    # A group of its own for each image, so that validation takes as large a share of each class.
    groups = np.arange(len(dataset.train.labels), dtype=np.int32)
    train = dataclasses.replace(dataset.train, groups=groups)
    return dataclasses.replace(dataset, train=train, class_names=names)


# How each source is written on the command line, and its reader.
LOADERS: dict[str, Callable[[str], Dataset]] = {
    "digits": _load_digits,
    "idx:FOLDER": arrays.load_idx,
    "npz:FILE": arrays.load_npz,
    "folder:FOLDER": _load_folder,
    "gtsrb:FOLDER": _load_signs,
    "gtsrb-roi:FOLDER": functools.partial(_load_signs, cut=True),
    "tfds": tfds.load,
    "tfds:NAME": tfds.load,
    "tfds:NAME@DATA_DIR": tfds.load,
    "tfds:DATA_DIR": tfds.load,
}
