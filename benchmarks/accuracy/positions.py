"""Errors of sampled positions in pixels, on wide images in float32.

An image of x coordinates is too coarse: near 4096 float32 values are 5e-4 apart, about as much as
the errors to measure. So the image has two channels, waves with a period of 4 pixels, 0 1 0 −1 and
1 0 −1 0. The linear kernel interpolates linearly between pixels, so both values are a point on a
diamond, and its place on the diamond is the position modulo 4. The values are at most 1, so this
reads positions to about 1e-7 pixel on an image of any width. The table has the largest difference
from the position that the same θ gives in float64, over points at least a pixel inside. The image
is constant along y, and 32 pixels high.

This library sets a position within rounding error of a whole or half pixel to that pixel, so that
the same point reads the same pixel wherever it stands in a grid. That may add the rounding error.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from benchmarks.accuracy.geometry import channels_first, channels_last, pytorch, source_pixels
from benchmarks.accuracy.tables import Row, Table, combinations


def turned(angle: float) -> list[list[float]]:
    """A rotation."""
    cos, sin = np.cos(angle), np.sin(angle)
    return [[cos, -sin, 0], [sin, cos, 0]]


THETAS = {
    "identity": [[1, 0, 0], [0, 1, 0]],
    "shift 1e-3": [[1, 0, 1e-3], [0, 1, 1e-3]],
    "turn 0.01": turned(0.01),
    "turn 0.5": turned(0.5),
    "scale 0.5": [[0.5, 0, 0], [0, 0.5, 0]],
    "scale 0.7": [[0.7, 0, 0], [0, 0.7, 0]],
}
WIDTHS = ("512", "4096")
HEIGHT = 32
PERIOD = 4
OURS = ("warp", "grid_sample")
COLUMNS = (*OURS, "PyTorch")


def waves(width: int) -> np.ndarray:
    """The image of two waves, ``[height, width, 2]``."""
    period = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]], np.float32)
    return np.broadcast_to(period[np.arange(width) % PERIOD], (HEIGHT, width, 2))


def read_positions(values: Any) -> np.ndarray:
    """The position of each sample ``[..., 2]`` of :func:`waves`, modulo the period."""
    rising, falling = np.moveaxis(np.asarray(values, np.float64), -1, 0)
    along = rising / (np.abs(rising) + np.abs(falling))
    return np.where(falling >= 0, along, 2 - along)


def our_samples(image: jax.Array, theta: jax.Array, align_corners: bool) -> tuple[jax.Array, ...]:
    """Our samples: by one call of ``warp``, and by ``affine_grid`` and ``grid_sample``."""
    options: dict[str, Any] = {"padding": "border", "align_corners": align_corners}
    grid = stn.affine_grid(theta, image.shape[:2], align_corners=align_corners)
    warped = stn.warp(image, stn.affine(), theta.ravel(), **options)
    return warped, stn.grid_sample(image, grid, **options)


def their_samples(image: np.ndarray, theta: np.ndarray, align_corners: bool) -> np.ndarray | None:
    """PyTorch's samples, by ``affine_grid`` and ``grid_sample``, if it is installed."""
    torch = pytorch()
    if torch is None:
        return None
    images = torch.tensor(channels_first(image))
    grid = torch.nn.functional.affine_grid(
        torch.tensor(theta[None]), images.shape, align_corners=align_corners
    )
    sampled = torch.nn.functional.grid_sample(
        images, grid, padding_mode="border", align_corners=align_corners
    )
    return channels_last(sampled.numpy())


def errors(width: str, alignment: str, theta: str) -> Row:
    """The largest errors of the sampled position, in pixels."""
    image, align_corners = waves(int(width)), alignment == "corners"
    matrix = np.array(THETAS[theta], np.float32)
    expected = source_pixels(matrix, image.shape[:2], image.shape[:2], align_corners)[..., 0]
    inside = (expected >= 1) & (expected <= int(width) - 2)

    def error(samples: Any) -> float | None:
        if samples is None:
            return None
        difference = read_positions(samples) - expected
        return float(np.max(np.abs(difference - PERIOD * np.rint(difference / PERIOD))[inside]))

    ours = our_samples(jnp.asarray(image), jnp.asarray(matrix), align_corners)
    samples = *ours, their_samples(image, matrix, align_corners)
    return dict(zip(COLUMNS, map(error, samples), strict=True))


def _verdict(rows: list[Row]) -> str:
    worst = {name: np.max([row[name] for row in rows]) for name in OURS}
    largest = ", ".join(f"{name} {error:.1e} px" for name, error in worst.items())
    if pytorch() is None:
        return f"largest error of ours: {largest}; PyTorch is not installed"
    compared = [(row[name], row["PyTorch"]) for row in rows for name in OURS]
    smaller = sum(ours < theirs for ours, theirs in compared)
    larger = sum(ours > theirs for ours, theirs in compared)
    ratios = [theirs / ours for ours, theirs in compared if ours]
    return (
        f"ours is smaller in {smaller} of {len(compared)} comparisons, larger in {larger}; exact "
        f"in {sum(ours == 0 for ours, _ in compared)}; where not, PyTorch's error is "
        f"{np.median(ratios):.1f} times as large in the median; largest of ours: {largest}"
    )


def table() -> Table:
    """Widths, alignments and kinds of θ."""
    return Table(
        title="Largest error of the sampled position in pixels, against float64",
        cases=combinations(width=WIDTHS, alignment=("edges", "corners"), theta=list(THETAS)),
        columns=COLUMNS,
        measure=errors,
        verdict=_verdict,
    )
