"""The modules in every mode of Flax: transformations, module modes, export, Orbax.

The oracle is a plain call of the same model.
"""

import functools
import subprocess
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import stn_jax as stn
from experiments.engine.checkpoint import Checkpoints
from stn_jax import nn as stnn

T = stn.attention()
IN_SHAPE = (6, 6, 1)
START = jnp.array([0.6, 0.1, -0.2])


class Model(nnx.Module):
    """A classifier behind a spatial transformer."""

    def __init__(self, rngs, num_steps=1):
        network = stnn.FullyConnectedLocalization(
            IN_SHAPE, T, hidden=(4,), initial_theta=START, rngs=rngs
        )
        # The weights too, so that theta depends on the image.
        kernel = network.head.linear.kernel
        kernel[...] = 0.1 * jax.random.normal(rngs.params(), kernel.shape)
        self.st = stnn.SpatialTransformer(network, T, num_steps=num_steps, padding="border")
        self.logits = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, images):
        return self.logits(self.st(images).reshape(images.shape[0], -1))


@pytest.fixture(params=[True, False], ids=["graph", "tree"])
def graph(request):
    with nnx.set_graph_mode(request.param):
        yield request.param


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(3, *IN_SHAPE)), jnp.float32)


def assert_close(actual, expected):
    leaves = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("graph")
def test_jit_remat_and_grad(images):
    """Under Flax's transformations, and under JAX's on the split state."""
    model = Model(nnx.Rngs(0))
    graphdef, params = nnx.split(model)
    run = lambda model, images: model(images)  # noqa: E731

    def loss(model, images, run=run):
        out = run(model, images)
        return jnp.sum(out**2), out

    pure = lambda params, images: loss(nnx.merge(graphdef, params), images)  # noqa: E731
    (_, out), expected = jax.jit(jax.value_and_grad(pure, has_aux=True))(params, images)
    assert_close(out, model(images))
    assert min(float(jnp.abs(g).max()) for g in jax.tree.leaves(expected)) > 0
    for how in (run, nnx.remat(run)):
        both = nnx.value_and_grad(functools.partial(loss, run=how), has_aux=True)
        (_, out_of_nnx), gradient = nnx.jit(both)(model, images)
        assert_close(out_of_nnx, out)
        assert_close(nnx.state(gradient), expected)


@pytest.mark.usefixtures("graph")
def test_vmap_over_models(images):
    """An ensemble: each its own parameters, all the same images."""
    make = nnx.vmap(lambda key: Model(nnx.Rngs(key)))
    keys = jax.random.split(jax.random.key(0), 2)
    ensemble = make(keys)
    out = nnx.vmap(lambda model, images: model(images), in_axes=(0, None))(ensemble, images)
    for index, key in enumerate(keys):
        assert_close(out[index], Model(nnx.Rngs(key))(images))


def test_scan_over_transformers(graph, images):
    """A stack of transformers, one after the other, as one scan."""
    if flax.__version__ == "0.12.6" and not graph:
        pytest.skip("nnx.scan of Flax 0.12.6 returns its first carry in tree mode")

    def make(key):
        network = stnn.FullyConnectedLocalization(
            IN_SHAPE, T, hidden=(), initial_theta=START, rngs=nnx.Rngs(key)
        )
        return stnn.SpatialTransformer(network, T, padding="border")

    stack = nnx.vmap(make)(jax.random.split(jax.random.key(0), 3))
    step = lambda images, st: st(images)  # noqa: E731
    out = nnx.scan(step, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(images, stack)
    one = make(jax.random.key(0))
    assert_close(out, one(one(one(images))))


@pytest.mark.usefixtures("graph")
def test_training_with_draws(images):
    """A step by Flax's transformations on a model that draws theta; its stream advances."""
    network = stnn.FullyConnectedLocalization(
        IN_SHAPE, T, hidden=(), num_transforms=2, head=stnn.GaussianHead, rngs=nnx.Rngs(0)
    )
    st = stnn.SpatialTransformer(network, T, num_transforms=2)

    @nnx.jit
    def run(st, images):
        return st(images)

    first, second = run(st, images), run(st, images)
    assert jnp.abs(first - second).max() > 0
    st.eval()
    assert_close(run(st, images), jnp.stack([images, images], axis=1))


LOAD = """
import sys
import numpy as np
from jax import export
folder = sys.argv[1]
exported = export.deserialize(bytearray(open(folder + "/model.bin", "rb").read()))
images = np.load(folder + "/images.npy")
for number in (1, 3):
    np.save(f"{folder}/out{number}.npy", exported.call(images[:number]))
assert not {"stn_jax", "flax"} & set(sys.modules)
"""


def test_export_runs_without_this_library(images, tmp_path):
    """Exports StableHLO for any number of images; a process with only JAX runs it."""
    graphdef, params = nnx.split(Model(nnx.Rngs(0), num_steps=2))
    shape = (*jax.export.symbolic_shape("batch"), *IN_SHAPE)
    exported = jax.export.export(jax.jit(lambda images: nnx.merge(graphdef, params)(images)))(
        jax.ShapeDtypeStruct(shape, images.dtype)
    )
    assert "stablehlo" in exported.mlir_module()
    (tmp_path / "model.bin").write_bytes(exported.serialize())
    np.save(tmp_path / "images.npy", images)
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path)], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for number in (1, 3):
        out = np.load(tmp_path / f"out{number}.npy")
        assert_close(out, nnx.merge(graphdef, params)(images[:number]))


def test_export_of_parallel_transforms_and_draws():
    """Symbolic numbers of images pass through every head and through parallel steps."""
    network = stnn.FullyConnectedLocalization(
        IN_SHAPE, T, hidden=(), num_transforms=2, head=stnn.GaussianHead, rngs=nnx.Rngs(0)
    )
    st = stnn.SpatialTransformer(network, T, num_transforms=2, num_steps=2)
    st.eval()
    shape = (*jax.export.symbolic_shape("batch"), *IN_SHAPE)
    exported = jax.export.export(jax.jit(lambda images: st(images)))(
        jax.ShapeDtypeStruct(shape, jnp.float32)
    )
    images = jnp.ones((2, *IN_SHAPE))
    assert_close(exported.call(images), st(images))


def test_checkpoints_bring_a_model_back(images, tmp_path):
    """The module's parameters, and the state of its random stream."""

    def make(seed):
        network = stnn.FullyConnectedLocalization(
            IN_SHAPE, T, head=stnn.GaussianHead, hidden=(3,), rngs=nnx.Rngs(seed)
        )
        return stnn.SpatialTransformer(network, T)

    model = make(0)
    model(images)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, nnx.to_pure_dict(nnx.state(model)))
    other = make(1)
    restored = checkpoints.restore(0, nnx.to_pure_dict(nnx.state(other)))
    checkpoints.close()
    nnx.update(other, restored)
    np.testing.assert_array_equal(other(images), model(images))


class Shared(nnx.Module):
    """One layer in two places, and a count of calls."""

    def __init__(self):
        self.first = self.second = nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(0))
        self.first.kernel[...] = jnp.full((1, 1), 3.0)
        self.calls = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x):
        self.calls[...] += 1
        return self.second(self.first(x))


def squared_weight(model):
    return model(jnp.ones((1, 1))).sum()


def test_plain_transformations_lose_sharing_and_changes_and_those_of_flax_do_not():
    """What the page on models says: w² has the gradient 6 at 3, of two separate layers 3 each."""
    model = Shared()
    gradient = jax.grad(squared_weight)(model)
    assert [leaf.item() for leaf in jax.tree.leaves(nnx.state(gradient, nnx.Param))] == [3, 3]
    optimizer = nnx.Optimizer(model, optax.sgd(0.1), wrt=nnx.Param)

    def step(model, optimizer):
        optimizer.update(model, nnx.grad(squared_weight)(model))

    jax.jit(step)(model, optimizer)
    assert (model.first.kernel[...].item(), model.calls[...].item()) == (3, 0)
    nnx.jit(step)(model, optimizer)
    assert model.first is model.second
    assert model.first.kernel[...].item() == pytest.approx(3 - 0.1 * 6)
    assert model.calls[...].item() == 1

    model = Shared()
    graph, params, calls = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def pure(params, calls):
        def loss(params):
            merged = nnx.merge(graph, params, calls, copy=True)
            return squared_weight(merged), nnx.state(merged, nnx.BatchStat)

        return jax.grad(loss, has_aux=True)(params)

    gradient, calls = pure(params, calls)
    assert [leaf.item() for leaf in jax.tree.leaves((gradient, calls))] == [6, 1]


def test_a_kept_copy_survives_a_step():
    t = stn.affine()
    make = stnn.FullyConnectedLocalization
    model = stnn.SpatialTransformer(make((6, 6, 1), t, hidden=(4,), rngs=nnx.Rngs(0)), t)
    graph, state = nnx.split(model)
    kept = {
        "clone": nnx.clone(model),
        "merge with copy": nnx.merge(graph, state, copy=True),
        "tree map": nnx.merge(graph, jax.tree.map(lambda leaf: leaf, state)),
    }
    shared = nnx.merge(graph, state)
    optimizer = nnx.Optimizer(model, optax.sgd(1.0), wrt=nnx.Param)
    bias = lambda model: np.asarray(model.localization.head.linear.bias[...])  # noqa: E731
    before = bias(model)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    for name, copied in kept.items():
        np.testing.assert_array_equal(bias(copied), before, err_msg=name)
    np.testing.assert_array_equal(bias(shared), bias(model))
    assert (bias(model) != before).all()


def test_an_optimizer_cuts_gradients_to_what_it_trains():
    """What the note of localization_labels says: no error, and a clip that counts less."""
    model = nnx.Sequential(*(nnx.Linear(1, 1, use_bias=False, rngs=nnx.Rngs(k)) for k in range(2)))
    first = nnx.All(nnx.Param, nnx.PathContains(0))
    gradient = jax.tree.map(lambda leaf: jnp.full_like(leaf, 3.0), nnx.state(model, nnx.Param))
    optimizer = nnx.Optimizer(
        model, optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)), wrt=first
    )
    before = [layer.kernel[...].item() for layer in model.layers]
    optimizer.update(model, gradient)
    moved = [
        old - layer.kernel[...].item() for old, layer in zip(before, model.layers, strict=True)
    ]
    np.testing.assert_allclose(moved, [1, 0], atol=1e-6)  # 1/√2 if both counted.
