"""The input pipeline: order of the batches, sources, and errors about broken images."""

import itertools
import threading

import jax
import numpy as np
import pytest
from PIL import Image
from tfds_samples import encoded, prepare_birds

from experiments.data.datasets import DataError
from experiments.data.examples import Arrays, Chosen, Files, Framing, Tfds, folder
from experiments.data.pipeline import Reading, Shard, in_order, shuffled
from experiments.engine.feed import placed_ahead

NUMBER = 23


def array_source(number=NUMBER):
    labels = np.arange(number)
    images = np.broadcast_to(labels[:, None, None, None], (number, 4, 4, 3)).astype(np.uint8)
    return Arrays(images, labels, box=np.tile(labels[:, None], 4).astype(np.float32))


def take(batches, number):
    taken = list(itertools.islice(batches, number))
    batches.close()
    return taken


def labels_of(batches):
    return [batch["label"].tolist() for batch in batches]


def assert_same(batches, expected):
    assert len(batches) == len(expected)
    for batch, other in zip(batches, expected, strict=True):
        assert batch.keys() == other.keys()
        for name, array in batch.items():
            assert array.dtype == other[name].dtype
            np.testing.assert_array_equal(array, other[name])


def test_every_image_once_an_epoch_in_another_order():
    source = array_source()
    batches = take(shuffled(source, 5, seed=3), 3 * NUMBER // 5)
    for batch in batches:
        assert batch["image"].shape == (5, 4, 4, 3)
        assert (batch["image"].dtype, batch["label"].dtype) == (np.uint8, np.int32)
        # Images keep their labels.
        np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["label"])
        np.testing.assert_array_equal(batch["box"][:, 3], batch["label"])
    stream = np.concatenate(labels_of(batches))
    epochs = [stream[k * NUMBER : (k + 1) * NUMBER] for k in range(2)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(NUMBER))
        assert list(epoch) != list(range(NUMBER))
    assert list(epochs[0]) != list(epochs[1])


def test_orders_of_seeds_are_unrelated():
    # Not even the second epoch of one seed is the first of the next.
    first = {
        tuple(np.concatenate(labels_of(take(shuffled(array_source(), NUMBER, seed=seed), 3)))[a:b])
        for seed in range(3)
        for a, b in itertools.pairwise(range(0, 3 * NUMBER + 1, NUMBER))
    }
    assert len(first) == 9


@pytest.mark.parametrize("threads", [0, 3])
@pytest.mark.parametrize("start", [1, 4, 9, 100])
def test_going_on_at_any_step(start, threads):
    whole = take(shuffled(array_source(), 5, seed=0), start + 4)
    reading = Reading(threads=threads)
    assert_same(
        take(shuffled(array_source(), 5, seed=0, start=start, reading=reading), 4), whole[-4:]
    )


def test_shards_are_the_batch_of_one_process_in_parts():
    whole = take(shuffled(array_source(), 6, seed=1), 8)
    parts = [take(shuffled(array_source(), 6, seed=1, shard=Shard(k, 3)), 8) for k in range(3)]
    for batch, *own in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(np.concatenate([p["label"] for p in own]), batch["label"])
    gone_on = take(shuffled(array_source(), 6, seed=1, start=5, shard=Shard(2, 3)), 3)
    assert_same(gone_on, parts[2][5:])


def test_in_order_each_once_and_the_last_batch_is_filled_up():
    assert labels_of(in_order(array_source(7), 3)) == [[0, 1, 2], [3, 4, 5], [6, 0, 1]]
    assert labels_of(in_order(array_source(2), 6)) == [[0, 1, 0, 1, 0, 1]]
    assert labels_of(in_order(array_source(6), 3)) == [[0, 1, 2], [3, 4, 5]]


def test_worker_processes_give_the_same_batches(tmp_path):
    """One test of everything about workers, since they take seconds to start."""
    rng = np.random.default_rng(0)
    for label in range(2):
        (tmp_path / f"class {label}").mkdir()
        for k in range(3):
            pixels = rng.integers(0, 256, (8 + k, 9, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"class {label}" / f"{k}.png")
    source = folder(tmp_path, Framing(5))
    expected = take(shuffled(source, 4, seed=5), 4)
    batches = shuffled(source, 4, seed=5, start=1, reading=Reading(workers=2, threads=1))
    assert_same(list(itertools.islice(batches, 3)), expected[1:])
    (tmp_path / "class 1" / "2.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"2\.png: expected a readable image"):
        take(batches, 30)


def test_a_broken_image_is_named(tmp_path):
    pixels = np.zeros((6, 6, 3), np.uint8)
    (tmp_path / "only").mkdir()
    for k in range(3):
        (tmp_path / "only" / f"{k}.jpg").write_bytes(encoded(pixels, "jpeg"))
    whole = (tmp_path / "only" / "1.jpg").read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"GIF89a"):
        (tmp_path / "only" / "1.jpg").write_bytes(damage)
        with pytest.raises(
            DataError, match=r"only/1\.jpg: expected a readable image; got .+ again"
        ):
            take(shuffled(folder(tmp_path, Framing(4)), 2, seed=0), 3)
    (tmp_path / "only" / "1.jpg").unlink()
    with pytest.raises(DataError, match=r"only/1\.jpg"):
        Files([tmp_path / "only" / "1.jpg"], np.zeros(1, int), Framing(4))[0]
    for root in (tmp_path / "only", tmp_path / "missing"):
        with pytest.raises(DataError, match="a folder for each class"):
            folder(root, Framing(4))


def test_closing_ends_the_threads():
    before = set(threading.enumerate())
    batches = shuffled(array_source(), 5, seed=0, reading=Reading(threads=3))
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    for thread in started:
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_tfds_examples(tmp_path, rng):
    images = rng.integers(0, 256, (4, 8, 12, 3)).astype(np.uint8)
    # Half of the height, a quarter of the width.
    rows = [(encoded(image), k % 2, (0.25, 0.5, 0.75, 0.75)) for k, image in enumerate(images)]
    rows.append((b"no image", 1, (0.0, 0.0, 1.0, 1.0)))
    prepare_birds(tmp_path, {"train": rows})
    source = Tfds("caltech_birds2011", "train", str(tmp_path), Framing(8, "crop"))
    assert len(source) == 5
    assert source.class_names() == ["001.Auk", "002.Bunting"]
    labels = source.labels()
    assert sorted(labels) == [0, 0, 1, 1, 1]
    broken = []
    seen = {}
    for index in range(5):
        try:
            example = source[index]
        except DataError as error:
            broken.append(str(error))
            continue
        seen[example["image"].tobytes()] = int(example["label"])
        # Columns 6 to 9 of 12, of which 2 to 10 are kept.
        np.testing.assert_allclose(example["box"], [0, -0.5, 0.75, 0.5])
    # Of the same height, so nothing is scaled; TFDS shuffles while it writes.
    assert seen == {image[:, 2:10].tobytes(): k % 2 for k, image in enumerate(images)}
    (message,) = broken
    assert message.startswith(f"tfds:{tmp_path} (caltech_birds2011, train), example ")
    whole = [k for k in range(5) if f"example {k}:" not in message]
    batches = take(shuffled(Chosen(source, np.array(whole)), 2, seed=0), 2)
    assert {image.tobytes() for batch in batches for image in batch["image"]} == set(seen)
    with pytest.raises(
        DataError, match=r"\(caltech_birds2011, test\).*tfds build caltech_birds2011"
    ):
        Tfds("caltech_birds2011", "test", str(tmp_path), Framing(8))


def test_framing_moves_points_with_the_pixels():
    """A white pixel is at its coordinates, with both fits."""
    for fit, inside in (("crop", (25, 7)), ("whole", (3, 7))):
        for side in (20, 40):
            pixels = np.zeros((20, 40, 3), np.uint8)
            x, y = inside
            pixels[y, x] = 255
            framing = Framing(side, fit)
            image = framing.image(Image.fromarray(pixels)).astype(float)[..., 0]
            (point,) = framing.points(np.array([[x + 0.5, y + 0.5]]), (40, 20))
            weights = image / image.sum()
            centres = (2 * np.arange(side) + 1) / side - 1
            found = [(weights.sum(axis=0) * centres).sum(), (weights.sum(axis=1) * centres).sum()]
            np.testing.assert_allclose(point, found, atol=0.3 / side)
    crop = Framing(10, "crop")
    np.testing.assert_allclose(crop.box(np.array([0.0, 0, 40, 20]), (40, 20)), [-2, -1, 2, 1])
    np.testing.assert_allclose(
        crop.points(np.array([[np.nan, np.nan], [20, 10]]), (40, 20)), [[np.nan] * 2, [0, 0]]
    )


def test_sixteen_bits_are_scaled_and_more_are_refused(tmp_path):
    values = np.array([[0, 255, 257, 32768, 65535]], np.uint16).repeat(5, axis=0)
    wide = tmp_path / "depth.png"
    Image.fromarray(values).save(wide)
    framing = Framing(5, "whole")
    source = Files([wide], np.zeros(1, int), framing)
    # A 257th, rounded: 65,535 is white, as 255 is.
    np.testing.assert_array_equal(source[0]["image"][0, :, 0], [0, 1, 1, 128, 255])
    np.testing.assert_array_equal(
        source[0]["image"], source[0]["image"][:1, :, :1].repeat(3, 2).repeat(5, 0)
    )
    for dtype, mode in ((np.int32, "I"), (np.float32, "F")):
        Image.fromarray(values.astype(dtype)).save(tmp_path / f"{mode}.tiff")
        with pytest.raises(DataError, match=f"{mode}.tiff.* mode '{mode}'.*save it with 8 bits"):
            Files([tmp_path / f"{mode}.tiff"], np.zeros(1, int), framing)[0]


def test_boxes_are_clipped_to_the_picture(tmp_path):
    """TFDS's copy of the birds cuts boxes at the right and bottom edges; so do the folders."""
    path = tmp_path / "bird.png"
    Image.fromarray(np.zeros((20, 40, 3), np.uint8)).save(path)
    boxes = np.array([[30.0, 5, 47, 25]])
    box = Files([path], np.zeros(1, int), Framing(8, "whole"), boxes=boxes)[0]["box"]
    np.testing.assert_allclose(box, [0.5, -0.5, 1, 1])
    # Of the crop the picture is twice as wide.
    box = Files([path], np.zeros(1, int), Framing(8, "crop"), boxes=boxes)[0]["box"]
    np.testing.assert_allclose(box, [1, -0.5, 2, 1])


def test_batches_are_placed_ahead_of_their_use():
    placed = []

    def place(batch):
        placed.append(int(batch["label"][0]))
        return jax.device_put(batch)

    batches = placed_ahead(in_order(array_source(6), 1), place, number=3)
    used = []
    for batch in batches:
        used.append(int(batch["label"][0]))
        # While the first batch is used, two more are being placed.
        assert len(placed) == min(len(used) + 2, 6)
        assert isinstance(batch["image"], jax.Array)
    assert used == placed == list(range(6))
    ended = []

    def endless():
        try:
            while True:
                yield {"label": np.zeros(1)}
        finally:
            ended.append(True)

    early = placed_ahead(endless(), place)
    next(early)
    early.close()
    assert ended == [True]


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 0}, "batch_size must be a positive multiple of the 1 shards; got 0"),
        ({"shard": Shard(0, 2), "batch_size": 3}, "multiple of the 2 shards; got 3"),
        ({"shard": Shard(2, 2)}, "shard must be a number from 0"),
        ({"start": -1}, "start must not be negative; got -1"),
        ({"examples": array_source(0)}, "examples must not be empty"),
    ],
)
def test_bad_input(wrong, message):
    arguments = {"examples": array_source(), "batch_size": 2, "seed": 0} | wrong
    with pytest.raises(ValueError, match=message):
        shuffled(**arguments)
    with pytest.raises(ValueError, match="workers must not be negative; got -1"):
        Reading(workers=-1)
    with pytest.raises(ValueError, match="arrays must be of one length"):
        Arrays(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32))
