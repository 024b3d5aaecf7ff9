"""Traffic signs: the folders as published, tracks, and validation splits."""

import numpy as np
import pytest
from PIL import Image

from experiments.data.datasets import DataError, split_validation
from experiments.data.gtsrb import SIDE
from experiments.data.sources import load

COLUMNS = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"
# Tracks of each class, and frames of a track.
TRACKS, FRAMES = {0: 4, 7: 10, 12: 2}, 3


def color(label, track):
    return 20 * label + 10, 25 * track, 200


def write_image(path, inside, size):
    """A sign of one colour in a black margin of 5 pixels; returns its line without the class.

    X2 and Y2 are the first pixel outside, see ``test_regions_end_before_their_far_corner``.
    """
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:-5, 5:-5] = inside
    Image.fromarray(pixels).save(path)
    return f"{path.name};{width};{height};5;5;{width - 5};{height - 5}"


def write_benchmark(root, rng):
    for label, tracks in TRACKS.items():
        folder = root / "Final_Training" / "Images" / f"{label:05d}"
        folder.mkdir(parents=True)
        lines = [COLUMNS]
        for track in range(tracks):
            for frame in range(FRAMES):
                size = rng.integers(25, 80, 2)
                path = folder / f"{track:05d}_{frame:05d}.ppm"
                lines.append(f"{write_image(path, color(label, track), size)};{label}")
        (folder / f"GT-{label:05d}.csv").write_text("\n".join(lines) + "\n")
    folder = root / "Final_Test" / "Images"
    folder.mkdir(parents=True)
    lines = [COLUMNS]
    for number, label in enumerate((12, 0, 7, 7)):
        path = folder / f"{number:05d}.ppm"
        lines.append(f"{write_image(path, color(label, number), (40, 30))};{label}")
    (root / "GT-final_test.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def benchmark(tmp_path, rng):
    write_benchmark(tmp_path / "GTSRB", rng)
    return tmp_path


@pytest.mark.parametrize("inner", ["", "GTSRB"])
def test_regions_of_interest_are_cut_out(benchmark, inner):
    dataset = load(f"gtsrb-roi:{benchmark / inner}")
    assert dataset.image_shape == (SIDE, SIDE, 3)
    assert dataset.num_classes == 13
    labels = np.concatenate([np.full(TRACKS[label] * FRAMES, label) for label in TRACKS])
    np.testing.assert_array_equal(dataset.train.labels, labels)
    np.testing.assert_array_equal(dataset.test.labels, [12, 0, 7, 7])
    tracks = np.concatenate([np.repeat(np.arange(TRACKS[label]), FRAMES) for label in TRACKS])
    expected = [color(*pair) for pair in zip(labels, tracks, strict=True)]
    # All of one colour, so the margin is gone and no images are mixed up.
    for image, own in zip(dataset.train.images, expected, strict=True):
        np.testing.assert_array_equal(image, np.broadcast_to(own, image.shape))
    for number, image in enumerate(dataset.test.images):
        own = color(dataset.test.labels[number], number)
        np.testing.assert_array_equal(image, np.broadcast_to(own, image.shape))


def test_whole_images_keep_their_margin(benchmark):
    image = load(f"gtsrb:{benchmark}").test.images[0]
    np.testing.assert_array_equal(image[SIDE // 2, SIDE // 2], color(12, 0))
    np.testing.assert_array_equal(image[:5, :5], 0)
    # 5 of 40 and of 30 pixels on 48.
    inside = image[..., 2] > 100
    assert (inside.sum(axis=1).max(), inside.sum(axis=0).max()) == (36, 32)


def test_edges_of_a_region_are_the_signs(tmp_path):
    """Not a column or a row less: stripes at the far edges of the region stay."""
    write_benchmark(tmp_path, np.random.default_rng(0))
    pixels = np.full((30, 40, 3), 100, np.uint8)
    # The last column and row inside, and the first outside.
    pixels[:, 34], pixels[24] = 200, 200
    pixels[:, 35:], pixels[25:] = 0, 0
    Image.fromarray(pixels).save(tmp_path / "Final_Test/Images/00000.ppm")
    image = load(f"gtsrb-roi:{tmp_path}").test.images[0]
    assert image[:-5, :-5].max() <= 110
    assert image[:, -1].min() > 190
    assert image[-1].min() > 190


def test_regions_end_before_their_far_corner(data_folder):
    """The margin is "at least 5 pixels": on the right it is so if X2 is the first pixel outside."""
    file = data_folder / "gtsrb" / "gtsrb_32x32.npz"
    if not file.is_file():
        pytest.skip("STN_JAX_DATA names a folder without gtsrb/gtsrb_32x32.npz")
    with np.load(file) as arrays:
        width, height, left, top, right, bottom = arrays["geom_train"].astype(int).T
    for margin in (left, top, width - right, height - bottom):
        assert (margin >= 5).mean() > 0.999
    for margin in (width - 1 - right, height - 1 - bottom):
        assert (margin >= 5).mean() < 0.5


@pytest.mark.parametrize("named", ["", "gtsrb", "gtsrb/GTSRB"])
def test_folders_of_torchvision(tmp_path, rng, named):
    """With the corrected archive's ``Training`` in place of ``Final_Training/Images``."""
    root = tmp_path / "gtsrb" / "GTSRB"
    write_benchmark(root, rng)
    (root / "Final_Training" / "Images").rename(root / "Training")
    (root / "Final_Training").rmdir()
    (root / "GT-final_test.csv").rename(tmp_path / "gtsrb" / "GT-final_test.csv")
    dataset = load(f"gtsrb:{tmp_path / named}")
    assert len(dataset.train.labels) == sum(TRACKS.values()) * FRAMES
    np.testing.assert_array_equal(dataset.test.labels, [12, 0, 7, 7])


def test_a_byte_order_mark_is_no_part_of_a_column(benchmark):
    for file in (benchmark / "GTSRB").rglob("*.csv"):
        file.write_text(file.read_text(), encoding="utf-8-sig")
    np.testing.assert_array_equal(load(f"gtsrb:{benchmark}").test.labels, [12, 0, 7, 7])


def assert_tracks_are_apart(dataset, train, validation):
    """The groups in both splits, as sets of classes and tracks."""
    assert not set(train.groups) & set(validation.groups)
    assert len(train.labels) + len(validation.labels) == len(dataset.train.labels)
    for split in (train, validation):
        assert len(split.images) == len(split.labels) == len(split.groups)
        for group in np.unique(split.groups):
            assert len(set(split.labels[split.groups == group])) == 1


def test_tracks_are_held_out_whole(benchmark):
    dataset = load(f"gtsrb:{benchmark}")
    assert len(np.unique(dataset.train.groups)) == sum(TRACKS.values())
    split = split_validation(dataset, 0.25)
    assert_tracks_are_apart(dataset, split.train, split.validation)
    held_out = {
        label: len(np.unique(split.validation.groups[split.validation.labels == label]))
        for label in TRACKS
    }
    assert held_out == {0: 1, 7: 2, 12: 0}
    assert np.bincount(split.validation.labels).tolist()[:8] == [3, 0, 0, 0, 0, 0, 0, 6]
    with pytest.raises(ValueError, match="validation: expected to leave images in both splits"):
        split_validation(dataset, 0.01)


def test_tracks_in_an_npz_file(tmp_path, rng):
    images = rng.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    labels = np.repeat([0, 1], 6)
    # Numbered anew in each class, as the benchmark does; a second column counts frames.
    tracks = np.column_stack([np.tile(np.repeat([0, 1], 3), 2), np.tile(np.arange(3), 4)])
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels}
    path = tmp_path / "signs.npz"
    np.savez(path, **arrays, track_train=tracks.astype(np.int16))
    dataset = load(f"npz:{path}")
    np.testing.assert_array_equal(dataset.train.groups, np.repeat(np.arange(4), 3))
    split = split_validation(dataset, 0.5)
    np.testing.assert_array_equal(split.validation.groups, [1, 1, 1, 3, 3, 3])
    np.testing.assert_array_equal(split.train.images, images[[0, 1, 2, 6, 7, 8]])
    np.savez(path, **arrays, track_train=tracks[:5])
    with pytest.raises(DataError, match=r"signs\.npz \(track_train\): expected a whole number"):
        load(f"npz:{path}")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "GT-final_test.csv").unlink(), "classes of the test images"),
        (
            lambda root: (root / "Final_Training/Images/00007/GT-00007.csv").write_text("a;b\n1;2"),
            r"GT-00007\.csv: expected the columns .* in line 2",
        ),
        (
            lambda root: (root / "Final_Training/Images/00007/00001_00001.ppm").write_bytes(b"P6 "),
            r"00001_00001\.ppm: expected a readable image",
        ),
        (
            lambda root: (root / "Final_Test/Images/00002.ppm").unlink(),
            r"00002\.ppm: expected a readable image",
        ),
        (lambda root: (root / "Final_Training").rename(root / "Else"), "a folder with Final_Train"),
    ],
)
def test_damage_is_named(benchmark, damage, message):
    damage(benchmark / "GTSRB")
    with pytest.raises(DataError, match=message):
        load(f"gtsrb:{benchmark}")


def test_the_real_signs_are_held_out_by_track(data_folder):
    file = data_folder / "gtsrb" / "gtsrb_32x32.npz"
    if not file.is_file():
        pytest.skip("STN_JAX_DATA names a folder without gtsrb/gtsrb_32x32.npz")
    dataset = load(f"npz:{file}")
    assert (len(dataset.train.labels), len(dataset.test.labels)) == (39_209, 12_630)
    assert (dataset.num_classes, dataset.image_shape) == (43, (32, 32, 3))
    # 1,307 tracks, all but one of thirty frames.
    assert len(np.unique(dataset.train.groups)) == 1307
    split = split_validation(dataset, 0.1)
    assert_tracks_are_apart(dataset, split.train, split.validation)
    assert set(split.validation.labels) == set(range(43))
    assert 0.09 < len(split.validation.labels) / 39_209 < 0.11
