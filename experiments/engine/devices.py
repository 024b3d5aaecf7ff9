"""Training on several devices: the batch is sharded, everything else is replicated.

There are two forms of the same step. ``jit`` is one program over a mesh of all devices; the batch
is sharded along the axis ``data``, and XLA adds the gradients up. ``pmap`` is one program for each
device, on its part of the batch, with an explicit mean of the gradients; upstream it is in
maintenance. In both forms every device draws the random numbers of the whole batch and takes its
part. So the examples are those of a training on one device, and the results agree up to rounding.

After :func:`start`, the devices of several processes are one mesh.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PRNGKeyArray

ParallelName = Literal["jit", "pmap"]
AXIS = "data"
Tree = TypeVar("Tree")


class Devices(NamedTuple):
    """How a step is spread over devices.

    Attributes:
      number: The number of devices, over all processes.
      platform: Their platform, such as ``cpu``.
      local_shard: The part of a batch that a device works on, of arrays whose first axis is the
        batch. Call it in a step, on random numbers and indices, before examples are read.
      local_key: The key of a device in a step: one for all devices in ``jit``, one for each in
        ``pmap``.
      mean: The mean over all devices of values that each computed from its part. Call it in a step.
      compile: Compiles ``steps(state, *arrays, num_steps)``, which gives a state and metrics;
        ``num_steps`` is static. The memory of the state is donated.
      compile_step: Compiles ``step(state, *arrays)`` in the same way.
      replicate: Copies a state or data to every device, laid out as the compiled step takes them.
      put_batch: Puts this process's part of a batch from the host on its devices, and does not
        wait. The step gets it as a batch that :attr:`local_shard` has cut already.
      to_host: Turns replicated arrays, or results of the compiled step, into arrays of one device.
        If an array is sharded over several processes, it gives one shard.
    """

    number: int
    platform: str
    local_shard: Callable[[Tree], Tree]
    local_key: Callable[[PRNGKeyArray], PRNGKeyArray]
    mean: Callable[[Tree], Tree]
    compile: Callable[[Callable[..., Any]], Callable[..., Any]]
    compile_step: Callable[[Callable[..., Any]], Callable[..., Any]]
    replicate: Callable[[Tree], Tree]
    put_batch: Callable[[Any], Any]
    to_host: Callable[[Tree], Tree]


def all_devices(form: ParallelName, batch_size: int) -> Devices:
    """The ``jit`` or the ``pmap`` form, over all devices.

    Raises:
      ValueError: If the batch does not divide over the devices.
    """
    number = jax.device_count()
    if batch_size % number:
        below, above = batch_size // number * number, -(-batch_size // number) * number
        fitting = f"{below} or {above}" if below else str(above)
        raise ValueError(
            f"batch_size must divide over the {number} devices; got {batch_size}. Take {fitting}."
        )
    return _FORMS[form](number)


def start(coordinator: str | None = None, num_processes: int = 1, process: int = 0) -> None:
    """Joins this process to others; call it before anything else is computed.

    Args:
      coordinator: ``host:port`` of process 0. If ``None``, JAX asks the cluster for everything,
        where it recognises one.
      num_processes: The number of processes.
      process: The number of this process, from 0.
    """
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator is None:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, num_processes, process)


def is_first() -> bool:
    """Whether this process writes files and prints: the only one, or the first of several."""
    return jax.process_index() == 0


def are_several() -> bool:
    """Whether several processes train together."""
    return jax.process_count() > 1


def wait_for_all(place: str) -> None:
    """Returns once every process has reached the place of this name."""
    if are_several():
        multihost_utils.sync_global_devices(place)


def broadcast_from_0(tree: Tree) -> Tree:
    """The first process's arrays, in every process. All must pass trees of the same structure."""
    return multihost_utils.broadcast_one_to_all(tree) if are_several() else tree


def any_process(here: bool) -> bool:
    """Whether something is true in any process."""
    if not are_several():
        return here
    return bool(multihost_utils.process_allgather(np.asarray(here)).any())


def _mesh_of_all(number: int) -> Devices:
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    sharded = NamedSharding(mesh, PartitionSpec(AXIS))
    replicated = NamedSharding(mesh, PartitionSpec())

    def local_shard(batch: Tree) -> Tree:
        # Every device draws the whole batch, which is cheaper than sending the parts around.
        whole = jax.lax.with_sharding_constraint(batch, replicated)
        return jax.lax.with_sharding_constraint(whole, sharded)

    def compile_(steps: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(steps, static_argnames="num_steps", donate_argnums=0)

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.jit(step, donate_argnums=0)

    def replicate(tree: Tree) -> Tree:
        # device_put refuses random keys on a mesh of several processes.
        return jax.jit(_same, out_shardings=replicated)(tree)

    def put_batch(batch: Any) -> Any:
        return jax.tree.map(
            lambda a: jax.make_array_from_process_local_data(sharded, np.asarray(a)), batch
        )

    def to_host(tree: Tree) -> Tree:
        return jax.tree.map(lambda a: a if a.is_fully_addressable else _local(a), tree)

    own = local_shard if number > 1 else _same
    in_step, compiled = (own, _same, _same), (compile_, compile_step)
    return Devices(number, _platform(), *in_step, *compiled, replicate, put_batch, to_host)


def _program_for_each(number: int) -> Devices:
    def local_shard(batch: Tree) -> Tree:
        size = len(jax.tree.leaves(batch)[0]) // number
        first = jax.lax.axis_index(AXIS) * size
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, size), batch)

    def local_key(key: PRNGKeyArray) -> PRNGKeyArray:
        return jax.random.fold_in(key, jax.lax.axis_index(AXIS))

    def mean(values: Tree) -> Tree:
        return jax.lax.pmean(values, AXIS)

    def compile_(step: Callable[..., Any]) -> Callable[..., Any]:
        @functools.lru_cache
        def compiled(num_steps: int) -> Callable[..., Any]:
            return jax.pmap(functools.partial(step, num_steps=num_steps), AXIS, donate_argnums=0)

        return lambda *arguments: compiled(arguments[-1])(*arguments[:-1])

    def compile_step(step: Callable[..., Any]) -> Callable[..., Any]:
        return jax.pmap(step, AXIS, donate_argnums=0)

    def replicate(tree: Tree) -> Tree:
        local = jax.local_device_count()
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (local, *np.shape(a))), tree)

    def put_batch(batch: Any) -> Any:
        own = NamedSharding(Mesh(np.array(jax.local_devices()), (AXIS,)), PartitionSpec(AXIS))
        spread = lambda a: np.reshape(a, (jax.local_device_count(), -1, *np.shape(a)[1:]))  # noqa: E731
        return jax.tree.map(lambda a: jax.device_put(spread(a), own), batch)

    def to_host(tree: Tree) -> Tree:
        return jax.tree.map(lambda a: _local(a)[0], tree)

    in_step, compiled = (local_shard, local_key, mean), (compile_, compile_step)
    return Devices(number, _platform(), *in_step, *compiled, replicate, put_batch, to_host)


def _platform() -> str:
    """The platform of all devices."""
    platform: str = jax.devices()[0].platform
    return platform


def _local(array: Array) -> Array:
    """The shard of an array on the first of this process's devices."""
    return array.addressable_data(0)


def _same(tree: Tree) -> Tree:
    return tree


_FORMS: dict[str, Callable[[int], Devices]] = {"jit": _mesh_of_all, "pmap": _program_for_each}
