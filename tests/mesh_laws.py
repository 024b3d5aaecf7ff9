"""Laws on a mesh of eight devices: ``mesh_laws.py MODE MEMBERS``.

Members are families of transforms, options of the sampler and modules. Tests run this in a new
process with eight simulated devices, by :func:`told_on_eight_devices`. Prints a line for each
member: that it holds the laws, or the error.
"""

import functools
import re
import subprocess
import sys
import traceback

import conformance
import flax_modules
import jax
import jax.numpy as jnp
import numpy as np
import sampler_options
from families import MEMBERS
from flax_modules import MODULES
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from processes import ROOT, environment
from sampler_options import OPTIONS

DEVICES = 8
HOLDS = "as on one device"
COLLECTIVES = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"
WHOLE, DATA = PartitionSpec(), PartitionSpec("data")


def told_on_eight_devices(item, mode, members):
    """Runs the members' laws in a new process and tells the table of conformance of each."""
    command = [sys.executable, ROOT / "tests" / "mesh_laws.py", mode, *members]
    result = subprocess.run(command, env=environment(DEVICES), capture_output=True, text=True)
    lines = result.stdout.splitlines()
    for member in members:
        conformance.tell(item, member, 0, f"{member}: {HOLDS}" in lines)
    assert result.returncode == 0, result.stdout + result.stderr


# Ways to run ``function(shared, *operands)``, which gives a pair: results with a batch axis, and
# results that are sums over the batch, such as gradients to what is shared. Each returns the pair
# and the text of the compiled program.


def compiled(function, *operands):
    program = jax.jit(function).lower(*operands).compile()
    return program(*operands), program.as_text()


def explicit(function, shared, operands):
    """Over axes of an Explicit mesh, the default of ``jax.make_mesh``."""
    with jax.set_mesh(jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))):
        placed = (jax.device_put(each, DATA) for each in operands)
        return compiled(function, jax.device_put(shared, WHOLE), *placed)


def auto(function, shared, operands):
    """Over axes of an Auto mesh."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    placed = (jax.device_put(each, NamedSharding(mesh, DATA)) for each in operands)
    return compiled(function, jax.device_put(shared, NamedSharding(mesh, WHOLE)), *placed)


def shard_map(function, shared, operands):
    """Inside ``jax.shard_map``, with its default check of what varies."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    specs = (WHOLE, *[DATA] * len(operands))
    mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=(DATA, WHOLE))
    return compiled(mapped, shared, *operands)


def pmap(function, shared, operands):
    """Over the devices by the older way, a batch of one on each."""

    def own(shared, *operands):
        mapped, summed = function(shared, *operands)
        return mapped, jax.lax.psum(summed, "data")

    mapped = jax.pmap(own, "data", in_axes=(None, *[0] * len(operands)), out_axes=(0, None))
    split, summed = mapped(shared, *(each[:, None] for each in operands))
    return (jax.tree.map(lambda array: array[:, 0], split), summed), ""


MODES = {mode.__name__: mode for mode in (explicit, auto, shard_map, pmap)}


def compare(mode, function, shared, operands, tolerance):
    """The mesh gives what one device gives; returns the collectives of the mesh's program."""
    expected = jax.jit(function)(shared, *operands)
    got, text = MODES[mode](function, shared, operands)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=tolerance)
    return set(re.findall(rf" ({COLLECTIVES})(?:-start)?\(", text))


def look(t, theta, points):
    """The map, its gradients, and the inverse of points of its own for each theta."""

    def loss(theta, points):
        return jnp.sum(jnp.sin(t.apply(theta, points)))

    gradients = jax.grad(loss, (0, 1))(theta, points)
    return t.apply(theta, points), t.invert(theta, points), gradients


def look_at_shared(t, points, theta):
    """Map, inverse and gradient to theta of points that are a constant, as the lattice of a warp.

    The gradient to shared points would be a sum over the devices.
    """
    loss = lambda theta: jnp.sum(jnp.sin(t.apply(theta, points)))  # noqa: E731
    return t.apply(theta, points), t.invert(theta, points), jax.grad(loss)(theta)


def check_family(mode, member):
    """For points of each theta and for shared points."""
    t = MEMBERS[member].transform
    thetas = np.stack([MEMBERS[member].theta(seed, 0.5) for seed in range(DEVICES)])
    points = np.float32(MEMBERS[member].points(7, DEVICES, 3))
    shared = functools.partial(look_at_shared, t, jnp.asarray(points[0]))

    def batched(_, thetas, points):
        own = jax.vmap(functools.partial(look, t))(thetas, points)
        return (own, jax.vmap(shared)(thetas)), ()

    compare(mode, batched, (), (np.float32(thetas), points), 2e-5)


def check_option(mode, option):
    """Value and gradients; nothing is exchanged between devices."""
    images = sampler_options.an_image(DEVICES)
    noise = 0.1 * np.random.default_rng(1).normal(size=(DEVICES, 6))
    thetas = np.float32(sampler_options.THETA + noise)

    def batched(_, images, thetas):
        return jax.vmap(functools.partial(sampler_options.look, option))(images, thetas), ()

    exchanged = compare(mode, batched, (), (images, thetas), 2e-5)
    # The dense engine first asks whether all images are finite.
    allowed = {"all-reduce"} if option == "implementation dense" else set()
    assert exchanged <= allowed, f"exchanged by {sorted(exchanged)}"


def check_module(mode, module):
    """Value, gradient to the images, and gradient to the parameters, a sum over the devices."""
    apply, parameters = flax_modules.functional(module)
    images = flax_modules.an_input(module, DEVICES)

    def batched(parameters, images):
        value, (to_parameters, to_images) = flax_modules.look(apply, parameters, images)
        return (value, to_images), to_parameters

    exchanged = compare(mode, batched, parameters, (images,), 1e-4)
    assert exchanged <= {"all-reduce"}, f"exchanged by {sorted(exchanged)}"


def check(mode, member):
    if member in MEMBERS:
        check_family(mode, member)
    elif member in OPTIONS:
        check_option(mode, member)
    elif member in MODULES:
        check_module(mode, member)
    else:
        raise ValueError(f"{member!r} is no family, option or module.")


def main():
    mode, *members = sys.argv[1:]
    failed = False
    for member in members:
        try:
            check(mode, member)
            print(f"{member}: {HOLDS}", flush=True)
        except Exception as error:
            failed = True
            print(f"{member}: {type(error).__name__}: {error}"[:2000], flush=True)
            traceback.print_exc()
    sys.exit(failed)


if __name__ == "__main__":
    main()
