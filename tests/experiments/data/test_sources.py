"""Every source of images: accepted input, results, and errors."""

import gzip
import os
import re
from pathlib import Path

import numpy as np
import pytest
from data_samples import TRAIN, assert_holds, make_arrays

from experiments.data import sources
from experiments.data.sources import DataError, Dataset, Split, load, split_validation


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


def save(path, **arrays):
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


def test_forms_of_a_source_are_listed_from_the_table():
    for spec in (
        "",
        "mnist",
        "digits:",
        "digits:8",
        "idx",
        "idx:",
        "npz",
        "npz:",
        "tfds:",
        "IDX:a",
    ):
        with pytest.raises(DataError) as error:
            load(spec)
        assert repr(spec) in str(error.value)
        assert all(form in str(error.value) for form in sources.LOADERS)


def test_home_folder_is_expanded(tmp_path, rng, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    arrays = make_arrays(rng)
    save(tmp_path / "a.npz", **arrays)
    assert_holds(load("npz:~/a.npz"), arrays)


# Digits.


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def test_digits_sizes(digits):
    assert digits.train.images.shape == (1000, 28, 28, 1)
    assert digits.test.images.shape == (797, 28, 28, 1)
    assert digits.image_shape == (28, 28, 1)
    assert digits.validation is None
    assert digits.num_classes == 10
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.max() == 255


def test_digits_are_stratified_and_the_same_every_time(digits):
    for split in (digits.train, digits.test):
        shares = np.bincount(split.labels, minlength=10) / len(split.labels)
        assert shares.min() > 0.09
        assert shares.max() < 0.11
    again = load("digits")
    np.testing.assert_array_equal(again.train.images, digits.train.images)
    np.testing.assert_array_equal(again.test.labels, digits.test.labels)


def test_digits_are_the_8x8_images_enlarged_to_the_middle_20x20(digits):
    from scipy.ndimage import map_coordinates
    from sklearn.datasets import load_digits

    original = load_digits()
    # Centre of output pixel i, counted in input pixels: 8 of them cover output pixels 4 to 24.
    centres = (np.arange(28) + 0.5 - 4) * 8 / 20 - 0.5
    rows, columns = np.meshgrid(centres, centres, indexing="ij")
    expected = np.stack(
        [
            map_coordinates(image, [rows, columns], order=1, mode="grid-constant")
            for image in original.images * (255 / 16)
        ]
    )
    images = np.concatenate([digits.train.images, digits.test.images])[..., 0]
    labels = np.concatenate([digits.train.labels, digits.test.labels])
    # The splits are shuffled: pair each of our images with the expected one nearest to it.
    flat, flat_expected = images.reshape(1797, -1).astype(float), expected.reshape(1797, -1)
    nearest = np.argmin((flat_expected**2).sum(1) - 2 * flat @ flat_expected.T, axis=1)
    assert np.unique(nearest).size == 1797
    assert np.abs(flat - flat_expected[nearest]).max() <= 0.51
    np.testing.assert_array_equal(labels, original.target[nearest])
    assert not images[:, :2].any()
    assert not images[:, :, -2:].any()


# IDX files.


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


# NPZ files.


@pytest.mark.parametrize("rename", [str, str.upper, lambda key: key[0].upper() + key[1:]])
@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (6, 6, 3), (3, 5, 7)])
def test_npz_keys_and_shapes(tmp_path, rng, rename, shape):
    arrays = make_arrays(rng, shape)
    spec = save(
        tmp_path / "signs.npz", **{rename(k): a for k, a in arrays.items()}, track=np.arange(3)
    )
    dataset = load(spec)
    assert_holds(dataset, arrays)
    assert dataset.name == "signs"
    assert dataset.validation is None
    assert dataset.image_shape == (*shape, 1)[:3]


@pytest.mark.parametrize(
    ("size", "shape"), [(784, (28, 28, 1)), (48, (4, 4, 3)), (1, (1, 1, 1)), (144, (12, 12, 1))]
)
def test_npz_flattened_squares(tmp_path, rng, size, shape):
    arrays = make_arrays(rng, (size,))
    dataset = load(save(tmp_path / "a.npz", **arrays))
    assert dataset.image_shape == shape
    assert_holds(dataset, arrays)


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_npz_validation(tmp_path, rng, name):
    arrays = make_arrays(rng, classes=3)
    spec = save(
        tmp_path / "a.npz",
        **arrays,
        **{f"X_{name}": arrays["x_test"][:2], f"Y_{name}": np.array([4, 0])},
    )
    dataset = load(spec)
    np.testing.assert_array_equal(dataset.validation.images[..., 0], arrays["x_test"][:2])
    assert dataset.validation.labels.tolist() == [4, 0]
    assert dataset.num_classes == 5
    assert split_validation(dataset, 0.5) is dataset


@pytest.mark.parametrize(
    "convert",
    [
        lambda images: images.astype(np.int64),
        lambda images: images.astype(">u2"),
        lambda images: images.astype(np.float16),
        lambda images: images.astype(np.float64) + 0.3 * (images < 255),
        lambda images: images.astype(np.float32) / 255,
        lambda images: images / 255,
        lambda images: images / 255 * (1 + 1e-7),
    ],
)
def test_npz_image_values(tmp_path, rng, convert):
    arrays = make_arrays(rng)
    raw = {key: convert(a) if key[0] == "x" else a for key, a in arrays.items()}
    assert_holds(load(save(tmp_path / "a.npz", **raw)), arrays)


def test_npz_floats_have_one_range_in_all_splits(tmp_path, rng):
    arrays = make_arrays(rng)
    arrays["x_test"] %= 2
    raw = {key: a.astype(float) if key[0] == "x" else a for key, a in arrays.items()}
    assert_holds(load(save(tmp_path / "a.npz", **raw)), arrays)
    # Bytes say nothing about the range of floats.
    mixed = arrays | {"x_train": arrays["x_train"], "x_test": arrays["x_test"].astype(float)}
    dataset = load(save(tmp_path / "b.npz", **mixed))
    np.testing.assert_array_equal(dataset.test.images[..., 0], arrays["x_test"] * 255)


@pytest.mark.parametrize(
    "convert",
    [
        lambda labels: labels.astype(np.int64),
        lambda labels: labels.astype(np.float32),
        lambda labels: labels[:, None],
        lambda labels: np.eye(10)[labels],
        lambda labels: np.eye(10, dtype=bool)[labels],
    ],
)
def test_npz_labels(tmp_path, rng, convert):
    arrays = make_arrays(rng)
    raw = {key: convert(a) if key[0] == "y" else a for key, a in arrays.items()}
    dataset = load(save(tmp_path / "a.npz", **raw))
    assert_holds(dataset, arrays)
    assert dataset.num_classes == 10


def replaced(key, value):
    return lambda arrays: arrays | {key: value(arrays[key])}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: {}, "got no arrays"),
        (lambda a: {"x_train": a["x_train"], "other": a["y_test"]}, "got x_train, other"),
        (lambda a: a | {"X_TRAIN": a["x_train"]}, "each once"),
        (lambda a: a | {"x_val": a["x_test"]}, "perhaps one pair"),
        (lambda a: a | {"x_val": a["x_test"], "y_valid": a["y_test"]}, "perhaps one pair"),
        (
            lambda a: a | {f"{k}_{n}": a[f"{k}_test"] for n in ("val", "valid") for k in "xy"},
            "perhaps one pair",
        ),
        (replaced("x_train", lambda x: x.astype(object)), "without object arrays"),
        (replaced("y_test", lambda y: y.astype(object)), "without object arrays"),
        (replaced("x_train", lambda x: x.astype(str)), "got <U3 of shape"),
        (replaced("x_train", lambda x: x > 9), "got bool of shape"),
        (replaced("x_train", lambda x: x.astype(complex)), "got complex128 of shape"),
        (replaced("x_train", lambda x: x - 1.0), "values from 0 to 255"),
        (replaced("x_train", lambda x: x.astype(int) * 2), "values from 0 to 255"),
        (replaced("x_train", lambda x: x * np.nan), "got nan to nan"),
        (replaced("x_train", lambda x: np.where(x > 99, np.inf, x)), "to inf"),
        (replaced("x_train", lambda x: x[0, 0, 0]), r"of shape \(\)"),
        (replaced("x_train", lambda x: x.reshape(TRAIN, 20)), r"of shape \(12, 20\)"),
        (replaced("x_train", lambda x: x[:, None, None]), r"of shape \(12, 1, 1, 5, 4\)"),
        (replaced("x_train", lambda x: x[:, :0]), r"of shape \(12, 0, 4\)"),
        (replaced("x_train", lambda x: x[:0]), r"of shape \(0, 5, 4\)"),
        (replaced("x_test", lambda x: x[:, 1:]), r"shape \(5, 4, 1\), as in training; got \(4, 4"),
        (replaced("x_test", lambda x: x[1:]), "6 images and 7 labels"),
        (replaced("y_train", lambda y: y[:0]), r"of shape \(0,\)"),
        (replaced("y_train", lambda y: y[None, None]), r"of shape \(1, 1, 12\)"),
        (replaced("y_train", lambda y: y.astype(str)), "got <U"),
        (replaced("y_train", lambda y: y - 1.0), "whole numbers from 0"),
        (replaced("y_train", lambda y: y + 0.5), "whole numbers from 0"),
        (replaced("y_train", lambda y: y * np.nan), "whole numbers from 0"),
        (replaced("y_train", lambda y: y * np.uint64(2**62)), "whole numbers from 0"),
        (replaced("y_train", lambda y: y + 2.0**31), "whole numbers from 0"),
        (replaced("y_train", lambda y: np.eye(10)[y] * 2), "one-hot"),
        (replaced("y_train", lambda y: np.ones((TRAIN, 3))), "one-hot"),
        (replaced("y_train", lambda y: np.full((TRAIN, 2), np.nan)), "one-hot"),
    ],
)
def test_npz_refusals_name_the_file(tmp_path, rng, change, message):
    path = tmp_path / "a.npz"
    with pytest.raises(DataError, match=message) as error:
        load(save(path, **change(make_arrays(rng))))
    assert str(path) in str(error.value)


def test_npz_that_is_none(tmp_path, rng):
    path = tmp_path / "a.npz"
    for content in (b"", b"PK\x03\x04", b"nonsense" * 99):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"readable \.npz archive") as error:
            load(f"npz:{path}")
        assert str(path) in str(error.value)
    np.save(tmp_path / "a.npy", np.arange(3))
    for other in (tmp_path / "a.npy", tmp_path, tmp_path / "absent.npz"):
        with pytest.raises(DataError, match=re.escape(str(other))):
            load(f"npz:{other}")


def test_npz_damage_is_refused_or_harmless(tmp_path, rng):
    path = tmp_path / "a.npz"
    save(path, **make_arrays(rng))
    content = path.read_bytes()
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=re.escape(str(path))):
            load(f"npz:{path}")
    refused = 0
    for place in rng.integers(0, len(content), 100):
        flipped = bytearray(content)
        flipped[place] ^= 0xFF
        path.write_bytes(flipped)
        try:
            load(f"npz:{path}")
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017 (whether it raises depends on the place)
            refused += 1
    assert refused > 50


# Validation.


@pytest.fixture
def ten():
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    split = Split(images, np.arange(10, dtype=np.int32))
    return Dataset("ten", split, split, None, 10)


@pytest.mark.parametrize(("fraction", "held_out"), [(0.1, 1), (0.26, 3), (0.5, 5), (0.94, 9)])
def test_validation_is_the_end_of_training(ten, fraction, held_out):
    dataset = split_validation(ten, fraction)
    assert dataset.train.labels.tolist() == list(range(10 - held_out))
    assert dataset.validation.labels.tolist() == list(range(10 - held_out, 10))
    np.testing.assert_array_equal(dataset.validation.images.ravel(), dataset.validation.labels)
    assert len(dataset.train.images) == 10 - held_out
    assert dataset.test is ten.test
    assert dataset.num_classes == 10


def test_no_validation_leaves_the_dataset(ten):
    assert split_validation(ten, 0.0) is ten


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 2.0, float("nan"), 0.01, 0.99])
def test_impossible_fractions(ten, fraction):
    with pytest.raises(ValueError, match="fraction: expected"):
        split_validation(ten, fraction)
