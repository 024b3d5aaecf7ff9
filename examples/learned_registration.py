"""Learned registration of volumes: a network gives the map between two volumes in one pass.

``python -m examples.learned_registration`` draws volumes, solid ellipsoids of several kinds of
tissue that are placed, sized and bent differently in each, and trains a U-Net on pairs of them. It
takes two volumes, and gives a velocity for every second voxel. ``stn.stationary_velocity``
integrates these by scaling and squaring into a map that hardly folds, and ``stn.warp`` puts the
moving volume on the fixed one. The loss compares both, and asks for smooth velocities; labels are
not used. The labels of held-out pairs, warped with the nearest kernel, tell how well tissues
overlap: Dice, from 0 to 1, before and after. The command also prints the share of voxels where maps
fold, and draws a pair.

Reference: Balakrishnan et al., VoxelMorph: A Learning Framework for Deformable Medical Image
Registration, arXiv:1809.05231; with velocities: Dalca et al., arXiv:1805.04605.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jaxtyping import Array
from matplotlib.figure import Figure

import stn_jax as stn
from stn_jax import diagnostics, registration

# Ellipsoids (centre, radii, brightness), each inside those before it; the first is the head.
TISSUES = np.array(
    [
        [0.0, 0.0, 0.0, 0.72, 0.78, 0.7, 0.5],
        [-0.3, 0.1, 0.0, 0.25, 0.38, 0.32, 1.0],
        [0.32, 0.1, 0.05, 0.24, 0.34, 0.36, 0.9],
        [0.0, -0.42, 0.1, 0.36, 0.24, 0.3, 0.1],
        [0.05, 0.5, -0.15, 0.3, 0.22, 0.32, 0.8],
    ],
    np.float32,
)
BEND = stn.displacement((5, 5, 5))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      steps: Training steps.
      batch_size: Pairs in a step, drawn anew.
      size: Side of the volumes in voxels, a multiple of 8.
      filters: Number of filters of the first layer.
      smoothness: Weight of the squared slopes of the velocities.
      pairs: Number of held-out pairs.
      small: A training of seconds, which only shows that it runs.
      seed: Seed of the volumes and of the network.
      out: The picture.
    """

    steps: int = 1000
    batch_size: int = 4
    size: int = 24
    filters: int = 16
    smoothness: float = 0.01
    pairs: int = 16
    small: bool = False
    seed: int = 0
    out: Path = Path("runs/examples/learned_registration.png")


class Subject(NamedTuple):
    """A volume ``[*space, 1]`` and the tissue of each voxel, ``[*space]``; 0 is outside."""

    volume: Array
    labels: Array


class UNet(nnx.Module):
    """From two volumes to a velocity ``(x, y, z)`` for every second voxel along each axis."""

    def __init__(self, filters: int, *, rngs: nnx.Rngs) -> None:
        def convolution(inputs: int, outputs: int, stride: int = 1) -> nnx.Conv:
            return nnx.Conv(inputs, outputs, (3, 3, 3), stride, rngs=rngs)

        wide = 2 * filters
        self.down = nnx.List(
            [convolution(2, filters, 2), convolution(filters, wide, 2), convolution(wide, wide, 2)]
        )
        self.up = nnx.List([convolution(2 * wide, wide), convolution(wide + filters, filters)])
        zeros = nnx.initializers.zeros_init()
        self.velocity = nnx.Conv(filters, 3, (3, 3, 3), kernel_init=zeros, rngs=rngs)

    def __call__(self, fixed: Array, moving: Array) -> Array:
        """Velocities ``[batch, *half, 3]`` of pairs ``[batch, *space, 1]``."""
        maps = [jnp.concatenate([fixed, moving], axis=-1)]
        for down in self.down:
            maps.append(nnx.leaky_relu(down(maps[-1])))
        found = maps.pop()
        for up in self.up:
            beside = maps.pop()
            larger = jax.image.resize(found, (*beside.shape[:-1], found.shape[-1]), "linear")
            found = nnx.leaky_relu(up(jnp.concatenate([larger, beside], axis=-1)))
        # Scale the velocities down, so that one optimizer step moves a voxel by less than a voxel.
        return 0.05 * self.velocity(found)


def draw_subject(key: Array, size: int) -> Subject:
    """A volume with its own places, sizes and bend of the tissues, and with noise."""
    keys = jax.random.split(key, 4)
    bend = 0.12 * jax.random.normal(keys[0], (BEND.num_params,))
    places = BEND.apply(bend, stn.regular_grid((size,) * 3))
    centres = TISSUES[:, :3] + 0.03 * jax.random.normal(keys[1], (len(TISSUES), 3))
    radii = TISSUES[:, 3:6] * jnp.exp(0.08 * jax.random.normal(keys[2], (len(TISSUES), 3)))
    volume, labels = jnp.zeros((size,) * 3), jnp.zeros((size,) * 3, jnp.int32)
    for k in range(len(TISSUES)):
        distance = jnp.linalg.norm((places - centres[k]) / radii[k], axis=-1)
        # The edge of a tissue is about two voxels wide.
        share = jax.nn.sigmoid((1 - distance) * jnp.mean(radii[k]) * size)
        volume = volume + share * (TISSUES[k, 6] - volume)
        labels = jnp.where(distance < 1, k + 1, labels)
    noise = 0.03 * jax.random.normal(keys[3], volume.shape)
    return Subject((volume + noise)[..., None], labels)


def draw_pairs(key: Array, count: int, size: int) -> tuple[Subject, Subject]:
    """Pairs of subjects: the fixed ones, and the moving ones."""
    keys = jax.random.split(key, (2, count))
    fixed, moving = (jax.vmap(lambda each: draw_subject(each, size))(half) for half in keys)
    return fixed, moving


def slopes(velocity: Array) -> Array:
    """The mean square of the differences between neighbours, times the size squared."""
    return sum(
        (
            jnp.mean((velocity.shape[axis] * jnp.diff(velocity, axis=axis)) ** 2)
            for axis in range(3)
        ),
        start=jnp.zeros(()),
    )


def dice(first: Array, second: Array) -> Array:
    """``2 |A ∩ B| / (|A| + |B|)`` of the voxels of each tissue, the mean over tissues."""
    each = jnp.arange(1, len(TISSUES) + 1)[:, None]
    a, b = first.ravel() == each, second.ravel() == each
    return jnp.mean(2 * jnp.sum(a & b, axis=1) / jnp.maximum(jnp.sum(a, 1) + jnp.sum(b, 1), 1))


def main(command_line: Sequence[str] | None = None) -> tuple[float, float, float]:
    """Runs the command line; returns the Dice before and after, and the share of folds."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    if arguments.small:
        arguments = dataclasses.replace(
            arguments, steps=100, batch_size=2, size=16, filters=8, pairs=8
        )
    size = arguments.size
    family = stn.stationary_velocity((size // 2,) * 3, squarings=5)
    train_key, test_key = jax.random.split(jax.random.key(arguments.seed))
    fixed, moving = jax.jit(draw_pairs, static_argnums=(1, 2))(test_key, arguments.pairs, size)
    graph, params = nnx.split(UNet(arguments.filters, rngs=nnx.Rngs(arguments.seed)))
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, arguments.steps))

    @jax.jit
    def step(params: Any, state: Any, key: Array) -> tuple[Any, Any, Array]:
        fixed, moving = draw_pairs(key, arguments.batch_size, size)

        def loss(params: Any) -> Array:
            velocities = nnx.merge(graph, params)(fixed.volume, moving.volume)

            def of_pair(velocity: Array, fixed: Array, moving: Array) -> Array:
                warped = stn.warp(moving, family, velocity.ravel(), padding="border")
                unlike = registration.mean_squared_error(fixed, warped)
                return 10 * unlike + arguments.smoothness * slopes(velocity)

            return jnp.mean(jax.vmap(of_pair)(velocities, fixed.volume, moving.volume))

        value, slope = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(slope, state)
        return optax.apply_updates(params, updates), state, value

    @jax.jit
    def evaluate(params: Any) -> tuple[Array, Array, Subject]:
        """Dice and share of folds of each held-out pair, and the warped subjects."""
        velocities = nnx.merge(graph, params)(fixed.volume, moving.volume)

        def of_pair(velocity: Array, fixed: Subject, moving: Subject) -> tuple[Any, ...]:
            theta = velocity.ravel()
            volume = stn.warp(moving.volume, family, theta, padding="border")
            labels = stn.warp(moving.labels[..., None], family, theta, kernel="nearest")[..., 0]
            folds = diagnostics.fold_fraction(family, theta, labels.shape)
            return dice(labels, fixed.labels), folds, Subject(volume, labels)

        return jax.vmap(of_pair)(velocities, fixed, moving)

    state, before = optimizer.init(params), jnp.mean(jax.vmap(dice)(moving.labels, fixed.labels))
    print(f"Dice of {arguments.pairs} held-out pairs before registration: {before:.3f}", flush=True)
    for k in range(1, arguments.steps + 1):
        params, state, value = step(params, state, jax.random.fold_in(train_key, k))
        if k % 25 == 0 or k == arguments.steps:
            scores, folds, warped = evaluate(params)
            print(
                f"step {k:4}: loss {value:.4f}, held-out Dice {scores.mean():.3f}, "
                f"folded voxels {folds.mean():.3%}",
                flush=True,
            )
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    picture(moving, fixed, warped).savefig(arguments.out)
    print(f"picture: {arguments.out}")
    return float(before), float(scores.mean()), float(folds.mean())


def picture(*subjects: Subject) -> Figure:
    """The middle slices of the first pair: moving, fixed and warped, with their tissues below."""
    figure = Figure(figsize=(7.5, 5.2), layout="constrained", dpi=100)
    titles = ("moving", "fixed", "moving, warped")
    for axes, subject, title in zip(figure.subplots(2, 3).T, subjects, titles, strict=True):
        middle = subject.labels.shape[1] // 2
        axes[0].imshow(subject.volume[0, middle, ..., 0], cmap="gray", vmin=0, vmax=1.1)
        axes[1].imshow(subject.labels[0, middle], cmap="tab10", vmin=0, vmax=9)
        axes[0].set_title(title, fontsize=10)
        for each in axes:
            each.set_axis_off()
    return figure


if __name__ == "__main__":
    main()
