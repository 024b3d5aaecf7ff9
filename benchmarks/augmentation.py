"""Augmented images a second, beside other libraries: ``python -m benchmarks.augmentation``.

Every contender turns, moves, bends and crops a batch of images with masks and keypoints, at random:
an affine map, an elastic deformation and a crop. Kernels are linear for images and nearest for
masks. Each library draws its own maps, of about the same size, so results are not compared pixel by
pixel. Instead a row states the median distance of the moved keypoints from the spots that were
drawn around them, and which of images, masks and keypoints each library moves.

Albumentations takes one image at a time, on one core. All others take the batch, on all cores.
"""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from benchmarks.harness import records, timing
from benchmarks.harness.environment import threads
from benchmarks.harness.rows import print_labels
from benchmarks.harness.unfinished import Planned
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      shapes: Batch, height, width and channels.
      keypoints: Keypoints of an image.
    """

    shapes: tuple[str, ...] = ("64x224x224x3",)
    keypoints: int = 10


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


def batch_of(shape: tuple[int, ...], keypoints: int, seed: int) -> Batch:
    """Images with a spot around the first keypoint in channel 0, noise in the other channels."""
    number, height, width, _ = shape
    rng = np.random.default_rng(seed)
    sides = np.array([width, height])
    points = rng.uniform(0.35, 0.65, (number, keypoints, 2)) * (sides - 1)
    x, y = np.arange(width), np.arange(height)[:, None]
    square = [(x - p[0, 0]) ** 2 + (y - p[0, 1]) ** 2 for p in points]
    spots = np.exp(-np.stack(square) / (2 * (height / 60) ** 2))
    images = rng.uniform(size=shape)
    images[..., 0] = spots
    masks = (spots > 0.5)[..., None].astype(np.uint8)
    return Batch(images.astype(np.float32), masks, points.astype(np.float32))


def keypoint_error(moved: Batch) -> float:
    """The median distance, in pixels, from the first keypoint to the centre of its spot."""
    spots = np.asarray(moved.images, np.float64)[..., 0]
    height, width = spots.shape[1:]
    spots = np.where(spots > 0.1, spots, 0)
    mass = np.maximum(spots.sum(axis=(1, 2)), 1e-9)
    x = (spots * np.arange(width)).sum(axis=(1, 2)) / mass
    y = (spots * np.arange(height)[:, None]).sum(axis=(1, 2)) / mass
    off = np.asarray(moved.keypoints)[:, 0] - np.stack([x, y], axis=-1)
    return float(np.median(np.linalg.norm(off, axis=-1)))


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
        aug.random_crop(shape, _cropped(shape)),
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
        library.RandomCrop(_cropped((height, width)), p=1),
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
    rows, columns = _cropped((height, width))
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
        library.RandomCrop(*_cropped((height, width))[::-1]),
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
    sigma, size = _sigma(height), (*_cropped((height, width)), channels)

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
        library.layers.RandomCrop(*_cropped((height, width)), data_format=_LAST),
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


def contenders(batch: Batch, arguments: Arguments) -> Iterator[tuple[str, Any]]:
    """Names, and functions that make contenders; a peer that is missing is left out."""
    yield OURS, functools.partial(ours, batch, arguments.seed)
    # Keras takes its engine from the environment when it is imported.
    os.environ.setdefault("KERAS_BACKEND", "jax")
    for name, make in PEERS.items():
        if optional(name) is not None:
            yield name, functools.partial(make, batch)


def measured(labels: dict[str, str], sizes: tuple[int, ...], arguments: Arguments) -> records.Row:
    """A row: all contenders on one batch."""
    batch = batch_of(sizes, arguments.keypoints, arguments.seed)
    print_labels(labels)
    made, skipped, errors = [], {}, {}
    cropped = (sizes[0], *_cropped(sizes[1:3]), sizes[3])
    for name, make in contenders(batch, arguments):
        try:
            contender = make()
            moved = contender.results(contender.run())
            if np.shape(moved.images) != cropped:
                raise ValueError(f"it gave images of {np.shape(moved.images)}")
        # A peer may raise anything; the row reports it.
        except Exception as error:
            if name == OURS:
                raise
            skipped[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
            continue
        made.append(contender)
        if contender.moves == ALL:
            errors[contender.name] = keypoint_error(moved)
    seconds = timing.measure(
        {each.name: each.run for each in made}, arguments.budget, seed=arguments.seed
    )
    row: records.Row = labels | timing.compare(seconds, OURS)
    row |= {
        "ours": OURS,
        "moves": {each.name: each.moves for each in made},
        "cores": {each.name: each.cores for each in made},
        "keypoint_error": errors,
        "images_per_second": {
            name: sizes[0] / spread["median"] for name, spread in row["seconds"].items()
        },
        "compile_seconds": compile_seconds(batch, arguments.seed),
        "skipped": skipped,
    }
    _show(row)
    return row


def compile_seconds(batch: Batch, seed: int) -> dict[str, float]:
    """Seconds to trace and compile ours anew: of the row, and with boxes as well."""
    found = {}
    shape = batch.images.shape[1:3]
    with_boxes = {"image": batch.images[0], "mask": batch.masks[0], "points": batch.keypoints[0]}
    with_boxes["boxes"] = np.array([[1.0, 1.0, 9.0, 9.0]], np.float32)
    bend = aug.random_elastic(shape, amplitude=1.0, spacing=shape[0] / 6)
    everything = aug.compose(aug.random_affine(shape, angle=(-0.2, 0.2)), bend)
    lattice = stn.displacement((8, 8))
    programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "image, mask, points and boxes": (
            lambda key, sample: aug.augment(sample, everything, key),
            (jax.random.key(seed), with_boxes),
        ),
        "points through a displacement lattice": (
            lambda theta, points: stn.warp_points(points, lattice, theta, image_shape=shape),
            (np.zeros(lattice.num_params, np.float32), batch.keypoints[0]),
        ),
        "boxes through a displacement lattice": (
            lambda theta, boxes: stn.warp_boxes(boxes, lattice, theta, image_shape=shape),
            (np.zeros(lattice.num_params, np.float32), with_boxes["boxes"]),
        ),
    }
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        for name, (function, operands) in programs.items():
            jax.clear_caches()
            start = time.process_time(), time.perf_counter()
            jax.jit(function).lower(*operands).compile()
            found[name] = time.perf_counter() - start[1]
            found[f"{name}, of processor time"] = time.process_time() - start[0]
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    return found


def plan(arguments: Arguments) -> Iterator[Planned]:
    """A row for each shape."""
    small = arguments.small and arguments.shapes == Arguments().shapes
    for shape in ("2x28x35x3",) if small else arguments.shapes:
        sizes = tuple(int(size) for size in shape.split("x"))
        labels = {"what": "affine, elastic, crop", "shape": records.shape_name(sizes)}
        yield Planned(labels, functools.partial(measured, labels, sizes, arguments))


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("augmentation", Arguments, __doc__, plan, command_line)


def _show(row: records.Row) -> None:
    for name, spread in row["seconds"].items():
        rate, cores = row["images_per_second"][name], row["cores"][name]
        error = row["keypoint_error"].get(name)
        found = "" if error is None else f"  keypoints off by {error:.2f} pixels"
        print(
            f"    {name:26}{records.milliseconds(spread):>18} ms{rate:>10,.0f} images/s"
            f"{rate / cores:>10,.0f} per core  {row['moves'][name]}{found}"
        )
    for name, reason in row["skipped"].items():
        print(f"    {name:26}left out: {reason}")
    for name, ratio in row["ratios"].items():
        print(f"  → {name} takes {records.times(ratio)} times as long")
    for name, seconds in row["compile_seconds"].items():
        print(f"    compiled anew, {name}: {seconds:.2f} s", flush=True)


def _in_order(moved: dict[str, Any]) -> list[Any]:
    return [moved[name] for name in ("image", "mask", "points")]


def _cropped(shape: Sequence[int]) -> tuple[int, int]:
    height, width = (round(_CROP * size) for size in shape)
    return height, width


def _sigma(height: int) -> float:
    """The spread of a Gaussian that smooths about as the lattice's B-spline."""
    return _SPACING * height / 224 / math.sqrt(3)


def _odd(size: float) -> int:
    return 2 * round(size / 2) + 1


if __name__ == "__main__":
    main()
