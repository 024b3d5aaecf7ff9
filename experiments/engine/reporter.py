"""The lines of metrics of a training, each written while the next dispatch runs."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array
from tqdm import tqdm

from experiments.engine.problem import Problem
from experiments.engine.session import Session

_Metrics = dict[str, Array]


class Dispatch(NamedTuple):
    """The results of the steps of one dispatch.

    Attributes:
      step: The number of the last of these steps.
      number: How many steps these are.
      metrics: The metrics of all steps together, or a list of the metrics of each step.
      measured: Metrics of held-out examples, where they were due.
      snapshot: The model's outputs for the followed examples, if there are any.
    """

    step: int
    number: int
    metrics: _Metrics | list[_Metrics]
    measured: Mapping[str, np.ndarray] | None
    snapshot: dict[str, Any] | None


class Reporter:
    """Keeps the results of a dispatch that runs, and writes them when the next one runs."""

    def __init__(
        self,
        session: Session,
        name: str,
        seeds: Sequence[int],
        problem: Problem,
        monitor: Callable[[_Metrics], _Metrics],
        bar: "tqdm[Any]",
    ) -> None:
        self._session, self._monitor, self._bar = session, monitor, bar
        self._identities = {seed: session.identify(name, seed) for seed in seeds}
        self._snapshots = problem.snapshots
        self._examples_per_step = problem.batch_size * len(seeds)
        self._taken: Dispatch | None = None
        self._before = session.log.seconds(self._identities[seeds[0]])
        self._started = self._last = time.perf_counter()

    def take(self, dispatch: Dispatch) -> None:
        """Keeps the results of a dispatch, and starts to compute metrics of its arrays."""
        last = dispatch.metrics[-1] if isinstance(dispatch.metrics, list) else dispatch.metrics
        arrays = {name: value for name, value in last.items() if value.ndim > 1}
        monitored = self._monitor(arrays) if arrays else {}
        each = dispatch.metrics if isinstance(dispatch.metrics, list) else [dispatch.metrics]
        scalars = [{k: v for k, v in row.items() if k not in arrays} for row in each]
        self._taken = dispatch._replace(metrics=scalars)
        self._monitored = monitored

    def write(self) -> None:
        """Writes the lines of the dispatch that was taken, if there is one."""
        if self._taken is None:
            return
        step, number, metrics, measured, snapshot = self._taken
        self._taken = None
        columns = _means(metrics) | {k: np.asarray(v) for k, v in self._monitored.items()}
        columns |= measured or {}
        if self._snapshots is not None and snapshot is not None:
            self._snapshots.keep(snapshot)
        now = time.perf_counter()
        rate = number * self._examples_per_step / (now - self._last)
        seconds = self._before + now - self._started
        timing = {"images_per_second": round(rate, 1), "seconds": round(seconds, 2)}
        self._last = now
        key = self._session.log.key
        for k, (seed, identity) in enumerate(self._identities.items()):
            row = {name: float(values[k]) for name, values in columns.items()}
            which = {key: identity} | {"seed": seed}
            self._session.log.append({**which, "step": step, **row, **timing})
        self._bar.update(number)
        shown = {name: columns[name].mean() for name in ("loss", "train_error") if name in columns}
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()})


def _means(metrics: Any) -> dict[str, np.ndarray]:
    """The mean of each metric over the steps, ``[seeds]``."""
    if len(metrics) == 1:
        return {name: np.asarray(value) for name, value in metrics[0].items()}
    return {
        name: np.stack([np.asarray(row[name]) for row in metrics], axis=-1).mean(axis=-1)
        for name in metrics[0]
    }
