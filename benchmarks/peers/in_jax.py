"""This library and others that run on JAX."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy import ndimage

import stn_jax as stn
from benchmarks.harness import memory
from benchmarks.harness.contenders import Contender, Skipped
from benchmarks.peers.cases import RESULTS, Case, Operands, optional
from stn_jax import conversions
from stn_jax.sampling.backends.base import ImplementationName
from stn_jax.sampling.padding import PaddingName

# Takes one image and its theta, gives the warped image.
Warp = Callable[[jax.Array, jax.Array], jax.Array]
Arrays = tuple[jax.Array, jax.Array, jax.Array]

OURS = "stn_jax"


def jitted(warp: Warp, case: Case, operands: Operands) -> tuple[jax.stages.Wrapped, Arrays]:
    """Maps a warp of one image over the batch, and differentiates it for the case's pass.

    Returns:
      A jitted function that gives the case's results, and its arguments.
    """
    batched = jax.vmap(warp)

    @jax.jit
    def compute(image: jax.Array, theta: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, ...]:
        if case.which == "forward":
            return (batched(image, theta),)
        if case.which == "theta":
            value, pull_back = jax.vjp(lambda theta: batched(image, theta), theta)
            return value, *pull_back(cotangent)
        value, pull_back = jax.vjp(batched, image, theta)
        d_image, d_theta = pull_back(cotangent)
        return value, d_theta, d_image

    arrays = (
        jnp.asarray(operands.image, case.dtype),
        jnp.asarray(operands.theta),
        jnp.asarray(operands.cotangent, case.dtype),
    )
    return compute, arrays


def contender(name: str, warp: Warp, case: Case, operands: Operands) -> Contender:
    """The contender of a warp of one image."""
    compute, arrays = jitted(warp, case, operands)
    run = compute.lower(*arrays).compile()

    def results() -> dict[str, np.ndarray]:
        values = (np.asarray(value, np.float32) for value in run(*arrays))
        return dict(zip(RESULTS[case.which], values, strict=True))

    return Contender(
        name,
        lambda: jax.block_until_ready(run(*arrays)),
        results,
        lambda: memory.of_jax(run),
    )


def affine_warps(
    case: Case,
    operands: Operands,
    implementation: ImplementationName | None = None,
    kernel: str = "linear",
) -> Iterator[Contender | Skipped]:
    """The contenders; ours comes first, with the given engine and kernel, the others are linear."""
    ndim = len(case.space)
    options: dict[str, Any] = {
        "kernel": stn.cubic(a=-0.75) if kernel == "cubic" else kernel,
        "implementation": implementation,
    }

    def ours(image: jax.Array, theta: jax.Array, padding: PaddingName = "constant") -> jax.Array:
        transform = stn.affine(ndim=ndim)
        return stn.warp(image, transform, theta, padding=padding, **options)

    yield contender(OURS, ours, case, operands)
    yield contender("map_coordinates", map_coordinates, case, operands)
    pix = optional("dm_pix")
    if pix is None:
        return
    if ndim != 2:
        yield Skipped("dm_pix", "its affine_transform takes images only")
        return

    def dm_pix(image: jax.Array, theta: jax.Array) -> jax.Array:
        matrix = _pixel_matrix(image, theta)
        turned = jnp.eye(4).at[:2, :2].set(jnp.flip(matrix[:, :2]))
        turned = turned.at[:2, 3].set(jnp.flip(matrix[:, 2]))
        return pix.affine_transform(image, turned, mode="nearest")

    # dm_pix fills constant padding already where one neighbour lies outside.
    ours_too = functools.partial(ours, padding="border")
    yield contender("dm_pix", dm_pix, case, operands)._replace(
        expected=lambda: contender(OURS, ours_too, case, operands).results()
    )


def spline_coefficients(case: Case, operands: Operands) -> Contender:
    """The coefficients of the cubic splines through the images."""
    images = jnp.asarray(operands.image)
    run = jax.jit(jax.vmap(stn.spline_coefficients)).lower(images).compile()
    return Contender(
        OURS,
        lambda: jax.block_until_ready(run(images)),
        lambda: {"value": np.asarray(run(images))},
        lambda: memory.of_jax(run),
    )


def copy_of(case: Case, operands: Operands) -> Callable[[], object]:
    """Copies the images, to measure the memory's bandwidth."""
    image, copy = jnp.asarray(operands.image, case.dtype), jax.jit(jnp.copy)
    return lambda: jax.block_until_ready(copy(image))


def map_coordinates(image: jax.Array, theta: jax.Array) -> jax.Array:
    """``jax.scipy.ndimage.map_coordinates`` over the channels."""
    *space, _ = image.shape
    index = jnp.indices(space)[::-1]
    matrix = _pixel_matrix(image, theta)
    pixels = [
        sum(matrix[k, j] * index[j] for j in range(len(space))) + matrix[k, -1]
        for k in range(len(space))
    ]
    sample = jax.vmap(
        lambda channel: ndimage.map_coordinates(channel, pixels[::-1], order=1), -1, -1
    )
    return sample(image)


def _pixel_matrix(image: jax.Array, theta: jax.Array) -> jax.Array:
    """The matrix from output pixels to input pixels."""
    space = image.shape[:-1]
    return conversions.pixel_matrix(theta.reshape(len(space), -1), space, space)
