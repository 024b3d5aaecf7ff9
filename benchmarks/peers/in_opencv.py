"""OpenCV: one image at a time, forward only."""

from collections.abc import Iterator

import jax
import numpy as np

from benchmarks.harness.contenders import Contender, Skipped
from benchmarks.harness.environment import threads
from benchmarks.peers.cases import TOLERANCE, Case, Operands, optional
from stn_jax import conversions

NAME = "OpenCV"


def affine_warps(case: Case, operands: Operands) -> Iterator[Contender | Skipped]:
    """``cv2.warpAffine``, which takes its weights in steps of 1/32 pixel."""
    cv2 = optional("cv2")
    reasons = {
        "it runs on the CPU": jax.default_backend() != "cpu",
        "it has no derivatives": case.which != "forward",
        "it has no bfloat16": case.dtype != "float32",
        "it takes images only": len(case.space) != 2,
    }
    if cv2 is None:
        return
    for reason, holds in reasons.items():
        if holds:
            yield Skipped(NAME, reason)
            return
    cv2.setNumThreads(threads())
    images = list(operands.image)
    matrices = [
        np.asarray(conversions.pixel_matrix(theta.reshape(2, 3), case.space, case.space))
        for theta in operands.theta
    ]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP

    def run() -> list[np.ndarray]:
        size = case.space[::-1]
        return [
            cv2.warpAffine(image, matrix, size, flags=flags)
            for image, matrix in zip(images, matrices, strict=True)
        ]

    yield Contender(
        NAME,
        run,
        lambda: {"value": np.stack(run()).reshape(case.shape)},
        lambda: None,
        tolerance=0.02 / TOLERANCE["float32"],
    )
