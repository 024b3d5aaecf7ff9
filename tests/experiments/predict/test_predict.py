"""The command that classifies image files: its files, and its errors."""

import csv
import json

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

from experiments import pretrained
from experiments.data.examples import image_files
from experiments.predict import __main__ as command
from experiments.predict.run import predict_files


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Turned test digits as PNG files, named by their labels; a text beside them."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = pretrained.load().pipeline.test_images(np.arange(12))
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        pixels = np.round(255 * np.asarray(image[..., 0])).astype(np.uint8)
        inner = folder / ("more" if number > 8 else "")
        inner.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(inner / f"{number:02}_{label}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_predicts_the_images_of_a_folder(digits, tmp_path, capsys):
    out = tmp_path / "out"
    words = [str(pretrained.FILE), str(digits), "--out", str(out), "--most-pictures", "4"]
    assert command.main(words) == 0
    printed = capsys.readouterr().out
    with (out / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 12
    right = sum(row["image"].endswith(f"_{row['label']}.png") for row in rows)
    assert right >= 11
    for row in rows:
        shares = [float(row[f"probability_{label}"]) for label in range(10)]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert int(row["label"]) == int(np.argmax(shares))
        assert row["image"] in printed
    written = json.loads((out / "predictions.json").read_text())
    assert written["model"] == "st-cnn"
    assert [each["image"] for each in written["images"]] == [row["image"] for row in rows]
    assert all(len(each["theta"]) == 6 for each in written["images"])
    assert matplotlib.image.imread(out / "pictures.png").std() > 0.05


def test_many_images_are_predicted_in_parts(digits, monkeypatch):
    trained, paths = pretrained.load(), image_files([digits])
    whole = predict_files(trained, paths)
    monkeypatch.setattr("experiments.predict.run._BATCH", 5)
    parts = predict_files(trained, paths)
    np.testing.assert_allclose(parts.prediction.theta, whole.prediction.theta, atol=1e-5)
    np.testing.assert_array_equal(parts.images, whole.images)


def test_files_of_folders_are_sorted_and_other_files_left_out(digits):
    files = sorted(digits.rglob("*.png"))
    assert image_files([digits]) == files
    assert image_files([files[3], digits / "more"]) == [files[3], *files[9:]]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["MODEL", "nowhere.png"], "nowhere.png: expected an image file or a folder of them"),
        (["MODEL", "EMPTY"], "expected a folder with image files"),
        (["MODEL", "TEXT"], "notes.txt: expected a readable image"),
        (["EMPTY", "DIGITS"], "must be the folder of a finished run"),
        (["MODEL", "DIGITS", "--seed", "7"], "seed must be one of those of"),
        (["MODEL", "DIGITS", "--out", "TEXT"], "must be a folder to write to; got a file"),
    ],
)
def test_mistakes_are_told(words, error, digits, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    places = {
        "MODEL": pretrained.FILE,
        "EMPTY": tmp_path / "empty",
        "TEXT": digits / "notes.txt",
        "DIGITS": digits,
    }
    words = [str(places.get(word, word)) for word in words]
    assert (
        command.main([*words, *([] if "--out" in words else ["--out", str(tmp_path / "o")])]) == 2
    )
    assert error in capsys.readouterr().err
