"""The original files of MNIST: accepted spellings, and damage."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from data_samples import assert_holds, make_arrays

from experiments.data.datasets import DataError
from experiments.data.sources import load


def idx_bytes(array, kind=8):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def write_idx(folder, arrays, ending="-idx{}-ubyte"):
    for split, stem in {"train": "train", "test": "t10k"}.items():
        for key, kind in {"x": "images", "y": "labels"}.items():
            array = arrays[f"{key}_{split}"]
            content = idx_bytes(array)
            path = folder / f"{stem}-{kind}{ending.format(array.ndim)}"
            path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize(
    "ending", ["-idx{}-ubyte", ".idx{}-ubyte", "-idx{}-ubyte.gz", ".idx{}-ubyte.gz"]
)
def test_idx_spellings(tmp_path, rng, ending):
    folder = tmp_path / "letters"
    folder.mkdir()
    arrays = make_arrays(rng)
    write_idx(folder, arrays, ending)
    dataset = load(f"idx:{folder}")
    assert_holds(dataset, arrays)
    assert dataset.name == "letters"
    assert dataset.image_shape == (5, 4, 1)
    assert dataset.num_classes == 10


def damaged(content, damage):
    """One IDX file with one thing wrong, and whether it is compressed."""
    return {
        "empty": b"",
        "half a header": content[:6],
        "truncated": content[:-3],
        "trailing": content + b"\0",
        "signed bytes": b"\0\0\x09" + content[3:],
        "other dimensions": content[:3] + b"\x02" + content[4:],
        "no magic": b"\x01" + content[1:],
        "no images": content[:4] + bytes(4) + content[8:],
        "huge size": content[:4] + b"\xff" * 4 + content[8:],
        "plain as gz": content,
        "truncated gz": gzip.compress(content)[:-12],
        "corrupt gz": gzip.compress(content)[:12] + b"\xff" * 20 + gzip.compress(content)[32:],
        "trailing gz": gzip.compress(content) + b"abc",
    }[damage]


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("empty", "expected a header of"),
        ("half a header", "expected a header of"),
        ("truncated", "truncated or has trailing"),
        ("trailing", "truncated or has trailing"),
        ("signed bytes", "magic number"),
        ("other dimensions", "magic number"),
        ("no magic", "magic number"),
        ("no images", "expected 0 bytes"),
        ("huge size", "truncated"),
        ("plain as gz", "expected a readable IDX file"),
        ("truncated gz", "expected a readable IDX file"),
        ("corrupt gz", "expected a readable IDX file"),
        ("trailing gz", "expected a readable IDX file"),
    ],
)
def test_idx_damage_names_the_file(tmp_path, rng, name, damage, message):
    write_idx(tmp_path, make_arrays(rng))
    path = tmp_path / name
    content = damaged(path.read_bytes(), damage)
    if "gz" in damage:
        path.unlink()
        path = path.with_name(name + ".gz")
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        load(f"idx:{tmp_path}")
    assert str(path) in str(error.value)


def test_idx_missing_files_are_listed(tmp_path, rng):
    with pytest.raises(DataError, match="train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k"):
        load(f"idx:{tmp_path}")
    write_idx(tmp_path, make_arrays(rng))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="without t10k-labels-idx1-ubyte;") as error:
        load(f"idx:{tmp_path}")
    assert str(tmp_path) in str(error.value)


def test_idx_needs_a_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="got a file"):
        load(f"idx:{tmp_path / 'file'}")
    with pytest.raises(DataError, match="got nothing there"):
        load(f"idx:{tmp_path / 'absent'}")


def test_idx_a_folder_in_place_of_a_file(tmp_path, rng):
    write_idx(tmp_path, make_arrays(rng))
    path = tmp_path / "train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match=re.escape(str(path))):
        load(f"idx:{tmp_path}")


def test_idx_counts_must_agree(tmp_path, rng):
    arrays = make_arrays(rng)
    write_idx(tmp_path, arrays | {"y_test": arrays["y_test"][:-1]})
    with pytest.raises(DataError, match="7 images and 6 labels") as error:
        load(f"idx:{tmp_path}")
    assert "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte" in str(error.value)


def test_idx_empty_split(tmp_path, rng):
    arrays = make_arrays(rng)
    write_idx(tmp_path, arrays | {"x_test": arrays["x_test"][:0], "y_test": arrays["y_test"][:0]})
    with pytest.raises(DataError, match=r"got uint8 of shape \(0, 5, 4\)"):
        load(f"idx:{tmp_path}")


def test_the_real_mnist():
    folder = os.environ.get("STN_JAX_DATA")
    if not folder:
        pytest.skip("STN_JAX_DATA does not name a folder that holds mnist/*.gz")
    dataset = load(f"idx:{Path(folder) / 'mnist'}")
    assert dataset.train.images.shape == (60000, 28, 28, 1)
    assert dataset.test.images.shape == (10000, 28, 28, 1)
    assert dataset.num_classes == 10
    counts = [np.bincount(split.labels).tolist() for split in (dataset.train, dataset.test)]
    assert counts[0] == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert counts[1] == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
