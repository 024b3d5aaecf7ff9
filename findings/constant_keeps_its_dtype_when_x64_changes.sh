#!/usr/bin/env bash
# JAX 0.10.2, CPU: a program that passes a float64 NumPy array to an inner jitted function does not lower after
# jax_enable_x64 was changed. JAX keeps the float32 constant that it made of that array object before. The outer and the
# inner function are traced anew, in float64, so the call is given an operand of the wrong type. An equal array that is
# another object works. A module-level table, used by a test with jax.enable_x64 after one without, is enough.
#
# Output seen: float32, then ValueError: 'func.call' op operand type mismatch; with a fresh copy of the table: float64
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import numpy as np

table = np.ones(3)


@jax.jit
def scale(factors, x):
    return factors * x


def program(x):
    return scale(table, x)


def run(function):
    return str(jax.jit(function)(jnp.ones(3)).dtype)


first = run(program)
with jax.enable_x64(True):
    try:
        second = run(program)
    except ValueError as error:
        assert "'func.call' op operand type mismatch" in str(error), error
        second = "ValueError: 'func.call' op operand type mismatch"
    third = run(lambda x: scale(table.copy(), x))
print(f"{first}, then {second}; with a fresh copy of the table: {third}")
assert first == "float32" and third == "float64"
assert second.startswith("ValueError"), second
PYTHON
