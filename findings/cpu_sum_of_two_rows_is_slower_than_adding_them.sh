#!/usr/bin/env bash
# JAX 0.10.2 on CPUs (Linux, x86-64): `jnp.sum(x, axis=0)` of an array [2, 800000] takes 20 to 30 times as long as
# `x[0] + x[1]`, compiled alike; `jnp.max` against `jnp.maximum` 20 times. One would expect that XLA makes one loop of a
# sum of two rows. Instead it hands sums and maxima to a library (`__ynn_fusion` in the compiled program), for which a
# short first axis is a bad case: with 64 rows of 12,500 numbers each it takes about twice as long as 63 additions.
#
# Output seen: sum of 2 rows 13.19 ms, added 0.42 ms (31 times); maximum 8.49 ms, 0.42 ms (20 times)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import time

import jax
import jax.numpy as jnp

x = jnp.ones((2, 800_000))
functions = [
    lambda x: jnp.sum(x, axis=0),
    lambda x: x[0] + x[1],
    lambda x: jnp.max(x, axis=0),
    lambda x: jnp.maximum(x[0], x[1]),
]
compiled = [jax.jit(each) for each in functions]
times = [[] for _ in compiled]
for _ in range(40):
    for each, its_times in zip(compiled, times):
        start = time.perf_counter()
        jax.block_until_ready(each(x))
        its_times.append(time.perf_counter() - start)
total, added, largest, larger = (min(each) * 1000 for each in times)
print(
    f"sum of 2 rows {total:.2f} ms, added {added:.2f} ms ({total / added:.0f} times); "
    f"maximum {largest:.2f} ms, {larger:.2f} ms ({largest / larger:.0f} times)"
)
assert "ynn_fusion" in compiled[0].lower(x).compile().as_text()
assert total > 4 * added and largest > 4 * larger
PYTHON
