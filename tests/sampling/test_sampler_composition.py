"""What JAX does to functions it can do to the sampler, for every kernel, padding and option."""

import copy
import functools
import pickle

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from leaks import checking_leaks
from mesh_laws import MODES, told_on_eight_devices
from sampler_options import OPTIONS, SHAPE, THETA, an_image, look, warp

import stn_jax as stn
from stn_jax.sampling.kernels import KERNELS, SPLINES

pytestmark = [pytest.mark.conformance("option"), pytest.mark.cross_section(7)]
every_option = pytest.mark.parametrize("option", OPTIONS)
# The widest kernels take longest to compile.
SLOW = ("kernel lanczos", "kernel bspline", "antialias, wrap")
every_compiled_option = pytest.mark.parametrize(
    "option",
    [pytest.param(o, marks=[pytest.mark.slow] * o.startswith(SLOW)) for o in OPTIONS],
)
COPIES = {
    "pickle": lambda each: pickle.loads(pickle.dumps(each)),
    "cloudpickle": lambda each: cloudpickle.loads(cloudpickle.dumps(each)),
    "deepcopy": copy.deepcopy,
}


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


@pytest.mark.parametrize("option", [o for o in OPTIONS if o != "clip"])
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


@every_compiled_option
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

    with checking_leaks(), jax.debug_nans(True):
        mapped, slopes = scanned(images, thetas)
    single = jax.jit(functools.partial(warp, option))
    expected = np.stack([[single(image, theta) for image in images] for theta in thetas])
    np.testing.assert_allclose(mapped, np.stack([expected] * 2), atol=1e-5)
    assert bool(jnp.isfinite(slopes).all())


EXPORTED = [option for option in OPTIONS if not OPTIONS[option].get("antialias")]


def exported(option, *shape):
    """An export of values and gradients for batches and images of these sizes."""
    sizes = jax.export.symbolic_shape(", ".join(shape))
    images = jax.ShapeDtypeStruct((*sizes, 2), np.float32)
    thetas = jax.ShapeDtypeStruct((sizes[0], 6), np.float32)
    return jax.export.export(jax.jit(jax.vmap(functools.partial(look, option))))(images, thetas)


@pytest.mark.parametrize("option", EXPORTED)
def test_images_of_any_number_and_size_are_exported(option):
    if OPTIONS[option].get("implementation") == "native":
        # Compiled code does not travel.
        with pytest.raises(NotImplementedError, match="exported program"):
            exported(option, "b", "h", "w")
        return
    value, d_image, d_theta = exported(option, "b", "h", "w").out_avals
    assert (str(value.shape), str(d_theta.shape)) == ("(b, 3, 2, 2)", "(b, 6)")
    assert str(d_image.shape) == "(b, h, w, 2)"


@pytest.mark.parametrize("option", [o for o in EXPORTED if o != "implementation native"])
def test_an_export_gives_the_same_for_every_size(option):
    """A program that was exported once, for a batch of small images and for one large image."""
    run = jax.jit(exported(option, "b", "h", "w").call)
    rng = np.random.default_rng(0)
    for shape in ((2, 3, 4, 2), (1, 9, 7, 2)):
        images = rng.normal(size=shape).astype(np.float32)
        thetas = np.stack([THETA] * len(images))
        expected = jax.jit(jax.vmap(functools.partial(look, option)))(images, thetas)
        for one, other in zip(*map(jax.tree.leaves, (run(images, thetas), expected)), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.parametrize("option", [o for o in OPTIONS if o not in EXPORTED])
@pytest.mark.usefixtures("no_runtime_types")  # The type of an output's sizes is int.
def test_antialiasing_is_exported_for_images_of_one_size(option):
    """Batch and output may have any size; the number of box means follows from the image's."""
    with pytest.raises(ValueError, match=r"image must have sizes that are numbers.*got \(h, w\)"):
        exported(option, "b", "h", "w")
    height, width = jax.export.symbolic_shape("h, w")
    value, d_image, d_theta = exported(option, "b", str(SHAPE[0]), str(SHAPE[1])).out_avals
    assert (str(value.shape), str(d_theta.shape)) == ("(b, 3, 2, 2)", "(b, 6)")
    assert str(d_image.shape) == f"(b, {SHAPE[0]}, {SHAPE[1]}, 2)"

    def like(image, other):
        """A crop of the other image's size."""
        return warp(option, image, THETA, output_shape=other.shape)

    shapes = (jax.ShapeDtypeStruct(each, np.float32) for each in (SHAPE, (height, width)))
    export = jax.export.export(jax.jit(like))(*shapes)
    found = export.call(an_image(), np.zeros((3, 2), np.float32))
    np.testing.assert_allclose(found, warp(option, an_image(), THETA), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_as_on_one_device(mode, request):
    told_on_eight_devices(request.node, mode, OPTIONS)


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
