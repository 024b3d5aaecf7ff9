"""The distortions of the experiments: pure functions of a key and an image, made with stn_jax.

Each is called as ``distortion(key, image, others)``, with an image ``[height, width, channels]`` of
pixels in [0, 1] and, for clutter, a few other images. Batch with ``jax.vmap``.

Sets R, RTS, P, E and TC follow Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025,
section 4.1 and appendix A.4. The docstrings mark the source of each number: (a) several independent
texts, (b) one text, (c) memory. All else is chosen here. The paper's images are 28×28; here they
may have any size that fits on the canvas of RTS and TC.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer, PRNGKeyArray, UInt8

import stn_jax as stn
from stn_jax import conversions

DistortionName = Literal["none", "R", "RTS", "P", "E", "TC"]
Image = Float[Array, "h w c"]
Others = Float[Array, "others h w c"] | None
Distortion = Callable[[PRNGKeyArray, Array, Array], Array]

RTS_CANVAS = (42, 42)
TC_CANVAS = (60, 60)
# Standard deviations in pixels: along the diagonal, and along each axis.
CORNER_DEVIATION = 5.0
POINT_DEVIATION = 1.5
PATCHES = 6
PATCH = (6, 6)
# Draws of four corners; the first that form a convex quadrangle are used. Nearly all do.
_DRAWS = 8
# The corners of the image in normalised coordinates, row by row.
_CORNERS = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]])
# The test set is one fixed draw, the same for all seeds of a run.
_TEST_SEED = 1506_02025
_TEST_PART = 256


def keep(key: PRNGKeyArray, image: Image, others: Others = None) -> Image:
    """No distortion."""
    del key, others
    return image


def rotate(key: PRNGKeyArray, image: Image, others: Others = None) -> Image:
    """Set R: rotation by an angle from U(−90°, 90°) (a) around the centre, black outside."""
    del others
    angle = jax.random.uniform(key, minval=-math.pi / 2, maxval=math.pi / 2)
    return stn.warp(image, stn.rigid(), jnp.stack([angle, 0.0, 0.0]))


def rotate_scale_translate(
    key: PRNGKeyArray, image: Image, others: Others = None
) -> Float[Array, "H W c"]:
    """Set RTS: rotation U(−45°, 45°), scale U(0.7, 1.2), a random place on 42×42 pixels (b).

    Chosen here: the place is uniform inside the canvas, also between whole pixels; there the image
    is rotated and scaled around its centre. One resampling does everything.
    """
    del others
    angle_key, scale_key, place_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, minval=-math.pi / 4, maxval=math.pi / 4)
    scale = jax.random.uniform(scale_key, minval=0.7, maxval=1.2)
    room = _room(image.shape, RTS_CANVAS)
    place = jax.random.uniform(place_key, (2,)) * room
    centre = (np.array(image.shape[1::-1]) - 1) / 2
    cos, sin = jnp.cos(angle) / scale, jnp.sin(angle) / scale
    linear = jnp.stack([jnp.stack([cos, -sin]), jnp.stack([sin, cos])])
    offset = centre - (linear * (centre + place)).sum(axis=1)
    return _warp_pixels(image, jnp.column_stack([linear, offset]), RTS_CANVAS)


def project(key: PRNGKeyArray, image: Image, others: Others = None) -> Image:
    """Set P: scale U(0.75, 1), then each corner stretched by N(0, 5 px) (b, c).

    Chosen here: a corner of the whole image moves along its diagonal, outwards or inwards, by one
    draw in pixels. If they do not form a convex quadrangle, all four are drawn again, because the
    image would fold. If corners moved that far along each axis, many digits would be illegible and
    P much harder than R. In the paper P is a little harder than R, here a little easier.
    """
    del others
    scale_key, corners_key = jax.random.split(key)
    scale = jax.random.uniform(scale_key, minval=0.75, maxval=1.0)
    moves = CORNER_DEVIATION * jax.random.normal(corners_key, (_DRAWS, 4, 1))
    corners = scale * _CORNERS + moves * _CORNERS / math.sqrt(2) * _unit_per_pixel(image)
    convex = (_opposite_areas(corners) > 0).all(axis=-1)
    theta = _to_quadrangle(corners[jnp.argmax(convex)])
    return stn.warp(image, stn.inverted(stn.projective()), theta)


def bend(key: PRNGKeyArray, image: Image, others: Others = None) -> Image:
    """Set E: scale U(0.75, 1), then a spline of 16 points, each moved by N(0, 1.5 px) (b, c).

    A thin plate spline. Chosen here: 1.5 pixels are the standard deviation along each axis, and the
    points lie on a regular 4×4 lattice over the distorted image, which reads the scaled one at the
    moved points.
    """
    del others
    scale_key, points_key = jax.random.split(key)
    scale = jax.random.uniform(scale_key, minval=0.75, maxval=1.0)
    spline = stn.thin_plate_spline((4, 4))
    moves = POINT_DEVIATION * jax.random.normal(points_key, (16, 2)) * _unit_per_pixel(image)
    theta = (spline.identity.reshape(16, 2) + moves) / scale
    return stn.warp(image, spline, theta.ravel())


def clutter(key: PRNGKeyArray, image: Image, others: Others = None) -> Float[Array, "H W c"]:
    """Set TC: a random place on 60×60 pixels, and a 6×6 patch cut from each of 6 others (b, c).

    Chosen here: places are whole pixels, uniform among those inside the canvas. So are the places
    where patches are cut, so patches may be empty. Where patches overlap, the brighter pixel wins.

    Raises:
      ValueError: If there are no other images.
    """
    if others is None:
        raise ValueError("others must hold the images that clutter is cut from; got None.")
    return scatter(key, image, others, TC_CANVAS)[0]


def scatter(
    key: PRNGKeyArray, image: Image, others: Float[Array, "others h w c"], canvas: tuple[int, int]
) -> tuple[Float[Array, "H W c"], Integer[Array, " 2"]]:
    """An image at a random place on a black canvas, with clutter: a patch of each other image.

    Places are as in :func:`clutter`; without others there is no clutter.

    Returns:
      The canvas, and the place ``(x, y)`` of the image's first pixel on it.

    Raises:
      ValueError: If the image is larger than the canvas.
    """
    place_key, cut_key, paste_key = jax.random.split(key, 3)
    place = _whole_place(place_key, _room(image.shape, canvas))
    scene = _read_from(image, -place, canvas)
    number = len(others)
    cut = _whole_place(cut_key, _room(PATCH, image.shape), number)
    patches = jax.vmap(lambda other, corner: _read_from(other, corner, PATCH))(others, cut)
    paste = _whole_place(paste_key, _room(PATCH, canvas), number)
    columns, rows = paste[:, :1] + np.arange(PATCH[1]), paste[:, 1:] + np.arange(PATCH[0])
    return scene.at[rows[:, :, None], columns[:, None, :]].max(patches), place


def vary(key: PRNGKeyArray, image: Image, others: Others = None) -> Image:
    """The augmentation of the traffic signs imitates other photographs of the same sign.

    Chosen here: rotation U(−10°, 10°), scale U(0.9, 1.1) and shift U(−8 %, 8 %) of the image along
    each axis in one resampling that repeats the border; contrast U(0.7, 1.3) around the mean, and
    brightness U(−0.1, 0.1). Signs are not mirrored: left is not right.
    """
    del others
    angle_key, scale_key, shift_key, contrast_key, light_key = jax.random.split(key, 5)
    angle = jax.random.uniform(angle_key, minval=-math.pi / 18, maxval=math.pi / 18)
    scale = jax.random.uniform(scale_key, minval=0.9, maxval=1.1)
    shift = jax.random.uniform(shift_key, (2,), minval=-0.16, maxval=0.16)
    theta = jnp.concatenate([jnp.stack([1 / scale, angle]), shift])
    seen = stn.warp(image, stn.similarity(), theta, padding="border")
    contrast = jax.random.uniform(contrast_key, minval=0.7, maxval=1.3)
    light = jax.random.uniform(light_key, minval=-0.1, maxval=0.1)
    mean = seen.mean()
    return jnp.clip(mean + contrast * (seen - mean) + light, 0, 1)


def pair(key: PRNGKeyArray, image: Image, others: Others = None) -> Float[Array, "H W 2*c"]:
    """The set of additions: two digits, each distorted as in set RTS, in a channel each (a).

    The second digit is the first of the other images.

    Raises:
      ValueError: If there are no other images.
    """
    if others is None:
        raise ValueError("others must hold the image to be added; got None.")
    keys = jax.random.split(key)
    digits = jnp.stack([image, others[0]])
    one, two = jax.vmap(rotate_scale_translate)(keys, digits)
    return jnp.concatenate([one, two], axis=-1)


DISTORTIONS: dict[str, Distortion] = {
    "none": keep,
    "R": rotate,
    "RTS": rotate_scale_translate,
    "P": project,
    "E": bend,
    "TC": clutter,
}


def distorted_shape(distortion: Distortion, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Height, width and channels of a distorted image; for a volume the depth comes first.

    Args:
      distortion: One of :data:`DISTORTIONS`.
      shape: Height, width and channels of an image.

    Raises:
      ValueError: If the image is larger than the canvas of the distortion.
    """
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    others = jax.ShapeDtypeStruct((PATCHES, *shape), jnp.float32)
    distorted: Array = jax.eval_shape(distortion, jax.random.key(0), image, others)
    return distorted.shape


def distort_batch(
    distortion: Distortion,
    key: PRNGKeyArray,
    images: Array,
    numbers: Array | None = None,
    *,
    part: Callable[[Any], Any] = lambda batch: batch,
) -> Float[Array, "batch *space channels"]:
    """Distorts a batch of uint8 images with a fresh draw each; pixels in [0, 1].

    Args:
      distortion: One of :data:`DISTORTIONS`.
      key: Random key of the batch.
      images: The images to take the batch from.
      numbers: Indices of the images of the batch; all images if ``None``. The other images of each
        are the next ones in the batch.
      part: Cuts a device's part out of the keys and indices, before any image is read.
    """
    numbers = jnp.arange(len(images)) if numbers is None else numbers
    rows = _with_others(np.arange(len(numbers)), len(numbers))
    keys, rows = part((jax.random.split(key, len(numbers)), numbers[rows]))
    return _distort(distortion, keys, images, rows)


def distort_test_images(
    distortion: Distortion,
    images: UInt8[Any, "n h w c"],
    numbers: Integer[Array, " batch"] | None = None,
) -> Float[Array, "batch *space channels"]:
    """Distorts images of a test set; the draw of each image depends on its number alone.

    Args:
      distortion: One of :data:`DISTORTIONS`.
      images: The whole test set. Clutter is cut from the images that follow in it.
      numbers: Indices of the images to distort; all images if ``None``. Indices beyond the size of
        the set are further copies, with draws of their own.

    Returns:
      Images with pixels in [0, 1]. A set that is distorted in parts is the same.
    """
    numbers = jnp.arange(len(images)) if numbers is None else numbers
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.key(_TEST_SEED), numbers)
    rows = _with_others(numbers % len(images), len(images))
    return _distort(distortion, keys, jnp.asarray(images), rows)


def hash_test_images(
    distortion: Distortion, images: UInt8[Any, "n h w c"], *, copies: int = 1
) -> str:
    """SHA-256 of a distorted test set, its pixels rounded to 0…255.

    On one machine the hash shows whether two results have the same test set. Machines that round
    differently may get other pixels and so another hash.
    """
    read = jax.jit(lambda images, numbers: distort_test_images(distortion, images, numbers))
    resident, total = jnp.asarray(images), copies * len(images)
    digest = hashlib.sha256()
    for first in range(0, total, _TEST_PART):
        # All parts have the same size, so that there is one compilation; the last is truncated.
        part = np.asarray(read(resident, first + jnp.arange(_TEST_PART)))[: total - first]
        digest.update(np.rint(255 * part).astype(np.uint8).tobytes())
    return digest.hexdigest()


def _with_others(numbers: Any, total: int) -> Any:
    """Each index, followed by the indices of its other images: ``[batch, 1 + PATCHES]``."""
    # If there are two or more images, no image is its own other image.
    steps = np.append(0, 1 + np.arange(PATCHES) % max(total - 1, 1))
    return (numbers[:, None] + steps) % total


def _distort(distortion: Distortion, keys: Array, images: Array, rows: Array) -> Array:
    """Distorts uint8 images, each by its own key. A row of indices: an image, its other images."""
    scaled = (images[rows[:, at]].astype(jnp.float32) / 255 for at in (0, slice(1, None)))
    return jax.vmap(distortion)(keys, *scaled)


def _room(shape: tuple[int, ...], canvas: tuple[int, ...]) -> np.ndarray:
    """The number of pixels, ``(x, y)``, by which an image can move on a canvas."""
    room = np.array([canvas[1] - shape[1], canvas[0] - shape[0]])
    if (room < 0).any():
        raise ValueError(
            f"image must fit on the canvas of this distortion, {canvas[0]}×{canvas[1]} pixels; got "
            f"{shape[0]}×{shape[1]}. Choose another distortion, or make the images smaller."
        )
    return room


def _whole_place(key: PRNGKeyArray, room: np.ndarray, *number: int) -> Array:
    """Uniform whole pixels ``(x, y)`` from 0 to ``room``."""
    return jax.random.randint(key, (*number, 2), 0, room + 1)


def _unit_per_pixel(image: Array) -> np.ndarray:
    """The size of a pixel, ``(x, y)``, in normalised units."""
    return 2 / np.array(image.shape[1::-1])


def _read_from(image: Array, corner: Array, shape: tuple[int, int]) -> Array:
    """An output whose first pixel is the image's pixel ``corner``, ``(x, y)``; black outside."""
    matrix = jnp.column_stack([jnp.eye(2), corner.astype(jnp.float32)])
    return _warp_pixels(image, matrix, shape, kernel="nearest")


def _warp_pixels(image: Array, matrix: Array, shape: tuple[int, int], **options: Any) -> Array:
    """Warps by an affine matrix from output pixel to input pixel."""
    theta = conversions.matrix_from_pixels(matrix, image.shape[:2], shape).ravel()
    return stn.warp(image, stn.affine(), theta, output_shape=shape, **options)


def _opposite_areas(corners: Array) -> Array:
    """For each corner, twice the signed area of the triangle of the other three, ``[..., 4]``.

    All of them are positive if, and only if, the quadrangle is convex and not mirrored.
    """
    a, b, c, d = (corners[..., k, :] for k in range(4))
    triangles = ((b, d, c), (a, d, c), (a, b, d), (a, b, c))
    return jnp.stack([_area(*triangle) for triangle in triangles], axis=-1)


def _area(p: Array, q: Array, r: Array) -> Array:
    (ux, uy), (vx, vy) = jnp.moveaxis(q - p, -1, 0), jnp.moveaxis(r - p, -1, 0)
    return ux * vy - uy * vx


def _to_quadrangle(corners: Array) -> Array:
    """Theta of the homography that maps the image's corners to ``[4, 2]`` others, row by row.

    In homogeneous coordinates the image's corners satisfy ``A − B − C + D = 0``. By Cramer's rule
    the other corners do, too, if each is weighted by the area of the triangle of the three others.
    The map between them is then linear.
    """
    homogeneous = jnp.column_stack([corners, jnp.ones(4)])
    a, b, c, d = _opposite_areas(corners)[:, None] * homogeneous
    matrix = jnp.column_stack([b + d - a - c, c + d - a - b, a + b + c + d])
    return (matrix / matrix[2, 2]).ravel()[:8]
