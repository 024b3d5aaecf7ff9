"""Digits made solid, somewhere in a volume: a distortion to three dimensions, and what undoes it.

A pure function of a key and an image, as those of :mod:`experiments.data.distortions`. Volumes are
``[depth, height, width, channels]``, cubes of 60³ voxels for images of 28×28 pixels, and in
proportion for others. Of Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, no more
is known than that digits lie in volumes of 60³ and are flattened before they are classified (b, as
there); all else is chosen here.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import stn_jax as stn
from experiments.data.distortions import Image, Others
from stn_jax._loops import apart

# Side of the volume and of the images in it.
SIDE, IMAGE_SIDE = 60, 28
# How thick a solid is, as a share of its image's side.
THICKNESS = 1 / 4
# Radians, either way, about an axis of any direction.
LARGEST_ANGLE = math.pi / 3
SCALES = (0.7, 1.2)


def extrude(key: PRNGKeyArray, image: Image, others: Others = None) -> Float[Array, "d H W c"]:
    """Set of the volumes: a solid digit, turned, scaled and put at a random place of a cube.

    Chosen here: the solid is as thick as a quarter of its image's side, and stands upright in the
    middle of a cube of that side. It is turned by U(−60°, 60°) about an axis of any direction and
    scaled by U(0.7, 1.2), both around its centre. The place is that of its cube before it is turned
    and scaled, uniform among those inside the volume and not bound to whole voxels; one resampling
    does all.
    """
    del others
    return solid(image, pose(key, image.shape), volume_shape(image.shape))


def pose(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, " 7"]:
    """Draws how a digit lies in its volume.

    Args:
      key: Random key.
      shape: Height, width and channels of the image.

    Returns:
      Theta of ``stn_jax.similarity(ndim=3)``, which sends normalised coordinates of the volume to
      those of the digit's own cube.
    """
    angle_key, axis_key, scale_key, place_key = jax.random.split(key, 4)
    angle = jax.random.uniform(angle_key, minval=-LARGEST_ANGLE, maxval=LARGEST_ANGLE)
    # Normally distributed coordinates prefer no direction.
    axis = jax.random.normal(axis_key, (3,))
    turn = angle * axis / jnp.linalg.norm(axis)
    scale = jax.random.uniform(scale_key, minval=SCALES[0], maxval=SCALES[1])
    ratio = volume_shape(shape)[0] / cube_shape(shape)[0]
    room = 1 - 1 / ratio
    place = jax.random.uniform(place_key, (3,), minval=-room, maxval=room)
    centred = jnp.concatenate([(ratio / scale)[None], turn, jnp.zeros(3)])
    return centred.at[4:].set(-stn.similarity(ndim=3).apply(centred, place))


def solid(
    image: Image, theta: Float[Array, " 7"], shape: tuple[int, int, int]
) -> Float[Array, "d H W c"]:
    """The volume that one trilinear resampling of an upright solid gives.

    A solid is the same all through its thickness, so the trilinear kernel's sum over its voxels
    comes apart: what a point reads is the image at ``(x, y)`` times how far ``z`` is inside. Hence
    every slice of the volume is a 2-D affine warp of the image, and the solid is never made: four
    pixels are read for each voxel instead of eight, and along a shorter way. It is exact.

    Args:
      image: ``[height, width, channels]``, pixels as large as the solid's voxels.
      theta: As :func:`pose` draws it.
      shape: That of the volume.
    """
    side, thickness = cube_shape(image.shape)[0], _thickness(image.shape)
    matrix = stn.similarity(ndim=3).matrix(theta)[:3]
    # From the cube's normalised coordinates to the image's, where that is not square.
    across = matrix[:2] * (side / np.array(image.shape[1::-1]))[:, None]
    depths = stn.regular_grid(shape)[:, 0, 0, 2]
    lattice = stn.regular_grid(shape[1:])

    def section(depth: Array) -> Array:
        flat = jnp.column_stack([across[:, :2], across[:, 2] * depth + across[:, 3]])
        x, y, z, offset = matrix[2]
        voxels = side / 2 * (x * lattice[..., 0] + y * lattice[..., 1] + z * depth + offset)
        # The linear kernel's weights of all the solid's voxels along its thickness.
        inside = jnp.clip((thickness + 1) / 2 - jnp.abs(voxels), 0, 1)
        seen = stn.warp(image, stn.affine(), flat.ravel(), output_shape=shape[1:])
        return seen * inside[..., None]

    return jax.vmap(section)(depths)


def flatten(volumes: Float[Array, "*batch d h w c"]) -> Float[Array, "*batch h w c"]:
    """Volumes as they look from the front: the mean along the depth, times a fixed factor.

    With that factor an upright digit is as bright as its image if it fills its volume.
    """
    # Or XLA on the CPU would make the volume anew in every loop that reads what is flattened.
    return apart(lambda volumes: volumes.mean(axis=-4) / THICKNESS, volumes)


def three_views(
    volumes: Float[Array, "batch side side side c"],
) -> Float[Array, "batch side side 3*c"]:
    """Cubes flattened along their depth, height and width, one beside the other as channels."""
    sides = (volumes.mean(axis=axis) / THICKNESS for axis in (2, 3))
    return jnp.concatenate([flatten(volumes), *sides], axis=-1)


def cube_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Depth, height and width of the cube that an image stands in: its longer side."""
    side = max(shape[:2])
    return side, side, side


def volume_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Depth, height and width of the volume for images of a shape."""
    side = round(SIDE / IMAGE_SIDE * max(shape[:2]))
    return side, side, side


def _thickness(shape: tuple[int, ...]) -> int:
    """Of an image's solid, in voxels."""
    return max(round(THICKNESS * max(shape[:2])), 1)
