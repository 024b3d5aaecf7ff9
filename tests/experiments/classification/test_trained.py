"""A finished run read back: as a folder and as a file, its pipeline, and what is wrong in words."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from experiments.classification.config import Run
from experiments.classification.run import execute, load_dataset
from experiments.classification.trained import load_run
from experiments.engine import prepare_folder


def made(folder, **settings):
    """A finished run that learnt almost nothing."""
    run = Run(steps=2, batch_size=8, width=0.05, validation=0.0, steps_per_dispatch=1, **settings)
    prepare_folder(run, folder, resume=False, overwrite=False)
    return run, execute(run, folder, load_dataset(run))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """Two seeds of an ST-FCN on set RTS, whose images are larger than the digits."""
    folder = tmp_path_factory.mktemp("runs") / "st-fcn"
    return folder, *made(folder, model="st-fcn", distortion="RTS", seeds=(3, 5))


@pytest.mark.parametrize("seed", [3, 5])
def test_model_and_pipeline_of_a_run_give_its_test_error(seed, run_folder):
    folder, run, result = run_folder
    trained = load_run(folder, seed=seed)
    assert trained.pipeline.input_shape == (42, 42, 1)
    assert trained.pipeline.num_classes == 10
    images, labels = trained.pipeline.test_images()
    assert images.shape == (797, 42, 42, 1)
    error = 100 * np.mean(trained.predict(images).labels != labels)
    expected = result.test_errors[run.seeds.index(seed)]
    assert error == pytest.approx(expected, abs=1e-6)
    assert trained.pipeline.test_error == expected


def test_prediction_is_that_of_the_model(run_folder):
    trained = load_run(run_folder[0])
    assert trained.pipeline.seed == 3
    images, _ = trained.pipeline.test_images([0, 5, 797])
    prediction = trained.predict(images)
    logits, theta = trained.model.forward(images)
    np.testing.assert_allclose(prediction.probabilities, jax.nn.softmax(logits), atol=1e-6)
    np.testing.assert_allclose(prediction.theta, theta, atol=1e-6)
    np.testing.assert_allclose(prediction.probabilities.sum(-1), 1, atol=1e-6)
    assert prediction.outputs.shape == (3, 56, 56, 1)


def test_file_gives_the_same_model(run_folder, tmp_path):
    trained = load_run(run_folder[0], seed=5)
    trained.save(tmp_path / "model.safetensors")
    again = load_run(tmp_path / "model.safetensors")
    assert again.pipeline == trained.pipeline
    images = jax.random.uniform(jax.random.key(0), (2, 42, 42, 1))
    for actual, expected in zip(again.predict(images), trained.predict(images), strict=True):
        np.testing.assert_array_equal(actual, expected)


def test_result_of_an_older_version_takes_the_shape_from_the_data(run_folder, tmp_path):
    """Results did not hold it."""
    folder = tmp_path / "run"
    folder.symlink_to(run_folder[0])
    images = jnp.ones((1, 42, 42, 1))
    expected = load_run(folder).predict(images)
    file = folder / "result.json"
    text = file.read_text()
    result = json.loads(text)
    del result["image_shape"], result["num_classes"]
    file.write_text(json.dumps(result))
    try:
        actual = load_run(folder).predict(images)
    finally:
        file.write_text(text)
    np.testing.assert_array_equal(actual.probabilities, expected.probabilities)


def test_model_without_a_transformer(tmp_path):
    made(tmp_path / "run", model="fcn", distortion="none")
    trained = load_run(tmp_path / "run")
    prediction = trained.predict(jnp.ones((2, 28, 28, 1)))
    assert prediction.theta is None
    assert prediction.outputs is None
    assert prediction.probabilities.shape == (2, 10)


def test_pictures_become_inputs(run_folder, tmp_path):
    """Against Pillow's own crop and resizing: the middle square, grey, from 0 to 1."""
    pipeline = load_run(run_folder[0]).pipeline
    noise = np.random.default_rng(0).integers(0, 256, (50, 84, 3), np.uint8)
    path = tmp_path / "picture.png"
    Image.fromarray(noise).save(path)
    middle = Image.fromarray(noise[:, 17:67]).resize((42, 42), Image.Resampling.BILINEAR)
    expected = np.asarray(middle.convert("L"), np.float32) / 255
    images = pipeline.from_files([path, path])
    assert images.dtype == np.float32
    for image in images:
        # At the edges of the square the filter reads on, beyond them.
        np.testing.assert_array_equal(image[:, 1:-1, 0], expected[:, 1:-1])
    np.testing.assert_allclose(
        pipeline.from_files([path], invert=True)[0], 1 - images[0], atol=1e-6
    )
    squeezed = Image.fromarray(noise).resize((42, 42), Image.Resampling.BILINEAR).convert("L")
    whole = pipeline.from_files([path], fit="whole")
    np.testing.assert_array_equal(whole[0, ..., 0], np.asarray(squeezed, np.float32) / 255)


def test_a_test_image_kept_as_a_picture_is_the_same_input(run_folder, tmp_path):
    """Of the right size, a picture's pixels are the input's."""
    pipeline = load_run(run_folder[0]).pipeline
    images, _ = pipeline.test_images([7])
    pixels = np.round(255 * np.asarray(images[0, ..., 0])).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    found = pipeline.from_files([tmp_path / "digit.png"])
    np.testing.assert_allclose(found, images, atol=0.5 / 255 + 1e-6)


def test_errors_of_folders(run_folder, tmp_path):
    with pytest.raises(ValueError, match=r"nowhere must be the folder .* got nothing there"):
        load_run(tmp_path / "nowhere")
    parent = run_folder[0].parent
    with pytest.raises(
        ValueError, match=r"a folder of several runs. Name one of the runs in it: st-fcn"
    ):
        load_run(parent)
    with pytest.raises(ValueError, match=r"seed must be one of .*, 3, 5; got 4"):
        load_run(run_folder[0], seed=4)
    (tmp_path / "config.json").write_text(json.dumps(run_folder[1].to_json()))
    with pytest.raises(ValueError, match=r"must hold a finished run; got no result.json"):
        load_run(tmp_path)
    (tmp_path / "config.json").write_text('{"seeds": [0], "scenes": 3}')
    with pytest.raises(ValueError, match=r"config.json must hold the settings of a run of a class"):
        load_run(tmp_path)


def test_errors_of_files(run_folder, tmp_path):
    trained = load_run(run_folder[0])
    with pytest.raises(ValueError, match=r"path must end in .safetensors; got .*model.bin"):
        trained.save(tmp_path / "model.bin")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"broken.safetensors is not a readable safetensors file"):
        load_run(broken)
    other = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(1)}, other)
    with pytest.raises(
        ValueError, match=r"other.safetensors must be a file that Trained.save wrote"
    ):
        load_run(other)
    trained.save(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"seed must be one of those of .*, 3; got 5"):
        load_run(tmp_path / "model.safetensors", seed=5)
    metadata = json.dumps(
        {
            "run": trained.pipeline.run.to_json(),
            "seed": 3,
            "image_shape": [28, 28, 1],
            "num_classes": 11,
            "test_error": 1.0,
        }
    )
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    safetensors.numpy.save_file(
        tensors, other, {"format": "stn_jax.experiments.classification", "trained": metadata}
    )
    with pytest.raises(ValueError, match=r"classifier.logits.\w+ must have shape .* got \("):
        load_run(other)


@pytest.mark.usefixtures("no_runtime_types")
def test_errors_of_pictures(run_folder, tmp_path):
    pipeline = load_run(run_folder[0]).pipeline
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"broken.png: expected a readable image"):
        pipeline.from_files([broken])
    with pytest.raises(ValueError, match="paths must name at least one image file; got none"):
        pipeline.from_files([])
    with pytest.raises(ValueError, match="pixels must be of 8 or 16 bits; got mode 'F'"):
        pipeline.from_picture(Image.new("F", (4, 4)))
