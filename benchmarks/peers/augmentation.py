"""The same augmentation by this library and by others, as contenders.

Each turns, moves, bends and crops a batch of images with masks and keypoints, at random: an affine
map, an elastic deformation and a crop, of about the same size.
"""

import functools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness.environment import threads
from benchmarks.peers import in_torch
from benchmarks.peers.cases import optional
from stn_jax import augmentation as aug

OURS = "stn_jax"
ALL = "image, mask, keypoints"
# Degrees, factor, pixels for each 224 pixels of the image; and the crop's share of its side.
_ANGLE, _SCALE, _SHIFT, _CROP = 15, 0.1, 10, 6 / 7
# Of the elastic deformation: bound of the movement and distance between lattice points, in pixels
# for each 224 pixels of the image.
_AMPLITUDE, _SPACING = 10, 37


class Batch(NamedTuple):
    """Images ``[b, h, w, c]``, masks ``[b, h, w, 1]`` and keypoints ``[b, n, 2]`` in pixels."""

    images: np.ndarray
    masks: np.ndarray
    keypoints: np.ndarray


class Contender(NamedTuple):
    """A library: the arrays that it moves, its call, its results as a :class:`Batch`, its cores."""

    name: str
    moves: str
    run: Callable[[], Any]
    results: Callable[[Any], Batch]
    cores: int


def ours(batch: Batch, seed: int) -> Contender:
    """This library: one jitted call, a key and a draw for each image."""
    shape = batch.images.shape[1:3]
    unit = shape[0] / 224
    angle, shift = math.radians(_ANGLE), _SHIFT * unit
    augmentation = aug.compose(
        aug.random_affine(
            shape,
            angle=(-angle, angle),
            scale=(1 - _SCALE, 1 + _SCALE),
            translation=(-shift, shift),
        ),
        aug.random_elastic(shape, amplitude=_AMPLITUDE * unit, spacing=_SPACING * unit),
        aug.random_crop(shape, cropped_shape(shape)),
    )

    def move(key: jax.Array, *arrays: jax.Array) -> Any:
        sample = dict(zip(("image", "mask", "points"), arrays, strict=True))
        return aug.augment(sample, augmentation, key)

    arrays = [jnp.asarray(each) for each in batch]
    keys = jax.random.split(jax.random.key(seed), len(batch.images))
    compiled = jax.jit(jax.vmap(move)).lower(keys, *arrays).compile()
    run = lambda: jax.block_until_ready(compiled(keys, *arrays))  # noqa: E731
    return Contender(
        OURS, ALL, run, lambda moved: Batch(*map(np.asarray, _in_order(moved))), threads()
    )


def kornia(batch: Batch) -> Contender:
    """Kornia's ``AugmentationSequential``."""
    import kornia.augmentation as library
    import torch

    in_torch.device()
    height, width = batch.images.shape[1:3]
    sigma, share = _sigma(height), 2 * _AMPLITUDE / 224
    sequence = library.AugmentationSequential(
        library.RandomAffine(
            _ANGLE, (_SHIFT / 224, _SHIFT / 224), (1 - _SCALE, 1 + _SCALE), align_corners=False, p=1
        ),
        library.RandomElasticTransform(
            kernel_size=(_odd(4 * sigma),) * 2,
            sigma=(sigma, sigma),
            alpha=(share * 2 * sigma, share * 2 * sigma),
            p=1,
        ),
        library.RandomCrop(cropped_shape((height, width)), p=1),
        data_keys=["input", "mask", "keypoints"],
    )
    images, masks = (
        torch.tensor(np.moveaxis(each, -1, 1).astype(np.float32)).contiguous() for each in batch[:2]
    )
    points = torch.tensor(batch.keypoints)

    def run() -> Any:
        with torch.no_grad():
            return sequence(images, masks, points)

    def results(moved: Any) -> Batch:
        images, masks, points = (each.numpy() for each in moved)
        return Batch(np.moveaxis(images, 1, -1), np.moveaxis(masks, 1, -1), points)

    return Contender("Kornia", ALL, run, results, threads())


def albumentations(batch: Batch) -> Contender:
    """Albumentations' ``Compose``, one image at a time, in one thread."""
    import albumentations as library
    import cv2

    height, width = batch.images.shape[1:3]
    sigma, shift = _sigma(height), round(_SHIFT * height / 224)
    rows, columns = cropped_shape((height, width))
    compose = library.Compose(
        [
            library.Affine(
                rotate=(-_ANGLE, _ANGLE),
                scale=(1 - _SCALE, 1 + _SCALE),
                translate_px=(-shift, shift),
                p=1,
            ),
            library.ElasticTransform(
                alpha=2 * sigma * _AMPLITUDE * height / 224, sigma=sigma, approximate=True, p=1
            ),
            library.RandomCrop(rows, columns, p=1),
        ],
        keypoint_params=library.KeypointParams(format="xy", remove_invisible=False),
    )

    def run() -> Any:
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            return [
                compose(image=image, mask=mask, keypoints=points)
                for image, mask, points in zip(*batch, strict=True)
            ]
        finally:
            cv2.setNumThreads(before)

    def results(moved: Any) -> Batch:
        images, masks, points = (
            np.stack([each[name][:1] if name == "keypoints" else each[name] for each in moved])
            for name in ("image", "mask", "keypoints")
        )
        return Batch(images, masks, points)

    return Contender("Albumentations", ALL, run, results, 1)


def augmax(batch: Batch) -> Contender:
    """Augmax's ``Chain``, jitted and batched by ``vmap``."""
    import augmax as library

    height, width = batch.images.shape[1:3]
    kinds = library.InputType
    chain = library.Chain(
        library.Rotate((-_ANGLE, _ANGLE)),
        library.Warp(
            strength=round(_AMPLITUDE * height / 224), coarseness=round(_SPACING * height / 224)
        ),
        library.RandomCrop(*cropped_shape((height, width))[::-1]),
        input_types=[kinds.IMAGE, kinds.MASK, kinds.KEYPOINTS],
    )
    # Augmax takes masks without channels, and keypoints as (y, x).
    arrays = [
        jnp.asarray(batch.images),
        jnp.asarray(batch.masks[..., 0]),
        jnp.asarray(batch.keypoints[..., ::-1]),
    ]
    keys = jax.random.split(jax.random.PRNGKey(0), len(batch.images))
    compiled = jax.jit(jax.vmap(chain)).lower(keys, arrays).compile()
    run = lambda: jax.block_until_ready(compiled(keys, arrays))  # noqa: E731

    def results(moved: Any) -> Batch:
        images, masks, points = map(np.asarray, moved)
        return Batch(images, masks[..., None], points[..., ::-1])

    return Contender("augmax, rotation alone", ALL, run, results, threads())


def dm_pix(batch: Batch) -> Contender:
    """dm_pix, which has no keypoints, and no mask that moves along; images alone."""
    import dm_pix as library

    height, width, channels = batch.images.shape[1:]
    sigma, size = _sigma(height), (*cropped_shape((height, width)), channels)

    def move(key: jax.Array, image: jax.Array) -> jax.Array:
        turn, bend, cut = jax.random.split(key, 3)
        angle = jax.random.uniform(turn, minval=-1) * math.radians(_ANGLE)
        image = library.rotate(image, angle)
        alpha = 2 * sigma * _AMPLITUDE * height / 224
        image = library.elastic_deformation(bend, image, alpha=alpha, sigma=sigma)
        return library.random_crop(key=cut, image=image, crop_sizes=size)

    images = jnp.asarray(batch.images)
    keys = jax.random.split(jax.random.PRNGKey(0), len(images))
    compiled = jax.jit(jax.vmap(move)).lower(keys, images).compile()
    run = lambda: jax.block_until_ready(compiled(keys, images))  # noqa: E731
    results = lambda moved: batch._replace(images=np.asarray(moved))  # noqa: E731
    return Contender("dm_pix, rotation alone", "image", run, results, threads())


def keras(batch: Batch) -> Contender:
    """Keras layers on JAX, which move images and masks."""
    import keras as library

    if library.backend.backend() != "jax":
        raise ValueError("Keras is measured on JAX; set KERAS_BACKEND=jax.")
    height, width = batch.images.shape[1:3]
    layers = [
        library.layers.RandomRotation(_ANGLE / 360, fill_mode="constant", data_format=_LAST),
        library.layers.RandomElasticTransform(1.0, scale=1.0, data_format=_LAST),
        library.layers.RandomCrop(*cropped_shape((height, width)), data_format=_LAST),
    ]
    given = {"images": jnp.asarray(batch.images), "segmentation_masks": jnp.asarray(batch.masks)}

    def run() -> Any:
        moved = given
        for layer in layers:
            moved = layer(moved, training=True)
        return jax.block_until_ready(moved)

    def results(moved: Any) -> Batch:
        images, masks = (np.asarray(moved[each]) for each in given)
        return batch._replace(images=images, masks=masks)

    return Contender("Keras, rotation alone", "image, mask", run, results, threads())


_LAST = "channels_last"
PEERS: dict[str, Callable[[Batch], Contender]] = {
    "kornia": kornia,
    "albumentations": albumentations,
    "augmax": augmax,
    "dm_pix": dm_pix,
    "keras": keras,
}


def contenders(batch: Batch, seed: int) -> Iterator[tuple[str, Any]]:
    """Names, and functions that make contenders; a peer that is missing is left out."""
    yield OURS, functools.partial(ours, batch, seed)
    # Keras takes its engine from the environment when it is imported.
    os.environ.setdefault("KERAS_BACKEND", "jax")
    for name, make in PEERS.items():
        if optional(name) is not None:
            yield name, functools.partial(make, batch)


def _in_order(moved: dict[str, Any]) -> list[Any]:
    return [moved[name] for name in ("image", "mask", "points")]


def cropped_shape(shape: Sequence[int]) -> tuple[int, int]:
    """The height and width of the crop of an image of this shape."""
    height, width = (round(_CROP * size) for size in shape)
    return height, width


def _sigma(height: int) -> float:
    """The spread of a Gaussian that smooths about as the lattice's B-spline."""
    return _SPACING * height / 224 / math.sqrt(3)


def _odd(size: float) -> int:
    return 2 * round(size / 2) + 1
