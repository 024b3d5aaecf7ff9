"""A training that collapses, its diagnosis, and the same training with the remedies."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from sklearn.datasets import load_digits

import stn_jax as stn
from stn_jax import nn as stnn

T = stn.affine()
SHAPE = (12, 12)
PLAIN = functools.partial(stnn.RegressionHead, scale=1.0)


class Model(nnx.Module):
    """Two layers behind a spatial transformer."""

    def __init__(self, transform, head, rngs):
        network = stnn.FullyConnectedLocalization((*SHAPE, 1), transform, head=head, rngs=rngs)
        self.transformer = stnn.SpatialTransformer(network, transform)
        self.hidden = nnx.Linear(144, 64, rngs=rngs)
        self.logits = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, images):
        out, theta = self.transformer(images, return_theta=True)
        hidden = nnx.relu(self.hidden(out.reshape(images.shape[0], -1)))
        return self.logits(hidden), theta


@pytest.fixture(scope="module")
def train():
    """Trains on turned digits; gives the history of all that is monitored."""
    digits = load_digits()
    images = np.pad(digits.images / 16, ((0, 0), (2, 2), (2, 2)))[..., None]
    images, labels = jnp.asarray(images, jnp.float32), jnp.asarray(digits.target)

    def turn(image, angle):
        return stn.warp(image, stn.rigid(), jnp.stack([angle, 0.0, 0.0]))

    def loss(params, graphdef, batch, wanted, transform, weight):
        logits, theta = nnx.merge(graphdef, params)(batch)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, wanted).mean()
        penalty = weight * stnn.identity_penalty(transform, theta).mean()
        return loss + penalty, (theta, jnp.mean(logits.argmax(-1) == wanted))

    def train(transform=T, weight=0.0, head=PLAIN, **options):
        graphdef, start = nnx.split(Model(transform, head, nnx.Rngs(0)))
        rate = stnn.localization_rate(**{"multiplier": 1.0} | options)
        optimizer = optax.chain(optax.adam(0.05), rate)

        def step(carry, key):
            params, state = carry
            chosen = jax.random.randint(key, (64,), 0, len(images))
            angles = jax.random.uniform(key, (64,), minval=-1, maxval=1)
            batch = jax.vmap(turn)(images[chosen], angles)
            gradient, (theta, accuracy) = jax.grad(loss, has_aux=True)(
                params, graphdef, batch, labels[chosen], transform, weight
            )
            updates, state = optimizer.update(gradient, state)
            record = stnn.monitor(transform, theta, SHAPE) | {"accuracy": accuracy}
            record |= stnn.gradient_norms(gradient, stnn.localization_labels)
            return (optax.apply_updates(params, updates), state), record

        keys = jax.random.split(jax.random.key(0), 200)
        return jax.device_get(
            jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), keys)[1])()
        )

    return train


def test_too_fast_it_leaves_the_image_and_is_told_so(train):
    history = train()
    names = [finding.name for finding in stnn.diagnose(history)]
    assert names == ["left the image", "localization gradient vanished"]
    assert history["accuracy"][-20:].mean() < 0.3


@pytest.mark.slow
@pytest.mark.parametrize(
    "remedy",
    [
        pytest.param({"head": stnn.RegressionHead}, id="the default head"),
        pytest.param({"multiplier": 0.1}, id="multiplier"),
        pytest.param({"frozen_steps": 50}, id="frozen steps"),
        pytest.param({"weight": 0.1}, id="identity penalty"),
    ],
)
def test_each_remedy_alone_holds_it_together(remedy, train):
    history = train(**remedy)
    assert not stnn.diagnose(history)
    assert history["accuracy"][-20:].mean() > 0.75
    first_moved = np.flatnonzero(history["distance"] > 0)[0]
    assert first_moved == 1 + remedy.get("frozen_steps", 0)


@pytest.mark.slow
def test_at_a_bound_all_images_get_the_same_transform_and_it_is_named(train):
    """A slower localization network, as advised, stays inside and tells the images apart."""
    bounded = stn.bounded(T, radius=0.3)
    names = [finding.name for finding in stnn.diagnose(train(bounded))]
    assert names == ["same for every image", "localization gradient vanished"]
    slowed = train(bounded, multiplier=0.1)
    assert not stnn.diagnose(slowed)
    assert np.median(slowed["spread"][-20:] / slowed["distance"][-20:]) > 0.3
