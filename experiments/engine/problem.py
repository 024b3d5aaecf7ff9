"""The record that an experiment hands to the engine, and the state that the engine carries."""

import dataclasses
from collections.abc import Callable, Generator, Mapping
from typing import Any, NamedTuple

import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray

from experiments.engine.snapshots import Snapshots

# A function that cuts a device's part out of arrays whose first axis is the batch.
Shard = Callable[[Any], Any]


class State(NamedTuple):
    """The carry of a training's steps: arrays only."""

    params: Any
    opt_state: Any
    step: Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """A training as functions of the arrays of one seed.

    Attributes:
      init: ``init(seed)`` gives the parameters, and constants: arrays that the loss reads and no
        step changes, such as stored statistics.
      loss: ``loss(params, constants, batch, key)`` gives a scalar and metrics. Metrics that are
        scalars are averaged over steps and logged. Metrics that are arrays have an entry for each
        example; ``monitor`` gets those of the last step.
      draw: ``draw(key, data, shard)`` gives the batch of a step: a tree of arrays whose first axis
        is the batch. It draws random numbers for the whole batch, so that all devices draw the
        same, and calls ``shard`` on them before it reads the examples. ``data`` is the field of
        that name, or the next of ``batches``, whose examples are sharded already.
      optimizer: From optax, with its schedule.
      batch_size: Examples in a step.
      data: A tree of arrays that stays on every device.
      batches: ``batches(seed, start)``, in place of ``data``: batches from the host, beginning with
        that of step ``start``. Each holds the part of this process.
      evaluate: ``evaluate(states, constants)`` measures held-out examples, for states with a
        leading axis of seeds; gives an array over seeds for each metric. ``validation_error`` is
        the metric that early stopping follows.
      snapshots: The model's outputs for a few examples, throughout the training.
      monitor: Computes metrics from the arrays among the loss's metrics.
      gradient_metrics: Computes metrics from the gradient.
      one_after_the_other: Whether accelerators train the seeds of a group one after the other.
        Batched over seeds, a convolution becomes a grouped one, which cuDNN runs slower.

    ``draw`` and ``loss`` get the same key, which depends on the seed and the step alone, so that a
    resumed training sees the same batches. An experiment that uses it in both must split it the
    same way in both.
    """

    init: Callable[[int], tuple[Any, Any]]
    loss: Callable[[Any, Any, Any, PRNGKeyArray], tuple[Array, dict[str, Array]]]
    draw: Callable[[PRNGKeyArray, Any, Shard], Any]
    optimizer: optax.GradientTransformation
    batch_size: int
    data: Any = None
    batches: Callable[[int, int], Generator[Any, None, None]] | None = None
    evaluate: Callable[[State, Any], Mapping[str, np.ndarray]] | None = None
    snapshots: Snapshots | None = None
    monitor: Callable[[Mapping[str, Array]], dict[str, Array]] | None = None
    gradient_metrics: Callable[[Any], dict[str, Array]] | None = None
    one_after_the_other: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The length of a training.

    Attributes:
      steps: Its steps, at most.
      steps_per_dispatch: Steps between two lines of metrics; with resident data, steps of one
        compiled call.
      validations: About how many times held-out examples are measured.
      early_stopping: A training ends after this many measurements without a smaller error.
    """

    steps: int
    steps_per_dispatch: int
    validations: int = 20
    early_stopping: int | None = None

    def is_validated(self, step: int) -> bool:
        """Whether held-out examples are measured after this step."""
        dispatches = self.steps // self.steps_per_dispatch
        every = max(1, dispatches // self.validations)
        return step // self.steps_per_dispatch % every == 0 or step == self.steps
