"""The sampler on eight devices, compared with one; ``test_meshes.py`` runs it in a new process.

``python mesh_laws.py ENGINE`` prints a line for each case: kernel, function, kind of mesh, the
collectives of the compiled program, and the largest difference from one device.
"""

import functools
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import stn_jax as stn

COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
MODES = (("linear", "constant"), ("cubic", "border"), ("nearest", "wrap"))


def functions(kernel, padding, engine, antialias):
    """By name: a function of images and thetas, whether all share one image, what it gives."""

    def warp(engine, image, theta):
        options = {"kernel": kernel, "padding": padding, "implementation": engine}
        return stn.warp(image, stn.affine(), theta, antialias=antialias, **options)

    own = jax.vmap(functools.partial(warp, engine))
    # The native engine does not serve an image shared by a sharded batch; the next engine does.
    other = None if engine == "native" else engine
    shared = jax.vmap(functools.partial(warp, other), in_axes=(None, 0))

    def loss(batched):
        return lambda images, theta: (batched(images, theta) ** 2).sum()

    yield "value", own, False, P("data")
    yield "gradient", jax.grad(loss(own), argnums=(0, 1)), False, P("data")
    if antialias:
        return
    tangent = lambda images, theta: jax.jvp(own, (images, theta), (images, theta))[1]  # noqa: E731
    yield "tangent", tangent, False, P("data")

    def norm(images, theta):
        gradients = jax.grad(loss(own), argnums=(0, 1))(images, theta)
        return sum((each**2).sum() for each in gradients)

    if kernel == "linear":
        yield "second gradient", jax.grad(norm, argnums=(0, 1)), False, P("data")
    yield "value of one image", shared, True, P("data")
    yield "gradient of one image", jax.grad(loss(shared), argnums=(0, 1)), True, (P(), P("data"))


def ways(function, operands, specs, out_specs):
    """By kind of mesh: the result on eight devices, and the text of the compiled program."""
    devices = np.array(jax.devices())
    auto = Mesh(devices, ("data",))
    placed = [jax.device_put(x, NamedSharding(auto, s)) for x, s in zip(operands, specs)]  # noqa: B905
    compiled = jax.jit(function).lower(*placed).compile()
    yield "auto", compiled(*placed), compiled.as_text()
    with jax.set_mesh(jax.make_mesh((8,), ("data",))):
        placed = [jax.device_put(x, s) for x, s in zip(operands, specs)]  # noqa: B905
        compiled = jax.jit(function).lower(*placed).compile()
        yield "explicit", compiled(*placed), compiled.as_text()
    part = jax.shard_map(function, mesh=auto, in_specs=specs, out_specs=out_specs)
    yield "shard_map", jax.jit(part)(*operands), ""


def by_channels(engine):
    """By name: the function of an image sharded over its channels, with a fill value for each."""
    options = {"fill_value": np.arange(16.0), "implementation": engine}
    warp = lambda image, theta: stn.warp(image, stn.affine(), theta, **options)  # noqa: E731
    yield "value by channels", warp
    yield "gradient by channels", jax.grad(lambda *both: (warp(*both) ** 2).sum(), argnums=(0, 1))


def main(engine):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(16, 9, 11, 3)), jnp.float32)
    noise = 0.1 * rng.normal(size=(16, 6))
    theta = jnp.asarray(np.array([0.9, 0, 0, 0, 0.9, 0]) + noise, jnp.float32)
    cases = [(*mode, False) for mode in MODES] + [("linear", "reflection", True)]
    for kernel, padding, antialias in cases:
        for name, function, one, out in functions(kernel, padding, engine, antialias):
            operands = (images[0] if one else images, theta)
            specs = (P() if one else P("data"), P("data"))
            expected = jax.jit(function)(*operands)
            for mesh, found, text in ways(function, operands, specs, out):
                error = max(
                    float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / (np.max(np.abs(b)) or 1))
                    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected))  # noqa: B905
                )
                said = sorted(set(re.findall(rf" ({COLLECTIVES})\(", text)))
                label = "antialiased" if antialias else kernel
                print(f"{label} | {name} | {mesh} | {' '.join(said)} | {error:.1e}", flush=True)
    operands = jnp.asarray(rng.normal(size=(9, 11, 16)), jnp.float32), theta[0]
    for name, function in by_channels(engine):
        expected = jax.tree.leaves(jax.jit(function)(*operands))
        with jax.set_mesh(jax.make_mesh((8,), ("data",))):
            placed = jax.device_put(operands[0], P(None, None, "data")), operands[1]
            found = jax.tree.leaves(jax.jit(function)(*placed))
        error = max(
            float(np.max(np.abs(np.asarray(a) - np.asarray(b))) / np.max(np.abs(b)))
            for a, b in zip(found, expected)  # noqa: B905
        )
        print(f"linear | {name} | explicit | | {error:.1e}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
