#!/usr/bin/env bash
# JAX 0.10.2, CPU: jnp.linspace(-1, 1, n) misses 0 in the middle for 191 of the 199 odd n from 3 to 399, by 1e-8 or so, and
# gives other bits inside jax.jit than outside for 388 of the 398 n from 2 to 399. (2 k + 1 - n) / (n - 1) gives 0.
#
# Output seen: misses 0: 191 of 199; other bits under jit: 388 of 398; linspace(-1, 1, 7)[3] = 1.5e-08
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

odd, every = range(3, 400, 2), range(2, 400)
missed = sum(float(jnp.linspace(-1, 1, n)[n // 2]) != 0 for n in odd)
other = sum(
    not np.array_equal(jnp.linspace(-1, 1, n), jax.jit(lambda n=n: jnp.linspace(-1, 1, n))())
    for n in every
)
print(
    f"misses 0: {missed} of {len(odd)}; other bits under jit: {other} of {len(every)}; "
    f"linspace(-1, 1, 7)[3] = {float(jnp.linspace(-1, 1, 7)[3]):.1e}"
)
assert missed > 100 and other > 100
PYTHON
