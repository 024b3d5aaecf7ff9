"""The largest differences from PyTorch's ``affine_grid`` and ``grid_sample``.

It compares values, first derivatives for a random cotangent of order 1, and second derivatives. The
latter are the derivatives with respect to grid and image of a random combination of first
derivatives ("d² grid", "d² image"); PyTorch finds them by a second pass of autograd with
``create_graph=True``. A gradient with respect to θ is a sum over the output's pixels, and a
derivative along a coordinate grows with the image's size, so their differences are larger. The last
column is the largest difference of a row, divided by the largest entry of its quantity if that is
above 1.

Points within 1e-3 pixel of a kink get no cotangent and their values are not compared, since there
rounding decides between two sub-gradients.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

import stn_jax as stn
from benchmarks.accuracy.geometry import (
    OUR_KERNEL,
    PYTORCH_KERNEL,
    PYTORCH_PADDING,
    channels_first,
    channels_last,
    is_clear,
    pytorch,
    source_pixels,
)
from benchmarks.accuracy.tables import (
    Row,
    Table,
    combinations,
    largest_by_column,
    largest_by_dtype,
    largest_difference,
)
from stn_jax.sampling.padding import PaddingName

Cases = dict[str, list[tuple[tuple[int, ...], tuple[int, ...], bool]]]
# Shapes of input and output, and the alignment.
CASES: Cases = {
    "2-D": [((9, 12), (7, 5), False), ((32, 32), (32, 32), True)],
    "3-D": [((6, 7, 8), (5, 9, 4), False), ((4, 5, 6), (4, 5, 6), True)],
}
COLUMNS = ("grid", "value", "d theta", "d grid", "d image", "d² grid", "d² image")
CHANNELS_FIRST = ("value", "d image", "d² image")
DTYPES = ("float32", "float64")


class Operands(NamedTuple):
    """Random operands in NumPy; the last two combine the first derivatives into one number."""

    image: np.ndarray
    theta: np.ndarray
    cotangent: np.ndarray
    along_image: np.ndarray
    along_grid: np.ndarray


class Mode(NamedTuple):
    """How to sample; static under ``jax.jit``."""

    kernel: str
    padding: PaddingName
    out_shape: tuple[int, ...]
    align_corners: bool


def random_operands(
    rng: np.random.Generator, mode: Mode, shape: tuple[int, ...], dtype: str
) -> tuple[Operands, np.ndarray]:
    """Random operands, and a mask of output points away from kinks."""
    ndim = len(shape)
    theta = np.eye(ndim, ndim + 1) + 0.3 * rng.normal(size=(ndim, ndim + 1))
    pixels = source_pixels(theta, shape, mode.out_shape, mode.align_corners)
    clear = is_clear(pixels, mode.kernel)[..., None]
    image, along_image = rng.normal(size=(2, *shape, 3))
    cotangent = rng.normal(size=(*mode.out_shape, 3)) * clear
    along_grid = rng.normal(size=(*mode.out_shape, ndim))
    operands = Operands(image, theta, cotangent, along_image, along_grid)
    return Operands(*(each.astype(dtype) for each in operands)), clear


@functools.partial(jax.jit, static_argnames="mode")
def our_results(operands: Operands, mode: Mode) -> tuple[jax.Array, ...]:
    """The values of the columns, from this library."""
    image, theta, cotangent, *along = operands

    def first_derivatives(image: jax.Array, grid: jax.Array) -> tuple[Any, jax.Array]:
        sample = functools.partial(
            stn.grid_sample,
            kernel=OUR_KERNEL[mode.kernel],
            padding=mode.padding,
            align_corners=mode.align_corners,
        )
        value, pull_back = jax.vjp(sample, image, grid)
        return pull_back(cotangent), value

    make_grid = functools.partial(
        stn.affine_grid, shape=mode.out_shape, align_corners=mode.align_corners
    )
    grid, to_theta = jax.vjp(make_grid, theta)
    (d_image, d_grid), pull_back, value = jax.vjp(first_derivatives, image, grid, has_aux=True)
    d2_image, d2_grid = pull_back(tuple(along))
    return grid, value, to_theta(d_grid)[0], d_grid, d_image, d2_grid, d2_image


def their_results(operands: Operands, mode: Mode) -> dict[str, np.ndarray | None]:
    """The values of the columns, from PyTorch; ``None`` for what it refuses to compute."""
    torch = pytorch()
    assert torch is not None
    image, cotangent, along_image = (
        torch.tensor(channels_first(each))
        for each in (operands.image, operands.cotangent, operands.along_image)
    )
    theta, along_grid = torch.tensor(operands.theta[None]), torch.tensor(operands.along_grid[None])
    image.requires_grad_()
    theta.requires_grad_()
    size = (1, image.shape[1], *mode.out_shape)
    grid = torch.nn.functional.affine_grid(theta, size, align_corners=mode.align_corners)
    value = torch.nn.functional.grid_sample(
        image,
        grid,
        mode=PYTORCH_KERNEL[mode.kernel],
        padding_mode=PYTORCH_PADDING[mode.padding],
        align_corners=mode.align_corners,
    )
    d_grid, d_image = torch.autograd.grad(value, (grid, image), cotangent, create_graph=True)
    (d_theta,) = torch.autograd.grad(grid, theta, d_grid, retain_graph=True)
    total = (d_grid * along_grid).sum() + (d_image * along_image).sum()
    try:
        # Zeros, not ``None``, for what the total does not depend on.
        second = torch.autograd.grad(total, (grid, image), materialize_grads=True)
    except RuntimeError:
        second = None, None
    tensors = grid, value, d_theta, d_grid, d_image, *second
    return {
        name: None if tensor is None else _array(tensor, name)
        for name, tensor in zip(COLUMNS, tensors, strict=True)
    }


def _array(tensor: Any, column: str) -> np.ndarray:
    array = tensor.detach().numpy()
    return channels_last(array) if column in CHANNELS_FIRST else array[0]


def differences(
    image: str, dtype: str, kernel: str, padding: PaddingName, trials: int, cases: Cases = CASES
) -> Row:
    """The largest differences over random operands, and the share of points away from kinks."""
    rng = np.random.default_rng(1)
    found, clear_shares = [], []
    for shape, out_shape, align_corners in cases[image]:
        mode = Mode(kernel, padding, out_shape, align_corners)
        for _ in range(trials):
            operands, clear = random_operands(rng, mode, shape, dtype)
            with jax.enable_x64(dtype == "float64"):
                ours = dict(zip(COLUMNS, our_results(operands, mode), strict=True))
            theirs = their_results(operands, mode)
            for results in (ours, theirs):
                results["value"] = np.asarray(results["value"]) * clear
            found.append(_differences(ours, theirs))
            clear_shares.append(clear.mean())
    return largest_by_column(found) | {"clear": float(np.mean(clear_shares))}


def _differences(ours: dict[str, Any], theirs: dict[str, Any]) -> Row:
    """The largest difference of each quantity, and the largest relative one of all."""
    differences = {
        name: None if each is None else largest_difference(ours[name], each)
        for name, each in theirs.items()
    }
    sizes = {name: np.abs(each).max() for name, each in theirs.items() if each is not None}
    shares = [differences[name] / max(1.0, size) for name, size in sizes.items()]
    return differences | {"relative": float(np.max(shares))}


def _verdict(rows: list[Row]) -> str:
    doubly = sum(row["d² grid"] is not None for row in rows)
    masked = max(1 - row["clear"] for row in rows)
    return (
        f"largest difference of a value: {largest_by_dtype(rows, ['value'])}; of anything, as a "
        f"share of its size: {largest_by_dtype(rows, ['relative'])}; PyTorch has second "
        f"derivatives in {doubly} of {len(rows)} rows; within 1e-3 pixel of a kink, and left out, "
        f"were at most {masked:.1%} of the points"
    )


def table(trials: int) -> Table:
    """Kernels, paddings, dtypes; images and volumes."""
    torch = pytorch()
    assert torch is not None
    modes = combinations(
        image=list(CASES), dtype=DTYPES, kernel=list(PYTORCH_KERNEL), padding=list(PYTORCH_PADDING)
    )
    return Table(
        title=f"Largest differences from PyTorch {torch.__version__}, {trials} random θ for each "
        "of 2 alignments",
        # PyTorch has no cubic kernel for volumes.
        cases=[mode for mode in modes if (mode["image"], mode["kernel"]) != ("3-D", "cubic")],
        columns=(*COLUMNS, "relative"),
        measure=functools.partial(differences, trials=trials),
        verdict=_verdict,
    )
