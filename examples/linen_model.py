"""A spatial transformer inside a Flax Linen model.

``python -m examples.linen_model`` trains a Linen classifier on rotated digits (scikit-learn's, by
up to 90 degrees in both directions). Its first layer is stn_jax's NNX module, which is a module
like any other for Linen: ``init`` puts its parameters into the tree under its name, and optax
trains them with the rest. It prints that tree and the accuracy before and after training.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import linen
from jaxtyping import Array

import stn_jax as stn
from experiments.data import distortions, sources
from stn_jax import nn as stnn
from stn_jax import visualize

RIGID = stn.rigid()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      steps: Training steps.
      batch_size: Images in a step, each with a fresh rotation.
      seed: Seed of the initial weights and of the batches.
      out: The picture.
    """

    steps: int = 800
    batch_size: int = 64
    seed: int = 0
    out: Path = Path("runs/examples/linen_model.png")


class Classifier(linen.Module):
    """A Linen module with the transformer as its first layer."""

    in_shape: tuple[int, ...]

    def setup(self) -> None:
        """Makes the layers."""
        localization = functools.partial(
            stnn.FullyConnectedLocalization, self.in_shape, RIGID, hidden=(64, 64)
        )
        self.transformer = stnn.linen.spatial_transformer(localization, RIGID)
        self.hidden = [linen.Dense(128), linen.Dense(128)]
        self.logits = linen.Dense(10)

    def __call__(self, images: Array) -> Array:
        """Logits of each image."""
        images = self.transformer(images)
        features = images.reshape(len(images), -1)
        for layer in self.hidden:
            features = linen.relu(layer(features))
        return self.logits(features)

    def straighten(self, images: Array) -> tuple[Array, Array]:
        """Theta of each image and the warped images: the NNX module's other methods."""
        theta = self.transformer(images, nnx_method="localize")
        return theta, self.transformer(images, theta, nnx_method="warp")


def main(command_line: Sequence[str] | None = None) -> tuple[float, float]:
    """Runs the command line; returns the test accuracy before and after training, in percent."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    data = sources.load("digits")
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)
    test = distortions.distort_test_images(distortions.rotate, jnp.asarray(data.test.images))

    model = Classifier(data.image_shape)
    params = model.init(jax.random.key(arguments.seed), test[:1])["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        print(f"{jax.tree_util.keystr(path, simple=True, separator='/'):48}{leaf.shape}")
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, arguments.steps))

    @jax.jit
    def step(params: Any, state: Any, key: Array) -> tuple[Any, Any, Array]:
        batch_key, distortion_key = jax.random.split(key)
        chosen = jax.random.randint(batch_key, (arguments.batch_size,), 0, len(images))
        batch = distortions.distort_batch(distortions.rotate, distortion_key, images[chosen])

        def loss(params: Any) -> Array:
            logits = model.apply({"params": params}, batch)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels[chosen]).mean()

        value, slope = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def accuracy(params: Any) -> Array:
        logits: Any = model.apply({"params": params}, test)
        return 100 * (logits.argmax(-1) == data.test.labels).mean()

    before, state = float(accuracy(params)), optimizer.init(params)
    print(f"untrained: {before:.1f} % right on {len(test)} rotated test digits")
    for k in range(1, arguments.steps + 1):
        key = jax.random.fold_in(jax.random.key(arguments.seed), k)
        params, state, value = step(params, state, key)
        if k % 200 == 0 or k == arguments.steps:
            print(f"step {k:4}: loss {value:.3f}, {accuracy(params):.1f} % right", flush=True)

    shown: Any = model.apply({"params": params}, test[:8], method="straighten")
    figure = visualize.strip(test[:8], RIGID, *shown)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out)
    print(f"picture: {arguments.out}")
    return before, float(accuracy(params))


if __name__ == "__main__":
    main()
