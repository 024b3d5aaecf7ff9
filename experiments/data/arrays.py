"""Labelled images from files of arrays: the four IDX files of MNIST, or one NPZ file."""

import gzip
import math
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.data.datasets import (
    Dataset,
    checked_dataset,
    data_error,
    with_tracks,
    without_gaps,
)

# Raised by a missing, damaged, encrypted or pickled file; gzip's errors are OSErrors.
_UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)


# The name of each file without its ending, and the number of dimensions of its array.
_IDX_FILES = {"train-images": 3, "train-labels": 1, "t10k-images": 3, "t10k-labels": 1}
# If several of these exist, the last one is read.
_IDX_ENDINGS = (".idx{}-ubyte.gz", "-idx{}-ubyte.gz", ".idx{}-ubyte", "-idx{}-ubyte")


def load_idx(argument: str) -> Dataset:
    """Reads the four files in a folder."""
    folder = Path(argument)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise data_error(folder, "a folder with the four MNIST files", got, "name their folder")
    spellings = {
        name: [folder / (name + ending.format(ndim)) for ending in _IDX_ENDINGS]
        for name, ndim in _IDX_FILES.items()
    }
    paths = {name: path for name, tried in spellings.items() for path in tried if path.exists()}
    missing = ", ".join(tried[-1].name for name, tried in spellings.items() if name not in paths)
    if missing:
        expected = "the four MNIST files, plain or .gz"
        raise data_error(folder, expected, f"a folder without {missing}", "put them there")
    splits = {}
    for split, stem in {"train": "train", "test": "t10k"}.items():
        images, labels = paths[f"{stem}-images"], paths[f"{stem}-labels"]
        splits[split] = (_read_idx(images, 3), _read_idx(labels, 1), f"{images} and {labels.name}")
    return without_gaps(checked_dataset(folder.resolve().name, splits), argument)


def _read_idx(path: Path, ndim: int) -> NDArray[np.uint8]:
    """Reads one IDX file of bytes: a magic number, ``ndim`` sizes, then the values."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except _UNREADABLE as error:
        raise data_error(path, "a readable IDX file", error, "fetch it again") from error
    start = 4 + 4 * ndim
    if len(content) < start:
        got = f"{len(content)} bytes in all"
        raise data_error(path, f"a header of {start} bytes", got, "it is truncated, fetch it again")
    magic, *shape = struct.unpack(f">{1 + ndim}I", content[:start])
    right = 0x0800 + ndim  # The code 8 means unsigned bytes.
    if magic != right:
        expected = f"the magic number 0x{right:08x} (unsigned bytes, {ndim} dimensions)"
        raise data_error(path, expected, f"0x{magic:08x}", "check that it is what its name says")
    if len(content) - start != math.prod(shape):
        expected = f"{math.prod(shape)} bytes after the header, for shape {tuple(shape)}"
        remedy = "it is truncated or has trailing bytes, fetch it again"
        raise data_error(path, expected, len(content) - start, remedy)
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


# This array holds the track of each training image, numbered within its class.
_TRACKS = "track_train"
# Names that an NPZ file may use for each split; the arrays are x_NAME and y_NAME.
_NPZ_NAMES = {"train": ("train",), "test": ("test",), "validation": ("val", "valid", "validation")}


def load_npz(argument: str) -> Dataset:
    """Reads the arrays of a file."""
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
        raise data_error(path, "a readable .npz archive of plain numbers", got, remedy) from error
    splits = {}
    for split, names in _NPZ_NAMES.items():
        for name in names:
            x, y = f"x_{name}", f"y_{name}"
            if x in arrays and y in arrays and split not in splits:
                splits[split] = (arrays.pop(x), arrays.pop(y), f"{path} ({x}, {y})")
    # A remaining array has no partner, or belongs to a second validation split.
    if arrays or len(keys) != 2 * len(splits) or not splits.keys() >= {"train", "test"}:
        expected = "x_train, y_train, x_test, y_test and perhaps one pair x_val, y_val, each once"
        raise data_error(path, f"{expected} and in upper or lower case", found, "rename the arrays")
    dataset = without_gaps(checked_dataset(path.stem, splits), argument)
    return with_tracks(dataset, tracks, f"{path} ({_TRACKS})")
