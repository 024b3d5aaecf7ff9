"""Birds: the original folders, TFDS, validation splits, and the drawn set."""

import itertools

import numpy as np
import pytest
from PIL import Image
from tfds_samples import encoded, prepare_birds

from experiments.birds import data as birds
from experiments.birds import drawn as drawn_birds
from experiments.birds.data import load
from experiments.data.datasets import DataError
from experiments.data.examples import Framing

FRAMING = Framing(8)
CLASSES = ("001.Black_Auk", "002.Blue Bunting", "003.Wren")
PARTS = ("beak", "left wing")
# Numbers of images of each class, for training and for test.
TRAIN, TEST = 4, 2
SIZE = (40, 20)


def color(number):
    return 3 * number


def write_cub(root):
    """Images of one grey each, in the original layout."""
    lines = {name: [] for name in birds_files()}
    numbers = itertools.count(1)
    (root / "parts").mkdir(parents=True)
    for label, name in enumerate(CLASSES, start=1):
        (root / "images" / name).mkdir(parents=True)
        for k in range(TRAIN + TEST):
            number = next(numbers)
            pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
            pixels[...] = color(number)
            Image.fromarray(pixels).save(root / "images" / name / f"Bird {k}.png")
            lines["images.txt"].append(f"{number} {name}/Bird {k}.png")
            lines["image_class_labels.txt"].append(f"{number} {label}")
            lines["train_test_split.txt"].append(f"{number} {int(k < TRAIN)}")
            lines["bounding_boxes.txt"].append(f"{number} 10.0 5.0 20.0 10.0")
            lines["parts/part_locs.txt"] += [
                f"{number} 1 {20 + number}.0 10.0 1",
                f"{number} 2 0.0 0.0 0",
            ]
    lines["classes.txt"] = [f"{k} {name}" for k, name in enumerate(CLASSES, start=1)]
    lines["parts/parts.txt"] = [f"{k} {name}" for k, name in enumerate(PARTS, start=1)]
    for name, each in lines.items():
        (root / name).write_text("\n".join(each) + "\n")


def birds_files():
    return (
        "images.txt",
        "image_class_labels.txt",
        "train_test_split.txt",
        "bounding_boxes.txt",
        "parts/part_locs.txt",
    )


@pytest.fixture
def cub(tmp_path):
    write_cub(tmp_path / "CUB_200_2011")
    return tmp_path


def read(split):
    return [split.examples[k] for k in range(len(split.labels))]


@pytest.mark.parametrize("inner", ["", "CUB_200_2011"])
def test_the_original_folder(cub, inner):
    data = load(f"cub:{cub / inner}", FRAMING, drawn=cub / "drawn")
    assert (data.classes, data.parts, data.validation) == (CLASSES, PARTS, None)
    assert not (cub / "drawn").exists()
    np.testing.assert_array_equal(data.train.labels, np.repeat(range(3), TRAIN))
    np.testing.assert_array_equal(data.test.labels, np.repeat(range(3), TEST))
    each = TRAIN + TEST
    for split, places in ((data.train, range(TRAIN)), (data.test, range(TRAIN, each))):
        numbers = [1 + label * each + k for label in range(3) for k in places]
        for example, number, label in zip(read(split), numbers, split.labels, strict=True):
            assert example["label"] == label
            np.testing.assert_array_equal(example["image"], np.full((8, 8, 3), color(number)))
            # The middle 20 of 40 columns are kept.
            np.testing.assert_allclose(example["box"], [-1, -0.5, 1, 0.5])
            np.testing.assert_allclose(example["parts"], [[number / 10, 0], [np.nan] * 2])
            assert example["box"].dtype == example["parts"].dtype == np.float32
    assert data.train.unannotated()[0].keys() == {"image", "label"}


def test_the_last_training_images_of_every_class_are_held_out(cub):
    whole = load(f"cub:{cub}", FRAMING, drawn=cub)
    data = load(f"cub:{cub}", FRAMING, validation=0.25, drawn=cub)
    np.testing.assert_array_equal(data.train.labels, np.repeat(range(3), 3))
    np.testing.assert_array_equal(data.validation.labels, range(3))
    held_out = [example["image"][0, 0, 0] for example in read(data.validation)]
    assert held_out == [color(each) for each in (4, 10, 16)]
    for number in range(3 * TRAIN):
        image = whole.train.examples[number]["image"][0, 0, 0]
        in_training = image in [example["image"][0, 0, 0] for example in read(data.train)]
        assert in_training != (image in held_out)
    assert read(data.test)[0]["label"] == 0
    for fraction, message in (
        (1.0, r"number in \[0, 1\); got 1.0"),
        (0.01, "leave images on both sides; got 0.01 of 12 images in 3 classes"),
    ):
        with pytest.raises(ValueError, match=message):
            load(f"cub:{cub}", FRAMING, validation=fraction, drawn=cub)


def replace_line(name, number, line):
    def damage(root):
        lines = (root / name).read_text().splitlines()
        lines[number - 1] = line
        (root / name).write_text("\n".join(lines))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "classes.txt").unlink(), r"classes\.txt: expected a readable text"),
        (lambda root: (root / "images.txt").write_bytes(b"1 \xff\n"), r"images\.txt: expected a r"),
        (lambda root: (root / "parts/parts.txt").write_text("\n"), r"parts\.txt: .* got no lines"),
        (replace_line("images.txt", 3, "three a.png"), r"images\.txt, line 3: expected a new w"),
        (replace_line("images.txt", 3, "2 a.png"), r"images\.txt, line 3: .* got '2 a\.png'"),
        (replace_line("image_class_labels.txt", 5, "5 9"), r"labels\.txt, line 5: expected 2 num"),
        (replace_line("image_class_labels.txt", 5, "5"), r"labels\.txt, line 5: expected 2 num"),
        (replace_line("image_class_labels.txt", 5, "4 1"), r"labels\.txt, line 5: expected 2 num"),
        (replace_line("train_test_split.txt", 2, ""), r"split\.txt: .* got none for 2"),
        (replace_line("bounding_boxes.txt", 1, "1 2 3 nan 5"), r"boxes\.txt, line 1: expected 5"),
        (replace_line("bounding_boxes.txt", 1, "1 2 3 four 5"), r"boxes\.txt, line 1: expected 5"),
        (replace_line("parts/part_locs.txt", 4, "2 3 0 0 1"), r"part_locs\.txt, line 4: expecte"),
        (replace_line("parts/part_locs.txt", 4, "2 2 0 0 2"), r"part_locs\.txt, line 4: expecte"),
        (
            lambda root: (root / "train_test_split.txt").write_text(
                "".join(f"{k} 1\n" for k in range(1, 19))
            ),
            r"split\.txt: expected some test images",
        ),
    ],
)
def test_damage_is_named(cub, damage, message):
    damage(cub / "CUB_200_2011")
    with pytest.raises(DataError, match=message):
        load(f"cub:{cub}", FRAMING, drawn=cub)


def test_a_missing_image_is_named_when_it_is_read(cub):
    (cub / "CUB_200_2011" / "images" / CLASSES[0] / "Bird 0.png").unlink()
    data = load(f"cub:{cub}", FRAMING, drawn=cub)
    assert data.train.examples[1]["label"] == 0
    with pytest.raises(DataError, match=r"Bird 0\.png: expected a readable image"):
        data.train.examples[0]


@pytest.mark.parametrize("spec", ["cub", "cub:", "drawn:x", "digits", "tfds:"])
def test_unknown_forms(spec, tmp_path):
    with pytest.raises(DataError, match="one of drawn, cub:FOLDER, tfds or tfds:DATA_DIR; got"):
        load(spec, FRAMING, drawn=tmp_path)


def test_a_folder_without_birds(tmp_path):
    with pytest.raises(DataError, match=r"images\.txt in it; got one without it"):
        load(f"cub:{tmp_path}", FRAMING, drawn=tmp_path)
    with pytest.raises(DataError, match="got no such folder"):
        load(f"cub:{tmp_path / 'x'}", FRAMING, drawn=tmp_path)


def test_tfds(tmp_path):
    image = encoded(np.full((20, 40, 3), 77, np.uint8), "jpeg")
    rows = [(image, k % 2, (0.25, 0.25, 0.75, 0.75)) for k in range(8)]
    prepare_birds(tmp_path, {"train": rows, "test": rows[:3]}, file_format="parquet")
    data = load(f"tfds:{tmp_path}", FRAMING, validation=0.25, drawn=tmp_path)
    assert (data.classes, data.parts) == (("001.Auk", "002.Bunting"), ())
    assert [len(each.labels) for each in (data.train, data.validation, data.test)] == [6, 2, 3]
    np.testing.assert_array_equal(sorted(data.validation.labels), [0, 1])
    for split in (data.train, data.validation, data.test):
        for example, label in zip(read(split), split.labels, strict=True):
            assert example["label"] == label
            np.testing.assert_array_equal(example["image"], np.full((8, 8, 3), 77))
            np.testing.assert_allclose(example["box"], [-1, -0.5, 1, 0.5])
            assert "parts" not in example


def test_the_drawn_set_is_read_by_the_same_reader(tmp_path):
    folder = tmp_path / "drawn"
    drawn_birds.write(folder, train=16, test=8)
    side = drawn_birds.SIDE
    data = load("drawn", Framing(side), drawn=folder)
    assert (data.name, len(data.classes), data.parts) == ("drawn birds", 4, ("crown", "belly"))
    assert set(data.parts) <= {*birds.HEAD, *birds.BODY}
    np.testing.assert_array_equal(np.bincount(data.train.labels), 4 * [4])
    np.testing.assert_array_equal(np.bincount(data.test.labels), 4 * [2])
    for example in read(data.train) + read(data.test):
        left, top, right, bottom = example["box"]
        assert -1 < left < right < 1
        assert -1 < top < bottom < 1
        for x, y in example["parts"]:
            assert left < x < right
            assert top < y < bottom
        # Farther apart than a crop of half the side is wide, less a sign.
        distance = np.linalg.norm(np.diff(example["parts"], axis=0)) * side / 2
        assert distance > side / 2 - 2 * drawn_birds.SIGN


def test_signs_are_where_the_files_say(rng):
    """Pictures of two birds that differ in one sign differ only at that sign."""
    for part, (one, other) in enumerate(
        ((("plus", "plus"), ("cross", "plus")), (("plus", "plus"), ("plus", "cross")))
    ):
        a, b = (drawn_birds.draw(np.random.default_rng(7), signs) for signs in (one, other))
        assert (a.box, a.parts) == (b.box, b.parts)
        apart = np.abs(np.asarray(a.picture, int) - np.asarray(b.picture)).max(axis=-1) > 8
        rows, columns = np.nonzero(apart)
        centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        np.testing.assert_allclose(centre, a.parts[part], atol=1)
        assert max(np.ptp(rows), np.ptp(columns)) <= drawn_birds.SIGN + 1


def test_the_drawn_set_is_one_fixed_draw(tmp_path):
    for name, train in (("one", 3), ("other", 5)):
        drawn_birds.write(tmp_path / name, train=train, test=1)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.png"))
    assert len(files) == 4
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    before = (tmp_path / "one" / "images.txt").read_bytes()
    drawn_birds.write_once(tmp_path / "one")
    assert (tmp_path / "one" / "images.txt").read_bytes() == before
