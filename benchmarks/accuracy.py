"""How exact the library is: the identity, and the largest differences from PyTorch.

``python -m benchmarks.accuracy`` prints both tables; the second needs PyTorch.

The differences are the largest absolute ones over random θ and sizes, of values and of the
gradients with respect to θ, the sampling grid and the image, for a random cotangent of order 1.
A gradient with respect to θ is a sum over the output's pixels, so its differences are larger.
Points whose pixel coordinate is within 1e-3 of a kink get no cotangent, since there rounding
alone decides between two sub-gradients.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from stn_jax.sampling.kernels import KERNELS
from stn_jax.sampling.padding import PADDINGS

FAMILIES = [
    *(make(ndim=n) for n in (2, 3) for make in (stn.translation, stn.rigid, stn.similarity)),
    *(make(ndim=n) for n in (2, 3) for make in (stn.attention, stn.affine)),
    stn.projective(),
    stn.thin_plate_spline(),
    stn.displacement((4, 4)),
    stn.chain(stn.affine(), stn.rigid()),
    stn.bounded(stn.projective(), radius=0.5),
]
DTYPES = ("bfloat16", "float16", "float32", "float64")
PYTORCH_KERNEL = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
OUR_KERNEL = {"nearest": "nearest", "linear": "linear", "cubic": stn.cubic(a=-0.75)}
PYTORCH_PADDING = {"constant": "zeros", "border": "border", "reflection": "reflection"}
# Input and output shapes; each is compiled once for each mode.
SHAPES = [((9, 12), (7, 5)), ((32, 32), (32, 32)), ((5, 64), (40, 3)), ((6, 7, 8), (5, 9, 4))]


def identity_differences() -> Iterator[tuple[str, float]]:
    """The largest change by a warp with the identity's parameters, for each dtype."""
    rng = np.random.default_rng(0)

    @functools.partial(jax.jit, static_argnames=("kernel", "padding", "align_corners"))
    def largest_change(images: Any, thetas: Any, **options: Any) -> jax.Array:
        # One compilation for all families; the parameters are arguments, not constants.
        changes = []
        for transform, theta in zip(FAMILIES, thetas, strict=True):
            image = images[transform.ndim]
            warped = stn.warp(image, transform, theta, **options)
            changes.append(jnp.abs(warped.astype(float) - image.astype(float)).max())
        return jnp.stack(changes).max()

    for dtype in DTYPES:
        largest = 0.0
        with jax.enable_x64(dtype == "float64"):
            thetas = [jnp.asarray(transform.identity, jnp.float32) for transform in FAMILIES]
            for kernel, padding, align_corners in itertools.product(KERNELS, PADDINGS, (0, 1)):
                shapes = {2: (13, 8), 3: (4, 5, 6)}
                images = {
                    ndim: jnp.asarray(rng.normal(size=(*shape, 2)), dtype)
                    for ndim, shape in shapes.items()
                }
                options = {"kernel": kernel, "padding": padding}
                change = largest_change(
                    images, thetas, **options, align_corners=bool(align_corners)
                )
                largest = max(largest, float(change))
        yield dtype, largest


def differences_from_pytorch(
    kernel: str, padding: str, dtype: str, trials: int
) -> dict[str, float]:
    """The largest differences from ``affine_grid`` and ``grid_sample``, both alignments."""
    import torch

    rng = np.random.default_rng(1)
    largest = dict.fromkeys(("grid", "value", "d theta", "d grid", "d image"), 0.0)
    for (shape, out_shape), align_corners in itertools.product(SHAPES, (False, True)):
        ndim = len(shape)
        if kernel == "cubic" and ndim == 3:  # PyTorch has none.
            continue

        def ours(image: Any, grid: Any, align_corners: bool = align_corners) -> jax.Array:
            return stn.grid_sample(
                image,
                grid,
                kernel=OUR_KERNEL[kernel],
                padding=padding,
                align_corners=align_corners,
            )

        @jax.jit
        def run(
            image: Any,
            theta: Any,
            cotangent: Any,
            out_shape: tuple[int, ...] = out_shape,
            align_corners: bool = align_corners,
            ours: Any = ours,
        ) -> tuple[jax.Array, ...]:
            def make_grid(theta: Any) -> jax.Array:
                return stn.affine_grid(theta, out_shape, align_corners=align_corners)

            grid, to_theta = jax.vjp(make_grid, theta)
            value, to_operands = jax.vjp(ours, image, grid)
            image_bar, grid_bar = to_operands(cotangent)
            return grid, value, to_theta(grid_bar)[0], grid_bar, image_bar

        for _ in range(trials):
            image = rng.normal(size=(*shape, 3)).astype(dtype)
            theta = np.eye(ndim, ndim + 1) + 0.3 * rng.normal(size=(ndim, ndim + 1))
            theta = theta.astype(dtype)
            their_theta = torch.tensor(theta[None], requires_grad=True)
            their_image = torch.tensor(np.moveaxis(image, -1, 0)[None], requires_grad=True)
            their_grid = torch.nn.functional.affine_grid(
                their_theta, [1, 3, *out_shape], align_corners=align_corners
            )
            their_grid.retain_grad()
            theirs = torch.nn.functional.grid_sample(
                their_image,
                their_grid,
                mode=PYTORCH_KERNEL[kernel],
                padding_mode=PYTORCH_PADDING[padding],
                align_corners=align_corners,
            )
            sizes = np.array(shape[::-1], float)
            points = their_grid.detach().numpy()[0].astype(float)
            scale = (sizes - 1) / 2 if align_corners else sizes / 2
            pixels = points * scale + (sizes - 1) / 2
            kink = 0.5 if kernel == "nearest" else 0.0
            clear = (np.abs((pixels - kink + 0.5) % 1 - 0.5) > 1e-3).all(-1)
            cotangent = rng.normal(size=(*out_shape, 3)) * clear[..., None]
            cotangent = cotangent.astype(dtype)
            theirs.backward(torch.tensor(np.moveaxis(cotangent, -1, 0)[None]))
            with jax.enable_x64(dtype == "float64"):
                results = run(jnp.asarray(image), jnp.asarray(theta), jnp.asarray(cotangent))
            expected = (
                their_grid.detach()[0],
                np.moveaxis(theirs.detach().numpy()[0], 0, -1) * clear[..., None],
                their_theta.grad[0],
                their_grid.grad[0],
                np.moveaxis(their_image.grad.numpy()[0], 0, -1),
            )
            found = [np.asarray(result) for result in results]
            found[1] = found[1] * clear[..., None]
            for name, a, b in zip(largest, found, expected, strict=True):
                largest[name] = max(largest[name], float(np.abs(a - np.asarray(b)).max()))
    return largest


def main() -> None:
    """Prints the tables."""
    combinations = len(FAMILIES) * len(KERNELS) * len(PADDINGS) * 2
    print("Largest change by the identity", end=" ")
    print(f"({combinations} of family × kernel × padding × alignment for each dtype)")
    for dtype, largest in identity_differences():
        print(f"  {dtype:9}{largest:g}")
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed; the second table is left out.")
        return
    trials = 25
    print(f"\nLargest differences from PyTorch {torch.__version__}", end=" ")
    print(f"({trials * len(SHAPES) * 2} random θ for each row)")
    header = ("grid", "value", "d theta", "d grid", "d image")
    print(f"  {'kernel':9}{'padding':10}{'dtype':9}" + "".join(f"{name:>10}" for name in header))
    for dtype, kernel, padding in itertools.product(
        ("float32", "float64"), PYTORCH_KERNEL, PYTORCH_PADDING
    ):
        row = differences_from_pytorch(kernel, padding, dtype, trials)
        numbers = "".join(f"{row[name]:10.1e}" for name in header)
        print(f"  {kernel:9}{padding:10}{dtype:9}{numbers}", flush=True)


if __name__ == "__main__":
    main()
