"""Solid digits at random poses in a volume, made from images of digits.

The distortion is a pure function of a key and an image, as those of
:mod:`experiments.data.distortions`. Volumes are ``[depth, height, width, channels]``: cubes of 60³
voxels for images of 28×28 pixels, and in proportion for others. Jaderberg et al., Spatial
Transformer Networks, arXiv:1506.02025, only say that digits lie in volumes of 60³ voxels and are
flattened before the classifier (mark b of that module); everything else is chosen here.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

import stn_jax as stn
from experiments.data.distortions import Image, Others

# Side of the volume and of the images in it.
SIDE, IMAGE_SIDE = 60, 28
# Thickness of a solid, as a share of its image's side.
THICKNESS = 1 / 4
# The largest angle in radians, in both directions, about an axis of any direction.
LARGEST_ANGLE = math.pi / 3
SCALES = (0.7, 1.2)


def extrude(key: PRNGKeyArray, image: Image, others: Others = None) -> Float[Array, "d H W c"]:
    """The set of volumes: a solid digit, turned, scaled and put at a random place of a cube.

    Chosen here: the solid is a quarter of its image's side thick, and stands upright in the middle
    of a cube of that side. The place of the cube is uniform inside the volume, also between whole
    voxels. There the solid is rotated by U(−60°, 60°) about an axis of any direction and scaled by
    U(0.7, 1.2), both around its centre. One resampling does everything.
    """
    del others
    return solid(image, pose(key, image.shape), volume_shape(image.shape))


def pose(key: PRNGKeyArray, shape: tuple[int, ...]) -> Float[Array, " 7"]:
    """Draws the pose of a digit in its volume.

    Args:
      key: Random key.
      shape: Height, width and channels of the image.

    Returns:
      Theta of ``stn_jax.similarity(ndim=3)``, which sends normalised coordinates of the volume to
      those of the digit's own cube.
    """
    angle_key, axis_key, scale_key, place_key = jax.random.split(key, 4)
    angle = jax.random.uniform(angle_key, minval=-LARGEST_ANGLE, maxval=LARGEST_ANGLE)
    # Normally distributed coordinates have a uniform direction.
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
    """One trilinear resampling of an upright solid; exact, without making the solid's voxels.

    All slices of a solid are equal, so the trilinear sum over its voxels is a product: the image
    sampled at ``(x, y)``, times the weight of the solid's thickness at ``z``. Each slice of the
    volume is therefore a 2-D affine warp of the image times a weight, which reads four pixels for
    each voxel instead of eight.

    Args:
      image: ``[height, width, channels]``, pixels as large as the solid's voxels.
      theta: From :func:`pose`.
      shape: Shape of the volume.
    """
    side, thickness = cube_shape(image.shape)[0], _thickness(image.shape)
    matrix = stn.similarity(ndim=3).matrix(theta)[:3]
    # From the cube's normalised coordinates to the image's, which may not be square.
    across = matrix[:2] * (side / np.array(image.shape[1::-1]))[:, None]
    depths = stn.regular_grid(shape)[:, 0, 0, 2]
    lattice = stn.regular_grid(shape[1:])

    def section(depth: Array) -> Array:
        flat = jnp.column_stack([across[:, :2], across[:, 2] * depth + across[:, 3]])
        x, y, z, offset = matrix[2]
        voxels = side / 2 * (x * lattice[..., 0] + y * lattice[..., 1] + z * depth + offset)
        # The linear kernel's weights, summed over the solid's voxels along its thickness.
        inside = jnp.clip((thickness + 1) / 2 - jnp.abs(voxels), 0, 1)
        seen = stn.warp(image, stn.affine(), flat.ravel(), output_shape=shape[1:])
        return seen * inside[..., None]

    return jax.vmap(section)(depths)


def cube_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Depth, height and width of an image's cube: the image's longer side."""
    side = max(shape[:2])
    return side, side, side


def volume_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Depth, height and width of the volume for images of a shape."""
    side = round(SIDE / IMAGE_SIDE * max(shape[:2]))
    return side, side, side


def _thickness(shape: tuple[int, ...]) -> int:
    """Thickness of an image's solid, in voxels."""
    return max(round(THICKNESS * max(shape[:2])), 1)
