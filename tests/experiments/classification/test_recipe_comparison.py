"""Recipes compared: the images that each needs, a small run of the command, and smoothed labels."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from data_samples import two_classes_of_noise

from experiments.classification.config import Run
from experiments.classification.recipe_comparison import (
    RecipesResult,
    RecipeTraining,
    images_needed,
)
from experiments.classification.recipes import RECIPES
from experiments.classification.step import _cross_entropy
from experiments.distorted_mnist import __main__ as distorted_mnist


def training(recipe, steps, error):
    return RecipeTraining(
        distortion="R",
        model="fcn",
        recipe=recipe,
        steps=steps,
        images=128 * steps,
        learning_rate=0.1,
        error=error,
        interval=(error, error),
        errors=(error,),
        wall_time_s=1.0,
    )


def test_images_needed_are_those_of_the_shortest_training_that_reaches_the_error():
    rows = [
        training("adam", 100, 5.0),
        training("adam", 400, 3.0),
        training("linear", 100, 3.1),
        training("linear", 200, 3.0),
        training("linear", 400, 2.0),
        training("muon", 400, 3.2),
    ]
    headings, cells = images_needed(rows, ("adam", "linear", "muon"))
    assert headings == ["set", "model", "adam %", "linear", "muon"]
    assert cells == [["R", "fcn", "3.00", "2", "–"]]


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_lowers_a_quadratic(recipe):
    """Of a kernel of a convolution, of a dense kernel and of a bias."""
    optimization = RECIPES[recipe]
    target = {"conv": np.ones((3, 3, 2, 4)), "dense": np.ones((5, 4)), "bias": np.ones(4)}
    params = optax.tree.zeros_like(optax.tree.cast(target, np.float32))
    optimizer = optimization.optimizer(optimization.learning_rate, 200)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        grads = optax.tree.sub(params, target)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(200):
        params, state = step(params, state)
    for name, values in params.items():
        assert np.mean((values - 1) ** 2) < 0.9, name


def test_labels_are_smoothed(rng):
    logits, labels = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32), jnp.array([0, 3, 1])
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -0.9 * log_p[np.arange(3), labels] - 0.1 * log_p.mean(-1)
    np.testing.assert_allclose(_cross_entropy(logits, labels, 0.1), expected, rtol=1e-5)
    np.testing.assert_allclose(
        _cross_entropy(logits, labels, 0.0), -log_p[np.arange(3), labels], rtol=1e-5
    )


def test_command_trains_what_is_missing(tmp_path, capsys):
    data = two_classes_of_noise(tmp_path, 120, 80, 10)
    words = [
        *("recipes", "--data", data, "--models", "fcn", "--distortions", "R"),
        *("--recipes", "adam", "linear", "--out", str(tmp_path / "out")),
    ]
    assert distorted_mnist.main([*words, "--steps", "4"]) == 0
    capsys.readouterr()
    assert distorted_mnist.main([*words, "--steps", "4", "2"]) == 0
    assert "fcn" in capsys.readouterr().out
    result = RecipesResult.read(tmp_path / "out" / "recipes.json")
    assert [(row.recipe, row.steps) for row in result.rows] == [
        ("adam", 4),
        ("adam", 2),
        ("linear", 4),
        ("linear", 2),
    ]
    kept = json.loads((tmp_path / "out/R/fcn/linear-2/result.json").read_text())
    assert kept["mean"] == result.rows[-1].error
    config = json.loads((tmp_path / "out/R/fcn/linear-2/config.json").read_text())
    assert config["on"] == "validation"
    with pytest.raises(SystemExit):
        distorted_mnist.main([*words, "--steps", "4", "4"])
    assert "steps must be one or more different" in capsys.readouterr().err


def test_runs_that_older_versions_saved_have_no_smoothed_labels():
    assert Run(model="fcn", recipe="adam").smoothing == 0
    assert Run(model="fcn").smoothing == 0.1
    assert Run(model="fcn", label_smoothing=0.0).smoothing == 0
