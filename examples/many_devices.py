"""Trains on all devices of one process, of several, or of a cluster: one program for all.

``python -m examples.many_devices`` trains on the devices of this process. Of several processes,
each gets the same address and its own number::

    python -m examples.many_devices --coordinator localhost:9000 --processes 2 --process 0
    python -m examples.many_devices --coordinator localhost:9000 --processes 2 --process 1

On SLURM, TPU pods, Kubernetes and under Open MPI, JAX finds both out by itself::

    srun python -m examples.many_devices --cluster

The losses are those of one device, up to rounding.
"""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import tyro
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array
from sklearn.datasets import load_digits

import stn_jax as stn
from stn_jax import nn as stnn

AFFINE = stn.affine()
# Adam hides a gradient that is 8 times too large; this rule does not.
OPTIMIZER = optax.sgd(0.05, momentum=0.9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      steps: Training steps.
      batch_size: Images in a step, on all devices together.
      cluster: Let JAX find the other processes by the environment of the cluster.
      coordinator: Address of the first process, host:port, where they are started by hand.
      processes: Number of processes.
      process: Number of this one, from 0.
    """

    steps: int = 20
    batch_size: int = 64
    cluster: bool = False
    coordinator: str | None = None
    processes: int = 1
    process: int = 0


class Classifier(nnx.Module):
    """A spatial transformer, and a linear layer on what it gives."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        localization = stnn.FullyConnectedLocalization((8, 8, 1), AFFINE, rngs=rngs)
        self.transformer = stnn.SpatialTransformer(localization, AFFINE)
        self.logits = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Logits of each image."""
        return self.logits(self.transformer(images).reshape(len(images), -1))


def loss(graph: Any, params: Any, images: Array, labels: Array) -> Array:
    """The mean over the images of a batch."""
    logits = nnx.merge(graph, params)(images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def update(params: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
    """The next parameters and state of the optimizer."""
    updates, state = OPTIMIZER.update(gradient, state, params)
    return optax.apply_updates(params, updates), state


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels."""
    digits = load_digits()
    images, labels = digits.images[:size, ..., None] / 16, digits.target[:size]
    return images.astype(np.float32), labels.astype(np.int32)


def main(command_line: Sequence[str] | None = None) -> list[float]:
    """Runs the command line; prints and returns the losses."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    # Before anything is computed.
    if arguments.cluster:
        jax.distributed.initialize()
    elif arguments.coordinator:
        jax.distributed.initialize(arguments.coordinator, arguments.processes, arguments.process)
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))

    # Each process makes the same parameters, and reads its own part of the data.
    graph, params = nnx.split(Classifier(nnx.Rngs(0)))
    number, process = jax.process_count(), jax.process_index()
    own = [part[process::number] for part in batch(arguments.batch_size)]
    images, labels = jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), own)
    params, state = jax.device_put((params, OPTIMIZER.init(params)), NamedSharding(mesh, P()))

    @jax.jit
    def step(params: Any, state: Any, images: Array, labels: Array) -> tuple[Any, Any, Array]:
        value, gradient = jax.value_and_grad(loss, 1)(graph, params, images, labels)
        return *update(params, state, gradient), value

    losses = []
    for _ in range(arguments.steps):
        params, state, value = step(params, state, images, labels)
        losses.append(float(value))
    if process == 0:
        devices = {"devices": jax.device_count(), "here": jax.local_device_count()}
        print(json.dumps(devices | {"losses": losses}))
    return losses


if __name__ == "__main__":
    main()
