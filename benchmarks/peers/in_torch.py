"""PyTorch, and Kornia on top of it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import memory
from benchmarks.harness.contenders import Contender
from benchmarks.harness.environment import threads
from benchmarks.peers.cases import RESULTS, Case, Operands, optional
from stn_jax import conversions

# Takes a batch of images and its parameters, gives the warped images, channels first.
Warp = Callable[[Any, Any], Any]
# Converts theta [batch, params] to a peer's own parameters, [batch, ...].
ToParameters = Callable[[jax.Array], jax.Array]
LAYOUTS = ("channels first", "channels last")


def device() -> str | None:
    """PyTorch's name of JAX's device; ``None`` if PyTorch is missing or lacks such a device."""
    torch = optional("torch")
    if torch is None:
        return None
    torch.set_num_threads(threads())
    if jax.default_backend() == "cpu":
        return "cpu"
    return "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else None


def contender(
    name: str,
    warp: Warp,
    case: Case,
    operands: Operands,
    *,
    to_parameters: ToParameters,
    layout: str = LAYOUTS[0],
) -> Contender:
    """The contender of a warp of a batch, differentiated for the case's pass.

    Theta is converted to the peer's parameters, and their gradient to theta's, outside of the timed
    call.
    """
    import torch

    where = device()
    parameters, pull_back = jax.vjp(to_parameters, jnp.asarray(operands.theta))
    theta = torch.tensor(np.asarray(parameters), device=where)
    image, cotangent = (
        _channels_first(each, case, layout, where) for each in (operands.image, operands.cotangent)
    )
    theta.requires_grad_(case.which != "forward")
    image.requires_grad_(case.which == "image")

    def compute() -> tuple[Any, ...]:
        if case.which == "forward":
            with torch.no_grad():
                return (warp(image, theta),)
        leaves = (theta,) if case.which == "theta" else (theta, image)
        value = warp(image, theta)
        return value, *torch.autograd.grad(value, leaves, cotangent)

    def run() -> tuple[Any, ...]:
        values = compute()
        if where == "cuda":
            torch.cuda.synchronize()
        return values

    def results() -> dict[str, np.ndarray]:
        values = [value.detach().float().cpu().numpy() for value in run()]
        found = dict(zip(RESULTS[case.which], values, strict=True))
        for each in {"value", "d image"} & found.keys():
            found[each] = np.moveaxis(found[each], 1, -1)
        if "d theta" in found:
            found["d theta"] = np.asarray(pull_back(jnp.asarray(found["d theta"]))[0])
        return found

    arguments = [image, theta] if case.which == "forward" else [image, theta, cotangent]
    return Contender(name, run, results, lambda: memory.of_torch(run, arguments))


def affine_warps(
    case: Case, operands: Operands, *, compiled: bool, kernel: str = "linear"
) -> Iterator[functools.partial[Contender]]:
    """Functions that make contenders, as making one may fail; none without PyTorch.

    ``kernel`` is that of PyTorch's ``grid_sample``, linear or cubic.
    """
    if device() is None:
        return
    import torch

    sample = functools.partial(grid_sample, mode={"linear": "bilinear", "cubic": "bicubic"}[kernel])
    ndim = len(case.space)
    as_matrix = lambda theta: theta.reshape(-1, ndim, ndim + 1)  # noqa: E731
    for layout in LAYOUTS:
        make = functools.partial(
            contender, case=case, operands=operands, to_parameters=as_matrix, layout=layout
        )
        yield functools.partial(make, f"PyTorch, {layout}", in_float32(sample))
        if compiled:
            fast = torch.compile(in_float32(sample), dynamic=False)
            yield functools.partial(make, f"PyTorch compiled, {layout}", fast)
    transform = optional("kornia.geometry.transform")
    if transform is None:
        return
    make = functools.partial(contender, case=case, operands=operands)
    if ndim == 3:
        yield functools.partial(
            make,
            "Kornia warp_affine3d",
            in_float32(lambda image, m: transform.warp_affine3d(image, m, case.space)),
            to_parameters=lambda theta: _forward_pixels(as_matrix(theta), case.space)[:, :3],
        )
        return
    yield functools.partial(
        make,
        "Kornia warp_affine",
        in_float32(lambda image, m: transform.warp_affine(image, m, case.space)),
        to_parameters=lambda theta: _forward_pixels(as_matrix(theta), case.space)[:, :2],
    )
    yield functools.partial(
        make,
        "Kornia warp_perspective",
        in_float32(lambda image, m: transform.warp_perspective(image, m, case.space)),
        to_parameters=lambda theta: _forward_pixels(as_matrix(theta), case.space),
    )


def in_float32(warp: Warp) -> Warp:
    """The warp in float32, as PyTorch's autocast does: bfloat16 grids are too coarse for pixels."""
    return lambda image, parameters: warp(image.float(), parameters).to(image.dtype)


def grid_sample(image: Any, matrix: Any, mode: str = "bilinear") -> Any:
    """``affine_grid`` and ``grid_sample``."""
    from torch.nn import functional

    grid = functional.affine_grid(matrix, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, mode=mode, align_corners=False)


def forget_compiled() -> None:
    """Drops the programs of ``torch.compile``, which keeps only a limited number."""
    torch = optional("torch")
    if torch is not None:
        torch.compiler.reset()


def _forward_pixels(matrices: jax.Array, space: tuple[int, ...]) -> jax.Array:
    """Homogeneous maps from input to output pixels, as Kornia takes them."""
    ndim = len(space)
    last = jnp.broadcast_to(jnp.eye(ndim + 1)[-1:], (len(matrices), 1, ndim + 1))
    square = jnp.concatenate([matrices, last], axis=1)
    return jnp.linalg.inv(jax.vmap(lambda m: conversions.pixel_matrix(m, space, space))(square))


def _channels_first(images: np.ndarray, case: Case, layout: str, where: str | None) -> Any:
    """Images as ``[batch, channels, *space]``, in one of two orders in memory."""
    import torch

    first = np.ascontiguousarray(np.moveaxis(images, -1, 1))
    tensor = torch.tensor(first, device=where, dtype=getattr(torch, case.dtype))
    if layout == LAYOUTS[0]:
        return tensor
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.to(memory_format=formats[tensor.ndim])
