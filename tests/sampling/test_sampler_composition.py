"""What JAX does to functions it can do to the sampler, for every kernel, padding and option."""

import copy
import functools
import pickle

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax.sampling.kernels import KERNELS, SPLINES
from stn_jax.sampling.padding import PADDINGS

pytestmark = pytest.mark.conformance("option")
# What differs from the defaults.
OPTIONS = {
    **{f"kernel {name}": {"kernel": name} for name in KERNELS | SPLINES},
    "kernel cubic, a traced": {"kernel": stn.cubic(a=-0.6)},
    **{f"padding {name}": {"padding": name} for name in PADDINGS},
    "fill_value": {"fill_value": 0.5},
    "align_corners": {"align_corners": True},
    "gradient linearized": {"gradient": "linearized"},
    "deterministic": {"deterministic": True},
    "antialias": {"antialias": True},
    "antialias, wrap": {"antialias": True, "padding": "wrap"},
    **{
        f"implementation {each.name}": {"implementation": each.name}
        for each in stn.implementations()
        if each.available
    },
}
every_option = pytest.mark.parametrize("option", OPTIONS)
# The widest kernels take longest to compile.
SLOW = ("kernel lanczos", "kernel bspline", "antialias, wrap")
every_compiled_option = pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=[pytest.mark.slow] * o.startswith(SLOW)) for o in OPTIONS],
)
SHAPE = (4, 5, 2)
THETA = np.float32([0.9, 0.1, 0.03, -0.2, 0.8, 0.07])
COPIES = {
    "pickle": lambda each: pickle.loads(pickle.dumps(each)),
    "cloudpickle": lambda each: cloudpickle.loads(cloudpickle.dumps(each)),
    "deepcopy": copy.deepcopy,
}


def warp(option, image, theta, **others):
    return stn.warp(image, stn.affine(), theta, output_shape=(3, 2), **OPTIONS[option] | others)


def an_image(*batch, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=(*batch, *SHAPE)))


def look(option, image, theta):
    """The value, and its gradients."""

    def loss(image, theta):
        return jnp.sum(jnp.sin(warp(option, image, theta)))

    return warp(option, image, theta), jax.grad(loss, (0, 1))(image, theta)


@every_option
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_strict_modes_change_nothing(option, dtype):
    """The image's dtype stays with x64 on, and nothing is promoted without being asked."""
    image = jax.ShapeDtypeStruct(SHAPE, dtype)
    theta = jax.ShapeDtypeStruct(THETA.shape, np.float32)
    with (
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
    ):
        value, slopes = jax.eval_shape(functools.partial(look, option), image, theta)
    assert [each.dtype for each in (value, *slopes)] == [dtype, dtype, "float32"]


@every_option
def test_no_images_and_no_points(option):
    batched = jax.vmap(functools.partial(look, option))
    none = jnp.zeros((0, *SHAPE)), jnp.zeros((0, 6))
    value, slopes = jax.eval_shape(batched, *none)
    assert [each.shape for each in (value, *slopes)] == [(0, 3, 2, 2), (0, *SHAPE), (0, 6)]


@every_compiled_option
def test_the_warp_is_linear_and_can_be_transposed(option):
    image, cotangent = an_image(), an_image(seed=1)[:3, :2]

    @jax.jit
    def both(image, cotangent):
        def project(image):
            return warp(option, image, THETA, fill_value=0.0)

        pull_back = jax.vjp(project, image)[1]
        return jax.linear_transpose(project, image)(cotangent), pull_back(cotangent)

    (transposed,), (expected,) = both(image, cotangent)
    np.testing.assert_allclose(transposed, expected, atol=1e-6)


@pytest.mark.slow
@every_option
def test_scan_remat_and_nested_vmap_without_leaks(option):
    """Beside one image and theta at a time."""
    images, thetas = an_image(2), np.stack([THETA, 0.8 * THETA, 1.2 * THETA])

    @jax.jit
    def scanned(images, thetas):
        mapped = jax.checkpoint(functools.partial(warp, option))
        across = jax.vmap(jax.vmap(mapped, (None, 0)), (0, None), out_axes=1)

        def step(total, shift):
            value, slope = jax.value_and_grad(lambda v: across(images + shift, v).sum())(thetas)
            return total + value, (across(images + shift, thetas), slope)

        return jax.lax.scan(step, images.sum() * 0, jnp.zeros(2))[1]

    with jax.checking_leaks(), jax.debug_nans(True):
        mapped, slopes = scanned(images, thetas)
    single = jax.jit(functools.partial(warp, option))
    expected = np.stack([[single(image, theta) for image in images] for theta in thetas])
    np.testing.assert_allclose(mapped, np.stack([expected] * 2), atol=1e-5)
    assert bool(jnp.isfinite(slopes).all())


@pytest.mark.parametrize(
    "option",
    # B-splines, matrix products and box means are traced for one size so far.
    [
        o
        for o in OPTIONS
        if not o.startswith(("kernel bspline", "antialias", "implementation dense"))
    ],
)
def test_images_of_any_number_and_size_are_exported(option):
    number, height, width = jax.export.symbolic_shape("b, h, w")
    images = jax.ShapeDtypeStruct((number, height, width, 2), np.float32)
    thetas = jax.ShapeDtypeStruct((number, 6), np.float32)
    export = jax.export.export(jax.jit(jax.vmap(functools.partial(warp, option))))
    if OPTIONS[option].get("implementation") == "native":
        # Compiled code does not travel.
        with pytest.raises(NotImplementedError, match="exported program"):
            export(images, thetas)
        return
    assert export(images, thetas).out_avals[0].shape == (number, 3, 2, 2)


VALUES = {
    **KERNELS,
    **SPLINES,
    "kernel with a parameter": stn.cubic(a=-0.6),
    "linearized": stn.Linearized(spread=2.0),
}


@pytest.mark.parametrize("option", VALUES)
@pytest.mark.parametrize("way", COPIES)
def test_a_copy_is_equal_and_has_the_same_hash(option, way):
    value = VALUES[option]
    again = COPIES[way](value)
    assert again == value
    assert hash(again) == hash(value)
