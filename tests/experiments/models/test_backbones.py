import functools
import math
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from experiments.models.backbones import BACKBONES, BackboneName, FrozenBatchNorm, load_weights
from experiments.models.backbones.layers import (
    NormedConvolution,
    average_pool_3x3,
    draw_kernels,
    max_pool_3x3,
)

# Parameters of the published networks without their classifiers of 1,000 classes.
SIZES = {
    "resnet50": 25_557_032 - 1000 * 2049,
    "inception-bn": 11_295_240 - 1000 * 1025,
    "googlenet": 6_624_904 - 1000 * 1025,
}
# Pixels up to 1 as the published weights want them.
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NORMALISED = {
    "resnet50": lambda images: (images - MEAN) / DEVIATION,
    "inception-bn": lambda images: 255 * images[..., ::-1] - np.array([104, 117, 128]),
    "googlenet": lambda images: (images - 0.5) / 0.5,
}
IMAGES = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)


@functools.partial(jax.jit, static_argnums=0)
def maps_of(graph, state, images):
    return nnx.merge(graph, state).features(images)


def small(seed=0):
    return BACKBONES["small"](nnx.Rngs(seed))


def tensors_of(backbone):
    """The content of a file with the backbone's own weights."""
    state = nnx.to_flat_state(nnx.state(backbone, (nnx.Param, nnx.BatchStat)))
    tensors = {}
    for path, variable in state:
        value = np.asarray(variable[...])
        value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value
        tensors[backbone.tensor_name(tuple(map(str, path)))] = np.ascontiguousarray(value)
    return tensors


def test_table_and_names_agree():
    assert tuple(BACKBONES) == typing.get_args(BackboneName)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_published_networks(name):
    def forward():
        images = jnp.zeros((3, 96, 64, 3))
        backbone = BACKBONES[name](nnx.Rngs(0))
        return nnx.state(backbone, nnx.Param), backbone.features(images), backbone(images)

    params, maps, described = jax.eval_shape(forward)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == SIZES[name]
    features = {"resnet50": 2048}.get(name, 1024)
    assert maps.shape == (3, 96 // 32, 64 // 32, features)
    assert described.shape == (3, features)


@pytest.mark.parametrize("name", SIZES)
def test_published_weights_give_pytorchs_features(name, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    import torch_backbones
    from safetensors.torch import save_file

    make = {
        "resnet50": torch_backbones.resnet50,
        "inception-bn": torch_backbones.BNInception,
        "googlenet": torch_backbones.googlenet,
    }
    theirs = torch_backbones.randomised(make[name]())
    heads = {"resnet50": ["fc"], "inception-bn": ["last_linear"], "googlenet": ["fc", "aux1.fc1"]}
    file = tmp_path / "weights.safetensors"
    extra = {f"{head}.weight": torch.zeros(2, 2) for head in heads[name]}
    save_file(theirs.state_dict() | extra, file)
    backbone = BACKBONES[name](nnx.Rngs(0))
    untrained = maps_of(*nnx.split(backbone), IMAGES)
    # Features of two images differ, and neither vanish nor explode.
    assert 1e-3 < untrained.std(axis=0).mean() < 1e3
    load_weights(backbone, file)
    ours = maps_of(*nnx.split(backbone), IMAGES)
    with torch.no_grad():
        seen = NORMALISED[name](IMAGES).transpose(0, 3, 1, 2).astype(np.float32)
        expected = theirs(torch.from_numpy(seen)).numpy().transpose(0, 2, 3, 1)
    assert expected.std(axis=0).mean() > 1e-2
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    assert error < 1e-5
    np.testing.assert_allclose(ours, expected, atol=1e-4 * expected.max())


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize(("size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
@pytest.mark.parametrize("biased", [False, True])
def test_folded_normalisation_is_pytorchs_in_value_and_gradient(size, stride, biased):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(0)
    unit = NormedConvolution(3, 5, size, stride=stride, biased=biased, dtype=jnp.float32)
    draw_kernels(unit, nnx.Rngs(0))
    state = nnx.state(unit)
    state = jax.tree.map(lambda x: x + rng.uniform(0.1, 0.3, x.shape).astype(np.float32), state)
    nnx.update(unit, state)
    maps = rng.standard_normal((2, 8, 6, 3), np.float32)
    conv = torch.nn.Conv2d(3, 5, size, stride, padding=size // 2, bias=biased)
    norm = torch.nn.BatchNorm2d(5).eval()
    pairs = {
        conv.weight: unit.kernel[...].transpose(3, 2, 0, 1),
        norm.weight: unit.norm.scale[...],
        norm.bias: unit.norm.bias[...],
        norm.running_mean: unit.norm.mean[...],
        norm.running_var: unit.norm.variance[...],
    }
    if biased:
        pairs[conv.bias] = unit.bias[...]
    with torch.no_grad():
        for theirs, ours in pairs.items():
            theirs.copy_(torch.tensor(np.asarray(ours)))
    seen = torch.tensor(maps.transpose(0, 3, 1, 2), requires_grad=True)
    # oneDNN's kernel gradient of 1×1 filters that skip pixels is wrong now and then.
    with torch.backends.mkldnn.flags(enabled=False):
        expected = torch.relu(norm(conv(seen)))
        weights = rng.standard_normal(expected.shape).astype(np.float32)
        (expected * torch.tensor(weights)).sum().backward()

    graph, params, rest = nnx.split(unit, nnx.Param, ...)

    @jax.jit
    def run(params, maps):
        def loss(params, maps):
            out = nnx.merge(graph, params, rest)(maps)
            return (out * weights.transpose(0, 2, 3, 1)).sum(), out

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(params, maps)

    (_, out), (gradient, into) = run(params, maps)
    channels_last = lambda x: x.detach().numpy().transpose(0, 2, 3, 1)  # noqa: E731
    np.testing.assert_allclose(out, channels_last(expected), atol=1e-5)
    np.testing.assert_allclose(into, channels_last(seen.grad), atol=1e-5)
    np.testing.assert_allclose(
        gradient["kernel"][...], conv.weight.grad.numpy().transpose(2, 3, 1, 0), atol=1e-4
    )
    np.testing.assert_allclose(gradient["norm"]["scale"][...], norm.weight.grad, atol=1e-4)
    np.testing.assert_allclose(gradient["norm"]["bias"][...], norm.bias.grad, atol=1e-4)


def test_statistics_are_no_parameters():
    norm = FrozenBatchNorm(4, scale=1.0, epsilon=1e-5)
    assert set(nnx.state(norm, nnx.Param)) == {"scale", "bias"}
    assert set(nnx.state(norm, nnx.BatchStat)) == {"mean", "variance"}


@pytest.mark.parametrize(
    ("stride", "padding", "options"),
    [
        (2, (1, 0), {"padding": 1}),
        (2, (0, 1), {"ceil_mode": True}),
        (1, (1, 1), {"padding": 1}),
    ],
)
def test_max_pooling_is_pytorchs(stride, padding, options):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    maps = np.random.default_rng(0).standard_normal((2, 6, 8, 3), np.float32)
    seen = torch.tensor(maps.transpose(0, 3, 1, 2), requires_grad=True)
    expected = torch.nn.functional.max_pool2d(seen, 3, stride, **options)
    expected.square().sum().backward()
    pool = functools.partial(max_pool_3x3, stride=stride, padding=padding)
    pooled, pull = jax.vjp(pool, jnp.asarray(maps))
    np.testing.assert_array_equal(pooled, expected.detach().numpy().transpose(0, 2, 3, 1))
    (gradient,) = pull(2 * pooled)
    np.testing.assert_allclose(gradient, seen.grad.numpy().transpose(0, 2, 3, 1), atol=1e-4)


def test_average_pooling_counts_the_zeros_outside():
    means = average_pool_3x3(jnp.ones((1, 4, 4, 1)))[0, :, :, 0]
    expected = np.full((4, 4), 1.0)
    expected[[0, -1]] = expected[:, [0, -1]] = 6 / 9
    expected[[0, 0, -1, -1], [0, -1, 0, -1]] = 4 / 9
    np.testing.assert_allclose(means, expected, atol=1e-6)


def test_kernels_have_the_deviation_of_he_and_are_the_same_under_a_trace():
    def make():
        module = nnx.List([NormedConvolution(64, n, 3, dtype=jnp.float32) for n in (32, 48)])
        draw_kernels(module, nnx.Rngs(0))
        return nnx.state(module)

    here, traced = (jax.tree.leaves(each()) for each in (make, jax.jit(make)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), here, traced)
    kernels = [leaf for leaf in here if leaf.ndim == 4]
    assert len(kernels) == 2
    for kernel in kernels:
        assert kernel.std() == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)


def test_half_precision_of_the_small_backbone():
    exact = maps_of(*nnx.split(small()), IMAGES)
    backbone = BACKBONES["small"](nnx.Rngs(0), dtype=jnp.bfloat16)
    maps = maps_of(*nnx.split(backbone), IMAGES)
    assert maps.dtype == jnp.bfloat16
    assert jax.eval_shape(backbone, jnp.asarray(IMAGES)).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(backbone))} == {jnp.dtype("float32")}
    np.testing.assert_allclose(maps.astype("float32"), exact, atol=0.02 * float(exact.max()))


@pytest.mark.parametrize("name", BACKBONES)
def test_images_that_do_not_fit_the_stride_are_refused(name):
    backbone = nnx.eval_shape(lambda: BACKBONES[name](nnx.Rngs(0)))
    images = jax.ShapeDtypeStruct((1, backbone.stride, backbone.stride + 1, 3), jnp.float32)
    with pytest.raises(ValueError, match=rf"multiples of {backbone.stride}.*got"):
        jax.eval_shape(backbone.features, images)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_weights_are_loaded_in_place(tmp_path, dtype):
    file = tmp_path / "weights.safetensors"
    tensors = tensors_of(small(1))
    save_file({name: value.astype(dtype) for name, value in tensors.items()}, file)
    backbone = small(0)
    load_weights(backbone, file)
    for name, value in tensors_of(backbone).items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, tensors[name].astype(dtype).astype(np.float32))


WRONG = {
    "missing": (
        lambda t: t.pop("convolutions.1.bias"),
        "lacks Small's tensors: convolutions.1.bias",
    ),
    "superfluous": (
        lambda t: t.update({f"layer{n}.weight": np.zeros(1) for n in range(7)}),
        "none of Small's: layer0.weight, .* and 2 more",
    ),
    "misshapen": (
        lambda t: t.update({"convolutions.0.weight": np.zeros((16, 3, 5, 5), np.float32)}),
        r"convolutions.0.weight must be .* shape \(16, 3, 3, 3\); got F32 of shape \(16, 3, 5, 5\)",
    ),
    "integer": (
        lambda t: t.update({"convolutions.0.bias": np.zeros(16, np.int32)}),
        "convolutions.0.bias must be F64 .* got I32",
    ),
    "not finite": (
        lambda t: t["convolutions.2.weight"].fill(np.nan),
        "not finite, in: convolutions.2.weight",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_weights_are_named_with_their_file(tmp_path, case):
    spoil, message = WRONG[case]
    file = tmp_path / "weights.safetensors"
    tensors = tensors_of(small(1))
    spoil(tensors)
    save_file(tensors, file)
    backbone = small(0)
    with pytest.raises(ValueError, match=f"weights.safetensors.*{message}"):
        load_weights(backbone, file)
    before = tensors_of(small(0))
    for name, value in tensors_of(backbone).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.parametrize("content", [None, b"", b"a pickled checkpoint of PyTorch", "truncated"])
def test_corrupt_and_missing_files_are_named(tmp_path, content):
    file = tmp_path / "weights.safetensors"
    if content == "truncated":
        save_file(tensors_of(small()), file)
        content = file.read_bytes()[:-4]
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.safetensors is not a readable .*save_file"):
        load_weights(small(), file)
