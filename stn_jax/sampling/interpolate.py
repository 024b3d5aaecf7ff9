"""Sampling at pixel coordinates. All sampling ends here, but that by named filters."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from stn_jax import _checks
from stn_jax._affine import affine_pixels
from stn_jax._types import Size
from stn_jax.sampling import derivatives, meshes
from stn_jax.sampling.backends.base import AffinePoints, BoxMeans, Paths, Points, Taps
from stn_jax.sampling.box_means import BoxLayout
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PADDINGS
from stn_jax.sampling.splines import prefiltered
from stn_jax.sampling.taps import operands_along, smooth


def sample_pixels(
    image: Array, pixels: Sequence[Array], fill: Array | None, options: SampleOptions
) -> Array:
    """Samples an image at pixel coordinates.

    Args:
      image: ``[*space, channels]``; integers only with the nearest kernel.
      pixels: One array ``[*out]`` for each coordinate, x first.
      fill: Value of constant padding, scalar or ``[channels]``; ``None`` for 0.
      options: The sampling options.

    Returns:
      ``[*out, channels]`` in the image's dtype.
    """
    if options.clip:
        unclipped = sample_pixels(image, pixels, fill, options.replaced(clip=False))
        return clipped(unclipped, image, fill, options)
    dtype = image.dtype
    image, pixels, options = prefiltered(image, pixels, fill, options)
    image, *pixels = _of_fitting_dtypes(dtype, image, *_checks.common_dtype(*pixels))
    if options.gradient is None:
        return _exact(options, image, fill, *pixels).astype(dtype)
    leaves, structure = jax.tree.flatten(options)
    return _fitted(structure, leaves, image, fill, *pixels).astype(dtype)


def sample_affine(
    image: Array,
    change: Array,
    out_shape: tuple[Size, ...],
    fill: Array | None,
    options: SampleOptions,
) -> Array:
    """Samples an image at the points of the output lattice under an affine map.

    Args:
      image: As in :func:`sample_pixels`.
      change: ``[n, n + 1]``, the map's matrix in normalised coordinates less the identity.
      out_shape: Spatial shape of the output.
      fill: As in :func:`sample_pixels`.
      options: The sampling options.

    Returns:
      ``[*out_shape, channels]`` in the image's dtype.
    """
    if options.clip:
        unclipped = sample_affine(image, change, out_shape, fill, options.replaced(clip=False))
        return clipped(unclipped, image, fill, options)
    sizes = (*image.shape[:-1], *out_shape)
    if not (
        all(isinstance(size, int) for size in sizes)
        and options.kernel.prefilter is None
        and options.gradient is None
        and _engines_compute_weights(options)
    ):
        aligned = options.align_corners
        pixels = affine_pixels(change, out_shape, image.shape[:-1], align_corners=aligned)
        return sample_pixels(image, pixels, fill, options)
    dtype = image.dtype
    image, change = _of_fitting_dtypes(dtype, image, change)
    value, shared = _fill_value(options, image, fill, change.shape[0])
    formula = AffinePoints(**shared, **_of_points(options), out=tuple(out_shape))
    return derivatives.evaluate(formula, image, value, change).astype(dtype)


def follow_pixels(
    field: Array, pixels: Sequence[Array], steps: int, options: SampleOptions
) -> Array:
    """The displacement of points that follow a velocity field for unit time.

    Args:
      field: ``[*space, n]``, the velocities in pixels, x first.
      pixels: The points' coordinates, as in :func:`sample_pixels`.
      steps: Number of Runge-Kutta steps.
      options: The sampling options, whose kernel is a polynomial between pixels.

    Returns:
      ``[*out, n]``, the displacements in pixels, x first.
    """
    field, *pixels = _checks.common_dtype(field, *pixels)
    value, shared = _fill_value(options, field, None, len(pixels))
    formula = Paths(**shared, **_of_points(options), steps=steps)
    return derivatives.evaluate(formula, field, value, *pixels)


def sample_box_means(
    image: Array,
    layout: BoxLayout,
    pixels: Sequence[Array],
    levels: Array,
    edges: Array,
    fill: Array | None,
    options: SampleOptions,
    reads_image: bool,
) -> Array:
    """Samples the array of an image's box means, and averages the samples of the boxes of a point.

    Args:
      image: As in :func:`sample_pixels`; floating.
      layout: Where the means lie in the array.
      pixels: The points' coordinates, as in :func:`sample_pixels`.
      levels: The levels of their boxes, as in :meth:`BoxLayout.places`.
      edges: How far the boxes lie from the points, as there.
      fill: Value of the pixels outside the image, as in :func:`sample_pixels`.
      options: The sampling options, with the linear kernel.
      reads_image: Whether points of level −1 read the image itself.

    Returns:
      ``[*out, channels]`` in the image's dtype.
    """
    if options.gradient is not None:
        assert not reads_image
        places = layout.places(pixels, levels, edges)
        means, options = layout.expand(image, fill), options.replaced(padding="border")
        return sample_pixels(means, places, None, options).mean(axis=0)
    dtype = image.dtype
    image, edges, *pixels = _checks.common_dtype(image, edges, *pixels)
    fill = fill if layout.rule.filled else None
    value, shared = _fill_value(options, image, fill, len(pixels))
    each_point = levels.ndim > 1
    rules: Any = {"layout": layout, "reads_image": reads_image, "each_point": each_point}
    formula = BoxMeans(**shared, **_of_points(options), **rules)
    return derivatives.evaluate(formula, image, value, *pixels, levels, edges).astype(dtype)


def _of_fitting_dtypes(dtype: Any, image: Array, *sources: Array) -> list[Array]:
    """An image that had a dtype, and coordinates or a matrix, in dtypes that engines take."""
    if not jnp.issubdtype(dtype, jnp.floating):
        return [image, *sources]
    wide = _checks.widest(dtype, sources[0].dtype)
    # Engines take half-precision images with float32 coordinates; else both need one dtype.
    if not (dtype.itemsize == 2 and wide == jnp.float32):
        image = image.astype(wide)
    return [image, *(each.astype(wide) for each in sources)]


def clipped(values: Array, image: Array, fill: Array | None, options: SampleOptions) -> Array:
    """Values no smaller than the smallest pixel and no larger than the largest.

    The fill value counts as a pixel if the padding uses it. NaN does not count, and stays.
    """
    if not jnp.issubdtype(image.dtype, jnp.floating):
        return values  # Sampled with the nearest kernel.
    known = [image]
    if PADDINGS[options.padding].filled:
        known.append(jnp.zeros((), image.dtype) if fill is None else fill.astype(image.dtype))
    lows, highs = (
        [each(array, where=~jnp.isnan(array), initial=start) for array in known]
        for each, start in ((jnp.min, jnp.inf), (jnp.max, -jnp.inf))
    )
    low, high = functools.reduce(jnp.minimum, lows), functools.reduce(jnp.maximum, highs)
    # Not ``jnp.clip``, which halves the slope at a value that equals the limit.
    return jnp.where(values < low, low, jnp.where(values > high, high, values))


def _exact(options: SampleOptions, image: Array, fill: Array | None, *pixels: Array) -> Array:
    value, shared = _fill_value(options, image, fill, len(pixels))
    if _engines_compute_weights(options):
        formula = Points(**shared, **_of_points(options))
        return derivatives.evaluate(formula, image, value, *pixels)
    along = [
        operands_along(pixel, size, options.kernel, options.padding, options.align_corners)
        for pixel, size in zip(pixels, image.shape[:-1][::-1], strict=True)
    ]
    indices, weights = zip(*along, strict=True)
    return derivatives.evaluate(Taps(**shared), image, value, *indices, *weights)


def _engines_compute_weights(options: SampleOptions) -> bool:
    return options.polynomial is not None and PADDINGS[options.padding].keeps_weights


def _fill_value(
    options: SampleOptions, image: Array, fill: Array | None, ndim: int
) -> tuple[Array, dict[str, Any]]:
    """The fill value ``[channels]``, and the fields that all formulas have."""
    value = jnp.zeros((), image.dtype) if fill is None else fill.astype(image.dtype)
    shared = {
        "ndim": ndim,
        "filled": PADDINGS[options.padding].filled and fill is not None,
        "deterministic": options.deterministic,
        "implementation": options.implementation,
    }
    value = jnp.broadcast_to(value, image.shape[-1:])
    return meshes.sharded_as_channels(value, image), shared


def _of_points(options: SampleOptions) -> dict[str, Any]:
    """The fields that the formulas over points have besides."""
    return {
        "kernel": options.polynomial,
        "padding": options.padding,
        "align_corners": options.align_corners,
    }


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _fitted(
    structure: Any, leaves: Sequence[Any], image: Array, fill: Array | None, *pixels: Array
) -> Array:
    """The exact sample; its derivative along a coordinate is the slope of a local linear fit."""
    return _exact(jax.tree.unflatten(structure, leaves), image, fill, *pixels)


@functools.partial(_fitted.defjvp, symbolic_zeros=True)
def _fitted_jvp(structure: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    leaves, image, fill, *pixels = primals
    leaves_dot, image_dot, fill_dot, *pixels_dot = tangents
    others = (leaves, image, fill)
    others_dot = jax.tree.map(_instantiate, (leaves_dot, image_dot, fill_dot))

    def exact(leaves: Any, image: Array, fill: Array | None) -> Array:
        return _exact(jax.tree.unflatten(structure, leaves), image, fill, *pixels)

    value, tangent = exact(*others), None
    if not all(isinstance(each, SymbolicZero) for each in jax.tree.leaves(tangents[:3])):
        tangent = jax.jvp(exact, others, others_dot)[1]
    options = jax.tree.unflatten(structure, leaves)
    assert options.gradient is not None
    offsets = options.gradient.offsets(len(pixels), pixels[0].dtype)

    def sample_at(offset: Array) -> Array:
        moved = [pixel + each for pixel, each in zip(pixels, offset, strict=True)]
        return _fitted(structure, leaves, image, fill, *moved)

    along = [k for k, dot in enumerate(pixels_dot) if not isinstance(dot, SymbolicZero)]
    total = jnp.zeros_like(value) if tangent is None else tangent
    if not along:
        return value, total
    # ``vmap`` over ``_fitted``, so that second derivatives use the linear fit too.
    samples = jax.vmap(sample_at)(offsets)
    for k in along:
        # Least squares in closed form: the offsets have mean 0 and are uncorrelated.
        weights = offsets[:, k] / jnp.sum(offsets[:, k] ** 2)
        slope = jnp.tensordot(
            weights.astype(samples.dtype), samples, axes=1, precision=jax.lax.Precision.HIGHEST
        )
        dot = smooth_tangent(pixels[k], pixels_dot[k])
        total = total + (slope.astype(dot.dtype) * dot[..., None]).astype(value.dtype)
    return value, total


def smooth_tangent(pixel: Array, tangent: Array) -> Array:
    """The tangent of a coordinate; 0 where the coordinate is too far away (:func:`smooth`)."""
    return jax.jvp(smooth, (pixel,), (tangent,))[1]


def _instantiate(tangent: Any) -> Any:
    if isinstance(tangent, SymbolicZero):
        return jnp.zeros(tangent.shape, tangent.dtype)
    return tangent
