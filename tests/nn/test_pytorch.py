"""Weights of PyTorch: equal outputs of ported models, and what is wrong said in words."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
from flax import linen, nnx
from hypothesis import given
from hypothesis import strategies as st

import stn_jax as stn
from stn_jax import nn as stnn

# Not pytest.importorskip at the top: most of these laws need no PyTorch.
needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"
)


def pool(maps):
    return nnx.max_pool(maps, (2, 2), (2, 2))


# PyTorch's linear layer gives theta itself, not its scaled distance from the identity.
PLAIN = functools.partial(stnn.RegressionHead, scale=1.0)


class Port(nnx.Module):
    """The network of PyTorch's tutorial on spatial transformers, written as one writes it here."""

    def __init__(self, rngs):
        convolution = lambda a, b, size: nnx.Conv(  # noqa: E731
            a, b, (size, size), padding="VALID", rngs=rngs
        )
        features = nnx.Sequential(
            convolution(1, 8, 7), pool, nnx.relu, convolution(8, 10, 5), pool, nnx.relu
        )
        localization = stnn.FeatureLocalization(
            features, 3 * 3 * 10, stn.affine(), hidden=(32,), head=PLAIN, rngs=rngs
        )
        self.transformer = stnn.SpatialTransformer(localization, stn.affine())
        self.conv1, self.conv2 = convolution(1, 10, 5), convolution(10, 20, 5)
        self.fc1 = nnx.Linear(4 * 4 * 20, 50, rngs=rngs)
        self.fc2 = nnx.Linear(50, 10, rngs=rngs)

    def __call__(self, images):
        maps = self.transformer(images)
        for convolution in (self.conv1, self.conv2):
            maps = nnx.relu(pool(convolution(maps)))
        return self.fc2(nnx.relu(self.fc1(maps.reshape(len(maps), -1))))


NAMES = {
    "localization": "transformer.localization.backbone.layers",
    "fc_loc.0": "transformer.localization.layers.0",
    "fc_loc.2": "transformer.localization.head.linear",
}
FLATTENED = {"fc_loc.0": (10, 3, 3), "fc1": (20, 4, 4)}


@pytest.fixture
def torch_model():
    """The tutorial's network, with maps that differ from image to image."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    from torch_stn import SpatialTransformerNetwork

    torch.manual_seed(0)
    model = SpatialTransformerNetwork()
    with torch.no_grad():
        model.fc_loc[2].bias.copy_(torch.tensor([0.9, 0.2, 0.1, -0.3, 1.1, -0.05]))
    return model


@needs_torch
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_tutorial_network_gives_the_same_logits(dtype, tolerance, torch_model, rng):
    """Differences relative to the largest logit."""
    import torch

    torch_model = torch_model.to(getattr(torch, dtype))
    # Smooth as pictures are: from noise the sampler reads far other values a rounding error away.
    images = scipy.ndimage.gaussian_filter(rng.normal(size=(16, 28, 28, 1)), (0, 2, 2, 0))
    images = np.interp(images, (images.min(), images.max()), (0, 1)).astype(dtype)
    with torch.no_grad():
        x = torch.from_numpy(np.moveaxis(images, -1, 1).copy())
        expected, theta = torch_model(x).numpy(), torch_model.theta(x).numpy().reshape(16, 6)
    state_dict = {name: tensor.numpy() for name, tensor in torch_model.state_dict().items()}
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        model = Port(nnx.Rngs(0))
        like = jax.tree.map(lambda leaf: leaf.astype(dtype), nnx.state(model, nnx.Param))
        params = stnn.from_pytorch(state_dict, like, names=NAMES, flattened=FLATTENED)
        nnx.update(model, params)
        run = nnx.jit(lambda model, images: model(images))
        logits = np.asarray(run(model, jnp.asarray(images)))
        ours = np.asarray(model.transformer.localize(jnp.asarray(images)))
    assert logits.dtype == dtype
    assert theta.std(axis=0).min() > 1e-3
    difference = np.abs(logits - expected).max() / np.abs(expected).max()
    print(f"{dtype}: largest difference, relative to the largest logit: {difference:.1e}")
    np.testing.assert_allclose(ours, theta, atol=tolerance * np.abs(theta).max(), rtol=0)
    np.testing.assert_allclose(logits, expected, atol=tolerance * np.abs(expected).max(), rtol=0)


@needs_torch
def test_order_of_flattened_maps_matters(torch_model, rng):
    """Taken as vectors, the same weights give other logits: the reordering is no formality."""
    import torch

    images = rng.normal(size=(4, 28, 28, 1)).astype(np.float32)
    with torch.no_grad():
        expected = torch_model(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()
    model = Port(nnx.Rngs(0))
    vectors = {"fc_loc.0": (90,), "fc1": (320,)}
    params = stnn.from_pytorch(
        torch_model.state_dict(), nnx.state(model), names=NAMES, flattened=vectors
    )
    nnx.update(model, params)
    assert np.abs(model(jnp.asarray(images)) - expected).max() > 0.1 * np.abs(expected).max()


@needs_torch
@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_convolutions_of_any_number_of_axes_and_groups(spatial, rng):
    import torch

    theirs = getattr(torch.nn, f"Conv{spatial}d")(4, 6, (3, 2, 4)[:spatial], groups=2)
    images = rng.normal(size=(2, *(7, 6, 5)[:spatial], 4)).astype(np.float32)
    with torch.no_grad():
        out = theirs(torch.from_numpy(np.moveaxis(images, -1, 1).copy())).numpy()
    ours = nnx.Conv(
        4, 6, (3, 2, 4)[:spatial], padding="VALID", feature_group_count=2, rngs=nnx.Rngs(0)
    )
    nnx.update(ours, stnn.from_pytorch(theirs.state_dict(), nnx.state(ours)))
    np.testing.assert_allclose(ours(jnp.asarray(images)), np.moveaxis(out, 1, -1), atol=1e-5)


class Normalised(linen.Module):
    """A Linen model with a spatial transformer, batch norm and a layer of names."""

    @linen.compact
    def __call__(self, images):
        def make(rngs):
            return stnn.FullyConnectedLocalization(
                images.shape[1:], stn.affine(), hidden=(5,), head=PLAIN, rngs=rngs
            )

        images = stnn.linen.spatial_transformer(make, stn.affine(), name="st")(images)
        maps = linen.BatchNorm(use_running_average=True, name="norm")(images)
        return linen.Dense(3, name="logits")(maps.reshape(len(maps), -1))


def test_linen_model_with_batch_statistics(rng):
    """Against the same network in PyTorch's layout, in NumPy."""
    images = jnp.asarray(rng.normal(size=(4, 6, 5, 2)), jnp.float32)
    model = Normalised()
    variables = model.init(jax.random.key(0), images)
    shapes = {
        "loc.0.weight": (5, 60), "loc.0.bias": (5,), "loc.2.weight": (6, 5), "loc.2.bias": (6,),
        "bn.weight": (2,), "bn.bias": (2,), "bn.running_mean": (2,), "bn.running_var": (2,),
        "fc.weight": (3, 60), "fc.bias": (3,),
    }  # fmt: skip
    state_dict = {name: rng.uniform(0.1, 0.4, size=shape) for name, shape in shapes.items()}
    state_dict["bn.num_batches_tracked"] = np.array(7)
    found = stnn.from_pytorch(
        state_dict,
        variables,
        names={
            "loc.0": "st.localization.layers.0",
            "loc.2": "st.localization.head.linear",
            "bn": "norm",
            "fc": "logits",
        },
        flattened={"loc.0": (2, 6, 5), "fc": (2, 6, 5)},
    )
    assert jax.tree.structure(found) == jax.tree.structure(variables)

    def dense(x, name):
        return x @ state_dict[f"{name}.weight"].T + state_dict[f"{name}.bias"]

    x = np.moveaxis(images, -1, 1)
    theta = dense(np.maximum(dense(x.reshape(4, -1), "loc.0"), 0), "loc.2")
    theta = jnp.asarray(theta, jnp.float32)
    warped = np.stack([stn.warp(i, stn.affine(), t) for i, t in zip(images, theta, strict=True)])
    own = {part: state_dict[f"bn.{part}"][:, None, None] for part in ("weight", "bias")}
    mean, var = (state_dict[f"bn.running_{part}"][:, None, None] for part in ("mean", "var"))
    normal = (np.moveaxis(warped, -1, 1) - mean) / np.sqrt(var + 1e-5)
    expected = dense((normal * own["weight"] + own["bias"]).reshape(4, -1), "fc")
    np.testing.assert_allclose(model.apply(found, images), expected, rtol=1e-4)


@given(
    maps=st.tuples(*[st.integers(1, 4)] * 3),
    outputs=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_dense_layer_behind_a_flatten(maps, outputs, seed):
    """The product is the same, maps flattened channels-first there and channels-last here."""
    rng = np.random.default_rng(seed)
    x, weight = rng.normal(size=maps), rng.normal(size=(outputs, np.prod(maps)))
    like = {"fc": {"kernel": np.zeros((np.prod(maps), outputs))}}
    with jax.enable_x64(True):
        found = stnn.from_pytorch({"fc.weight": weight}, like, flattened={"fc": maps})
    here = np.moveaxis(x, 0, -1).ravel()
    np.testing.assert_allclose(
        here @ np.asarray(found["fc"]["kernel"]), weight @ x.ravel(), rtol=1e-12, atol=1e-12
    )


def test_dtypes_are_those_of_the_parameters():
    like = {"fc": {"kernel": jnp.zeros((2, 2), jnp.bfloat16), "bias": np.zeros(2, np.float32)}}
    state_dict = {"fc.weight": np.eye(2, dtype=np.float16), "fc.bias": np.zeros(2)}
    found = stnn.from_pytorch(state_dict, like)
    assert found["fc"]["kernel"].dtype == jnp.bfloat16
    assert found["fc"]["bias"].dtype == jnp.float32


def test_names_of_a_whole_model_and_of_its_parts():
    """The longest name holds, and ``""`` is the whole model."""
    state_dict = {"a.b.bias": np.zeros(1), "a.c.bias": np.ones(1), "bias": np.full(1, 2.0)}
    like = {
        "z": {"bias": np.zeros(1)},
        "y": {"c": {"bias": np.zeros(1)}},
        "x": {"bias": np.ones(1)},
    }
    found = stnn.from_pytorch(state_dict, like, names={"a.b": "z", "a": "y", "": "x"})
    assert [leaf.item() for leaf in jax.tree.leaves(found)] == [2, 1, 0]
    alone = stnn.from_pytorch({"net.bias": np.ones(1)}, {"bias": np.zeros(1)}, names={"net": ""})
    assert alone["bias"].item() == 1


KERNEL = {"fc": {"kernel": np.zeros((4, 3))}}


@pytest.mark.parametrize(
    ("state_dict", "params", "options", "error"),
    [
        ({}, KERNEL, {}, "params holds parameters that state_dict has no tensors for: fc.kernel"),
        (
            {"fc.weight": np.ones((3, 4)), "fc.bias": np.ones(3)},
            KERNEL,
            {"flattened": {"fc": (4,)}},
            "state_dict holds tensors that params has no parameters for: fc.bias",
        ),
        (
            {"fc.weight": np.ones((3, 4))},
            KERNEL,
            {},
            "flattened must have an entry for 'fc', which has 4 inputs",
        ),
        (
            {"fc.weight": np.ones((3, 4))},
            KERNEL,
            {"flattened": {"fc": (1, 5, 1)}},
            r"must be the shape \(channels, height, width\) of 4 features.*got \(1, 5, 1\), 5",
        ),
        (
            {"fc.weight": np.ones((3, 5))},
            KERNEL,
            {"flattened": {"fc": (5,)}},
            r"'fc.weight'\] of shape \(3, 5\) must fit the parameter fc.kernel of shape \(4, 3\); "
            r"here it has shape \(5, 3\)",
        ),
        (
            {"fc.weight": np.ones((3, 4))},
            KERNEL,
            {"flattened": {"fc": (4,), "conv": (1, 2, 2)}},
            "flattened holds names that no dense layer of state_dict has: conv",
        ),
        (
            {"fc.weight": np.ones((3, 4))},
            KERNEL,
            {"flattened": {"fc": (4,)}, "names": {"fc2": "fc"}},
            "names holds names that no module of state_dict has: fc2",
        ),
    ],
)
def test_errors(state_dict, params, options, error):
    with pytest.raises(ValueError, match=error):
        stnn.from_pytorch(state_dict, params, **options)
