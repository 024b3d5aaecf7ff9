"""Images of bfloat16 and float16: errors against float64, in roundings of the output's dtype.

All get the same numbers as image and grid; PyTorch computes the expected values in float64. One
rounding is the distance between neighbouring numbers of the output's dtype at the expected value,
so a result that is rounded once from the exact one is off by at most 0.5. Errors of values below
1/16 are in roundings of 1/16: the images are noise of order 1, so much smaller values come from
cancellation, and the rounding of float32 coordinates alone changes them by more than their own
rounding.

PyTorch's ``grid_sample`` requires a grid of the image's dtype and computes coordinates in it, too.
So there are two columns: its results in that dtype, and its results on the image converted to
float32, converted back ("by float32"). "–" marks combinations that it refuses. Points within 1e-3
pixel of a tie are left out of the nearest kernel's rows.
"""

import functools
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from benchmarks.accuracy.geometry import (
    OUR_KERNEL,
    PYTORCH_KERNEL,
    PYTORCH_PADDING,
    channels_first,
    channels_last,
    is_clear,
    lattice_points,
    pixels_of_points,
    pytorch,
)
from benchmarks.accuracy.tables import Row, Table, combinations, largest_by_column
from stn_jax.sampling.padding import PaddingName

SHAPE = (24, 32)
SMALLEST = 1 / 16
COLUMNS = ("ours", "PyTorch", "by float32")
DTYPES = ("bfloat16", "float16")


def roundings(found: Any, expected: np.ndarray, dtype: str) -> np.ndarray:
    """The error in units of the distance between neighbouring numbers of ``dtype``."""
    _, exponent = np.frexp(np.maximum(np.abs(expected), SMALLEST))
    spacing = np.ldexp(1.0, exponent - 1 - jnp.finfo(dtype).nmant)
    return np.abs(np.asarray(found, np.float64) - expected) / spacing


def their_samples(
    image: np.ndarray, grid: np.ndarray, dtypes: tuple[str, str], options: dict[str, Any]
) -> np.ndarray | None:
    """PyTorch's samples of an image and a grid in some dtypes; ``None`` where it refuses them."""
    torch = pytorch()
    assert torch is not None
    image_dtype, grid_dtype = (getattr(torch, dtype) for dtype in dtypes)
    images = torch.tensor(channels_first(image)).to(image_dtype)
    try:
        sampled = torch.nn.functional.grid_sample(
            images, torch.tensor(grid[None]).to(grid_dtype), **options
        )
    except RuntimeError:
        return None
    return channels_last(sampled.double().numpy())


def errors_of_one(
    rng: np.random.Generator, dtype: str, grid_dtype: str, kernel: str, padding: PaddingName
) -> Row:
    """The largest errors for a random image and a random affine grid."""
    theta = np.eye(2, 3) + 0.3 * rng.normal(size=(2, 3))
    ours_grid = jnp.asarray(lattice_points(SHAPE, False) @ theta[:, :2].T + theta[:, 2], grid_dtype)
    ours_image = jnp.asarray(rng.normal(size=(*SHAPE, 3)), dtype)
    image, grid = (np.asarray(each, np.float64) for each in (ours_image, ours_grid))
    options = {
        "mode": PYTORCH_KERNEL[kernel],
        "padding_mode": PYTORCH_PADDING[padding],
        "align_corners": False,
    }
    expected = their_samples(image, grid, ("float64", "float64"), options)
    by_float32 = their_samples(image, grid, ("float32", "float32"), options)
    assert expected is not None
    assert by_float32 is not None
    found = {
        "ours": stn.grid_sample(ours_image, ours_grid, kernel=OUR_KERNEL[kernel], padding=padding),
        "PyTorch": their_samples(image, grid, (dtype, grid_dtype), options),
        "by float32": jnp.asarray(by_float32, dtype),
    }
    is_tie = kernel == "nearest" and ~is_clear(pixels_of_points(grid, SHAPE, False), kernel)
    compared = ~np.broadcast_to(is_tie, SHAPE)
    return {
        name: None if each is None else float(np.max(roundings(each, expected, dtype)[compared]))
        for name, each in found.items()
    }


def errors(dtype: str, grid: str, kernel: str, trials: int) -> Row:
    """The largest errors over random images and grids, and all paddings."""
    rng = np.random.default_rng(4)
    cases = itertools.product(PYTORCH_PADDING, range(trials))
    return largest_by_column(
        [errors_of_one(rng, dtype, grid, kernel, padding) for padding, _ in cases]
    )


def is_within_a_rounding(row: Row) -> bool:
    """Whether our error is at most one rounding larger than PyTorch's smallest."""
    theirs = [row[name] for name in COLUMNS[1:] if row[name] is not None]
    return row["ours"] <= min(theirs) + 1


def _verdict(rows: list[Row]) -> str:
    within = sum(map(is_within_a_rounding, rows))
    largest = np.max([row["ours"] for row in rows])
    refused = sum(row["PyTorch"] is None for row in rows)
    return (
        f"our error is at most one rounding beyond the least of PyTorch's in {within} of "
        f"{len(rows)} rows; largest of ours {largest:.3f}; PyTorch refuses the grid in {refused}"
    )


def table(trials: int) -> Table:
    """Dtypes of image and grid, and kernels."""
    cases = [
        case
        for dtype in DTYPES
        for case in combinations(
            dtype=[dtype], grid=[dtype, "float32"], kernel=list(PYTORCH_KERNEL)
        )
    ]
    return Table(
        title=f"Half precision: largest error in roundings, {trials} random θ for each of "
        f"{len(PYTORCH_PADDING)} paddings",
        cases=cases,
        columns=COLUMNS,
        measure=functools.partial(errors, trials=trials),
        verdict=_verdict,
        number=".3f",
    )
