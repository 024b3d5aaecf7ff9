"""Labels, rates and a penalty that train a localization network along with the rest."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
from flax import nnx

import stn_jax as stn
from stn_jax import nn as stnn

T = stn.attention()
IN_SHAPE = (6, 6, 1)


class Model(nnx.Module):
    """A transformer and a classifier, with or without a backbone that both see through."""

    def __init__(self, shared, rngs):
        conv = nnx.Conv(1, 2, (3, 3), strides=2, rngs=rngs)
        network = stnn.FeatureLocalization(conv, 18, T, rngs=rngs)
        self.first = stnn.SpatialTransformer(network, T)
        self.logits = nnx.Linear(18, 3, rngs=rngs)
        # Its name comes last, so that a shared parameter's first place is in the localization.
        self.trunk = conv if shared else nnx.Conv(1, 2, (3, 3), strides=2, rngs=rngs)

    def __call__(self, images):
        maps = self.trunk(self.first(images))
        return self.logits(maps.reshape(maps.shape[0], -1))


def named(labels):
    """The paths of localization parameters."""
    return {
        "/".join(str(key.key) for key in path if hasattr(key, "key"))
        for path, label in jax.tree_util.tree_flatten_with_path(labels)[0]
        if label == "localization"
    }


HEAD = {"first/localization/head/linear/bias", "first/localization/head/linear/kernel"}
OWN = {"first/localization/backbone/bias", "first/localization/backbone/kernel"}


# Tree mode knows no shared parameters.
@pytest.mark.parametrize(("shared", "graph"), [(True, True), (False, True), (False, False)])
def test_labels(shared, graph):
    """Labels follow from the modules that use a parameter, not from its first path."""
    with nnx.set_graph_mode(graph):
        model = Model(shared, nnx.Rngs(0))
        params = nnx.state(model, nnx.Param)
        labels = stnn.localization_labels(model)
        assert set(nnx.to_flat_state(labels).paths) == set(nnx.to_flat_state(params).paths)
        assert named(labels) == (HEAD if shared else HEAD | OWN)
        assert named(stnn.localization_labels(params)) == HEAD | OWN, "a tree is told by name"


def test_labels_of_a_graph_that_leads_back_to_itself():
    model = Model(True, nnx.Rngs(0))
    model.first.owner = model
    assert named(stnn.localization_labels(model)) == HEAD


def test_labels_of_other_trees():
    assert named(stnn.localization_labels(nnx.Linear(2, 3, rngs=nnx.Rngs(0)))) == set()
    linen = {"params": {"st": {"localization": {"bias": 0.0}}, "Dense_0": {"bias": 0.0}}}
    assert named(stnn.localization_labels(linen)) == {"params/st/localization/bias"}


def steps_of(tx, number, model=None):
    """By step, with equal gradients: the change of localization's and of the rest's bias."""
    model = model or Model(False, nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    moved = []
    for _ in range(number):
        biases = [b[...] for b in (model.first.localization.head.linear.bias, model.logits.bias)]
        optimizer.update(model, grads)
        after = (model.first.localization.head.linear.bias, model.logits.bias)
        moved.append([float((a[...] - b)[0]) for a, b in zip(after, biases, strict=True)])
    return np.array(moved)


def test_rate_and_frozen_steps():
    """Adam moves by its rate at equal gradients, whatever their size."""
    tx = optax.chain(optax.adam(0.5), stnn.localization_rate(multiplier=0.25, frozen_steps=2))
    expected = [[0, -0.5], [0, -0.5], [-0.125, -0.5], [-0.125, -0.5]]
    np.testing.assert_allclose(steps_of(tx, 4), expected, rtol=1e-4)


def test_labels_serve_optax_and_shared_parameters_move_with_the_rest():
    model = Model(True, nnx.Rngs(0))
    kernel = model.trunk.kernel[...]
    tx = optax.partition(
        {"localization": optax.set_to_zero(), "rest": optax.sgd(1.0)},
        stnn.localization_labels(model),
    )
    np.testing.assert_allclose(steps_of(tx, 1, model), [[0, -1]], rtol=1e-5)
    np.testing.assert_allclose(model.first.localization.backbone.kernel[...], kernel - 1, rtol=1e-5)
    rate = stnn.localization_rate(multiplier=0.0, labels=stnn.localization_labels(model))
    steps_of(optax.chain(optax.sgd(1.0), rate), 1, model)
    np.testing.assert_allclose(model.trunk.kernel[...], kernel - 2, rtol=1e-5)


def test_penalty_is_the_mean_square_of_the_displacement(rng):
    t = stn.projective()
    theta = t.identity + rng.uniform(-0.2, 0.2, (2, 3, 8))
    points = reference.regular_grid((4, 5), True)
    expected = [
        [
            np.mean(
                np.sum((reference.act(reference.matrix("projective", th, 2), points) - points) ** 2,
                -1)
            )
            for th in row
        ]
        for row in theta
    ]  # fmt: skip
    penalty = lambda theta: stnn.identity_penalty(t, theta, (4, 5), align_corners=True)  # noqa: E731
    np.testing.assert_allclose(penalty(jnp.asarray(theta, jnp.float32)), expected, rtol=1e-5)


def test_penalty_pulls_towards_the_identity():
    """Downhill from a crop the identity is reached, where the slope is zero."""
    t = stn.bounded(stn.affine(), radius=0.9)
    gradient = jax.jit(jax.grad(lambda theta: stnn.identity_penalty(t, theta, (8, 8)).sum()))
    identity = jnp.asarray(t.identity, jnp.float32)
    np.testing.assert_array_equal(gradient(identity), np.zeros(6))
    theta = identity + jnp.array([-0.5, 0.1, 0.4, -0.1, -0.3, 0.2])
    for _ in range(300):
        theta = theta - 0.3 * gradient(theta)
    np.testing.assert_allclose(theta, identity, atol=1e-3)


@pytest.mark.usefixtures("no_runtime_types")
def test_errors():
    with pytest.raises(ValueError, match="multiplier must not be negative; got -1"):
        stnn.localization_rate(multiplier=-1)
    with pytest.raises(ValueError, match="frozen_steps must not be negative; got -1"):
        stnn.localization_rate(frozen_steps=-1)
    with pytest.raises(ValueError, match="labels must name a localization parameter; got none"):
        stnn.localization_rate().init({"logits": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"theta must have a last axis of length 3.*\(2, 4\)"):
        stnn.identity_penalty(T, jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="theta must have a floating dtype; got int32"):
        stnn.identity_penalty(T, jnp.ones((2, 3), int))
