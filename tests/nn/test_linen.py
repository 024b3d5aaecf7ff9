"""The module in a Linen model: its parameters in Linen's tree, their keys, draws, equality.

The oracle is the same NNX module.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.flax
from flax import linen, nnx, serialization, traverse_util

import stn_jax as stn
from stn_jax import nn as stnn

T = stn.attention()
IN_SHAPE = (6, 6, 1)
START = jnp.array([0.6, 0.1, -0.2])


@pytest.fixture
def images(rng):
    return jnp.asarray(rng.normal(size=(3, *IN_SHAPE)), jnp.float32)


class LinenModel(linen.Module):
    """Two spatial transformers, one of them named, in a Linen model."""

    @linen.compact
    def __call__(self, images):
        make = functools.partial(
            stnn.FullyConnectedLocalization, images.shape[1:], T, initial_theta=START
        )
        first = stnn.linen.spatial_transformer(make, T, name="st", num_steps=2, padding="border")
        out, theta = first(images, return_theta=True)
        again = stnn.linen.spatial_transformer(make, T)
        assert again(out, nnx_method="localize").shape == (3, 3)
        return linen.Dense(2)(again(out).reshape(images.shape[0], -1)), theta


def test_in_a_linen_model(images):
    """Parameters are in Linen's tree; outputs equal those of the same NNX module."""
    model = LinenModel()
    variables = model.init(jax.random.key(0), images)
    assert set(variables) == {"params"}
    params = variables["params"]
    assert {"st", "Dense_0"} < set(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    logits, theta = jax.jit(model.apply)({"params": params}, images)
    assert logits.shape == (3, 2)
    np.testing.assert_allclose(theta, np.tile(START, (3, 2)), atol=1e-6)

    network = stnn.FullyConnectedLocalization(IN_SHAPE, T, initial_theta=START, rngs=nnx.Rngs(0))
    nnx_model = stnn.SpatialTransformer(network, T, num_steps=2, padding="border")
    nnx.update(nnx_model, nnx.restore_int_paths(params["st"]))
    alone = stnn.linen.spatial_transformer(
        lambda rngs: stnn.FullyConnectedLocalization(IN_SHAPE, T, rngs=rngs),
        T,
        num_steps=2,
        padding="border",
    )
    actual = alone.apply({"params": params["st"]}, images)
    np.testing.assert_allclose(actual, nnx_model(images), rtol=1e-4, atol=1e-5)

    loss = lambda params: jnp.sum(model.apply({"params": params}, images)[0] ** 2)  # noqa: E731
    gradient = jax.jit(jax.grad(loss))(params)
    assert jnp.abs(gradient["st"]["localization"]["head"]["linear"]["kernel"]).max() > 0
    labels = stnn.localization_labels(gradient)
    assert labels["st"]["localization"]["head"]["linear"]["bias"] == "localization"
    assert labels["Dense_0"]["kernel"] == "rest"


def make_convolutional(rngs):
    """A network with two lists of layers, one of them inside a list of networks."""
    make = functools.partial(
        stnn.ConvolutionalLocalization, (28, 28, 1), T, features=(4, 3), hidden=3
    )
    network = make(rngs=rngs)
    network.others = nnx.List([make(rngs=rngs)])
    return network


def digit_keys(tree):
    """The keys of a tree that are whole numbers, and those that are their names."""
    paths = jax.tree_util.tree_leaves_with_path(tree)
    keys = [key.key for path, _ in paths for key in path]
    return {key for key in keys if isinstance(key, int)}, {key for key in keys if key in ("0", "1")}


def test_linen_parameters_have_string_keys_all_the_way():
    """Alone and inside a model, after init and after a call that changes variables."""
    images = jax.random.uniform(jax.random.key(0), (2, 28, 28, 1))
    alone = stnn.linen.spatial_transformer(make_convolutional, T)
    first = alone.init(jax.random.key(0), images)
    out, changed = alone.apply(first, images, mutable=True)
    assert jax.tree.structure(changed) == jax.tree.structure(first)
    assert digit_keys(first) == (set(), {"0", "1"})
    flat = traverse_util.flatten_dict(first["params"], sep="/")
    assert flat["localization/others/0/convolutions/1/kernel"].shape == (5, 5, 4, 3)
    again = traverse_util.unflatten_dict(flat, sep="/")
    np.testing.assert_array_equal(alone.apply({"params": again}, images), out)
    assert alone.bind(first).unbind()[1]["params"].keys() == first["params"].keys()


def test_linen_parameters_with_whole_numbers_as_keys_can_be_applied(images):
    """As an older version made them."""
    model = LinenModel()
    params = model.init(jax.random.key(0), images)["params"]
    old = params | {"st": nnx.restore_int_paths(params["st"])}
    assert digit_keys(old)[0] == {0, 1}
    np.testing.assert_array_equal(
        model.apply({"params": old}, images)[0], model.apply({"params": params}, images)[0]
    )


def moved(tree):
    """Other numbers than those of any start."""
    return jax.tree.map(lambda leaf: leaf + 0.01 * jnp.arange(leaf.size).reshape(leaf.shape), tree)


def by_orbax(params, folder):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "params", params)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "params")


def by_safetensors(params, folder):
    flat = traverse_util.flatten_dict(params, sep="/")
    safetensors.flax.save_file(flat, folder / "params.safetensors")
    flat = safetensors.flax.load_file(folder / "params.safetensors")
    return traverse_util.unflatten_dict(flat, sep="/")


def by_msgpack(params, folder):
    del folder
    return serialization.msgpack_restore(serialization.msgpack_serialize(params))


@pytest.mark.filterwarnings("ignore:Sharding info not provided when restoring")
@pytest.mark.parametrize("keep", [by_orbax, by_safetensors, by_msgpack])
def test_linen_parameters_come_back_without_a_target(keep, images, tmp_path):
    """Each format gives a tree that the model applies as it is, bit for bit."""
    model = LinenModel()
    params = moved(model.init(jax.random.key(0), images)["params"])
    restored = keep(params, tmp_path)
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    for actual, expected in zip(
        model.apply({"params": restored}, images),
        model.apply({"params": params}, images),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


def test_draws_in_a_linen_model(images):
    make = functools.partial(
        stnn.FullyConnectedLocalization, IN_SHAPE, T, head=stnn.GaussianHead, hidden=()
    )
    model = stnn.linen.spatial_transformer(make, T)
    keys = jax.random.split(jax.random.key(0), 4)
    params = model.init({"params": keys[0], "theta": keys[1]}, images)["params"]
    first, again, other = (
        model.apply({"params": params}, images, rngs={"theta": key})
        for key in (keys[2], keys[2], keys[3])
    )
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 0


def test_linen_modules_of_equal_arguments_are_equal():
    def make(**options):
        network = functools.partial(stnn.FullyConnectedLocalization, IN_SHAPE, T)
        return stnn.linen.spatial_transformer(network, stn.attention(), **options)

    assert make() == make()
    assert hash(make()) == hash(make())
    assert make(num_steps=2) != make()


@pytest.mark.usefixtures("no_runtime_types")
def test_linen_errors():
    with pytest.raises(TypeError, match="localization must make a localization network"):
        stnn.linen.spatial_transformer(3, T)
