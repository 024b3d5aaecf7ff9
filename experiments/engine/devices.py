"""Training on several devices: the batch is shared out, all else is on every device.

Two forms of the same step, chosen by name. ``jit``: one program over a mesh of all devices, in
which the batch is sharded along the axis ``data`` and XLA adds the gradients up. ``pmap``: the
classic form, a program for each device, with its part of the batch and a mean of the gradients
written out. Both draw the whole batch's numbers everywhere and take their part of them, so they see
the images that one device would see, and end alike up to rounding.

Several processes, each with devices of its own, are one mesh once :func:`start` has joined them.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

ParallelName = Literal["jit", "pmap"]
AXIS = "data"
Tree = TypeVar("Tree")


class Parallel(NamedTuple):
    """How a step is spread over devices.

    Attributes:
      devices: Their number, over all processes.
      part: Of an array whose first axis is the batch, what a device works on; to be called in a
        step, before anything is made of the batch.
      mean: Of values that each device has taken of its part, the mean over all; in a step.
      compile: Of a step ``(state, *arrays, number)``, which gives a state and metrics, with the
        static number last, the compiled one; its first argument is donated.
      compile_step: The same of a step ``(state, *arrays)`` without a number.
      place: Puts state or data where the compiled step takes them.
      feed: Puts this process's part of a batch from the host where the compiled step takes it, and
        does not wait for it. In the step it is what :attr:`part` gives of a batch.
      fetch: What :attr:`place` placed, or the compiled step returned, as on one device; of what
        lies in parts on the devices of several processes, a part.
    """

    devices: int
    part: Callable[[Tree], Tree]
    mean: Callable[[Tree], Tree]
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    compile_step: Callable[[Callable[..., Any]], Callable[..., Any]]
    place: Callable[[Tree], Tree]
    feed: Callable[[Any], Any]
    fetch: Callable[[Tree], Tree]


def make_parallel(name: ParallelName, batch_size: int) -> Parallel:
    """One of the two forms, over all devices.

    Raises:
      ValueError: If the batch does not divide over the devices.
    """
    devices = jax.device_count()
    if batch_size % devices:
        below, above = batch_size // devices * devices, -(-batch_size // devices) * devices
        fitting = f"{below} or {above}" if below else str(above)
        raise ValueError(
            f"batch_size must divide over the {devices} devices; got {batch_size}. Take {fitting}."
        )
    return _FORMS[name](devices)


def start(coordinator: str, num_processes: int, process: int) -> None:
    """Joins this process to others, before anything else is computed.

    Args:
      coordinator: ``host:port`` at which process 0 can be reached.
      num_processes: How many there are.
      process: Which of them this is, from 0.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(coordinator, num_processes, process)


def is_first() -> bool:
    """Whether this process is the one that writes files and is heard, of several or alone."""
    return jax.process_index() == 0


def are_several() -> bool:
    """Whether this process trains together with others."""
    return jax.process_count() > 1


def wait_for_all(what: str) -> None:
    """Returns once every process has come to the place named ``what``."""
    if are_several():
        multihost_utils.sync_global_devices(what)


def of_first(tree: Tree) -> Tree:
    """What the first process holds, in every process; arrays or numbers of one structure."""
    return multihost_utils.broadcast_one_to_all(tree) if are_several() else tree


def in_any(here: bool) -> bool:
    """Whether something is so in any process."""
    if not are_several():
        return here
    return bool(multihost_utils.process_allgather(np.asarray(here)).any())


def _mesh_of_all(devices: int) -> Parallel:
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    sharded = NamedSharding(mesh, PartitionSpec(AXIS))
    replicated = NamedSharding(mesh, PartitionSpec())

    def part(batch: Tree) -> Tree:
        # Drawn whole on every device, which costs less than to pass it on.
        whole = jax.lax.with_sharding_constraint(batch, replicated)
        return jax.lax.with_sharding_constraint(whole, sharded)

    def compile_(steps: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(steps, static_argnames="num_steps", donate_argnums=0)

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(step, donate_argnums=0)

    def place(tree: Tree) -> Tree:
        # device_put refuses random keys on a mesh of several processes.
        return jax.jit(_same, out_shardings=replicated)(tree)

    def feed(batch: Any) -> Any:
        return jax.tree.map(
            lambda a: jax.make_array_from_process_local_data(sharded, np.asarray(a)), batch
        )

    def fetch(tree: Tree) -> Tree:
        return jax.tree.map(lambda a: a if a.is_fully_addressable else _local(a), tree)

    own = part if devices > 1 else _same
    return Parallel(devices, own, _same, compile_, compile_step, place, feed, fetch)


def _program_for_each(devices: int) -> Parallel:
    def part(batch: Tree) -> Tree:
        size = len(jax.tree.leaves(batch)[0]) // devices
        first = jax.lax.axis_index(AXIS) * size
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, size), batch)

    def mean(values: Tree) -> Tree:
        return jax.lax.pmean(values, AXIS)

    def compile_(step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.lru_cache
        def compiled(number: int) -> Callable[..., Any]:
            return jax.pmap(functools.partial(step, num_steps=number), AXIS, donate_argnums=0)

        return lambda *arguments: compiled(arguments[-1])(*arguments[:-1])

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.pmap(step, AXIS, donate_argnums=0)

    def place(tree: Tree) -> Tree:
        local = jax.local_device_count()
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (local, *np.shape(a))), tree)

    def feed(batch: Any) -> Any:
        own = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
        spread = lambda a: np.reshape(a, (jax.local_device_count(), -1, *np.shape(a)[1:]))  # noqa: E731
        return jax.tree.map(lambda a: jax.device_put(spread(a), own), batch)

    def fetch(tree: Tree) -> Tree:
        return jax.tree.map(lambda a: _local(a)[0], tree)

    return Parallel(devices, part, mean, compile_, compile_step, place, feed, fetch)


def _local(array: Array) -> Array:
    """What the first of this process's devices holds of an array."""
    return array.addressable_data(0)


def _same(tree: Tree) -> Tree:
    return tree


_FORMS: dict[str, Callable[[int], Parallel]] = {"jit": _mesh_of_all, "pmap": _program_for_each}
