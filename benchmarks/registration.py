"""Registration beside SimpleITK's and Kornia's: ``python -m benchmarks.registration``.

Each pair is two views of a photograph, or of a drawn volume, that differ by a known map and by
noise. Every contender gets the same pairs, from the identity, and returns a matrix. The error is
the mean distance, in pixels of the second view, between where this matrix and where the true map
send a lattice of points of the first. Times are of one call; what compilation adds to the first
call of ours is a column of its own. The peers that are not installed are left out.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

import stn_jax as stn
from benchmarks.harness import records
from benchmarks.harness.unfinished import Planned
from benchmarks.peers.cases import optional

Family = str
Find = Callable[[np.ndarray, np.ndarray], np.ndarray]

OURS = "stn_jax"
NOISE = 0.02  # standard deviation; images have values from 0 to 1
# A registration that ends within a pixel has found the map.
_FOUND = 1.0


class Kind(NamedTuple):
    """Pairs of one kind.

    ``angle`` is the largest rotation in degrees, ``scale`` the largest factor of size, ``shift``
    the largest shift along each axis as a share of the side, ``corners`` the distance by which a
    homography moves the corners as a share of the side.
    """

    family: Family
    shape: tuple[int, ...]
    angle: float = 0.0
    scale: float = 1.0
    shift: float = 0.0
    corners: float = 0.0


KINDS = {
    "similarity, near": Kind("similarity", (144, 176), 8, 1.08, 0.04),
    "similarity, wide": Kind("similarity", (144, 176), 30, 1.2, 0.15),
    "similarity, any angle": Kind("similarity", (144, 176), 180, 1.2, 0.1),
    "homography": Kind("homography", (160, 160), corners=0.1),
    "rigid volume": Kind("rigid volume", (48, 56, 64), 15, 1, 0.06),
}
_SMALL_SHAPES = {2: (40, 48), 3: (16, 18, 20)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      kinds: Kinds of pairs.
      pairs: Pairs of each kind.
      only: Peers whose name contains one of these words; none means all.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    pairs: int = 8
    only: tuple[str, ...] = ()


class Pair(NamedTuple):
    """Two views, ``[*space]``, and the true map from pixels of ``fixed`` to those of ``moving``."""

    fixed: np.ndarray
    moving: np.ndarray
    matrix: np.ndarray


@functools.cache
def photographs() -> list[np.ndarray]:
    """Grey photographs of installed packages, with values from 0 to 1."""
    from sklearn.datasets import load_sample_images

    found = [image.mean(axis=-1) / 255 for image in load_sample_images().images]
    if (skimage := optional("skimage.data")) is not None:
        names = ("astronaut", "coffee", "chelsea", "rocket")
        found += [np.mean(getattr(skimage, name)(), axis=-1) / 255 for name in names]
    return found


def drawn_volume(rng: np.random.Generator) -> np.ndarray:
    """A head of nested ellipsoids and texture, ``[96, 96, 96]``, with values from 0 to 1."""
    axes = np.stack(np.meshgrid(*[np.linspace(-1, 1, 96)] * 3, indexing="ij"), axis=-1)
    volume = np.zeros(axes.shape[:-1])
    for _ in range(12):
        centre, radii = rng.uniform(-0.35, 0.35, 3), rng.uniform(0.12, 0.5, 3)
        volume += rng.uniform(-0.4, 1) * (np.sum(((axes - centre) / radii) ** 2, axis=-1) < 1)
    volume = gaussian_filter(volume, 1) + 0.3 * gaussian_filter(rng.normal(size=volume.shape), 3)
    return (volume - volume.min()) / np.ptp(volume)


def pairs(kind: Kind, number: int, seed: int) -> Iterator[Pair]:
    """Random pairs of a kind."""
    for index in range(number):
        rng = np.random.default_rng([seed, index])
        if len(kind.shape) == 3:
            image = drawn_volume(rng)
        else:
            image = photographs()[index % len(photographs())]
        matrix = _homography(kind, rng) if kind.corners else _similarity(kind, rng)
        views = [
            _view(image, kind.shape, each) for each in (np.eye(len(matrix)), np.linalg.inv(matrix))
        ]
        fixed, moving = (view + NOISE * rng.normal(size=view.shape) for view in views)
        middle = (np.array(kind.shape[::-1]) - 1) / 2
        to, back = np.eye(len(matrix)), np.eye(len(matrix))
        to[:-1, -1], back[:-1, -1] = middle, -middle
        yield Pair(fixed.astype(np.float32), moving.astype(np.float32), to @ matrix @ back)


def error(pair: Pair, matrix: np.ndarray) -> float:
    """The mean distance of a lattice's points under two maps, in pixels."""
    sides = np.array(pair.fixed.shape[::-1])
    axes = [np.linspace(0.05, 0.95, 9) * (side - 1) for side in sides]
    points = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, len(sides))
    found, true = (_act(each, points) for each in (matrix, pair.matrix))
    return float(np.linalg.norm(found - true, axis=-1).mean())


def ours(kind: Kind) -> Find:
    """This library: the call of the documentation."""
    shape = kind.shape
    sides = np.array(shape[::-1])
    aspect = tuple(float(side / sides[-1]) for side in sides[:-1])
    transform = {
        "similarity": stn.isotropic(stn.similarity(), aspect=aspect[0]),
        "homography": stn.projective(),
        "rigid volume": stn.isotropic(stn.rigid(ndim=len(shape)), aspect=aspect),
    }[kind.family]

    def find(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
        found = stn.register(
            jnp.asarray(fixed)[..., None], jnp.asarray(moving)[..., None], transform
        )
        matrix = transform.matrix(found.theta)
        return np.asarray(
            stn.conversions.pixel_matrix(matrix, shape, output_shape=shape), np.float64
        )

    return find


def simpleitk(kind: Kind) -> Find | None:
    """SimpleITK: correlation of all pixels, three levels, gradient descent with scaled steps."""
    sitk: Any = optional("SimpleITK")
    if sitk is None or kind.family == "homography":
        return None  # it has no homography
    transform = (
        sitk.Euler3DTransform if kind.family == "rigid volume" else sitk.Similarity2DTransform
    )

    def find(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
        images = [sitk.GetImageFromArray(each) for each in (fixed, moving)]
        start = sitk.CenteredTransformInitializer(
            *images, transform(), sitk.CenteredTransformInitializerFilter.GEOMETRY
        )
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsCorrelation()
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=2.0, minStep=1e-4, numberOfIterations=300, relaxationFactor=0.6
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1, 0])
        method.SetInitialTransform(start, inPlace=True)
        method.Execute(*images)
        ndim, matrix = fixed.ndim, np.eye(fixed.ndim + 1)
        matrix[:ndim, -1] = start.TransformPoint([0.0] * ndim)
        for axis in range(ndim):
            unit = [float(axis == k) for k in range(ndim)]
            matrix[:ndim, axis] = np.array(start.TransformPoint(unit)) - matrix[:ndim, -1]
        return matrix

    return find


def kornia(kind: Kind, *, tuned: bool) -> Find | None:
    """Kornia's ``ImageRegistrator``, as it comes, or with more and longer steps."""
    torch: Any = optional("torch")
    geometry: Any = optional("kornia.geometry")
    if torch is None or geometry is None or len(kind.shape) == 3:
        return None  # it has no volumes
    options: dict[str, Any] = {}
    if tuned:
        options = {"lr": 1e-2, "num_iterations": 300, "tolerance": 1e-6, "pyramid_levels": 4}
    registrator = geometry.ImageRegistrator(kind.family, **options)

    def find(fixed: np.ndarray, moving: np.ndarray) -> np.ndarray:
        source, target = (torch.from_numpy(each)[None, None] for each in (moving, fixed))
        model = registrator.register(source, target)
        matrix = model[0].detach().double().numpy()
        height, width = fixed.shape
        # −1 and 1 are the outer edges, as here.
        scale = np.diag([width / 2, height / 2, 1])
        scale[:2, 2] = (width - 1) / 2, (height - 1) / 2
        return scale @ matrix @ np.linalg.inv(scale)

    return find


def contenders(kind: Kind, only: Sequence[str]) -> dict[str, Find]:
    """All that can find maps of a kind."""
    made = {
        OURS: ours(kind),
        "SimpleITK": simpleitk(kind),
        "Kornia": kornia(kind, tuned=False),
        "Kornia, tuned": kornia(kind, tuned=True),
    }
    chosen = {name: find for name, find in made.items() if find is not None}
    return {
        name: find
        for name, find in chosen.items()
        if name == OURS or not only or any(word.lower() in name.lower() for word in only)
    }


def plan(arguments: Arguments) -> Iterator[Planned]:
    """A row for each kind of pairs."""
    number = min(arguments.pairs, 2) if arguments.small else arguments.pairs
    for name in arguments.kinds:
        kind = KINDS[name]
        if arguments.small:
            kind = kind._replace(shape=_SMALL_SHAPES[len(kind.shape)])
        labels = {"pairs": name, "shape": records.shape_name(kind.shape), "number": number}
        yield Planned(labels, functools.partial(_row, labels, kind, arguments))


def _row(labels: records.Row, kind: Kind, arguments: Arguments) -> records.Row:
    chosen = contenders(kind, arguments.only)
    every = list(pairs(kind, labels["number"], arguments.seed))
    errors: dict[str, list[float]] = {each: [] for each in chosen}
    seconds: dict[str, list[float]] = {each: [] for each in chosen}
    first = {}
    for each, find in chosen.items():
        start = time.perf_counter()
        find(every[0].fixed, every[0].moving)
        first[each] = time.perf_counter() - start
    rng = np.random.default_rng(arguments.seed)
    for pair in every:
        for index in rng.permutation(len(chosen)):
            each = list(chosen)[index]
            start = time.perf_counter()
            matrix = chosen[each](pair.fixed, pair.moving)
            seconds[each].append(time.perf_counter() - start)
            errors[each].append(error(pair, matrix))
    row: records.Row = {
        "ours": OURS,
        "median_error": {each: float(np.median(found)) for each, found in errors.items()},
        "found": {each: float(np.mean(np.array(e) < _FOUND)) for each, e in errors.items()},
        "median_seconds": {each: float(np.median(took)) for each, took in seconds.items()},
        "first_seconds": first,
        "errors": errors,
        "seconds": seconds,
    }
    print(f"{labels['pairs']}, {labels['shape']}, {labels['number']} pairs", flush=True)
    for each in chosen:
        print(
            f"    {each:16}error {row['median_error'][each]:9.4f} pixels, within a pixel "
            f"{row['found'][each]:4.0%}, {1e3 * row['median_seconds'][each]:8.1f} ms, first call "
            f"{first[each]:6.2f} s",
            flush=True,
        )
    return row


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("registration", Arguments, __doc__, plan, command_line)


def _similarity(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """A random rotation, scale and shift about the middle, in pixels, homogeneous."""
    ndim = len(kind.shape)
    matrix = np.eye(ndim + 1)
    for i in range(ndim):
        for j in range(i + 1, ndim):
            angle = math.radians(rng.uniform(-kind.angle, kind.angle))
            turn = np.eye(ndim + 1)
            turn[i, i] = turn[j, j] = math.cos(angle)
            turn[i, j], turn[j, i] = -math.sin(angle), math.sin(angle)
            matrix = turn @ matrix
    matrix[:ndim, :ndim] *= kind.scale ** rng.uniform(-1, 1)
    matrix[:ndim, -1] = kind.shift * rng.uniform(-1, 1, ndim) * np.array(kind.shape[::-1])
    return matrix


def _homography(kind: Kind, rng: np.random.Generator) -> np.ndarray:
    """The homography that moves each corner in a random direction, about the middle."""
    half = np.array(kind.shape[::-1]) / 2
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    angle = rng.uniform(0, 2 * np.pi, 4)
    moves = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    moved = corners + kind.corners * 2 * half.min() * moves
    matrix = stn.estimation.homography(
        jnp.asarray(corners, jnp.float32), jnp.asarray(moved, jnp.float32)
    )
    return np.asarray(matrix, np.float64)


def _act(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    moved = points @ matrix[:, :-1].T + matrix[:, -1]
    return moved[:, :-1] / moved[:, -1:]


def _view(image: np.ndarray, shape: tuple[int, ...], matrix: np.ndarray) -> np.ndarray:
    """Samples an image where ``matrix`` maps the view's pixels, both counted from the middle."""
    axes = [np.arange(size) - (size - 1) / 2 for size in shape]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]
    read = _act(matrix, points.reshape(-1, len(shape))) + (np.array(image.shape[::-1]) - 1) / 2
    return map_coordinates(image, read.T[::-1], order=3, mode="nearest").reshape(shape)


if __name__ == "__main__":
    main()
