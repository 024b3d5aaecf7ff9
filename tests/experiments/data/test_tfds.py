"""MNIST through TensorFlow Datasets, without TensorFlow."""

import io
import re
import sys
import types
import warnings

import numpy as np
import pytest
from data_samples import make_arrays

from experiments.data.datasets import DataError
from experiments.data.sources import load


@pytest.fixture(scope="module", params=["array_record", "parquet"])
def prepared(request, tmp_path_factory):
    """A tiny data set called mnist, prepared without TensorFlow, and its content."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds = pytest.importorskip("tensorflow_datasets")
        image = pytest.importorskip("PIL.Image")
        arrays = make_arrays(np.random.default_rng(0), (28, 28))

        def png(pixels):
            # TFDS encodes arrays with TensorFlow, but stores bytes as they are.
            buffer = io.BytesIO()
            image.fromarray(pixels).save(buffer, "png")
            return buffer.getvalue()

        with tfds.core.registered.skip_registration():

            class Mnist(tfds.core.GeneratorBasedBuilder):
                VERSION = tfds.core.Version("1.2.3")
                code_path = None  # There are no checksums of downloads beside this file.

                def _info(self):
                    features = {
                        "image": tfds.features.Image(shape=(28, 28, 1)),
                        "label": tfds.features.ClassLabel(num_classes=10),
                    }
                    return tfds.core.DatasetInfo(
                        builder=self, features=tfds.features.FeaturesDict(features)
                    )

                def _split_generators(self, _):
                    return {split: self._generate_examples(split) for split in ("train", "test")}

                def _generate_examples(self, split):
                    pairs = zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True)
                    for index, (pixels, label) in enumerate(pairs):
                        yield index, {"image": png(pixels), "label": int(label)}

        folder = tmp_path_factory.mktemp("tfds")
        tfds.disable_progress_bar()
        Mnist(data_dir=folder, file_format=request.param).download_and_prepare()
    return folder, arrays


def test_tfds_reads_what_was_prepared(prepared):
    folder, arrays = prepared
    dataset = load(f"tfds:{folder}")
    assert dataset.name == "mnist"
    assert dataset.image_shape == (28, 28, 1)
    assert dataset.num_classes == 10
    for split in ("train", "test"):
        # TFDS shuffles while it writes.
        made, expected = (
            getattr(dataset, split),
            zip(arrays[f"x_{split}"], arrays[f"y_{split}"], strict=True),
        )
        pairs = sorted(zip((i.tobytes() for i in made.images), made.labels.tolist(), strict=True))
        assert pairs == sorted((pixels.tobytes(), int(label)) for pixels, label in expected)


def test_tfds_damaged_files(prepared, tmp_path):
    folder, _ = prepared
    for path in folder.rglob("mnist/*/*"):
        content = path.read_bytes()
        new = tmp_path / path.relative_to(folder)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content[: len(content) // 2] if "-test." in path.name else content)
    with pytest.raises(DataError, match=re.escape(f"tfds:{tmp_path}")):
        load(f"tfds:{tmp_path}")


def test_tfds_not_prepared(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(DataError, match=r"tfds build mnist .* idx:FOLDER or npz:FILE"):
        load(f"tfds:{tmp_path}")
    assert not list(tmp_path.iterdir())


def test_tfds_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match=r"tfds: expected mnist .* `tfds build mnist"):
        load("tfds")


def test_tfds_default_folder_is_its_own_and_nothing_is_downloaded(rng, monkeypatch):
    asked, kinds = [], types.SimpleNamespace(Image=bytes, ClassLabel=int)
    example = {"image": rng.integers(0, 256, (28, 28, 1), np.uint8), "label": 3}
    info = types.SimpleNamespace(features={"image": b"", "label": 3}, splits=["train", "test"])

    # It has no function that downloads anything.
    def builder(name, **options):
        asked.append((name.partition(":")[0], options))
        return types.SimpleNamespace(info=info, as_data_source=lambda split: [example] * 2)

    fake = types.SimpleNamespace(builder=builder, features=kinds)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", fake)
    assert load("tfds").num_classes == 4
    assert load("tfds:kmnist").name == "kmnist"
    assert load("tfds:emnist/letters@gs://bucket").name == "emnist"
    assert asked == [
        ("mnist", {"data_dir": None}),
        ("kmnist", {"data_dir": None}),
        ("emnist/letters", {"data_dir": "gs://bucket"}),
    ]
    info.splits = ["train"]
    with pytest.raises(DataError, match=r"splits train and test.*got train; .* npz:FILE"):
        load("tfds:tf_flowers")
    info.features = {"image": b"", "depth": b"", "label": 3}
    with pytest.raises(DataError, match=r"one image and one label .* got images image, depth;"):
        load("tfds:nyu")


@pytest.mark.parametrize("sizes", ["one size", "many sizes"])
def test_any_set_for_image_classification_is_read_by_its_name(sizes, tmp_path, rng):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tfds = pytest.importorskip("tensorflow_datasets")
        image = pytest.importorskip("PIL.Image")
    shapes = [(20, 30, 3), (20, 30, 3)] if sizes == "one size" else [(20, 30, 3), (40, 16, 3)]
    # Uniform colours stay what they are under any resampling.
    colours = {split: rng.integers(0, 256, (2, 3), np.uint8) for split in ("train", "validation")}

    def png(colour, shape):
        buffer = io.BytesIO()
        image.fromarray(np.broadcast_to(colour, shape).copy()).save(buffer, "png")
        return buffer.getvalue()

    with tfds.core.registered.skip_registration():

        class Petals(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("2.0.0")
            code_path = None

            def _info(self):
                features = {
                    "id": tfds.features.Text(),
                    "photo": tfds.features.Image(shape=(None, None, 3)),
                    "kind": tfds.features.ClassLabel(names=["rose", "tulip"]),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, _):
                return {split: self._generate_examples(split) for split in colours}

            def _generate_examples(self, split):
                for k in range(2):
                    encoded = png(colours[split][k], shapes[k])
                    yield k, {"id": str(k), "photo": encoded, "kind": k}

    tfds.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Petals(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    dataset = load(f"tfds:petals@{tmp_path}")
    assert (dataset.name, dataset.num_classes) == ("petals", 2)
    assert dataset.image_shape == ((20, 30, 3) if sizes == "one size" else (64, 64, 3))
    for split, source in {"train": "train", "test": "validation"}.items():
        made = getattr(dataset, split)
        for found, label in zip(made.images, made.labels, strict=True):
            np.testing.assert_array_equal(
                found, np.broadcast_to(colours[source][label], found.shape)
            )
