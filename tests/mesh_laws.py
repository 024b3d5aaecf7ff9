"""The laws of transforms on a mesh of eight devices: ``mesh_laws.py MODE [MEMBERS]``.

``test_mesh.py`` runs it in a new process with eight simulated devices. Prints a line for each
member: that it holds the laws, or the error.
"""

import functools
import sys
import traceback

import jax
import jax.numpy as jnp
import numpy as np
from families import MEMBERS
from flax import nnx
from jax.sharding import AxisType, PartitionSpec

import stn_jax as stn
from stn_jax import nn as stnn

DEVICES = 8
HOLDS = "as on one device"


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


def explicit(batched, operands):
    """Over axes of an Explicit mesh, the default of ``jax.make_mesh``."""
    with jax.set_mesh(jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Explicit,))):
        return jax.jit(batched)(*(jax.device_put(each, PartitionSpec("data")) for each in operands))


def auto(batched, operands):
    """Over axes of an Auto mesh."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec("data"))
    return jax.jit(batched)(*(jax.device_put(each, sharding) for each in operands))


def shard_map(batched, operands):
    """Inside ``jax.shard_map``, with its default check of what varies."""
    mesh = jax.make_mesh((DEVICES,), ("data",), axis_types=(AxisType.Auto,))
    data = PartitionSpec("data")
    return jax.jit(jax.shard_map(batched, mesh=mesh, in_specs=data, out_specs=data))(*operands)


def pmap(batched, operands):
    """Over the devices by the older way, a batch of one on each."""
    mapped = jax.pmap(batched)(*(each[:, None] for each in operands))
    return jax.tree.map(lambda array: array[:, 0], mapped)


MODES = {mode.__name__: mode for mode in (explicit, auto, shard_map, pmap)}


def check(member, mode):
    """The mesh gives what one device gives, for points of each theta and for shared points."""
    t = MEMBERS[member].transform
    thetas = np.stack([MEMBERS[member].theta(seed, 0.5) for seed in range(DEVICES)])
    points = np.float32(MEMBERS[member].points(7, DEVICES, 3))
    operands = np.float32(thetas), points
    shared = functools.partial(look_at_shared, t, jnp.asarray(points[0]))

    def batched(thetas, points):
        return jax.vmap(functools.partial(look, t))(thetas, points), jax.vmap(shared)(thetas)

    expected = jax.jit(batched)(*operands)
    got = MODES[mode](batched, operands)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5, rtol=2e-5)


def check_networks(mode):
    """Theta, and its gradient to each image, equal those on one device."""
    images = np.float32(np.random.default_rng(0).random((DEVICES, 12, 12, 3)))
    convolutional = functools.partial(
        stnn.ConvolutionalLocalization, features=(4, 4), kernel_size=3
    )
    for make in (convolutional, stnn.FullyConnectedLocalization):
        network = make(images.shape[1:], stn.affine(), num_transforms=2, rngs=nnx.Rngs(0))
        # Theta depends on the images.
        kernel = network.head.linear.kernel
        kernel[...] = jnp.ones_like(kernel[...])

        def batched(images, network=network):
            return network(images), jax.grad(lambda x: jnp.sum(network(x) ** 2))(images)

        expected, got = jax.jit(batched)(images), MODES[mode](batched, (images,))
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4, rtol=1e-4)


def main():
    mode, *members = sys.argv[1:]
    failed = False
    for member in members or MEMBERS:
        try:
            check_networks(mode) if member == "networks" else check(member, mode)
            print(f"{member}: {HOLDS}", flush=True)
        except Exception as error:
            failed = True
            print(f"{member}: {type(error).__name__}: {error}"[:2000], flush=True)
            traceback.print_exc()
    sys.exit(failed)


if __name__ == "__main__":
    main()
