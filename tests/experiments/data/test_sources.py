"""Every source of images: accepted input, results, and errors."""

import re

import numpy as np
import pytest
from data_samples import TRAIN, assert_holds, make_arrays

from experiments.data import sources
from experiments.data.datasets import DataError, Dataset, Split, split_validation
from experiments.data.sources import load


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
        **{f"X_{name}": arrays["x_test"][:2], f"Y_{name}": np.array([2, 0])},
    )
    dataset = load(spec)
    np.testing.assert_array_equal(dataset.validation.images[..., 0], arrays["x_test"][:2])
    assert dataset.validation.labels.tolist() == [2, 0]
    assert dataset.num_classes == 3
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
    with pytest.raises(ValueError, match="validation: expected"):
        split_validation(ten, fraction)
