"""The model that comes with the experiments: what its card says, measured again."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from processes import ROOT
from safetensors import safe_open

import stn_jax as stn
from experiments import pretrained
from experiments.classification.trained import load_run
from experiments.data import sources
from experiments.pretrained import __main__ as command

CARD = (ROOT / "experiments/pretrained/README.md").read_text()


@pytest.fixture(scope="module")
def trained():
    return pretrained.load()


def test_its_file_is_small_and_says_how_it_was_made():
    assert pretrained.FILE.stat().st_size < 1_000_000
    with safe_open(pretrained.FILE, framework="numpy") as file:
        about = json.loads(file.metadata()["trained"])
    # The option came later; its default is the recipe's.
    assert about["run"] | {"label_smoothing": None} == command.RUN.to_json()


def test_test_error_is_that_of_the_card(trained):
    """All turned copies of all test digits, as the run was tested on."""
    numbers = np.arange(command.RUN.test_copies * 797)
    images, labels = trained.pipeline.test_images(numbers)
    error = 100 * np.mean(trained.predict(images).labels != labels)
    said = float(re.search(r"test error \| ([\d.]+) %", CARD)[1])
    assert error == pytest.approx(trained.pipeline.test_error, abs=0.1)
    assert said == pytest.approx(trained.pipeline.test_error, abs=0.005)


def test_its_transformer_turns_digits_back(trained):
    """Maps follow the digits: turned by 60°, their median turns by more than a quarter of it."""
    images = jnp.asarray(sources.load("digits").test.images[:100], jnp.float32) / 255

    def angles(degrees):
        turn = jnp.array([np.radians(degrees), 0.0, 0.0])
        turned = jax.vmap(lambda image: stn.warp(image, stn.rigid(), turn))(images)
        theta = trained.predict(turned).theta.reshape(-1, 2, 3)
        return np.degrees(np.arctan2(theta[:, 1, 0], theta[:, 0, 0]))

    found = (angles(30) - angles(-30) + 180) % 360 - 180
    assert abs(np.median(found)) > 15


def test_card_has_the_numbers_of_the_model(trained):
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(trained.model)))
    assert f"{parameters:,} parameters" in CARD
    for word in ("data", "protocol", "test error", "licence", "made by"):
        assert f"| {word} |" in CARD


@pytest.mark.slow
def test_command_trains_and_writes_a_model(tmp_path, capsys):
    """In a small form."""
    file = tmp_path / "small.safetensors"
    options = ["--steps", "2", "--out", str(tmp_path / "run"), "--file", str(file)]
    assert command.main(options) == 0
    assert f"{file.stat().st_size:,} bytes" in capsys.readouterr().out
    assert load_run(file).pipeline.run.steps == 2
