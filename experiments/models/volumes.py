"""Turns volumes into images, for networks of images."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.data.volumes import THICKNESS
from stn_jax.sampling.backends.cpu_loops import isolate_loop


def flatten(volumes: Float[Array, "*batch d h w c"]) -> Float[Array, "*batch h w c"]:
    """Volumes seen from the front: the mean along the depth, times a fixed factor.

    With that factor, an upright digit that fills its volume is as bright as its image.
    """
    # Isolated in its own loop; otherwise XLA on the CPU recomputes the volume for each consumer.
    return isolate_loop(lambda volumes: volumes.mean(axis=-4) / THICKNESS, volumes)


def three_views(
    volumes: Float[Array, "batch side side side c"],
) -> Float[Array, "batch side side 3*c"]:
    """Flattens cubes along depth, height and width; the three views become channels."""
    sides = (volumes.mean(axis=axis) / THICKNESS for axis in (2, 3))
    return jnp.concatenate([flatten(volumes), *sides], axis=-1)
