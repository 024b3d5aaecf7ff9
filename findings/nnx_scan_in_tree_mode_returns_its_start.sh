#!/usr/bin/env bash
# Flax 0.12.6 with JAX 0.8.1 to 0.10.2: nnx.scan over layers in tree mode, graph=False or nnx.set_graph_mode(False), gives the
# first carry back: the layers are run, and their result is dropped without an error. Expected is what graph mode gives,
# and what Flax 0.12.7 gives in both modes. Outputs that are stacked, out_axes=(nnx.Carry, 0), are right, which hides it.
# Flax 0.12.5 refuses a carry that is not the first argument. Take another version of Flax, or graph mode.
#
# Output seen: three layers that add 1 to 0: graph mode 3.0, tree mode 0.0, stacked in tree mode [1.0, 2.0, 3.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet jax==0.9.2 jaxlib==0.9.2 flax==0.12.6 numpy==2.3.5
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
from flax import nnx


class Layer(nnx.Module):
    def __init__(self, key):
        self.step = nnx.Param(jnp.ones(()))

    def __call__(self, x):
        return x + self.step[...]


layers = nnx.vmap(Layer)(jax.random.split(jax.random.key(0), 3))


def run(graph):
    step = lambda x, layer: (layer(x), layer(x))
    axes = {"in_axes": (nnx.Carry, 0), "out_axes": (nnx.Carry, 0)}
    return nnx.scan(step, graph=graph, **axes)(jnp.zeros(()), layers)


(by_graph, _), (by_tree, stacked) = run(True), run(False)
print(
    f"three layers that add 1 to 0: graph mode {by_graph}, tree mode {by_tree}, "
    f"stacked in tree mode {stacked.tolist()}"
)
assert by_graph == 3 and by_tree == 0 and stacked.tolist() == [1, 2, 3]
PYTHON
