"""Registration without a network: the homography between two views of a photograph.

``python -m examples.register_photos`` cuts two views out of scikit-learn's ``china.jpg``, the
second by a random homography, with another gain and offset and with noise. It recovers the
homography with pure functions and optax, prints the errors of the view's corners in pixels, and
draws both views as a checkerboard, before and after.

Why it works:

- coordinates are normalised, so the same theta is valid on every level of a pyramid; a level is a
  warp by the identity with ``antialias=True``;
- the loss is a correlation, which does not depend on gain and offset; - ``return_coverage=True``
gives a mask that leaves out pixels outside the first view; ``padding="border"`` keeps its border
from getting darker, which would shift theta by pixels; - ``jax.vmap`` registers all pairs at once.
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from jaxtyping import Array
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import stn_jax as stn
from stn_jax import visualize

VIEW = 192  # Side of a view in pixels; the photograph is 427 high and 640 wide.
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], np.float32)
HOMOGRAPHY = stn.projective()
Gradient = Literal["exact", "linearized"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      pairs: Number of pairs of views, each with another homography.
      displacement: Distance by which each corner of the second view moves, in pixels.
      levels: Sides of the views in the pyramid, coarse to fine.
      steps: Steps of Adam at each level.
      gradient: The sampler's slope along coordinates.
      seed: Seed of the homographies and of the noise.
      out: The picture.
    """

    pairs: int = 4
    displacement: float = 20.0
    levels: tuple[int, ...] = (32, 64, 192)
    steps: int = 80
    gradient: Gradient = "exact"
    seed: int = 0
    out: Path = Path("runs/examples/register_photos.png")


def random_homography(key: Array, displacement: float) -> Array:
    """Theta of the homography that moves each corner of a view in a given direction."""
    angle = jax.random.uniform(key, (4, 1), maxval=2 * jnp.pi)
    moved = CORNERS + 2 / VIEW * displacement * jnp.hstack([jnp.cos(angle), jnp.sin(angle)])
    # Each corner gives two linear equations: u (g x + h y + 1) = a x + b y + c, the same for v.
    one, zero = np.ones((4, 1)), np.zeros((4, 3))
    u, v = moved[:, :1], moved[:, 1:]
    rows_u = jnp.hstack([CORNERS, one, zero, -u * CORNERS])
    rows_v = jnp.hstack([zero, CORNERS, one, -v * CORNERS])
    return jnp.linalg.solve(jnp.concatenate([rows_u, rows_v]), jnp.concatenate([u, v]))[:, 0]


def take_views(key: Array, photo: Array, theta: Array) -> tuple[Array, Array]:
    """The view in the middle of the photograph, and the one that theta reads from it."""
    height, width, _ = photo.shape
    crop = jnp.array([VIEW / width, 0, 0, 0, VIEW / height, 0])
    first = stn.warp(photo, stn.affine(), crop, output_shape=(VIEW, VIEW))
    # Compose the maps: one sampling, and the second view may reach beyond the first.
    both = stn.chain(HOMOGRAPHY, stn.affine())
    second = stn.warp(photo, both, jnp.append(theta, crop), output_shape=(VIEW, VIEW))
    light_key, noise_key = jax.random.split(key)
    low, high = jnp.array([0.6, 0.0]), jnp.array([0.9, 0.1])
    gain, offset = jax.random.uniform(light_key, (2,), minval=low, maxval=high)
    return first, gain * second + offset + 0.03 * jax.random.normal(noise_key, second.shape)


def reduced(view: Array, side: int) -> Array:
    """A level of the pyramid: each pixel is the mean of the view's pixels that it covers."""
    still = jnp.zeros(2)
    return stn.warp(view, stn.translation(), still, output_shape=(side, side), antialias=True)


def mismatch(theta: Array, first: Array, second: Array, gradient: Gradient) -> Array:
    """One minus the correlation of the second view with the first, warped onto it."""
    warped, seen = stn.warp(
        first, HOMOGRAPHY, theta, padding="border", gradient=gradient, return_coverage=True
    )
    weight = seen.mask[..., None] / jnp.sum(seen.mask)
    a, b = (each - jnp.sum(weight * each, axis=(0, 1)) for each in (warped, second))
    covariance, square_a, square_b = (jnp.sum(weight * each) for each in (a * b, a * a, b * b))
    return 1 - covariance / jnp.sqrt(square_a * square_b)


def register(
    theta: Array, first: Array, second: Array, *, side: int, steps: int, gradient: Gradient
) -> Array:
    """Improves theta at one level of the pyramid."""
    first, second = reduced(first, side), reduced(second, side)
    # Steps of at most 0.15 pixels of this level, then less. Larger steps lose some pairs.
    optimizer = optax.adam(optax.cosine_decay_schedule(0.3 / side, steps, alpha=0.05))

    def step(carry: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], None]:
        theta, state = carry
        slope = jax.grad(mismatch)(theta, first, second, gradient)
        updates, state = optimizer.update(slope, state)
        return (optax.apply_updates(theta, updates), state), None

    return jax.lax.scan(step, (theta, optimizer.init(theta)), length=steps)[0][0]


def corner_error(theta: Array, truth: Array) -> Array:
    """Mean distance, in pixels, between a view's corners under two homographies."""
    places = [HOMOGRAPHY.apply(each, CORNERS) for each in (theta, truth)]
    return VIEW / 2 * jnp.linalg.norm(places[0] - places[1], axis=-1).mean()


def checkerboard(a: Array, b: Array) -> np.ndarray:
    """A checkerboard of two views, each scaled to values from 0 to 1."""
    y, x = np.mgrid[:VIEW, :VIEW] * 8 // VIEW
    a, b = (0.5 + 0.25 * (each - each.mean()) / each.std() for each in (a, b))
    return np.where(((x + y) % 2 == 0)[..., None], a, b).clip(0, 1)


def draw(path: Path, views: tuple[Array, Array], theta: Array) -> None:
    """Draws the first view with the found grid, the second, and checkerboards before and after."""
    figure = Figure(figsize=(9, 2.4 * len(theta)), layout="constrained", dpi=100)
    for row, first, second, each in zip(
        figure.subplots(len(theta), 4, squeeze=False), *views, theta, strict=True
    ):
        warped = stn.warp(first, HOMOGRAPHY, each, padding="border")
        pictures = first, second, checkerboard(first, second), checkerboard(warped, second)
        titles = "first, and what was found", "second", "both before", "both after"
        for axes, picture, title in zip(row, pictures, titles, strict=True):
            visualize.show_image(axes, picture, margin=0.12 * (picture is first))
            axes.set_title(title if axes in figure.axes[:4] else "", fontsize=10)
        visualize.draw_grid(row[0], HOMOGRAPHY, each, (VIEW, VIEW))
        visualize.draw_region(row[0], HOMOGRAPHY, each, (VIEW, VIEW))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"picture: {path}")


def main(command_line: Sequence[str] | None = None) -> np.ndarray:
    """Runs the command line; returns corner errors ``[1 + levels, pairs]``, in pixels."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    photo = jnp.asarray(load_sample_image("china.jpg") / 255, jnp.float32)
    keys = jax.random.split(jax.random.key(arguments.seed), (2, arguments.pairs))
    truth = jax.vmap(lambda key: random_homography(key, arguments.displacement))(keys[0])
    views = jax.jit(jax.vmap(take_views, in_axes=(0, None, 0)))(keys[1], photo, truth)

    def show(name: str) -> Array:
        error = jax.vmap(corner_error)(theta, truth)
        print(f"{name:10}" + "".join(f"{each:8.2f}" for each in error), flush=True)
        return error

    print("corner error in pixels after each level, a column for each pair of views")
    theta = jnp.tile(jnp.asarray(HOMOGRAPHY.identity, jnp.float32), (arguments.pairs, 1))
    errors = [show("start")]
    for side in arguments.levels:
        level = functools.partial(
            register, side=side, steps=arguments.steps, gradient=arguments.gradient
        )
        theta = jax.jit(jax.vmap(level))(theta, *views)
        errors.append(show(f"{side}×{side}"))
    draw(arguments.out, views, theta)
    return np.array(errors)


if __name__ == "__main__":
    main()
