"""Displacements along paths: an engine that follows them whole, and the loop over stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import stn_jax as stn
from stn_jax.sampling.interpolate import follow_pixels
from stn_jax.sampling.kernels import CUBIC_B_SPLINE
from stn_jax.sampling.options import SampleOptions

NATIVE = stn.implementations()[0]
SHAPES = {2: (6, 5), 3: (4, 3, 5)}

needs_native = pytest.mark.skipif(not NATIVE.available, reason=NATIVE.reason)


def follow(implementation):
    """The displacement of points ``[..., n]``, by an engine or (``"xla"``) stage by stage."""
    options = SampleOptions.create(CUBIC_B_SPLINE, "border", False, "exact", False, implementation)

    def displacement(field, points):
        return follow_pixels(field, list(jnp.moveaxis(points, -1, 0)), 3, options)

    return displacement


def compiled_text(function, *operands):
    return jax.jit(function).lower(*operands).as_text()


def operands(ndim, rng, batch=(), dtype=np.float64):
    field = rng.normal(size=(*batch, *SHAPES[ndim], ndim))
    points = rng.uniform(-2, 7, size=(*batch, 70, ndim))
    return jnp.asarray(field, dtype), jnp.asarray(points, dtype)


def with_derivatives(function, ndim):
    """The value and its cotangents; in two dimensions also the derivatives of all of these."""

    @jax.jit
    def every(field, points, cotangent):
        def pulled(*primals):
            value, pull = jax.vjp(function, *primals)
            return value, pull(cotangent)

        if ndim == 3:  # Second derivatives take a minute to compile.
            return pulled(field, points)
        tangents = (jnp.cos(3 * field), jnp.sin(2 * points))
        return jax.jvp(pulled, (field, points), tangents)

    return every


@needs_native
@pytest.mark.parametrize("ndim", SHAPES)
@pytest.mark.parametrize("in_axes", [None, (0, 0), (None, 0), (0, None)])
def test_whole_paths_are_those_by_stages(in_axes, ndim, rng, x64):
    field, points = operands(ndim, rng, () if in_axes is None else (3,))
    whole, by_stages = follow(None), follow("xla")
    if in_axes is not None:
        field, points = (
            each if axis == 0 else each[0]
            for each, axis in zip((field, points), in_axes, strict=True)
        )
        whole, by_stages = (jax.vmap(each, in_axes=in_axes) for each in (whole, by_stages))
    assert "stn_jax_follow" in compiled_text(whole, field, points)
    assert "stn_jax_follow" not in compiled_text(by_stages, field, points)
    cotangent = jnp.asarray(rng.normal(size=jax.eval_shape(whole, field, points).shape))
    found = with_derivatives(whole, ndim)(field, points, cotangent)
    expected = with_derivatives(by_stages, ndim)(field, points, cotangent)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * np.abs(other).max())


@needs_native
def test_points_of_a_batch_that_share_a_field_are_points_of_one_call(rng, x64):
    field, points = operands(2, rng)
    one_by_one = jax.vmap(follow(None), in_axes=(None, 0))
    assert "70x2" in next(
        line for line in compiled_text(one_by_one, field, points).splitlines() if "_follow" in line
    )
    cotangent = jnp.asarray(rng.normal(size=points.shape))
    found = with_derivatives(one_by_one, 2)(field, points, cotangent)
    expected = with_derivatives(follow(None), 2)(field, points, cotangent)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-10 * np.abs(other).max())
    few = points[:3]
    assert "stn_jax_follow" not in compiled_text(one_by_one, field, few)
    np.testing.assert_allclose(one_by_one(field, few), follow(None)(field, points)[:3], atol=1e-12)


def test_neither_coordinates_nor_velocities_are_transposed(rng):
    field, points = operands(2, rng, dtype=np.float32)
    with pytest.raises(NotImplementedError, match="not linear in its coordinates"):
        jax.linear_transpose(lambda field: follow(None)(field, points), field)(points)


@needs_native
def test_a_field_too_large_or_an_export_goes_by_stages(rng):
    field, points = operands(2, rng, dtype=np.float32)
    exported = jax.export.export(jax.jit(follow(None)))(field, points)
    assert "custom_call" not in exported.mlir_module()
    np.testing.assert_allclose(exported.call(field, points), follow(None)(field, points), atol=1e-5)
    large = jax.ShapeDtypeStruct((1025, 1024, 2), np.float32)
    assert "stn_jax_follow" not in compiled_text(follow(None), large, points)


def test_a_path_in_a_uniform_field_is_straight(rng):
    _, points = operands(2, rng, dtype=np.float32)
    field = jnp.broadcast_to(jnp.array([0.5, -0.25]), (6, 5, 2))
    np.testing.assert_allclose(follow(None)(field, points), 70 * [[0.5, -0.25]], rtol=1e-6)
    assert not follow(None)(jnp.zeros((6, 5, 2)), points).any()
