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
from flax_modules import MODULES, an_input, functional, look, made
from leaks import checking_leaks
from mesh_laws import MODES, told_on_eight_devices

pytestmark = [pytest.mark.conformance("module"), pytest.mark.cross_section(5)]
every_module = pytest.mark.parametrize("module", MODULES)
COPIES = {
    "pickle": lambda each: pickle.loads(pickle.dumps(each)),
    "cloudpickle": lambda each: cloudpickle.loads(cloudpickle.dumps(each)),
    "deepcopy": copy.deepcopy,
    "clone": nnx.clone,
}


@every_module
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_gives_the_same_without_a_new_trace(module, way):
    model, images = made(module), an_input(module, 2)
    linen = isinstance(model, tuple)
    model, parameters = model if linen else (nnx.clone(model), None)
    traces = []

    def forward(model, images):
        traces.append(model)
        return model.apply(parameters, images) if linen else model(images)

    # A Linen module is a static argument.
    compiled = jax.jit(forward, static_argnums=0) if linen else nnx.jit(forward)
    expected = compiled(model, images)
    for _ in range(2):
        model = model.clone() if linen and way == "clone" else COPIES[way](model)
        again = compiled(model, images)
        jax.tree.map(np.testing.assert_array_equal, again, expected)
    assert len(traces) == 1


@every_module
def test_strict_modes_change_nothing(module):
    """Float32 stays float32 with x64 on, and nothing is promoted without being asked."""
    apply, parameters = functional(module)
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        images = jax.ShapeDtypeStruct((2, *an_input(module).shape), np.float32)
        out = jax.eval_shape(functools.partial(look, apply), parameters, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype("float32")}


@every_module
def test_a_batch_of_no_images(module):
    apply, parameters = functional(module)
    none = jnp.zeros((0, *an_input(module).shape))
    out, (_, slope) = jax.eval_shape(functools.partial(look, apply), parameters, none)
    assert {leaf.shape[0] for leaf in jax.tree.leaves(out)} == {0}
    assert slope.shape == none.shape
    assert {leaf.shape[0] for leaf in jax.tree.leaves(apply(parameters, none))} == {0}


@every_module
def test_batches_of_any_size_are_exported(module):
    """Value and gradients."""
    apply, parameters = functional(module)
    (number,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((number, *an_input(module).shape), np.float32)
    out, (_, slope) = jax.eval_shape(functools.partial(look, apply), parameters, images)
    assert {each.shape[0] for each in jax.tree.leaves(out)} == {number}
    forward = jax.jit(functools.partial(look, apply, parameters))
    exported = jax.export.export(forward)(images)
    assert [each.shape for each in exported.out_avals][-1] == slope.shape == images.shape


@pytest.mark.cross_section(13)
@every_module
def test_scan_remat_and_vmap_without_leaks(module):
    """Beside one batch at a time; gradients reach parameters and images and are finite."""
    batches = an_input(module, 2, 3)
    look_at = functools.partial(look, *functional(module))

    @jax.jit
    def scanned(batches):
        step = lambda none, _: (none, jax.vmap(jax.checkpoint(look_at))(batches))  # noqa: E731
        return jax.lax.scan(step, None, None, length=1)[1]

    with checking_leaks(), jax.debug_nans(True):
        several = scanned(batches)
    each = jax.jit(look_at)
    expected = [each(images) for images in batches]
    for one, *others in zip(*map(jax.tree.leaves, (several, *expected)), strict=True):
        np.testing.assert_allclose(one[0], np.stack(others), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_as_on_one_device(mode, request):
    told_on_eight_devices(request.node, mode, MODULES)
