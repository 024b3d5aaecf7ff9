"""Measures how much a warp with the identity's parameters changes an image.

A warp samples at the lattice plus the displacement that its family computes. So we compute each
family's displacement at the identity once for each alignment and dtype of coordinates, and hand it
to ``warp`` for every kernel, padding, alignment and dtype of the image. That needs one compilation
for all families. In the rows "fused" ``warp`` computes the displacement in the same program as the
sampler, with a compilation for each family; these rows alternate between alignments and paddings.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from benchmarks.accuracy.tables import Row, Table, combinations, largest_difference
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS

FAMILIES = (
    *(make(ndim=n) for n in (2, 3) for make in (stn.translation, stn.rigid, stn.similarity)),
    *(make(ndim=n) for n in (2, 3) for make in (stn.attention, stn.affine)),
    stn.projective(),
    stn.thin_plate_spline(),
    *(stn.displacement(shape) for shape in ((4, 4), (3, 4, 3))),
    *(stn.flow(shape) for shape in ((5, 6), (2, 3, 4))),
    *(stn.diffeomorphic(shape) for shape in ((4, 4), (3, 3, 3))),
    stn.chain(stn.affine(), stn.rigid()),
    stn.bounded(stn.projective(), radius=0.5),
    stn.inverted(stn.affine()),
    stn.fixed(stn.similarity(), {0: 1.0}),
)
DTYPES = ("bfloat16", "float16", "float32", "float64")
SHAPES = {2: (13, 8), 3: (4, 5, 6)}
ALIGNMENTS = (False, True)


@functools.cache
def _given(ndim: int) -> stn.Transform:
    """A family whose θ is the displacement of every point."""
    return stn.Transform(
        name="given",
        ndim=ndim,
        identity=np.zeros(math.prod(SHAPES[ndim]) * ndim),
        displacement=lambda theta, points: theta.reshape(points.shape),
        inverse=lambda theta, points: points - theta.reshape(points.shape),
    )


@functools.cache
def _displacement(family: stn.Transform, align_corners: bool, dtype: str) -> np.ndarray:
    """The displacement of a family at its identity, in a dtype of coordinates."""
    with jax.enable_x64(dtype == "float64"):
        points = stn.regular_grid(SHAPES[family.ndim], align_corners=align_corners, dtype=dtype)
        theta = jnp.asarray(family.identity, dtype)
        return np.asarray(jax.jit(family.displacement)(theta, points))


def _image(ndim: int, dtype: str) -> jax.Array:
    return jnp.asarray(np.random.default_rng(ndim).normal(size=(*SHAPES[ndim], 2)), dtype)


def _given_warps(
    families: Sequence[stn.Transform], kernel: str, dtype: str
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """An image and its warp for every padding, alignment and family."""
    coordinates = "float64" if dtype == "float64" else "float32"
    for padding, align_corners, family in itertools.product(PADDINGS, ALIGNMENTS, families):
        image = _image(family.ndim, dtype)
        displacement = _displacement(family, align_corners, coordinates)
        options: dict[str, Any] = {
            "kernel": kernel,
            "padding": padding,
            "align_corners": align_corners,
        }
        yield image, stn.warp(image, _given(family.ndim), jnp.ravel(displacement), **options)


def _fused_warps(
    families: Sequence[stn.Transform], kernel: str, dtype: str
) -> Iterator[tuple[jax.Array, jax.Array]]:
    """An image and its warp for every family, alternating between paddings and alignments."""
    turns = itertools.cycle(itertools.product(PADDINGS, ALIGNMENTS))
    for family, (padding, align_corners) in zip(families, turns, strict=False):
        image, theta = _image(family.ndim, dtype), jnp.asarray(family.identity)
        options: dict[str, Any] = {
            "kernel": kernel,
            "padding": padding,
            "align_corners": align_corners,
        }
        yield image, stn.warp(image, family, theta, **options)


def changes(
    dtype: str, kernel: str, displacement: str, families: Sequence[stn.Transform] = FAMILIES
) -> Row:
    """How many warps return the same bits, and the largest change."""
    warps = {"given": _given_warps, "fused": _fused_warps}[displacement]
    equal, differences = 0, []
    with jax.enable_x64(dtype == "float64"):
        for image, warped in warps(families, kernel, dtype):
            before, after = np.asarray(image), np.asarray(warped)
            equal += before.dtype == after.dtype and before.tobytes() == after.tobytes()
            differences.append(largest_difference(after, before))
    return {
        "warps": len(differences),
        "bit for bit": equal,
        "change": float(np.max(differences)),
    }


def _verdict(rows: list[Row]) -> str:
    warps, equal = (sum(row[name] for row in rows) for name in ("warps", "bit for bit"))
    largest = float(np.max([row["change"] for row in rows]))
    return f"{equal} of {warps} warps return the image bit for bit; largest change {largest:g}"


def table() -> Table:
    """Every dtype, kernel, padding, alignment and family."""
    return Table(
        title=f"Identity: {len(FAMILIES)} families × {len(PADDINGS)} paddings × 2 alignments",
        cases=combinations(dtype=DTYPES, kernel=list(KERNELS), displacement=["given"])
        + combinations(dtype=DTYPES, kernel=["linear"], displacement=["fused"]),
        columns=("warps", "bit for bit", "change"),
        measure=changes,
        verdict=_verdict,
    )
