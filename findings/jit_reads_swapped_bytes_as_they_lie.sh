#!/usr/bin/env bash
# JAX 0.10.2 (and 0.12.0.1): a jitted function refuses a NumPy array in the byte order of other machines with a
# TypeError, but only the first time. Once it has run on an array of the same shape and type in this machine's order,
# it takes the other array, too, and reads its bytes as they lie: wrong numbers, without an error. jax.numpy's own
# functions are jitted and do the same. FITS, TIFF and NIfTI files are read as such arrays. It should convert them, or
# refuse them at every call; until then convert before the call: array.astype(array.dtype.newbyteorder("=")).
#
# Output seen: first: TypeError; afterwards: [16777216 33554432] for [1 2]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import sys

import jax
import numpy as np

assert sys.byteorder == "little"
swapped = np.array([1, 2], ">i4")
try:
    jax.jit(lambda x: x)(swapped)
except TypeError:
    first = "TypeError"
same = jax.jit(lambda x: x)
same(swapped.astype("<i4"))
afterwards = np.asarray(same(swapped))
print(f"first: {first}; afterwards: {afterwards} for {swapped}")
assert afterwards.tolist() == [16777216, 33554432]
PYTHON
