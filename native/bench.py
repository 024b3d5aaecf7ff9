"""Times of the handlers, and of PyTorch's counterparts where it is installed.

Run as ``python bench.py [--only WORD] [--seconds N]``. The numbers are milliseconds, minima of many
calls in turns. Ours include one elementwise XLA pass that makes the coordinates from affine maps.
PyTorch's forward includes ``affine_grid``; its backward is that of ``grid_sample`` alone.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import stn_jax_native

try:
    import torch
except ImportError:
    torch = None

SHAPES = [
    (256, 28, 28, 1),
    (32, 56, 56, 64),
    (16, 224, 224, 3),
    (4, 512, 512, 3),
    (4, 64, 64, 64, 1),
]


def near_identity(rng, ndim):
    """An affine map that turns, scales and shifts a little: ``[ndim, ndim + 1]``."""
    linear = np.eye(ndim)
    for first in range(ndim - 1):
        c, s = np.cos(angle := rng.uniform(-0.3, 0.3)), np.sin(angle)
        turn = np.eye(ndim)
        turn[first : first + 2, first : first + 2] = [[c, -s], [s, c]]
        linear = turn @ linear
    linear = linear * rng.uniform(0.8, 1.2, ndim)
    return np.concatenate([linear, rng.uniform(-0.1, 0.1, (ndim, 1))], axis=1).astype(np.float32)


def pixel_coordinates(theta, space):
    """Coordinates x, y, z, each ``[batch, *space]``; maps are on [−1, 1] between outer edges."""
    ndim = len(space)
    shape = [1] * ndim
    grid = []
    for axis in range(ndim - 1, -1, -1):
        line = (2 * jnp.arange(space[axis], dtype=jnp.float32) + 1) / space[axis] - 1
        grid.append(line.reshape([-1 if a == axis else s for a, s in enumerate(shape)]))
    result = []
    for j in range(ndim):
        row = theta[:, j].reshape(-1, ndim + 1, *shape)
        where = sum(row[:, i] * grid[i] for i in range(ndim)) + row[:, ndim]
        size = space[ndim - 1 - j]
        result.append(((where + 1) * size - 1) / 2)
    return [jnp.broadcast_to(c, (theta.shape[0], *space)) for c in result]


def handler(name, results, *operands, **attributes):
    """A call of one handler."""
    types = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in results]
    attributes = {
        key: value if isinstance(value, np.ndarray) else np.int64(value)
        for key, value in attributes.items()
    }
    return jax.ffi.ffi_call(name, types)(*operands, **attributes)


LINEAR = {
    "num_batch_dims": 1,
    "taps": 2,
    "coefficients": np.array([1.0, -1.0, 0.0, 1.0]),
    "padding": 0,
    "align_corners": 0,
}


def sampling(shape, dtype):
    """Runs of ours and PyTorch's by the name of the pass."""
    batch, *space, channels = shape
    ndim = len(space)
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=shape), dtype)
    cotangent = jnp.asarray(rng.normal(size=shape), dtype)
    fill = jnp.zeros((batch, channels), dtype)
    theta = jnp.asarray(np.stack([near_identity(rng, ndim) for _ in range(batch)]))
    one = ((batch, *space), np.float32)

    @functools.partial(jax.jit, static_argnums=(3, 4))
    def ours(theta, image, cotangent, wrt_image, backward):
        cs = pixel_coordinates(theta, space)
        if not backward:
            operands = (image, fill, *cs)
            return handler("stn_jax_sample", [(shape, dtype)], *operands, ndim=ndim, **LINEAR)
        results = [(shape, dtype)] * wrt_image + [one] * ndim
        operands = (image, fill, *cs, cotangent)
        wrt = {"wrt_image": wrt_image, "wrt_coordinates": 1}
        return handler("stn_jax_sample_pull", results, *operands, ndim=ndim, **wrt, **LINEAR)

    def run(*which):
        return lambda: jax.block_until_ready(ours(theta, image, cotangent, *which))

    runs = {"forward": run(False, False), "to coordinates": run(False, True)}
    runs["to image and coordinates"] = run(True, True)
    # PyTorch 2.13's gradient of grid_sample in bfloat16 writes outside its arrays and crashes.
    comparable = torch and dtype == jnp.float32
    return runs, sampling_by_torch(image, cotangent, theta) if comparable else {}


def sampling_by_torch(image, cotangent, theta):
    """Forward alone, and the backward alone of ``grid_sample``, channels first."""
    image = torch.from_numpy(np.moveaxis(np.asarray(image), -1, 1).copy())
    cotangent = torch.from_numpy(np.moveaxis(np.asarray(cotangent), -1, 1).copy())
    theta = torch.from_numpy(np.array(theta))
    size = list(image.shape)
    op = torch.nn.functional

    def forward():
        with torch.no_grad():
            op.grid_sample(
                image, op.affine_grid(theta, size, align_corners=False), align_corners=False
            )

    def backward(wrt_image):
        grid = op.affine_grid(theta, size, align_corners=False).detach().requires_grad_()
        leaf = image.detach().requires_grad_(wrt_image)
        value = op.grid_sample(leaf, grid, align_corners=False)
        wrt = (grid, leaf) if wrt_image else (grid,)
        return lambda: torch.autograd.grad(value, wrt, cotangent, retain_graph=True)

    return {
        "forward": forward,
        "to coordinates": backward(False),
        "to image and coordinates": backward(True),
    }


def cubic(shape):
    """Taps of a cubic kernel, found by XLA outside the time."""
    batch, *space, channels = shape
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=shape), jnp.float32)
    cotangent = jnp.asarray(rng.normal(size=shape), jnp.float32)
    fill = jnp.zeros((batch, channels), jnp.float32)
    theta = jnp.asarray(np.stack([near_identity(rng, 2) for _ in range(batch)]))
    indices, weights = [], []
    for c, n in zip(pixel_coordinates(theta, space), space[::-1], strict=True):
        first = jnp.floor(c)
        f = c - first
        i = jnp.stack([first.astype(jnp.int32) + k for k in range(-1, 3)], axis=1)
        indices.append(jnp.where((i >= 0) & (i < n), i, -1))
        a = -0.75
        d = jnp.stack([1 + f, f, 1 - f, 2 - f], axis=1)
        inner, outer = ((a + 2) * d - (a + 3)) * d * d + 1, ((d - 5) * d + 8) * d * a - 4 * a
        weights.append(jnp.where(d <= 1, inner, outer))
    return taps_runs(image, fill, indices, weights, cotangent), (
        cubic_by_torch(image, cotangent, theta) if torch else {}
    )


def cubic_by_torch(image, cotangent, theta):
    """``grid_sample`` in mode bicubic."""
    image = torch.from_numpy(np.moveaxis(np.asarray(image), -1, 1).copy())
    cotangent = torch.from_numpy(np.moveaxis(np.asarray(cotangent), -1, 1).copy())
    op = torch.nn.functional
    grid = op.affine_grid(torch.from_numpy(np.array(theta)), list(image.shape), align_corners=False)
    leaves = grid.clone().requires_grad_(), image.clone().requires_grad_()
    value = op.grid_sample(leaves[1], leaves[0], mode="bicubic", align_corners=False)

    def forward():
        with torch.no_grad():
            op.grid_sample(image, grid, mode="bicubic", align_corners=False)

    return {
        "forward": forward,
        "to image and weights": lambda: torch.autograd.grad(
            value, leaves, cotangent, retain_graph=True
        ),
    }


def lattice(points):
    """A cubic B-spline lattice of 8 × 8 × 2."""
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.normal(size=(1, 8, 8, 2)), jnp.float32)
    fill = jnp.zeros((1, 2), jnp.float32)
    side = int(points**0.5)
    y, x = np.meshgrid(np.linspace(0, 4.99, side), np.linspace(0, 4.99, side), indexing="ij")
    indices, weights = [], []
    for c in (x, y):
        first = np.floor(c).reshape(1, 1, -1)
        f = c.reshape(1, 1, -1) - first
        weight = [(1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3]
        weights.append(jnp.asarray(np.concatenate(weight, axis=1) / 6, jnp.float32))
        steps = np.arange(4).reshape(1, 4, 1)
        indices.append(jnp.asarray(first + steps, jnp.int32))
    cotangent = jnp.asarray(rng.normal(size=(1, side * side, 2)), jnp.float32)
    return taps_runs(image, fill, indices, weights, cotangent), {}


def taps_runs(image, fill, indices, weights, cotangent):
    """Runs of the general contraction."""
    base = {"num_batch_dims": 1, "ndim": 2}
    result = [(cotangent.shape, cotangent.dtype)]
    d_image = (image.shape, image.dtype)
    d_weights = [(w.shape, w.dtype) for w in weights]
    operands = (image, fill, *indices, *weights)

    def run(name, results, *operands, **attributes):
        fn = jax.jit(lambda *a: handler(name, results, *a, **base, **attributes))
        return lambda: jax.block_until_ready(fn(*operands))

    pull = functools.partial(run, "stn_jax_taps_pull")
    return {
        "forward": run("stn_jax_taps", result, *operands),
        "to image": pull([d_image], *operands, cotangent, wrt_image=1, wrt_weights=0),
        "to image and weights": pull(
            [d_image, *d_weights], *operands, cotangent, wrt_image=1, wrt_weights=3
        ),
    }


def milliseconds(runs, seconds, clock):
    """The shortest time of each run; they take turns."""
    for run in runs:
        run()
    best = [float("inf")] * len(runs)
    end = time.perf_counter() + seconds
    turns = 0
    while time.perf_counter() < end or turns < 5:
        turns += 1
        for i, run in enumerate(runs):
            start = clock()
            run()
            best[i] = min(best[i], 1e3 * (clock() - start))
    return best


def main():
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time of one thread, which other processes disturb less; set the process's "
        "affinity to one processor, too",
    )
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    if options.cpu_time and torch:
        torch.set_num_threads(1)
    jax.devices()
    for name, capsule in stn_jax_native.handlers().items():
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    print(stn_jax_native.build_info())
    cases = {}
    for dtype in ("float32", "bfloat16"):
        for shape in SHAPES:
            name = f"{dtype} " + "x".join(map(str, shape))
            cases[name] = functools.partial(sampling, shape, jnp.dtype(dtype))
    cases["float32 cubic 16x224x224x3"] = functools.partial(cubic, (16, 224, 224, 3))
    cases["float32 lattice 8x8x2, 800k points"] = functools.partial(lattice, 800_000)
    print(f"{'case':36} {'pass':26} {'ours':>8} {'PyTorch':>8} {'ratio':>6}")
    for name, make in cases.items():
        if options.only not in name:
            continue
        ours, theirs = make()
        for which, run in ours.items():
            other = theirs.get(which)
            best = milliseconds([run, other] if other else [run], options.seconds, clock)
            rest = f"{best[1]:8.3f} {best[1] / best[0]:6.2f}" if other else ""
            print(f"{name:36} {which:26} {best[0]:8.3f} {rest}", flush=True)


if __name__ == "__main__":
    main()
