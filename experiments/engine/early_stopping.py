"""The progress of a training, and the best state of each seed if it may stop early."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from experiments.engine.problem import Schedule, State


class Best(NamedTuple):
    """For each seed, the state with the smallest error on the held-out examples so far.

    Attributes:
      states: With a leading axis of seeds.
      errors: Their errors, in percent.
      waited: Measurements since then. When they reach ``Schedule.early_stopping``, the seed is
        done.
    """

    states: State
    errors: Float[Array | np.ndarray, " seeds"]
    waited: Integer[Array | np.ndarray, " seeds"]


class Progress(NamedTuple):
    """The content of a checkpoint; ``best`` is ``None`` in a training without early stopping."""

    states: State
    best: Best | None

    @property
    def tested(self) -> State:
        """The states that are tested at the end."""
        return self.states if self.best is None else self.best.states

    def is_done(self, schedule: Schedule, step: int) -> bool:
        """Whether no step is left, or every seed has stopped early."""
        if self.best is None or schedule.early_stopping is None:
            return step >= schedule.steps
        return step >= schedule.steps or bool(np.all(self.best.waited >= schedule.early_stopping))

    def with_errors(self, errors: Float[np.ndarray, " seeds"], patience: int | None) -> "Progress":
        """Keeps as best the states with a smaller error than before; skips seeds that are done."""
        if self.best is None or patience is None:
            return self
        waited = np.asarray(self.best.waited)
        active = waited < patience
        better: Bool[np.ndarray, " seeds"] = active & (errors < np.asarray(self.best.errors))

        def chosen(new: Array | np.ndarray, old: Array | np.ndarray) -> np.ndarray:
            return np.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)

        states = jax.tree.map(chosen, self.states, self.best.states)
        least = np.where(better, errors, self.best.errors).astype(np.float32)
        waited = np.where(better, 0, waited + active).astype(np.int32)
        return self._replace(best=Best(states, least, waited))


def initial_progress(states: State, schedule: Schedule) -> Progress:
    """The progress before the first step."""
    if schedule.early_stopping is None:
        return Progress(states, None)
    number = len(states.step)
    errors, waited = np.full(number, np.inf, np.float32), np.zeros(number, np.int32)
    return Progress(states, Best(states, errors, waited))
