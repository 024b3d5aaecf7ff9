"""Recipes of trainings: an optimizer from optax, its schedule, and the usual rate and batch.

``python -m experiments.distorted_mnist recipes`` compares them on held-out images;
``experiments/results/recipes.json`` is its result.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import optax
from jaxtyping import Array
from optax import contrib

from experiments.engine.optimizers import adam_cosine, linear_decay, sgd_staircase

RecipeName = Literal["smooth", "linear", "decay", "muon", "adam", "paper"]


class Optimization(NamedTuple):
    """How a recipe trains.

    Attributes:
      optimizer: ``optimizer(rate, steps)`` is the optimizer of a training of that length.
      learning_rate: The usual rate, at its highest.
      batch_size: The usual number of images in a step.
      label_smoothing: Share of each label that is spread over all classes.
    """

    optimizer: Callable[[float, int], optax.GradientTransformation]
    learning_rate: float
    batch_size: int = 128
    label_smoothing: float = 0.0

    @property
    def usual(self) -> dict[str, Any]:
        """The settings that a run takes from its recipe unless they are given."""
        return {"batch_size": self.batch_size, "learning_rate": self.learning_rate}


def _muon(rate: float, steps: int) -> optax.GradientTransformation:
    """Muon for kernels of two axes or more, Adam at a tenth of the rate for all else."""
    return contrib.muon(
        linear_decay(rate, steps),
        adam_learning_rate=linear_decay(rate / 10, steps),
        muon_weight_dimension_numbers=_as_matrices,
    )


def _as_matrices(params: Any) -> Any:
    """Which axes of a kernel are a matrix's rows and columns; ``None`` where there is no kernel."""

    def numbers(leaf: Array) -> contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        return contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)

    return jax.tree.map(numbers, params)


def _adam_linear(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(linear_decay(rate, steps))


RECIPES: dict[RecipeName, Optimization] = {
    "smooth": Optimization(_adam_linear, 3e-3, label_smoothing=0.1),
    "linear": Optimization(_adam_linear, 3e-3),
    "decay": Optimization(
        lambda rate, steps: optax.adamw(linear_decay(rate, steps), weight_decay=0.1), 3e-3
    ),
    "muon": Optimization(_muon, 2e-2),
    "adam": Optimization(adam_cosine, 1e-3),
    # The paper divides the rate by ten after 50,000 and 100,000 of 150,000 steps.
    "paper": Optimization(
        lambda rate, steps: sgd_staircase(rate, steps, (1 / 3, 2 / 3)), 1e-2, batch_size=256
    ),
}
