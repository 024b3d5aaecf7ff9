#!/usr/bin/env bash
# JAX 0.10.2 (and 0.12.0.1): jax.random.normal in bfloat16 draws its uniform bits in bfloat16, too. A million draws hold
# 128 values, none beyond 2.9 standard deviations, where float32 draws reach 4.7 or so. Noise for theta, or for
# dropout of weights, wants to be drawn in float32 and cast.
#
# Output seen: bfloat16: 128 values up to 2.89; float32, cast: 3,598, up to 4.66
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

key, shape = jax.random.key(0), (1_000_000,)
narrow = np.asarray(jax.random.normal(key, shape, jnp.bfloat16), np.float32)
wide = np.asarray(jax.random.normal(key, shape).astype(jnp.bfloat16), np.float32)
print(
    f"bfloat16: {len(np.unique(narrow))} values up to {np.abs(narrow).max():.2f}; "
    f"float32, cast: {len(np.unique(wide)):,}, up to {np.abs(wide).max():.2f}"
)
assert len(np.unique(narrow)) == 128 and np.abs(narrow).max() < 3
assert len(np.unique(wide)) > 1000 and np.abs(wide).max() > 4
PYTHON
