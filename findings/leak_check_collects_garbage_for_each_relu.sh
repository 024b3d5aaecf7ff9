#!/usr/bin/env bash
# JAX 0.10.2: under jax.checking_leaks() each function with a derivative of its own, by custom_jvp or custom_vjp, costs a
# whole garbage collection when it is traced; jax.nn.relu is one, and a scan, vmap or grad without such a function
# costs none. So the check's time grows with all that the process holds, not with the program: beside 4 million objects
# the gradient of eight layers takes seconds. One would expect a check of the traced program alone. gc.freeze() before the
# check leaves older objects out of the collections, and leaks are still found.
#
# Output seen: collections: 10; slower than after gc.freeze(): 105 times; a leak is found: True
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import gc
import time

import jax
import jax.numpy as jnp

held = [[number] for number in range(4_000_000)]
leaked = []


def seconds():
    @jax.jit
    def slope(x):
        for _ in range(8):
            x = jax.nn.relu(x + 1)
        return x

    started = time.perf_counter()
    jax.jit(jax.grad(slope)).trace(0.5)
    return time.perf_counter() - started


seconds()
collections = []
gc.callbacks.append(lambda phase, info: collections.append((phase, info["generation"])))
with jax.checking_leaks():
    slow = seconds()
whole = collections.count(("start", 2))
gc.collect()
gc.freeze()
with jax.checking_leaks():
    fast = seconds()
    try:
        jax.jit(lambda x: leaked.append(x) or x)(0.5)
        found = False
    except Exception:
        found = True
print(f"collections: {whole}; slower than after gc.freeze(): {slow / fast:.0f} times; a leak is found: {found}")
assert whole >= 8
assert slow > 5 * fast
assert found
PYTHON
