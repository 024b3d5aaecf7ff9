#!/usr/bin/env bash
# Flax 0.12.8: a training step of an NNX model and an nnx.Optimizer under plain jax.jit runs, raises nothing, and changes
# nothing: modules are pytrees, so jax.jit sees a copy of them, and what is updated in it is dropped. jax.grad of a module
# whose layer stands in two places gives each place a part of the gradient. nnx.jit and nnx.grad do both right.
#
# Output seen: weight after a step: jax.jit 3.0, nnx.jit 2.4; gradient: jax.grad [3.0, 3.0], nnx.grad [6.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet flax==0.12.8 jax==0.10.2 jaxlib==0.10.2 optax==0.2.8 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax
import jax.numpy as jnp
import optax
from flax import nnx


class Shared(nnx.Module):
    def __init__(self):
        self.first = self.second = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
        self.first.kernel[...] = jnp.full((1, 1), 3.0)

    def __call__(self, x):
        return self.second(self.first(x)).sum()


def loss(model):
    return model(jnp.ones((1, 1)))


def step(model, optimizer):
    optimizer.update(model, nnx.grad(loss)(model))


def trained(jit):
    model = Shared()
    jit(step)(model, nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param))
    return round(model.first.kernel[...].item(), 6)


def leaves(gradient):
    return [leaf.item() for leaf in jax.tree.leaves(gradient)]


weights = trained(jax.jit), trained(nnx.jit)
gradients = leaves(jax.grad(loss)(Shared())), leaves(nnx.grad(loss)(Shared()))
print(
    f"weight after a step: jax.jit {weights[0]}, nnx.jit {weights[1]}; "
    f"gradient: jax.grad {gradients[0]}, nnx.grad {gradients[1]}"
)
assert weights == (3.0, 2.4)
assert gradients == ([3.0, 3.0], [6.0])
PYTHON
