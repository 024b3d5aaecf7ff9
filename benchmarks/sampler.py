"""Affine warps, compared with other libraries: ``python -m benchmarks.sampler``.

One call goes from θ to warped images. The peers are PyTorch's ``affine_grid`` and ``grid_sample``,
Kornia, ``jax.scipy.ndimage.map_coordinates``, dm_pix and OpenCV, and SciPy for splines, in one
process and on the same arrays. A peer is timed only if its values and gradients agree with this
library's.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

from benchmarks.harness import records
from benchmarks.harness.rows import Candidate, measured_beside, name_of
from benchmarks.harness.unfinished import Planned
from benchmarks.peers import in_jax, in_opencv, in_scipy, in_torch
from benchmarks.peers.cases import (
    PASSES,
    TOLERANCE,
    Case,
    DTypeName,
    Operands,
    Pass,
    affine_operands,
    cases,
    missing,
)
from stn_jax.sampling.backends.base import ImplementationName

SHAPES = ("256x28x28x1", "32x56x56x64", "16x224x224x3", "4x512x512x3", "4x64x64x64x1")
SMALL_SHAPES = ("4x12x16x3", "2x5x6x7x1")
# The value of ``pass`` in rows that time the coefficients of splines.
COEFFICIENTS = "spline coefficients"
PEERS = ("torch", "kornia", "dm_pix", "cv2")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      shapes: Batch, height, width and channels; for volumes the depth comes before the height.
      passes: Passes to time: forward, forward+backward to theta, or to image and theta.
      dtypes: Dtypes of the images.
      only: Measure only peers whose names begin with one of these; all if empty.
      kernel: ``linear``; ``cubic`` with PyTorch's slope, on images, which PyTorch alone has; or
        ``bspline3``, beside SciPy, with rows for the spline's coefficients.
      implementation: Name of this library's engine; the best available one if ``None``.
      torch_compile: Whether to measure compiled PyTorch, too; not with ``--small``.
    """

    shapes: tuple[str, ...] = SHAPES
    passes: tuple[Pass, ...] = tuple(PASSES)
    dtypes: tuple[DTypeName, ...] = tuple(TOLERANCE)
    only: tuple[str, ...] = ()
    kernel: Literal["linear", "cubic", "bspline3"] = "linear"
    implementation: ImplementationName | None = None
    torch_compile: bool = True

    def cases(self) -> list[Case]:
        """One case for each row."""
        shapes = SMALL_SHAPES if self.small and self.shapes == SHAPES else self.shapes
        every = cases(shapes, self.dtypes, self.passes)
        return [case for case in every if self.kernel != "cubic" or len(case.space) == 2]


def candidates(case: Case, operands: Operands, arguments: Arguments) -> Iterator[Candidate]:
    """Ours, then the others."""
    compiled = arguments.torch_compile and not arguments.small
    spline = arguments.kernel == "bspline3"
    every = itertools.chain[Candidate](
        in_jax.affine_warps(case, operands, arguments.implementation, arguments.kernel),
        in_scipy.affine_warps(case, operands)
        if spline
        else in_torch.affine_warps(case, operands, compiled=compiled, kernel=arguments.kernel),
        in_opencv.affine_warps(case, operands),
    )
    peer = {"cubic": "PyTorch", "bspline3": in_scipy.NAME}.get(arguments.kernel)
    only = arguments.only if peer is None else (peer,)
    chosen = (in_jax.OURS, *only) if only else ("",)
    return (each for each in every if name_of(each).startswith(chosen))


def plan(arguments: Arguments) -> Iterator[Planned]:
    """A row for each case, and one for the coefficients of the splines through its images."""
    print(f"Not installed: {', '.join(missing(PEERS)) or 'none of the peers'}.")
    if in_torch.device() is None and "torch" not in missing(PEERS):
        print("PyTorch is left out: it sees no accelerator where JAX does.")
    for case in arguments.cases():
        labels = {"shape": records.shape_name(case.shape), "dtype": case.dtype}
        of_pass = labels | {"pass": PASSES[case.which]}
        yield Planned(of_pass, functools.partial(_warps, of_pass, case, arguments))
        if arguments.kernel == "bspline3" and case.which == "forward" and case.dtype == "float32":
            own = labels | {"pass": COEFFICIENTS}
            yield Planned(own, functools.partial(_coefficients, own, case, arguments))


def _warps(labels: dict[str, str], case: Case, arguments: Arguments) -> records.Row:
    """A row for the affine warps of a case."""
    operands = affine_operands(case, arguments.seed)
    row = measured_beside(
        labels,
        candidates(case, operands, arguments),
        arguments,
        tolerance=TOLERANCE[case.dtype],
        copy=in_jax.copy_of(case, operands),
        bytes_moved=case.bytes_moved,
        copied=2 * case.bytes_of_images,
    )
    in_torch.forget_compiled()
    return row


def _coefficients(labels: dict[str, str], case: Case, arguments: Arguments) -> records.Row:
    """A row for the coefficients of the splines through a case's images."""
    operands = affine_operands(case, arguments.seed)
    ours = in_jax.spline_coefficients(case, operands)
    every = [ours, *in_scipy.spline_coefficients(case, operands)]
    return measured_beside(labels, every, arguments, tolerance=TOLERANCE[case.dtype])


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("sampler", Arguments, __doc__, plan, command_line)


if __name__ == "__main__":
    main()
