"""Exports a spatial transformer to run it in a process without this library.

``python -m examples.export_model`` trains a small classifier with a spatial transformer for a few
steps, exports it by ``jax.export`` as StableHLO for any number of images, writes it to a file, and
has a second process, in which stn_jax cannot be imported, load the file and run it on the test
digits. It prints the file's size and the largest difference between the outputs of both processes.
"""

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jaxtyping import Array

import stn_jax as stn
from experiments.data import datasets, distortions, sources
from stn_jax import nn as stnn

# The program that uses the model needs only JAX.
ELSEWHERE = """
import sys
import jax.export
import numpy as np

sys.modules["stn_jax"] = None  # an import of it would be an error
model_file, images_file, logits_file = sys.argv[1:]
with open(model_file, "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
np.save(logits_file, model.call(np.load(images_file)))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      steps: Training steps.
      batch_size: Images in a step, each with a fresh rotation.
      seed: Seed of the initial weights and of the batches.
      out: The exported model.
    """

    steps: int = 200
    batch_size: int = 64
    seed: int = 0
    out: Path = Path("runs/examples/export_model.stablehlo")


class Classifier(nnx.Module):
    """A spatial transformer and a linear classifier."""

    def __init__(self, in_shape: tuple[int, ...], *, rngs: nnx.Rngs) -> None:
        localization = stnn.FullyConnectedLocalization(in_shape, stn.affine(), rngs=rngs)
        self.transformer = stnn.SpatialTransformer(localization, stn.affine())
        self.logits = nnx.Linear(in_shape[0] * in_shape[1] * in_shape[2], 10, rngs=rngs)

    def __call__(self, images: Array) -> Array:
        """Logits of each image."""
        # Not len(images), since the number of images is symbolic during the export.
        return self.logits(self.transformer(images).reshape(images.shape[0], -1))


def train(model: Classifier, data: datasets.Dataset, arguments: Arguments) -> None:
    """Trains on freshly rotated images."""
    rate = stnn.localization_rate(multiplier=0.1)
    optimizer = nnx.Optimizer(model, optax.chain(optax.adam(3e-3), rate), wrt=nnx.Param)
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)

    @nnx.jit
    def step(model: Classifier, optimizer: nnx.Optimizer[Classifier], key: Array) -> Array:
        batch_key, distortion_key = jax.random.split(key)
        chosen = jax.random.randint(batch_key, (arguments.batch_size,), 0, len(images))
        batch = distortions.distort_batch(distortions.rotate, distortion_key, images[chosen])

        def loss(model: Classifier) -> Array:
            logits = model(batch)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    for k in range(1, arguments.steps + 1):
        value = step(model, optimizer, jax.random.fold_in(jax.random.key(arguments.seed), k))
        if k % 100 == 0 or k == arguments.steps:
            print(f"step {k:4}: loss {value:.3f}", flush=True)


def export(model: Classifier, in_shape: tuple[int, ...]) -> bytes:
    """Exports the trained model with its parameters, for any number of images."""
    graph, state = nnx.split(model)
    shape = (*jax.export.symbolic_shape("batch"), *in_shape)
    # Copy, because the state holds the model's own variables, which tracing must not change.
    call: Any = jax.jit(lambda images: nnx.merge(graph, state, copy=True)(images))
    exported = jax.export.export(call)(jax.ShapeDtypeStruct(shape, jnp.float32))
    return bytes(exported.serialize())


def run_elsewhere(model_file: Path, images: np.ndarray) -> np.ndarray:
    """The logits from a process without this library."""
    with tempfile.TemporaryDirectory() as folder:
        images_file, logits_file = Path(folder, "images.npy"), Path(folder, "logits.npy")
        np.save(images_file, images)
        files = map(str, (model_file, images_file, logits_file))
        subprocess.run([sys.executable, "-c", ELSEWHERE, *files], check=True)
        return np.load(logits_file)


def main(command_line: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Runs the command line; returns the logits of the test digits of both processes."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    data = sources.load("digits")
    model = Classifier(data.image_shape, rngs=nnx.Rngs(arguments.seed))
    train(model, data, arguments)
    serialized = export(model, data.image_shape)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(serialized)
    print(f"exported: {arguments.out}, {len(serialized):,} bytes")

    test = distortions.distort_test_images(distortions.rotate, jnp.asarray(data.test.images))
    here = np.asarray(nnx.jit(lambda model, images: model(images))(model, test))
    elsewhere = run_elsewhere(arguments.out, np.asarray(test))
    right = 100 * (elsewhere.argmax(-1) == data.test.labels).mean()
    print(f"elsewhere: {right:.1f} % of {len(test)} rotated test digits right")
    print(f"largest difference of a logit: {np.abs(here - elsewhere).max():.1e}")
    return here, elsewhere


if __name__ == "__main__":
    main()
