"""SciPy: cubic B-splines, one channel at a time, forward only, on one core."""

from collections.abc import Iterator

import jax
import numpy as np
from scipy import ndimage

from benchmarks.harness.contenders import Contender, Skipped
from benchmarks.peers.cases import Case, Operands
from stn_jax import conversions

NAME = "SciPy"


def affine_warps(case: Case, operands: Operands) -> Iterator[Contender | Skipped]:
    """``ndimage.map_coordinates(order=3)``; its coordinates are computed beforehand."""
    reason = _reason(case)
    if reason is not None:
        yield Skipped(NAME, reason)
        return
    places = [_places(theta, case.space) for theta in operands.theta]

    def run() -> np.ndarray:
        options = {"order": 3, "mode": "grid-constant", "output": np.float32}
        return np.stack(
            [
                np.stack(
                    [
                        ndimage.map_coordinates(channel, each, **options)
                        for channel in np.moveaxis(image, -1, 0)
                    ],
                    axis=-1,
                )
                for image, each in zip(operands.image, places, strict=True)
            ]
        )

    yield Contender(NAME, run, lambda: {"value": run()}, lambda: None)


def spline_coefficients(case: Case, operands: Operands) -> Iterator[Contender | Skipped]:
    """``ndimage.spline_filter(order=3)`` of every channel."""
    reason = _reason(case)
    if reason is not None:
        yield Skipped(NAME, reason)
        return
    channels = list(np.moveaxis(operands.image, -1, 1).reshape(-1, *case.space))

    def run() -> list[np.ndarray]:
        return [ndimage.spline_filter(each, 3, np.float32, "reflect") for each in channels]

    def results() -> dict[str, np.ndarray]:
        stacked = np.stack(run()).reshape(case.shape[0], case.shape[-1], *case.space)
        return {"value": np.moveaxis(stacked, 1, -1)}

    yield Contender(NAME, run, results, lambda: None)


def _reason(case: Case) -> str | None:
    """Why SciPy does not compute a case; ``None`` if it does."""
    reasons = {
        "it runs on the CPU": jax.default_backend() != "cpu",
        "it has no derivatives": case.which != "forward",
        "it has no bfloat16": case.dtype != "float32",
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _places(theta: np.ndarray, space: tuple[int, ...]) -> np.ndarray:
    """The pixel coordinates that each output pixel reads, in the order of array axes."""
    ndim = len(space)
    matrix = np.asarray(conversions.pixel_matrix(theta.reshape(ndim, ndim + 1), space, space))
    pixels = np.indices(space, np.float32)[::-1]
    shift = matrix[:, ndim].reshape(-1, *[1] * ndim)
    return (np.tensordot(matrix[:, :ndim], pixels, 1) + shift)[::-1]
