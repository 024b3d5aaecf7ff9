"""Registration without a network: the homography between two views of a photograph.

``python -m examples.register_photos`` cuts two views out of scikit-learn's ``china.jpg``, the
second by a random homography, with another gain and offset and with noise. ``stn.register`` finds
the homographies of all pairs at once, under ``jax.vmap``. The program prints the errors of the
views' corners in pixels, and draws both views as a checkerboard, before and after.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import stn_jax as stn
from stn_jax import visualize

VIEW = 192  # Side of a view in pixels; the photograph is 427 high and 640 wide.
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], np.float32)
HOMOGRAPHY = stn.projective()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      pairs: Number of pairs of views, each with another homography.
      displacement: Distance by which each corner of the second view moves, in pixels.
      search: Whether to try starts far from the identity, too.
      seed: Seed of the homographies and of the noise.
      out: The picture.
    """

    pairs: int = 4
    displacement: float = 20.0
    search: bool = False
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
    """Runs the command line; returns corner errors ``[2, pairs]``, in pixels, before and after."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    photo = jnp.asarray(load_sample_image("china.jpg") / 255, jnp.float32)
    keys = jax.random.split(jax.random.key(arguments.seed), (2, arguments.pairs))
    truth = jax.vmap(lambda key: random_homography(key, arguments.displacement))(keys[0])
    views = jax.jit(jax.vmap(take_views, in_axes=(0, None, 0)))(keys[1], photo, truth)

    @jax.jit
    @jax.vmap
    def register(first: Array, second: Array) -> Array:
        return stn.register(second, first, HOMOGRAPHY, search=arguments.search).theta

    start = jnp.tile(jnp.asarray(HOMOGRAPHY.identity, jnp.float32), (arguments.pairs, 1))
    theta = register(*views)
    errors = [jax.vmap(corner_error)(each, truth) for each in (start, theta)]
    print("corner error in pixels, a column for each pair of views")
    for name, error in zip(("before", "after"), errors, strict=True):
        print(f"{name:10}" + "".join(f"{each:8.3f}" for each in error), flush=True)
    draw(arguments.out, views, theta)
    return np.array(errors)


if __name__ == "__main__":
    main()
