"""What JAX, Flax and Python do to functions and objects they can do to every module."""

import copy
import functools
import pickle

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stn_jax as stn
from stn_jax import nn as stnn

pytestmark = pytest.mark.conformance("module")
SHAPE = (8, 9, 2)
T = stn.affine()
FULLY = functools.partial(stnn.FullyConnectedLocalization, SHAPE, hidden=(4,))
CONVOLUTIONAL = functools.partial(
    stnn.ConvolutionalLocalization, SHAPE, features=(2,), kernel_size=3
)


class Features(nnx.Module):
    """Features of one's own."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(SHAPE[-1], 3, rngs=rngs)

    def __call__(self, images):
        return self.linear(images).mean(axis=(1, 2))


def transformer(t=T, network=FULLY, *, num_transforms=1, **options):
    """Makes a model around a localization network."""
    return lambda rngs: stnn.SpatialTransformer(
        network(t, num_transforms=num_transforms, rngs=rngs), t, **options
    )


MODULES = {
    "fully connected": lambda rngs: FULLY(T, rngs=rngs),
    "convolutional": lambda rngs: CONVOLUTIONAL(T, rngs=rngs),
    "convolutional, many": lambda rngs: CONVOLUTIONAL(T, num_transforms=2, rngs=rngs),
    "features of one's own": lambda rngs: stnn.FeatureLocalization(Features(rngs), 3, T, rngs=rngs),
    "Gaussian head": lambda rngs: FULLY(T, head=stnn.GaussianHead, rngs=rngs),
    "regression head": lambda rngs: stnn.RegressionHead(SHAPE[-1], T, rngs=rngs),
    "transformer": transformer(),
    "transformer, convolutional": transformer(network=CONVOLUTIONAL),
    "transformer, parallel": transformer(num_transforms=2),
    "transformer, steps": transformer(num_steps=2),
    "transformer, bounded": transformer(stn.bounded(T, radius=0.5)),
    "transformer, spline": transformer(stn.thin_plate_spline((3, 3))),
    "transformer, flow": transformer(stn.flow((3, 3)), num_steps=2),
    "transformer, antialiased crops": transformer(
        stn.attention(), output_shape=(3, 4), antialias=True
    ),
}
every_module = pytest.mark.parametrize("module", MODULES)
COPIES = {
    "pickle": lambda each: pickle.loads(pickle.dumps(each)),
    "cloudpickle": lambda each: cloudpickle.loads(cloudpickle.dumps(each)),
    "deepcopy": copy.deepcopy,
    "clone": nnx.clone,
}


@functools.cache
def made(module):
    """The model, with weights that let theta depend on the images."""
    model = MODULES[module](nnx.Rngs(0))
    rng = np.random.default_rng(1)

    def filled(value):
        noise = rng.normal(size=value.shape)
        return value + jnp.asarray(0.02 * noise, value.dtype)

    state = nnx.state(model, nnx.Param)
    nnx.update(model, jax.tree.map(filled, state))
    return model


def an_input(module, *batch):
    shape = SHAPE[-1:] if module == "regression head" else SHAPE
    return np.float32(np.random.default_rng(0).normal(size=(*batch, *shape)))


def look(graph, parameters, rest, images):
    """The value, and its gradients to parameters and images."""

    def loss(parameters, images):
        out = nnx.merge(graph, parameters, rest, copy=True)(images)
        return sum(jnp.sum(jnp.sin(each)) for each in jax.tree.leaves(out)), out

    slopes, out = jax.grad(loss, (0, 1), has_aux=True)(parameters, images)
    return out, slopes


@every_module
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_gives_the_same_without_a_new_trace(module, way):
    model, images = nnx.clone(made(module)), an_input(module, 2)
    model.eval()  # a Gaussian head gives its mean
    traces = []

    @nnx.jit
    def forward(model, images):
        traces.append(model)
        return model(images)

    expected = forward(model, images)
    for _ in range(2):
        model = COPIES[way](model)
        again = forward(model, images)
        jax.tree.map(np.testing.assert_array_equal, again, expected)
    assert len(traces) == 1


@every_module
def test_strict_modes_change_nothing(module):
    """Float32 stays float32 with x64 on, and nothing is promoted without being asked."""
    graph, *state = nnx.split(made(module), nnx.Param, ...)
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        images = jax.ShapeDtypeStruct((2, *an_input(module).shape), np.float32)
        out = jax.eval_shape(functools.partial(look, graph), *state, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype("float32")}


@every_module
def test_a_batch_of_no_images(module):
    graph, *state = nnx.split(made(module), nnx.Param, ...)
    none = jnp.zeros((0, *an_input(module).shape))
    out, (_, slope) = jax.eval_shape(functools.partial(look, graph), *state, none)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(out)} == {0}
    assert slope.shape == none.shape
    assert {leaf.shape[0] for leaf in jax.tree.leaves(made(module)(none))} == {0}


@every_module
def test_batches_of_any_size_are_exported(module):
    graph, *state = nnx.split(made(module), nnx.Param, ...)
    (number,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((number, *an_input(module).shape), np.float32)
    forward = jax.jit(lambda images: nnx.merge(graph, *state, copy=True)(images))
    exported = jax.export.export(forward)(images)
    assert {each.shape[0] for each in exported.out_avals} == {number}


@pytest.mark.slow
@every_module
def test_scan_remat_and_vmap_without_leaks(module):
    """Beside one batch at a time; gradients reach parameters and images and are finite."""
    graph, *state = nnx.split(made(module), nnx.Param, ...)
    batches = an_input(module, 2, 3)
    look_at = functools.partial(look, graph, *state)

    @jax.jit
    def scanned(batches):
        step = lambda none, _: (none, jax.vmap(jax.checkpoint(look_at))(batches))  # noqa: E731
        return jax.lax.scan(step, None, None, length=1)[1]

    with jax.checking_leaks(), jax.debug_nans(True):
        several = scanned(batches)
    each = jax.jit(look_at)
    expected = [each(images) for images in batches]
    for one, *others in zip(*map(jax.tree.leaves, (several, *expected)), strict=True):
        np.testing.assert_allclose(one[0], np.stack(others), atol=1e-5, rtol=1e-4)
