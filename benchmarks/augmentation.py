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
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

import stn_jax as stn
from benchmarks.harness import records, timing
from benchmarks.harness.rows import print_labels
from benchmarks.harness.unfinished import Planned
from benchmarks.peers.augmentation import ALL, OURS, Batch, contenders, cropped_shape
from stn_jax import augmentation as aug


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      shapes: Batch, height, width and channels.
      keypoints: Keypoints of an image.
    """

    shapes: tuple[str, ...] = ("64x224x224x3",)
    keypoints: int = 10


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


def measured(labels: dict[str, str], sizes: tuple[int, ...], arguments: Arguments) -> records.Row:
    """A row: all contenders on one batch."""
    batch = batch_of(sizes, arguments.keypoints, arguments.seed)
    print_labels(labels)
    made, skipped, errors = [], {}, {}
    cropped = (sizes[0], *cropped_shape(sizes[1:3]), sizes[3])
    for name, make in contenders(batch, arguments.seed):
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


if __name__ == "__main__":
    main()
