#!/usr/bin/env bash
# optax 0.2.8: one gradient with a NaN inside optax.MultiSteps(optax.apply_if_finite(...)) ends the training for good,
# without an error: the running mean of gradients holds the NaN, is reset by a product with 0, and stays NaN, so every
# later update is left out. With apply_if_finite around MultiSteps, or should_skip_update_fn=optax.skip_not_finite, only
# the one gradient is.
#
# Output seen: inside [0.0, 0.0], outside [-3.0, -3.0], skipped [-3.0, -3.0]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet optax==0.2.8 jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
import jax.numpy as jnp
import optax

rate, every = optax.sgd(1.0), 2
good, bad = jnp.ones(2), jnp.array([jnp.nan, 1.0])


def trained(optimizer):
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for gradient in [good, bad, *5 * [good]]:
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params.tolist()


steps = optax.MultiSteps(rate, every).gradient_transformation()
inside = trained(optax.MultiSteps(optax.apply_if_finite(rate, 100), every))
outside = trained(optax.apply_if_finite(steps, 100))
skipped = trained(optax.MultiSteps(rate, every, should_skip_update_fn=optax.skip_not_finite))
print(f"inside {inside}, outside {outside}, skipped {skipped}")
assert inside == [0.0, 0.0]
assert outside == skipped == [-3.0, -3.0]
PYTHON
