"""Measures from how far an alignment converges, with the exact and with the linearized slope.

``python -m benchmarks.alignment`` shifts a window of a photograph by some distance, minimises the
mean squared difference to the unshifted window by gradient descent, and prints the share of starts
that end within half a pixel, for each distance and each rule of the sampler's slope.

Every rule takes the same 200 steps of normalised gradient descent, with a length that falls
linearly from 1.2 to 0.01 pixels. Windows (64×64 pixels of scikit-learn's ``china.jpg``, gray,
values from 0 to 1) and random directions are the same, too.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from sklearn.datasets import load_sample_image

import stn_jax as stn

SIZE = 64
DISTANCES = (1, 2, 4, 8, 12, 16, 24)
RULES = {"exact": "exact"} | {
    f"linearized, spread {spread:g}": stn.Linearized(spread=spread) for spread in (2.0, 4.0, 8.0)
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      starts: Windows and directions for each distance.
      distances: Distances of the starts from the truth, in pixels.
      steps: Steps of the descent.
    """

    starts: int = 100
    distances: tuple[float, ...] = DISTANCES
    steps: int = 200


@functools.partial(jax.jit, static_argnames=("rule", "steps"))
def error_after_descent(
    photograph: jax.Array, corners: jax.Array, shifts: jax.Array, rule: str, steps: int
) -> jax.Array:
    """The distance from the truth after the descent, in pixels, of each start."""
    margin = SIZE // 2

    def descend(corner: jax.Array, shift: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], 0)
        field = jax.lax.dynamic_slice(photograph, start, (SIZE + 2 * margin,) * 2 + (1,))
        warp = functools.partial(
            stn.warp, field, stn.translation(), padding="border", gradient=RULES[rule]
        )
        inner = slice(margin, margin + SIZE)

        def loss(pixels: jax.Array) -> jax.Array:
            warped = warp(pixels * 2 / (SIZE + 2 * margin))[inner, inner]
            return jnp.mean((warped - field[inner, inner]) ** 2)

        def step(pixels: jax.Array, length: jax.Array) -> tuple[jax.Array, None]:
            slope = jax.grad(loss)(pixels)
            return pixels - length * slope / (jnp.linalg.norm(slope) + 1e-12), None

        lengths = jnp.linspace(1.2, 0.01, steps)
        return jnp.linalg.norm(jax.lax.scan(step, shift, lengths)[0])

    return jax.lax.map(lambda both: descend(*both), (corners, shifts), batch_size=20)


def shares_aligned(starts: int, distances: tuple[float, ...], rule: str, steps: int) -> np.ndarray:
    """The share of starts at each distance that end within half a pixel of the truth."""
    pixels = load_sample_image("china.jpg").mean(axis=-1, keepdims=True) / 255
    rng = np.random.default_rng(0)
    corners = rng.integers(0, np.array(pixels.shape[:2]) - 2 * SIZE, (starts, 2))
    angles = rng.uniform(0, 2 * np.pi, starts)
    directions = np.stack([np.cos(angles), np.sin(angles)], axis=-1).astype(np.float32)
    shifts = np.concatenate([directions * distance for distance in distances])
    errors = error_after_descent(
        jnp.asarray(pixels, jnp.float32),
        jnp.asarray(np.tile(corners, (len(distances), 1))),
        jnp.asarray(shifts, jnp.float32),
        rule,
        steps,
    )
    return np.mean(np.reshape(errors, (len(distances), starts)) < 0.5, axis=1)


def main(command_line: list[str] | None = None) -> None:
    """Prints the table."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    print(f"Share of {arguments.starts} starts that end within half a pixel of the truth")
    print(f"{'pixels off at the start':26}" + "".join(f"{d:>7g}" for d in arguments.distances))
    for rule in RULES:
        reached = shares_aligned(arguments.starts, arguments.distances, rule, arguments.steps)
        print(f"{rule:26}" + "".join(f"{share:7.0%}" for share in reached), flush=True)


if __name__ == "__main__":
    main()
