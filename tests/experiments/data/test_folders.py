"""Folders of images of one's own: what is read, and mistakes."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.datasets import DataError, split_validation
from experiments.data.sources import load


def fill(folder, number, size=(6, 5), mode="L", seed=0):
    """Writes images of noise, named so that their order is not that of their making."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    arrays = []
    for index in range(number):
        shape = size[::-1] if mode == "L" else (*size[::-1], 3)
        arrays.append(rng.integers(0, 256, shape, np.uint8))
        Image.fromarray(arrays[-1]).save(folder / f"{index:02}.png")
    return np.array(arrays)


def test_classes_without_splits_give_every_fifth_image_to_the_test(tmp_path):
    cats = fill(tmp_path / "cat", 11)
    dogs = fill(tmp_path / "dog", 5, seed=1)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    data = load(f"folder:{tmp_path}")
    assert data.name == tmp_path.name
    assert data.class_names == ("cat", "dog")
    assert data.num_classes == 2
    assert data.image_shape == (5, 6, 1)
    np.testing.assert_array_equal(data.test.images[..., 0], [cats[4], cats[9], dogs[4]])
    np.testing.assert_array_equal(data.test.labels, [0, 0, 1])
    np.testing.assert_array_equal(data.train.labels, [0] * 9 + [1] * 4)
    np.testing.assert_array_equal(data.train.images[9:, ..., 0], dogs[:4])


def test_validation_takes_its_share_of_each_class(tmp_path):
    """Though the images are in the order of the classes."""
    for name, number in {"a": 25, "b": 10}.items():
        fill(tmp_path / name, number)
    data = split_validation(load(f"folder:{tmp_path}"), 0.25)
    assert np.bincount(data.validation.labels).tolist() == [5, 2]
    assert np.bincount(data.train.labels).tolist() == [15, 6]


def test_splits_are_taken_as_they_are(tmp_path):
    """Numbers as names are in their own order; one colour image makes all RGB."""
    for split, number in {"train": 3, "test": 2, "val": 1}.items():
        for name in ("10", "9"):
            fill(tmp_path / split / name, number)
    colour = fill(tmp_path / "test" / "9", 1, mode="RGB", seed=3)
    data = load(f"folder:{tmp_path}")
    assert data.class_names == ("9", "10")
    assert data.image_shape == (5, 6, 3)
    assert [len(split.labels) for split in (data.train, data.test, data.validation)] == [6, 4, 2]
    np.testing.assert_array_equal(data.test.images[0], colour[0])


def test_images_of_several_sizes_become_squares(tmp_path):
    fill(tmp_path / "a", 5, size=(100, 80))
    fill(tmp_path / "b", 5, size=(64, 64))
    data = load(f"folder:{tmp_path}")
    assert data.image_shape == (64, 64, 1)
    with Image.open(tmp_path / "a" / "04.png") as picture:
        square = picture.crop((10, 0, 90, 80)).resize((64, 64), Image.Resampling.BILINEAR)
    # At the edges of the square the filter reads on, beyond them.
    found = data.test.images[0, :, 1:-1, 0]
    np.testing.assert_array_equal(found, np.asarray(square)[:, 1:-1])


def make_broken(folder):
    for name in ("a", "b"):
        fill(folder / name, 5)
    (folder / "b" / "03.png").write_bytes(b"no image")


def make_strange(folder):
    for split, names in {"train": "ab", "test": "abc"}.items():
        for name in names:
            fill(folder / split / name, 1)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda folder: None, "a folder for each of two classes or more; got none"),
        (lambda folder: fill(folder / "a", 5), "two classes or more; got the folders a"),
        (lambda folder: [fill(folder / "a", 5), fill(folder / "b", 4)], "b: expected 5 images"),
        (lambda folder: [fill(folder / "a", 5), fill(folder / "b", 0)], r"b: expected images \("),
        (make_broken, "03.png: expected a readable image"),
        (make_strange, "test: expected the classes of the training images, a, b; got c, too"),
    ],
)
def test_errors(make, error, tmp_path):
    make(tmp_path)
    with pytest.raises(DataError, match=error):
        load(f"folder:{tmp_path}")


def test_path_that_is_no_folder(tmp_path):
    with pytest.raises(DataError, match="nowhere: expected a folder with a folder for each class"):
        load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="got a file; check the path"):
        load(f"folder:{tmp_path / 'file'}")
