"""Registration without a network: the homography between two views of a photograph.

``python -m examples.register_photos`` cuts two views out of scikit-learn's ``china.jpg``, the
second by a random homography, with another gain and offset and with noise. ``stn.register``
recovers the homography without a start. The command prints the errors of the view's corners in
pixels, and draws the pair of the largest error with the found grid, and checkerboards before and
after.

The loss is a correlation, which ignores gain and offset. Several pairs of one shape are compiled
once; ``jax.vmap`` over ``stn.register`` would take all at once.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array
from sklearn.datasets import load_sample_image

import stn_jax as stn

VIEW = 192  # Side of a view in pixels; the photograph is 427 high and 640 wide.
CORNERS = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]], np.float32)
HOMOGRAPHY = stn.projective()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      pairs: Number of pairs of views, each with another homography.
      displacement: Distance by which each corner of the second view moves, in pixels.
      seed: Seed of the homographies and of the noise.
      out: The picture.
    """

    pairs: int = 4
    displacement: float = 20.0
    seed: int = 0
    out: Path = Path("runs/examples/register_photos.png")


def random_homography(key: Array, displacement: float) -> Array:
    """Theta of the homography that moves each corner, in pixels, in some direction."""
    angle = jax.random.uniform(key, (4, 1), maxval=2 * jnp.pi)
    moved = CORNERS + 2 / VIEW * displacement * jnp.hstack([jnp.cos(angle), jnp.sin(angle)])
    matrix = stn.estimation.homography(CORNERS, moved)
    return (matrix / matrix[2, 2]).ravel()[:8]


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


def corner_error(theta: Array, truth: Array) -> float:
    """Mean distance, in pixels, between a view's corners under two homographies."""
    places = [HOMOGRAPHY.apply(each, CORNERS) for each in (theta, truth)]
    return float(VIEW / 2 * jnp.linalg.norm(places[0] - places[1], axis=-1).mean())


def main(command_line: Sequence[str] | None = None) -> np.ndarray:
    """Runs the command line; returns corner errors ``[2, pairs]``, before and after, in pixels."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    photo = jnp.asarray(load_sample_image("china.jpg") / 255, jnp.float32)
    identity = jnp.asarray(HOMOGRAPHY.identity, jnp.float32)
    views = jax.jit(take_views)
    errors, results = [], []
    print("mean error of the corners in pixels, before and after, and the overlap")
    for k in range(arguments.pairs):
        keys = jax.random.split(jax.random.fold_in(jax.random.key(arguments.seed), k))
        truth = random_homography(keys[0], arguments.displacement)
        first, second = views(keys[1], photo, truth)
        found = stn.register(second, first, HOMOGRAPHY)
        errors.append([corner_error(theta, truth) for theta in (identity, found.theta)])
        before, after = errors[-1]
        print(f"pair {k}: {before:.2f} → {after:.3f}, {found.overlap:.0%}", flush=True)
        results.append((found, second, first))

    found, fixed, moving = results[int(np.argmax([after for _, after in errors]))]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    found.visualize(fixed, moving).savefig(arguments.out)
    print(f"picture: {arguments.out}")
    return np.array(errors).T


if __name__ == "__main__":
    main()
