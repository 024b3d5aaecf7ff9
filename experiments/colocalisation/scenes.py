"""Canvases with a digit at a random place, crops of them, and boxes.

Boxes are ``(x0, y0, x1, y1)`` in pixels, from edge to edge.
"""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray, UInt8

import stn_jax as stn
from experiments.data.distortions import scatter

SetName = Literal["T", "TC"]

# Patches of clutter on a canvas of each set.
PATCHES: dict[SetName, int] = {"T": 0, "TC": 16}
# Side of a canvas as a multiple of the digit's side: 84 pixels for 28.
CANVAS = 3
# Largest distance of a digit from the centre along an axis, in normalised coordinates.
REACH = 1 - 1 / CANVAS
# Held-out canvases are one fixed draw, the same for all seeds of a training.
_TEST_SEED = 1506_02025


def crop() -> stn.Transform:
    """The family of crops with a digit's size.

    It is an attention transform of fixed scale, so theta is ``(tx, ty)``, the centre of the crop;
    within ``REACH`` of the middle the crop lies on the canvas.
    """
    return stn.fixed(stn.attention(), {0: 1 / CANVAS})


def canvas_shape(image_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Height, width and channels of the canvas of an image."""
    height, width, channels = image_shape
    return CANVAS * height, CANVAS * width, channels


def draw_canvas(
    key: PRNGKeyArray,
    image: UInt8[Array, "h w c"],
    pool: UInt8[Array, "n h w c"],
    *,
    patches: int,
) -> tuple[Float[Array, "H W c"], Float[Array, "4"]]:
    """A digit at a random place on a black canvas, with patches cut from random other digits.

    Args:
      key: Random key.
      image: The digit.
      pool: Digits that clutter is cut from.
      patches: Number of patches.

    Returns:
      The canvas with pixels in [0, 1], and the box ``(x0, y0, x1, y1)`` of the digit's image on it
      in pixels, from edge to edge.
    """
    chosen_key, scatter_key = jax.random.split(key)
    others = pool[jax.random.randint(chosen_key, (patches,), 0, len(pool))]
    digit, others = (each.astype(jnp.float32) / 255 for each in (image, others))
    scene, place = scatter(scatter_key, digit, others, canvas_shape(image.shape)[:2])
    size = np.array(image.shape[1::-1])
    return scene, jnp.concatenate([place, place + size]).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="patches")
def draw_held_out(
    numbers: Integer[Array | np.ndarray, " batch"], pool: UInt8[Array, "n h w c"], *, patches: int
) -> tuple[Float[Array, "batch H W c"], Float[Array, "batch 4"]]:
    """Canvases with some images of a pool, and their boxes, each drawn by its number alone."""
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(_TEST_SEED), numbers)
    draw = functools.partial(draw_canvas, pool=pool, patches=patches)
    return jax.vmap(draw)(keys, pool[numbers])


def crop_boxes(theta: Float[Array, "batch 2"], shape: tuple[int, ...]) -> Float[Array, "batch 4"]:
    """The box that each crop samples from a canvas of this shape."""
    corners = jnp.array([[-1.0, -1.0], [1.0, 1.0]])
    ends = jax.vmap(lambda each: crop().apply(each, corners))(theta)
    return ((ends + 1) / 2 * np.array(shape[1::-1])).reshape(-1, 4)


def places_of(boxes: Float[Array, "batch 4"], shape: tuple[int, ...]) -> Float[Array, "batch 2"]:
    """Theta of the crops that sample boxes of a crop's size."""
    return (boxes[:, :2] + boxes[:, 2:]) / np.array(shape[1::-1]) - 1


def intersection_over_union(
    boxes: Float[Array, "batch 4"], others: Float[Array, "batch 4"]
) -> Float[Array, " batch"]:
    """Intersection over union of two boxes: common area divided by the area of the union."""
    low = jnp.maximum(boxes[:, :2], others[:, :2])
    high = jnp.minimum(boxes[:, 2:], others[:, 2:])
    common = jnp.clip(high - low, 0).prod(axis=1)
    first, second = ((each[:, 2:] - each[:, :2]).prod(axis=1) for each in (boxes, others))
    return common / (first + second - common)
