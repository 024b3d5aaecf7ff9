"""Random data sets for tests, and the expected results."""

import numpy as np

TRAIN, TEST = 12, 7


def make_arrays(rng, shape=(5, 4), classes=10):
    """Random images and labels under the keys of an NPZ file; every class appears in training."""
    arrays = {}
    for split, n in {"train": TRAIN, "test": TEST}.items():
        arrays[f"x_{split}"] = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        arrays[f"y_{split}"] = (np.arange(n) % classes).astype(np.uint8)
    return arrays


def two_classes_of_noise(folder, images, train, side):
    """An NPZ file of square images in two classes that differ in brightness, as ``--data``."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % 2
    noise = rng.integers(0, 100, (images, side, side)) + 120 * labels[:, None, None]
    path = folder / "noise.npz"
    parts = {"train": slice(train), "test": slice(train, None)}
    arrays = {f"x_{name}": noise[part] for name, part in parts.items()}
    np.savez(path, **arrays, **{f"y_{name}": labels[part] for name, part in parts.items()})
    return f"npz:{path}"


def assert_holds(dataset, arrays):
    for split in ("train", "test"):
        made = getattr(dataset, split)
        images = arrays[f"x_{split}"]
        assert made.images.dtype == np.uint8
        assert made.labels.dtype == np.int32
        np.testing.assert_array_equal(made.images.reshape(images.shape), images)
        np.testing.assert_array_equal(made.labels, arrays[f"y_{split}"])
