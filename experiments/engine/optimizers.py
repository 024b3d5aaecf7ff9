"""Optimizers of the experiments, from optax."""

from collections.abc import Sequence
from typing import Any

import optax
from jaxtyping import Array

from stn_jax import nn as stnn


def adam_cosine(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam; its rate falls from ``rate`` to zero along a cosine."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def linear_decay(rate: float, steps: int, *, warm_up: float = 0.05) -> optax.Schedule:
    """A rate that rises from zero to ``rate``, and then falls to zero, both along a line.

    Args:
      rate: The highest rate.
      steps: Steps of the whole training.
      warm_up: Share of the steps in which the rate rises; at least one step.
    """
    rising = max(1, round(steps * warm_up))
    up = optax.linear_schedule(0.0, rate, rising)
    down = optax.linear_schedule(rate, 0.0, max(1, steps - rising))
    return optax.join_schedules([up, down], [rising])


def sgd_staircase(
    rate: float,
    steps: int,
    shares: Sequence[float],
    *,
    momentum: float | None = None,
    weight_decay: float | None = None,
) -> optax.GradientTransformation:
    """SGD; its rate is divided by ten after each of these shares of the steps.

    Args:
      rate: The rate at the start.
      steps: Steps of the whole training.
      shares: Rising, in (0, 1). If there are very few steps, two shares may round to the same step.
      momentum: The momentum; plain SGD if ``None``.
      weight_decay: The parameters times this are added to the gradient; no decay if ``None``.
    """
    boundaries = [round(steps * share) for share in shares]
    schedules = [optax.constant_schedule(rate / 10**k) for k in range(len(shares) + 1)]
    sgd = optax.sgd(optax.join_schedules(schedules, boundaries), momentum=momentum)
    if weight_decay is None:
        return sgd
    return optax.chain(optax.add_decayed_weights(weight_decay), sgd)


def with_localization_rate(
    optimizer: optax.GradientTransformation, factor: float, frozen_steps: int
) -> optax.GradientTransformation:
    """The optimizer, with localization networks slowed down, and frozen for the first steps."""
    slower = stnn.localization_rate(multiplier=factor, frozen_steps=frozen_steps)
    return optax.chain(optimizer, slower)


def localization_gradient_norms(grads: Any) -> dict[str, Array]:
    """The gradient's norm over the localization networks, and over all other parameters."""
    return stnn.gradient_norms(grads, stnn.localization_labels)
