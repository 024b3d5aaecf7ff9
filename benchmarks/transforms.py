"""The time of each family of transforms: ``python -m benchmarks.transforms``.

It times each family's warp, from θ to warped images, as a multiple of the affine warp. Then it
compares thin plate splines, of points and as a warp, with Kornia's.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from benchmarks.harness import records, timing
from benchmarks.harness.contenders import Contender
from benchmarks.harness.rows import Candidate, measured_beside, print_labels
from benchmarks.harness.unfinished import Planned
from benchmarks.peers import in_jax, in_torch
from benchmarks.peers.cases import (
    PASSES,
    TOLERANCE,
    Case,
    Operands,
    Pass,
    affine_operands,
    cases,
    optional,
)

SHAPES = ("256x28x28x1", "16x224x224x3")
SMALL_SHAPES = ("4x12x16x3",)
AFFINE = "affine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      shapes: Batch, height, width and channels.
      passes: Passes to time: forward, or forward+backward to theta (or to image and theta).
    """

    shapes: tuple[str, ...] = SHAPES
    passes: tuple[Pass, ...] = ("forward", "theta")

    def cases(self) -> list[Case]:
        """All shapes and passes, in float32."""
        shapes = SMALL_SHAPES if self.small and self.shapes == SHAPES else self.shapes
        return cases(shapes, ("float32",), self.passes)


def families() -> dict[str, tuple[stn.Transform, float, dict[str, Any]]]:
    """By name: the family, the distance of its parameters from the identity, the warp's options."""
    return {
        AFFINE: (stn.affine(), 0.1, {}),
        "projective": (stn.projective(), 0.05, {}),
        "thin plate spline, 16 points": (stn.thin_plate_spline((4, 4)), 0.05, {}),
        "thin plate spline, 64 points": (stn.thin_plate_spline((8, 8)), 0.05, {}),
        "displacement, 8×8 lattice": (stn.displacement((8, 8)), 0.1, {}),
        "diffeomorphic, 8×8 lattice": (stn.diffeomorphic((8, 8)), 0.1, {}),
        "affine, antialiased": (stn.affine(), 0.1, {"antialias": True}),
    }


def near_identity(
    case: Case, transform: stn.Transform, spread: float, seed: int, out_channels: int
) -> Operands:
    """Parameters around the identity, and a cotangent with this many channels."""
    images, _, _ = affine_operands(case, seed)
    rng = np.random.default_rng(seed)
    theta = np.asarray(transform.identity) + spread * rng.normal(
        size=(case.shape[0], transform.num_params)
    )
    cotangent = rng.normal(size=(*case.shape[:-1], out_channels))
    return Operands(images, theta.astype(np.float32), cotangent.astype(np.float32))


def multiples_of_affine(labels: dict[str, str], case: Case, arguments: Arguments) -> records.Row:
    """Times of all families, measured in turns, divided by that of the affine warp."""
    contenders = {}
    for name, (transform, spread, options) in families().items():
        operands = near_identity(case, transform, spread, arguments.seed, case.shape[-1])
        warp = functools.partial(_warp, transform=transform, **options)
        contenders[name] = in_jax.contender(name, warp, case, operands)
    print_labels(labels)
    runs = {name: each.run for name, each in contenders.items()}
    seconds = timing.measure(runs, arguments.budget, seed=arguments.seed)
    row: records.Row = labels | {
        "seconds": {name: timing.Spread.of(each)._asdict() for name, each in seconds.items()},
        "multiples": {
            name: timing.ratio(each, seconds[AFFINE])._asdict() for name, each in seconds.items()
        },
        "memory": {name: each.memory() for name, each in contenders.items()},
    }
    for name, spread in row["multiples"].items():
        time, memory = row["seconds"][name], records.megabytes(row["memory"][name])
        print(
            f"    {name:32}{records.milliseconds(time):>20} ms{memory:>10} MB"
            f"{records.times(spread):>24} × affine",
            flush=True,
        )
    return row


def spline(
    labels: dict[str, str], what: str, case: Case, side: int, arguments: Arguments
) -> records.Row:
    """Compares a thin plate spline of ``side``² points with Kornia's: of points, or as a warp."""
    transform = stn.thin_plate_spline((side, side))
    control = np.asarray(transform.identity, np.float32).reshape(-1, 2)
    channels = 2 if what == "points" else case.shape[-1]
    operands = near_identity(case, transform, 0.05, arguments.seed, channels)
    # The points are an image whose channels are coordinates.
    shape = (*case.shape[:-1], channels)
    return measured_beside(
        labels,
        _spline_candidates(what, transform, control, case._replace(shape=shape), operands),
        arguments,
        tolerance=TOLERANCE["float32"],
    )


def plan(arguments: Arguments) -> Iterator[Planned]:
    """The families, then the splines, for each case."""
    for case in arguments.cases():
        labels = _labels("families", case)
        yield Planned(labels, functools.partial(multiples_of_affine, labels, case, arguments))
        for side, what in itertools.product((4, 8), ("points", "warp")):
            labels = _labels(f"thin plate spline, {side**2} points: {what}", case)
            yield Planned(labels, functools.partial(spline, labels, what, case, side, arguments))


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("transforms", Arguments, __doc__, plan, command_line)


def _warp(
    image: jax.Array, theta: jax.Array, transform: stn.Transform, **options: Any
) -> jax.Array:
    return stn.warp(image, transform, theta, **options)


def _points(image: jax.Array, theta: jax.Array, transform: stn.Transform) -> jax.Array:
    return transform.apply(theta, stn.regular_grid(image.shape[:-1]))


def _labels(what: str, case: Case) -> dict[str, str]:
    return {"what": what, "shape": records.shape_name(case.shape), "pass": PASSES[case.which]}


def _spline_candidates(
    what: str, transform: stn.Transform, control: np.ndarray, case: Case, operands: Operands
) -> Iterator[Candidate | Contender]:
    """Ours, then Kornia's ``warp_points_tps`` or ``warp_image_tps``.

    Kornia's ``get_tps_transform`` puts its kernels at the targets of the control points, which
    gives another map. So Kornia gets weights from a matrix that is computed once, like ours.
    """
    ours = functools.partial(_points if what == "points" else _warp, transform=transform)
    yield in_jax.contender(in_jax.OURS, ours, case, operands)
    kornia = optional("kornia.geometry.transform")
    if kornia is None or in_torch.device() is None:
        return
    import torch

    centres = torch.tensor(control, device=in_torch.device()).expand(case.shape[0], -1, -1)
    lattice = np.asarray(stn.regular_grid(case.space)).reshape(1, -1, 2)
    lattice = torch.tensor(lattice, device=in_torch.device()).expand(case.shape[0], -1, -1)

    solution = torch.tensor(_spline_solution(control), device=in_torch.device())

    def points(image: Any, moved: Any) -> Any:
        weights = (solution @ moved).split((len(control), 3), dim=1)
        found = kornia.warp_points_tps(lattice, centres, *weights)
        return found.mT.reshape(case.shape[0], 2, *case.space)

    def warp(image: Any, moved: Any) -> Any:
        weights = (solution @ moved).split((len(control), 3), dim=1)
        return kornia.warp_image_tps(image, centres, *weights)

    yield functools.partial(
        in_torch.contender,
        f"Kornia warp_{'points' if what == 'points' else 'image'}_tps",
        points if what == "points" else warp,
        case,
        operands,
        to_parameters=lambda theta: jnp.reshape(theta, (len(theta), -1, 2)),
    )


def _spline_solution(control: np.ndarray) -> np.ndarray:
    """The matrix from the control points' targets to weights of r² log r and of 1, x, y."""
    count = len(control)
    squared = np.sum((control[:, None] - control.astype(np.float64)) ** 2, axis=-1)
    system = np.zeros((count + 3, count + 3))
    system[:count, :count] = squared * np.log(np.where(squared > 0, squared, 1)) / 2
    system[:count, count:] = np.insert(control, 0, 1, axis=1)
    system[count:, :count] = system[:count, count:].T
    return np.linalg.inv(system)[:, :count].astype(np.float32)


if __name__ == "__main__":
    main()
