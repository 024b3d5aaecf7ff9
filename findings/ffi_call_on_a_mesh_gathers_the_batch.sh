#!/usr/bin/env bash
# JAX 0.10.2: a call of jax.ffi.ffi_call on a batch that is shared out over a mesh gathers the whole batch on every device,
# which then computes all of it; jax.ffi.register_ffi_target_as_batch_partitionable changes nothing of that for ffi_call.
# jnp.linalg.cholesky, which calls the same kernel, gathers nothing, and neither does ffi_call inside jax.shard_map.
#
# Output seen: all-gathers: ffi_call 1, registered 1, in shard_map 0, jnp.linalg.cholesky 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
export XLA_FLAGS=--xla_force_host_platform_device_count=8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

mesh = Mesh(np.array(jax.devices()), ("data",))
jnp.linalg.cholesky(jnp.eye(4))  # JAX registers its kernels when they are first used.
matrices = jax.device_put(jnp.tile(jnp.eye(4), (16, 1, 1)), NamedSharding(mesh, P("data")))


def cholesky(x):
    types = jax.ShapeDtypeStruct(x.shape, x.dtype), jax.ShapeDtypeStruct(x.shape[:1], jnp.int32)
    call = jax.ffi.ffi_call("lapack_spotrf_ffi", types, vmap_method="broadcast_all")
    return call(x, uplo=np.uint8(ord("L")))[0]


def gathers(f):
    return jax.jit(f).lower(matrices).compile().as_text().count("all-gather(")


plain = gathers(cholesky)
jax.ffi.register_ffi_target_as_batch_partitionable("lapack_spotrf_ffi")
registered = gathers(lambda x: cholesky(x))
mapped = gathers(jax.shard_map(cholesky, mesh=mesh, in_specs=P("data"), out_specs=P("data")))
own = gathers(jnp.linalg.cholesky)
print(
    f"all-gathers: ffi_call {plain}, registered {registered}, in shard_map {mapped}, "
    f"jnp.linalg.cholesky {own}"
)
assert (plain, registered, mapped, own) == (1, 1, 0, 0)
PYTHON
