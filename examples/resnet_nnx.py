"""A spatial transformer in a residual network, which shares its first layers with the classifier.

``python -m examples.resnet_nnx`` trains a small ResNet on rotated digits (scikit-learn's, by up to
90 degrees either way), without and with a spatial transformer, and prints both accuracies.

Where to put the transformer: Finnveden, Jansson and Lindeberg show that warping feature maps cannot
in general undo a warp of the input, since the filters were not turned with the input. So the
*input* is warped. Deep features for localization come from sharing: the trunk computes features of
the image, which give theta, and the same trunk computes features of the warped image for the
classifier.

Reference: Finnveden, Jansson and Lindeberg, Understanding when spatial transformer networks do not
support invariance, and what to do about it, arXiv:2004.11678.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
import tyro
from flax import nnx
from jaxtyping import Array

import stn_jax as stn
from experiments.data import datasets, distortions, sources
from stn_jax import nn as stnn
from stn_jax import visualize

# Both passes through the trunk share its batch statistics. A family that also scales, such as the
# affine one, makes the statistics of the two passes differ.
RIGID = stn.rigid()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      steps: Training steps of each model.
      batch_size: Images in a step, each with a fresh rotation.
      filters: Number of filters of the first layer.
      seed: Seed of the initial weights and of the batches.
      out: The picture.
    """

    steps: int = 400
    batch_size: int = 64
    filters: int = 8
    seed: int = 0
    out: Path = Path("runs/examples/resnet_nnx.png")


class Block(nnx.Module):
    """Two convolutions with batch normalisation, added to a projection of the input."""

    def __init__(self, channels: int, filters: int, *, stride: int, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(channels, filters, (3, 3), stride, use_bias=False, rngs=rngs)
        self.second = nnx.Conv(filters, filters, (3, 3), use_bias=False, rngs=rngs)
        self.shortcut = nnx.Conv(channels, filters, (1, 1), stride, use_bias=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(filters, momentum=0.9, rngs=rngs) for _ in range(2)])

    def __call__(self, maps: Array) -> Array:
        """Maps with height and width divided by the stride."""
        inner = nnx.relu(self.norms[0](self.first(maps)))
        return nnx.relu(self.norms[1](self.second(inner)) + self.shortcut(maps))


class ResNet(nnx.Module):
    """A residual network, with or without a transformer of its input."""

    def __init__(self, filters: int, *, with_transformer: bool, rngs: nnx.Rngs) -> None:
        widths = [1, filters, 2 * filters, 4 * filters]
        blocks = [Block(a, b, stride=2, rngs=rngs) for a, b in itertools.pairwise(widths)]
        self.trunk, self.rest = nnx.Sequential(*blocks[:2]), blocks[2]
        self.logits = nnx.Linear(widths[-1], 10, rngs=rngs)
        head = stnn.RegressionHead(7 * 7 * widths[2], RIGID, rngs=rngs)
        self.transformer = stnn.SpatialTransformer(head, RIGID)
        self.with_transformer = with_transformer

    def straighten(self, images: Array) -> tuple[Array, Array]:
        """Theta of each image, predicted from features of the trunk, and the warped images."""
        features = self.trunk(images)
        theta = self.transformer.localize(features.reshape(len(features), -1))
        return theta, self.transformer.warp(images, theta)

    def __call__(self, images: Array) -> Array:
        """Logits of each image."""
        if self.with_transformer:
            _, images = self.straighten(images)
        return self.logits(self.rest(self.trunk(images)).mean(axis=(1, 2)))


def train(model: ResNet, data: datasets.Dataset, arguments: Arguments) -> ResNet:
    """Trains on freshly rotated images; the state is split once and the step is a pure function."""
    model.train()
    graph, (params, statistics) = nnx.graphdef(model), nnx.state(model, nnx.Param, nnx.BatchStat)
    # A learning rate that suits filters would move the region out of the image. The trunk, which
    # both share, learns at the classifier's rate.
    optimizer = optax.chain(
        optax.adam(optax.cosine_decay_schedule(3e-3, arguments.steps)),
        stnn.localization_rate(multiplier=0.1),
    )
    images, labels = jnp.asarray(data.train.images), jnp.asarray(data.train.labels)

    @jax.jit
    def step(params: Any, statistics: Any, state: Any, key: Array) -> tuple[Any, Any, Any, Array]:
        batch_key, distortion_key = jax.random.split(key)
        chosen = jax.random.randint(batch_key, (arguments.batch_size,), 0, len(images))
        batch = distortions.distort_batch(distortions.rotate, distortion_key, images[chosen])

        def loss(params: Any) -> tuple[Array, Any]:
            # Copy, since batch normalisation writes its statistics into the model.
            model = nnx.merge(graph, params, statistics, copy=True)
            losses = optax.softmax_cross_entropy_with_integer_labels(model(batch), labels[chosen])
            return losses.mean(), nnx.state(model, nnx.BatchStat)

        (value, statistics), slope = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), statistics, state, value

    state = optimizer.init(params)
    for k in range(1, arguments.steps + 1):
        key = jax.random.fold_in(jax.random.key(arguments.seed), k)
        params, statistics, state, value = step(params, statistics, state, key)
        if k % 100 == 0 or k == arguments.steps:
            print(f"  step {k:4}: loss {value:.3f}", flush=True)
    return nnx.merge(graph, params, statistics)


def main(command_line: Sequence[str] | None = None) -> dict[str, float]:
    """Runs the command line; returns the accuracy of each model on the test digits, in percent."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    data = sources.load("digits")
    test = distortions.distort_test_images(distortions.rotate, jnp.asarray(data.test.images))
    accuracies = {}
    for name, with_transformer in {"without": False, "with": True}.items():
        print(f"{name} a spatial transformer")
        rngs = nnx.Rngs(arguments.seed)
        model = ResNet(arguments.filters, with_transformer=with_transformer, rngs=rngs)
        model = train(model, data, arguments)
        model.eval()
        predicted = nnx.jit(lambda model, images: model(images).argmax(-1))(model, test)
        accuracies[name] = 100 * float((predicted == data.test.labels).mean())
        print(f"  accuracy on {len(test)} rotated test digits: {accuracies[name]:.1f} %")

    theta, straight = model.straighten(test[:8])
    figure = visualize.strip(test[:8], RIGID, theta, straight)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.out)
    print(f"picture: {arguments.out}")
    return accuracies


if __name__ == "__main__":
    main()
