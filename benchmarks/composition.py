"""Costs of new and of chained transforms: ``python -m benchmarks.composition``.

Prints two tables. First, a loop of warps by thin plate splines, each with control points of its
own: its time, and the memory that it leaves allocated, in the process and in JAX's arrays. Second,
how long tracing and compiling takes for the gradient to theta and points of a chain of n
displacement lattices, all of one shape and each of its own.

It needs nothing but the library and NumPy, so that a copy of it also measures an earlier one.
"""

import argparse
import gc
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn

LENGTHS = (1, 2, 4, 8)


def resident() -> float:
    """MiB of memory that the process holds, by Linux's account."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def of_arrays() -> float:
    """MiB of JAX's arrays that are alive."""
    gc.collect()
    return float(sum(array.nbytes for array in jax.live_arrays())) / 2**20


def fresh_control_points(warps: int) -> tuple[float, float, float, float]:
    """Seconds of the first warp and of all others, and MiB that these leave: resident, arrays."""
    image = jnp.ones((64, 64, 1))
    rng = np.random.default_rng(0)

    def warp() -> None:
        points = rng.uniform(-1, 1, (8, 2))
        theta = jnp.asarray(points.ravel() + 0.05, jnp.float32)
        spline = stn.thin_plate_spline(control_points=points)
        jax.block_until_ready(stn.warp(image, spline, theta))

    start = time.perf_counter()
    warp()
    first = time.perf_counter() - start
    arrays, held = of_arrays(), resident()
    start = time.perf_counter()
    for _ in range(warps - 1):
        warp()
    others = time.perf_counter() - start
    return first, others, resident() - held, of_arrays() - arrays


def gradient_of_chain(shapes: list[tuple[int, int]]) -> tuple[float, float]:
    """Seconds to trace, and to compile, for lattices of these shapes."""
    t = stn.chain(*map(stn.displacement, shapes))
    points = jnp.zeros((1024, t.ndim))

    def loss(theta: jax.Array, points: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(t.apply(theta, points)))

    jax.clear_caches()
    start = time.perf_counter()
    lowered = jax.jit(jax.grad(loss, (0, 1))).lower(jnp.zeros(t.num_params), points)
    traced = time.perf_counter()
    lowered.compile()
    return traced - start, time.perf_counter() - traced


def main(command_line: list[str] | None = None) -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--warps", type=int, default=200, help="warps of the loop")
    parser.add_argument("--rounds", type=int, default=3, help="compilations; the middle counts")
    arguments = parser.parse_args(command_line)
    jax.config.update("jax_compilation_cache_dir", None)  # no programs of earlier runs
    first, others, stays, arrays = fresh_control_points(arguments.warps)
    print(f"{arguments.warps} warps, 64×64 pixels, 8 fresh control points each")
    print(f"{'the first':40}{1e3 * first:10.1f} ms")
    each = others / (arguments.warps - 1)
    print(f"{'each other':40}{1e3 * each:10.1f} ms")
    print(f"{'all':40}{first + others:10.2f} s")
    print(f"{'stays resident after the others':40}{stays:10.1f} MiB")
    print(f"{'stays in arrays after the others':40}{arrays:10.3f} MiB")
    print("\nGradient of a chain of n displacement lattices, 1024 points")
    print(f"{'':28}{'n':>4}{'trace, s':>12}{'compile, s':>12}{'compile, s for each':>22}")
    gradient_of_chain([(3, 3)])  # What JAX loads at its first compilation.
    for length in LENGTHS:
        own = [(4 + k, 5) for k in range(length)]
        for name, shapes in {
            "of one shape": [(5, 5)] * length,
            "each of its own shape": own,
        }.items():
            seconds = [gradient_of_chain(shapes) for _ in range(arguments.rounds)]
            trace, built = np.median(seconds, axis=0)
            row = f"{name:28}{length:4}{trace:12.2f}{built:12.2f}{built / length:22.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
