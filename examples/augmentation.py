"""Augmentation that moves images, keypoints and boxes together, and is differentiable.

``python -m examples.augmentation`` moves a photograph, its keypoints and its boxes by random affine
maps and random thin plate splines, many at once under ``jit`` and ``vmap``.

It checks two claims and prints the results:

- a dot drawn at a keypoint lies, after the warp, at the moved keypoint;
- everything is differentiable in the strength of the augmentation, although the spline's inverse,
  which moves points, has no closed form: with that derivative Newton's method finds the strength at
  which keypoints move by a given distance.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from sklearn.datasets import load_sample_image

import stn_jax as stn
from stn_jax import augmentation as aug
from stn_jax import visualize

SIZE = 200
SPLINE = stn.thin_plate_spline((4, 4))
KINDS = {"image": aug.Image(padding="border"), "keypoints": aug.Points(), "boxes": aug.Boxes()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      strength: Strength of the augmentation; 0 changes nothing.
      distance: Find the strength at which keypoints move by this distance, in pixels.
      samples: Number of augmented copies.
      seed: Seed of the augmentations.
      out: The picture.
    """

    strength: float = 1.0
    distance: float = 12.0
    samples: int = 16
    seed: int = 0
    out: Path = Path("runs/examples/augmentation.png")


class Sample(NamedTuple):
    """An image ``[h, w, c]`` with keypoints ``[n, 2]`` and boxes ``[m, 4]`` in its pixels."""

    image: Array
    keypoints: Array
    boxes: Array


def bends(strength: Array | float) -> aug.Augmentation:
    """Random affine maps and splines; a strength of 0 changes nothing."""
    shape, limits = (SIZE, SIZE), jnp.array([-1.0, 1.0]) * strength
    return aug.compose(
        aug.jitter(SPLINE, shape, spread=0.06 * strength * jnp.ones(())),
        aug.random_affine(
            shape, angle=0.3 * limits, scale=jnp.exp(0.15 * limits), translation=10 * limits
        ),
    )


def augment(key: Array, strength: Array | float, sample: Sample) -> tuple[Sample, Array]:
    """An augmented sample, and its theta."""
    augmentation = bends(strength)
    theta = augmentation.draw(key)
    return Sample(**aug.move(sample._asdict(), augmentation, theta, kinds=KINDS)), theta


def photograph() -> Sample:
    """A pagoda; keypoints are the tips of its roofs, boxes the whole and its top."""
    photo = jnp.asarray(load_sample_image("china.jpg")[:, :427] / 255, jnp.float32)
    still, shape = jnp.zeros(2), (SIZE, SIZE)
    small = stn.warp(photo, stn.translation(), still, output_shape=shape, antialias=True)
    tips = [[96, 14], [46, 53], [149, 56], [40, 83], [153, 83], [31, 126], [163, 119]]
    boxes = [[30, 12, 166, 190], [44, 12, 150, 66]]
    return Sample(small, jnp.array(tips, jnp.float32), jnp.array(boxes, jnp.float32))


def dot_error(thetas: Array, before: Sample, after: Sample) -> Array:
    """Largest distance, in pixels, from a moved keypoint to the centre of its warped dot."""
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1)
    square = jnp.sum((pixels[:, :, None] - before.keypoints) ** 2, axis=-1)
    dots = jnp.exp(-square / (2 * 2.0**2))  # One channel for each keypoint.
    warped = jax.vmap(lambda theta: aug.move(dots, bends(1.0), theta))(thetas)
    centre = jnp.einsum("bhwn,hwk->bnk", warped, pixels) / warped.sum(axis=(1, 2))[..., None]
    # Dots near the edge are cut off, which shifts their centres.
    cut = jnp.any((after.keypoints < 9) | (after.keypoints > SIZE - 10), axis=-1)
    return jnp.max(jnp.linalg.norm(centre - after.keypoints, axis=-1), where=~cut, initial=0)


def draw(path: Path, before: Sample, after: Sample, tangent: Array) -> None:
    """Draws the sample, four augmented copies, and the first copy's derivative by the strength."""
    figure = Figure(figsize=(15, 2.8), layout="constrained", dpi=100)
    copies = [
        jax.tree.map(lambda each, k=k: each[k], after) for k in range(min(4, len(after.image)))
    ]
    panels = figure.subplots(1, len(copies) + 2)
    for axes, sample in zip(panels[:-1], [before, *copies], strict=True):
        visualize.show_image(axes, sample.image)
        axes.plot(*sample.keypoints.T, "o", color="white", markeredgecolor="black", markersize=4)
        for (x0, y0, x1, y1), color in zip(sample.boxes, visualize.COLORS, strict=False):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=color, lw=2))
    visualize.show_image(panels[-1], tangent.mean(axis=-1, keepdims=True), value_range=(-2, 2))
    panels[0].set_title("original")
    panels[-1].set_title("d first copy / d strength")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"picture: {path}")


def main(command_line: Sequence[str] | None = None) -> tuple[float, float]:
    """Runs the command line; returns the largest dot error and the reached distance, in pixels."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    keys = jax.random.split(jax.random.key(arguments.seed), arguments.samples)
    sample = photograph()
    augment_all = jax.jit(jax.vmap(augment, in_axes=(0, None, None)))
    augmented, thetas = augment_all(keys, arguments.strength, sample)
    error = float(jax.jit(dot_error)(thetas, sample, augmented))
    print(f"{arguments.samples} copies at strength {arguments.strength:g}: dots drawn on keypoints")
    print(f"are found at the moved keypoints to within {error:.3f} pixels")

    def distance(strength: Array) -> Array:
        """Mean distance by which keypoints move; ``jit`` removes the unused image."""
        moved, _ = jax.vmap(augment, in_axes=(0, None, None))(keys, strength, sample)
        return jnp.linalg.norm(moved.keypoints - sample.keypoints, axis=-1).mean()

    print(f"the strength at which keypoints move by {arguments.distance:g} pixels on average:")
    strength, slope_of = jnp.array(0.5), jax.jit(jax.value_and_grad(distance))
    for _ in range(4):
        value, slope = slope_of(strength)
        print(f"  strength {strength:.4f}: {value:.4f} pixels, {slope:.4f} more for each unit")
        strength = strength - (value - arguments.distance) / slope

    def first_image(strength: Array) -> Array:
        return augment(keys[0], strength, sample)[0].image

    one = jnp.ones(())
    _, tangent = jax.jvp(jax.jit(first_image), (arguments.strength * one,), (one,))
    draw(arguments.out, sample, augmented, tangent)
    return error, float(slope_of(strength)[0])


if __name__ == "__main__":
    main()
