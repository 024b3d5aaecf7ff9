"""The compiled steps of a problem, for one seed or for several in one program."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PRNGKeyArray

from experiments.engine.devices import Devices
from experiments.engine.problem import Problem, State

Metrics = dict[str, Array]
# ``step(state, constants, data or batch, key)`` of one seed.
Step = Callable[[State, Any, Any, PRNGKeyArray], tuple[State, Metrics]]


class Program(NamedTuple):
    """The functions of a problem, compiled at their first call.

    States, constants, keys and metrics have a leading axis of seeds.

    Attributes:
      devices: How steps are spread over devices.
      run: ``run(states, constants, data, keys, num_steps)`` gives the states after some steps on
        resident data, and metrics: means over the steps, arrays of the last one.
      step: ``step(states, constants, batches, keys)``, the same for one step on a batch from the
        host for each seed.
      monitor: Computes the metrics of a problem's ``monitor``.
    """

    devices: Devices
    run: Callable[[State, Any, Any, Array, int], tuple[State, Metrics]]
    step: Callable[[State, Any, Sequence[Any], Array], tuple[State, Metrics]]
    monitor: Callable[[Metrics], Metrics]


def make_program(problem: Problem, devices: Devices, *, accumulate: int = 1) -> Program:
    """Compiles the steps of a problem.

    Args:
      problem: Its loss, draw and optimizer are compiled; ``init``, data and measurements are not.
      devices: The devices to run on.
      accumulate: Number of parts of a batch that a step processes one after the other.
    """
    step = make_step(problem, devices, accumulate)

    def run(
        states: State, constants: Any, data: Any, keys: Array, num_steps: int
    ) -> tuple[State, Metrics]:
        def one(state: State, constants: Any, key: PRNGKeyArray) -> tuple[State, Metrics]:
            return make_run(step)(state, constants, data, key, num_steps)

        return _over_seeds(problem, devices, one, states, constants, keys)

    def step_from_host(
        states: State, constants: Any, batches: Sequence[Any], keys: Array
    ) -> tuple[State, Metrics]:
        batch = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batches)

        def one(state: State, constants: Any, batch: Any, key: PRNGKeyArray) -> Any:
            return step(state, constants, batch, key)

        return _over_seeds(problem, devices, one, states, constants, batch, keys)

    monitor = problem.monitor
    return Program(
        devices,
        devices.compile(run),
        devices.compile_step(step_from_host),
        (lambda arrays: {}) if monitor is None else jax.jit(jax.vmap(monitor)),
    )


def initial_states(problem: Problem, seeds: Sequence[int]) -> tuple[State, Any]:
    """The states and the constants of some seeds before the first step, on a leading axis."""
    each = []
    for seed in seeds:
        params, constants = problem.init(seed)
        state = State(params, problem.optimizer.init(params), jnp.zeros((), jnp.int32))
        each.append((state, constants))
    states, constants = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    return states, constants


def make_step(problem: Problem, devices: Devices, accumulate: int = 1) -> Step:
    """One step of one seed; pure and not compiled."""

    def gradients(
        params: Any, constants: Any, batch: Any, key: PRNGKeyArray
    ) -> tuple[Any, Metrics]:
        (value, metrics), grads = jax.value_and_grad(problem.loss, has_aux=True)(
            params, constants, batch, key
        )
        return grads, {"loss": value} | metrics

    def accumulated(
        params: Any, constants: Any, batch: Any, key: PRNGKeyArray
    ) -> tuple[Any, Metrics]:
        def add(total: Any, part: tuple[Any, PRNGKeyArray]) -> tuple[Any, Metrics]:
            grads, metrics = gradients(params, constants, *part)
            return jax.tree.map(jnp.add, total, grads), metrics

        # Take every n-th example, so that each part spans all devices of the batch.
        parts = jax.tree.map(
            lambda a: jnp.moveaxis(a.reshape(-1, accumulate, *a.shape[1:]), 1, 0), batch
        )
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(accumulate))
        zeros = jax.tree.map(jnp.zeros_like, params)
        total, metrics = jax.lax.scan(add, zeros, (parts, keys))
        joined = {
            name: value.mean()
            if value.ndim == 1
            else jnp.moveaxis(value, 0, 1).reshape(-1, *value.shape[2:])
            for name, value in metrics.items()
        }
        return jax.tree.map(lambda a: a / accumulate, total), joined

    def step(state: State, constants: Any, data: Any, key: PRNGKeyArray) -> tuple[State, Metrics]:
        key = jax.random.fold_in(key, state.step)
        batch = problem.draw(key, data, devices.local_shard)
        compute = gradients if accumulate == 1 else accumulated
        grads, metrics = compute(state.params, constants, batch, devices.local_key(key))
        arrays = {name: value for name, value in metrics.items() if value.ndim}
        scalars = {name: value for name, value in metrics.items() if not value.ndim}
        grads, scalars = devices.mean((grads, scalars))
        if problem.gradient_metrics is not None:
            scalars |= problem.gradient_metrics(grads)
        updates, opt_state = problem.optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, opt_state, state.step + 1), scalars | arrays

    return step


def make_run(step: Step) -> Callable[[State, Any, Any, PRNGKeyArray, int], tuple[State, Metrics]]:
    """Many steps of one seed on resident data; pure and not compiled."""

    def run(
        state: State, constants: Any, data: Any, key: PRNGKeyArray, num_steps: int
    ) -> tuple[State, Metrics]:
        def one(state: State, _: None) -> tuple[State, Metrics]:
            return step(state, constants, data, key)

        state, metrics = jax.lax.scan(one, state, length=num_steps)
        # Scalars are averaged over the steps; arrays are kept of the last step.
        return state, {
            name: jnp.mean(value) if value.ndim == 1 else value[-1]
            for name, value in metrics.items()
        }

    return run


def _over_seeds(
    problem: Problem, devices: Devices, function: Callable[..., Any], *arguments: Any
) -> Any:
    """Calls a function of one seed on arguments with a leading axis of seeds."""
    number = len(jax.tree.leaves(arguments[-1])[0])
    if number == 1:
        # XLA on the CPU runs a batched product slower than a plain one, even for a batch of one.
        ended = function(*jax.tree.map(lambda each: each[0], arguments))
        return jax.tree.map(lambda each: each[None], ended)
    if problem.one_after_the_other and devices.platform != "cpu":
        return jax.lax.map(lambda each: function(*each), arguments)
    return jax.vmap(function)(*arguments)
