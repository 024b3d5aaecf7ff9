#!/usr/bin/env bash
# jax2onnx 0.17.1 with JAX 0.10.2: while it converts, functions of jax.numpy make primitives of its own. JAX caches what a
# jitted function inside the model was traced to, so after the conversion that function, called as before, stops with
# NotImplementedError. A conversion is expected to leave the model as it was. Call jax.clear_caches() afterwards, and
# before, too, since functions traced earlier are converted from their caches.
#
# Output seen: MLIR translation rule for primitive 'jax.numpy.stack' not found for platform cpu
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 flax==0.12.8 equinox==0.13.8 jax2onnx==0.17.1
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import jax2onnx

stacked = jax.jit(lambda x: jnp.stack([x, x]))
jax2onnx.to_onnx(lambda x: stacked(x) + 1, [(3,)])
try:
    stacked(jnp.ones(3, jnp.float32))
except NotImplementedError as error:
    message = str(error).splitlines()[0]
    print(message)
jax.clear_caches()
found = stacked(jnp.ones(3, jnp.float32))
print(f"after jax.clear_caches(): shape {found.shape}")
assert "primitive 'jax.numpy.stack' not found" in message and found.shape == (2, 3)
PYTHON
