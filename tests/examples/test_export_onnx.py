"""Models in JAX's own operations, and as ONNX where the converter is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import stn_jax as stn
from examples import export_onnx
from experiments import pretrained
from stn_jax import nn as stnn


@pytest.fixture(scope="module")
def images():
    return pretrained.load().pipeline.test_images(range(4))[0]


@pytest.mark.parametrize("implementation", ["xla", "dense"])
def test_own_operations_give_the_same_logits(implementation, images):
    model = pretrained.load().model
    plain = export_onnx.in_jax_operations(model, implementation=implementation)
    assert "stn_jax_" in str(jax.make_jaxpr(model)(images))
    assert "stn_jax_" not in str(jax.make_jaxpr(plain)(images))
    np.testing.assert_allclose(jax.jit(plain)(images), model(images), rtol=1e-4, atol=1e-4)


def test_results_keep_their_structure(images):
    """Here a dict of a tuple, of a function that is jitted inside."""
    inner = jax.jit(lambda image: stn.warp(image, stn.rigid(), jnp.array([0.3, 0.1, 0.0])))
    function = lambda image, shift: {"a": (inner(image) + shift, shift)}  # noqa: E731
    found = export_onnx.in_jax_operations(function)(images[0], jnp.float32(2))
    expected = function(images[0], jnp.float32(2))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    np.testing.assert_allclose(found["a"][0], expected["a"][0], atol=1e-6)


def test_sample_inside_a_loop_is_refused(images):
    def loop(image):
        step = lambda image, _: (stn.warp(image, stn.rigid(), jnp.zeros(3)), None)  # noqa: E731
        return jax.lax.scan(step, image, None, length=2)[0]

    with pytest.raises(ValueError, match="function must not sample inside scan"):
        export_onnx.in_jax_operations(loop)(images[0])


def test_paths_are_refused(images):
    function = lambda image: stn.warp(image, stn.diffeomorphic((3, 3)), jnp.zeros(18))  # noqa: E731
    with pytest.raises(ValueError, match="function must not integrate paths"):
        export_onnx.in_jax_operations(function)(images[0])


@pytest.mark.filterwarnings("ignore")  # jax2onnx and its imports warn of their own.
def test_onnx_runtime_gives_the_same_images(images):
    for package in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    start = jnp.array([0.9, 0.2, 0.1, -0.3, 1.1, 0.0])
    localization = stnn.FullyConnectedLocalization(
        (28, 28, 1), stn.affine(), initial_theta=start, rngs=nnx.Rngs(0)
    )
    transformer = stnn.SpatialTransformer(localization, stn.affine())
    found = export_onnx.run_onnx(export_onnx.to_onnx(transformer, (28, 28, 1)), np.asarray(images))
    np.testing.assert_allclose(found, transformer(images), atol=1e-5)
