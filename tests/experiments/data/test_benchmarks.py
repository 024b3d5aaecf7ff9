"""Data are recognised as a published benchmark by their labels, not by their file names."""

import dataclasses

import numpy as np
import pytest

from experiments.data import benchmarks, sources

MNIST_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)


def labels_of(counts):
    return np.repeat(np.arange(len(counts)), counts).astype(np.int32)


def test_the_labels_decide(rng):
    labels = labels_of(MNIST_TEST)
    rng.shuffle(labels)
    assert benchmarks.recognise(60_000, labels) == "mnist"
    assert benchmarks.recognise(59_999, labels) is None
    # Fashion-MNIST has the files of MNIST, and as many images of each class.
    assert benchmarks.recognise(60_000, labels_of(10 * (1000,))) is None


@pytest.mark.parametrize("name", ["mnist", "digits", "gtsrb"])
def test_a_name_decides_nothing(name, tmp_path, rng):
    images, labels = rng.integers(0, 256, (20, 5, 5), np.uint8), np.arange(20) % 10
    path = tmp_path / f"{name}.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert sources.load(f"npz:{path}").benchmark is None
    assert sources.load("digits").benchmark is None


def test_an_npz_file_of_mnist_is_mnist(tmp_path):
    def images(number):
        return np.zeros((number, 2, 2), np.uint8)

    test = labels_of(MNIST_TEST)
    train, held_out = np.arange(50_000) % 10, np.arange(10_000) % 10
    path = tmp_path / "some_file.npz"
    np.savez(
        path,
        **{"x_train": images(50_000), "y_train": train, "x_val": images(10_000)},
        **{"y_val": held_out, "x_test": images(10_000), "y_test": test},
    )
    dataset = sources.load(f"npz:{path}")
    assert dataset.benchmark == "mnist"
    assert dataclasses.replace(dataset, name="x").benchmark == "mnist"
    held_out_instead = sources.load_split(f"npz:{path}", 0.1, on="validation")
    assert held_out_instead.benchmark == "mnist"


@pytest.mark.slow
def test_real_data(data_folder):
    assert sources.load(f"idx:{data_folder / 'mnist'}").benchmark == "mnist"
    assert sources.load(f"npz:{data_folder / 'gtsrb' / 'gtsrb_32x32.npz'}").benchmark == "gtsrb"
