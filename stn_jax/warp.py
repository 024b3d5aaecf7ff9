"""Warping of images, points and boxes: transform, lattice and sampler in one call."""

import functools
from collections.abc import Sequence
from typing import Any, Literal, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from stn_jax import _checks
from stn_jax._footprints import checked_antialias, footprints_of
from stn_jax._records import Opened
from stn_jax._renames import renamed_argument
from stn_jax._types import AnyArray, Size
from stn_jax.coordinates import (
    Coverage,
    normalized_from_pixels,
    pixels_from_displacement,
    pixels_from_normalized,
    regular_grid,
)
from stn_jax.sampling.antialias import sample_footprints
from stn_jax.sampling.backends.base import ImplementationName
from stn_jax.sampling.filters import FilterName, sample_filtered
from stn_jax.sampling.interpolate import sample_affine, sample_pixels
from stn_jax.sampling.kernels import Kernel, KernelName
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PaddingName
from stn_jax.sampling.surrogate import GradientName, Linearized
from stn_jax.transforms.base import Transform, displacement_on_lattice


class WarpOptions(TypedDict, total=False):
    """The options of :func:`warp`, for its two signatures."""

    output_shape: Sequence[Size] | None
    kernel: KernelName | Kernel
    padding: PaddingName
    fill_value: ArrayLike
    clip: bool
    align_corners: bool
    antialias: bool | FilterName
    gradient: GradientName | Linearized
    deterministic: bool
    implementation: ImplementationName | None


@overload
def warp(
    image: AnyArray,
    transform: Transform,
    theta: AnyArray,
    *,
    return_coverage: Literal[False] = False,
    **options: Unpack[WarpOptions],
) -> Array: ...


@overload
def warp(
    image: AnyArray,
    transform: Transform,
    theta: AnyArray,
    *,
    return_coverage: Literal[True],
    **options: Unpack[WarpOptions],
) -> tuple[Array, Coverage]: ...


def warp(
    image: Shaped[AnyArray, "*space channels"],
    transform: Transform,
    theta: Float[AnyArray, " params"],
    *,
    output_shape: Sequence[Size] | None = None,
    kernel: KernelName | Kernel = "linear",
    padding: PaddingName = "constant",
    fill_value: ArrayLike = 0.0,
    clip: bool = False,
    align_corners: bool = False,
    antialias: bool | FilterName = False,
    gradient: GradientName | Linearized = "exact",
    deterministic: bool = False,
    implementation: ImplementationName | None = None,
    return_coverage: bool = False,
) -> Shaped[Array, "*out channels"] | tuple[Shaped[Array, "*out channels"], Coverage]:
    """Warps an image: each output pixel reads the input at the point that its centre is mapped to.

    With the identity's parameters and an output of the input's shape, the result is the input bit
    for bit, for every family of transforms and every kernel that interpolates.

    Args:
      image: ``[height, width, channels]`` or ``[depth, height, width, channels]``; batch with
        ``jax.vmap``. Integer and boolean images are sampled with the nearest kernel only.
      transform: A family of maps from target to source points, such as :func:`affine`.
      theta: Parameters of the transform, a flat vector ``[num_params]``.
      output_shape: Spatial shape of the output; ``None`` takes that of the image.
      kernel: As in :func:`grid_sample`.
      padding: As in :func:`grid_sample`.
      fill_value: As in :func:`grid_sample`.
      clip: As in :func:`grid_sample`.
      align_corners: As in :func:`grid_sample`.
      antialias: Whether an output pixel that covers several input pixels reads their mean. With
        ``True`` the covered area is computed from the derivative of the map, separately for each
        output pixel. Along an axis of the input that the map does not shrink, nothing is averaged;
        where it shrinks no axis, the result is the same bit for bit. Means are read linearly,
        whatever the kernel. The image must be floating, and takes 9 times its memory in float32, a
        volume 27 times; under ``"dst1"`` and ``"dst2"``, 4 and 8 times that. In ``jax.export`` its
        sizes must be numbers, not symbols.

        A name chooses the filter of another library, for maps that scale and shift each axis by
        itself: :func:`translation`, :func:`attention` and what is made of them, or a linear family
        with a theta that is not traced. ``"area"``: the mean over exactly the pixels, and parts of
        pixels, that the output pixel covers; OpenCV's ``INTER_AREA``. ``"kernel"``: the kernel, as
        wide as the output pixel: with ``"linear"`` a triangle, as PyTorch, JAX and Pillow reduce
        images; add ``padding="renormalized"`` for their borders. ``"gaussian"``: the kernel on the
        image smoothed by a Gaussian, as in scikit-image. An output pixel may cover up to the whole
        image; a filter that is still wider is cut off. A NaN or infinite pixel makes the whole
        channel NaN, since its zero weights are multiplied, too.
      gradient: As in :func:`grid_sample`.
      deterministic: As in :func:`grid_sample`.
      implementation: As in :func:`grid_sample`.
      return_coverage: Whether to also return which output pixels read from inside the input.

    Returns:
      ``[*output_shape, channels]`` in the image's dtype. With ``return_coverage``, a pair of that
      array and a ``Coverage``: the ``mask``, ``[*output_shape]``, and the ``fraction`` of its
      pixels that are true.

    Raises:
      ValueError: If shapes do not fit, or an option is unknown.
      TypeError: If ``theta`` is not floating, or ``image`` is neither floating nor sampled with
        the nearest kernel.

    Example:
      Zoom into the right half of an image:

      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.arange(4.0)[None, :, None]
      >>> theta = jnp.array([0.5, 0.5, 0.0])  # scale, tx, ty
      >>> stn.warp(image, stn.attention(), theta, padding="border").ravel().tolist()
      [1.75, 2.25, 2.75, 3.0]

      A mean over the pixels that were read from inside the image:

      >>> shift = jnp.array([0.5, 0.0])
      >>> warped, seen = stn.warp(image, stn.translation(), shift, return_coverage=True)
      >>> seen.mask.tolist(), seen.fraction.item()
      ([[True, True, True, False]], 0.75)
      >>> jnp.mean(warped, where=seen.mask[..., None]).item()
      2.0

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.
    """
    if not isinstance(transform, Transform):
        raise TypeError(
            f"transform must be a Transform, such as stn_jax.affine(); got {transform!r}."
        )
    options = SampleOptions.create(
        kernel, padding, align_corners, gradient, deterministic, implementation, clip
    )
    image = options.check_image(image, transform.ndim)
    theta = transform.check_theta(theta)
    if output_shape is None:
        output_shape = image.shape[:-1]
    output_shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
    fill = options.check_fill_value(fill_value, image)
    antialias = checked_antialias(antialias, transform, theta, options)
    if antialias and not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f"image must have a floating dtype to be antialiased, since pixels are averaged; got "
            f'{image.dtype}. Convert it, image.astype("float32").'
        )
    if antialias and not all(isinstance(size, int) for size in image.shape[:-1]):
        raise ValueError(
            "image must have sizes that are numbers where antialias is on, since the number of box "
            f"means depends on them; got {image.shape[:-1]}. Export one program for each size, or "
            "use antialias=False; the batch and the output may have any size."
        )
    # ``Opened`` makes the transform's arrays arguments of the compiled function, not constants.
    opened = Opened(transform)
    return _warp(
        image, theta, fill, options, opened, output_shape, antialias, bool(return_coverage)
    )


@functools.partial(jax.jit, static_argnums=range(5, 8))
def _warp(
    image: Array,
    theta: Array,
    fill: Array | None,
    options: SampleOptions,
    transform: Transform,
    output_shape: tuple[Any, ...],
    antialias: bool | FilterName,
    return_coverage: bool,
) -> Array | tuple[Array, Coverage]:
    align_corners, shape = options.align_corners, image.shape[:-1]
    if transform.affine_change and not (antialias or return_coverage):
        change = transform.affine_change(theta)
        if change.shape != (transform.ndim, transform.ndim + 1):
            raise ValueError(
                f"affine_change of {transform.name} must return a matrix of shape "
                f"{(transform.ndim, transform.ndim + 1)}; got {change.shape}. Leave it out for a "
                "family that is not affine."
            )
        return sample_affine(image, change, output_shape, fill, options)
    points = regular_grid(output_shape, align_corners=align_corners, dtype=theta.dtype)
    displacement = displacement_on_lattice(
        transform, theta, output_shape, align_corners=align_corners
    )
    pixels = pixels_from_displacement(displacement, shape, align_corners=align_corners)
    if antialias:
        footprints = footprints_of(transform, theta, points, shape, align_corners)
        if isinstance(antialias, str):
            warped = sample_filtered(image, pixels, footprints, fill, options, antialias)
        else:
            warped = sample_footprints(image, pixels, footprints, fill, options)
    else:
        warped = sample_pixels(image, pixels, fill, options)
    return (warped, Coverage.of(points + displacement)) if return_coverage else warped


@renamed_argument("shape", "image_shape")
def warp_points(
    points: Float[AnyArray, "*batch n"],
    transform: Transform,
    theta: Float[AnyArray, " params"],
    *,
    image_shape: Sequence[Size] | None = None,
    output_shape: Sequence[Size] | None = None,
    align_corners: bool = False,
    pixel_centers: float = 0.0,
) -> Float[Array, "*batch n"]:
    """Moves points of an image as :func:`warp` moves the pixels under them.

    Args:
      points: Points of the input image ``[..., n]``, ``(x, y)`` or ``(x, y, z)``, in pixel
        coordinates if ``image_shape`` is given, else in normalised ones.
      transform: As in :func:`warp`.
      theta: As in :func:`warp`.
      image_shape: Spatial shape of the input image.
      output_shape: Spatial shape of the output; ``None`` takes that of the input.
      align_corners: As in :func:`warp`.
      pixel_centers: Pixel coordinate of the first pixel's centre, 0, or 0.5 for points that are
        distances from the image's edge.

    Returns:
      Points of the output image, in the same kind of coordinates; NaN where the inverse is found by
      iteration and does not exist.

    Raises:
      ValueError: If shapes do not fit, ``pixel_centers`` is neither 0 nor 0.5, or
        ``output_shape`` or ``pixel_centers`` is given without ``image_shape``.
      TypeError: If ``points`` or ``theta`` is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> to_the_left = jnp.array([0.5, 0.0])  # the output reads half a unit to the right
      >>> corner = jnp.array([7.0, 2.0])
      >>> stn.warp_points(corner, stn.translation(), to_the_left, image_shape=(8, 8)).tolist()
      [5.0, 2.0]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 1, inverted.
    """
    if image_shape is None:
        if output_shape is not None or pixel_centers:
            given = "pixel_centers" if output_shape is None else "output_shape"
            raise ValueError(
                f"{given} is for pixel coordinates and needs image_shape, the shape of the input "
                f"image; got {given} alone."
            )
        return transform.invert(theta, points)
    image_shape = _checks.spatial_shape("image_shape", image_shape, transform.ndim)
    pixels: dict[str, Any] = {"align_corners": align_corners, "pixel_centers": pixel_centers}
    points = normalized_from_pixels(points, image_shape, **pixels)
    moved = transform.invert(theta, points)
    return pixels_from_normalized(moved, output_shape or image_shape, **pixels)


@renamed_argument("shape", "image_shape")
def warp_boxes(
    boxes: Float[AnyArray, "*batch corners"],
    transform: Transform,
    theta: Float[AnyArray, " params"],
    *,
    image_shape: Sequence[Size] | None = None,
    output_shape: Sequence[Size] | None = None,
    align_corners: bool = False,
    pixel_centers: float = 0.0,
    points_per_side: int = 2,
) -> Float[Array, "*batch corners"]:
    """Moves boxes of an image as :func:`warp` moves the pixels in them.

    Args:
      boxes: Boxes ``[..., 4]``, ``(x0, y0, x1, y1)``, in the coordinates of :func:`warp_points`.
      transform: As in :func:`warp`, for images.
      theta: As in :func:`warp`.
      image_shape: As in :func:`warp_points`.
      output_shape: As in :func:`warp_points`.
      align_corners: As in :func:`warp`.
      pixel_centers: As in :func:`warp_points`; 0.5 for boxes whose corners are edges of pixels, as
        those of slices and of most data sets.
      points_per_side: Number of points on each side that are moved. The two corners suffice for
        maps that keep lines straight; use more for a spline.

    Returns:
      The smallest axis-aligned boxes ``[..., 4]`` that contain the moved outlines.

    Raises:
      ValueError: If shapes do not fit, or ``pixel_centers`` is not as in :func:`warp_points`.
      TypeError: If ``boxes`` or ``theta`` is not floating.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> quarter_turn = jnp.array([jnp.pi / 2, 0.0, 0.0])
      >>> box = jnp.array([0.0, 0.0, 0.5, 0.25])
      >>> stn.warp_boxes(box, stn.rigid(), quarter_turn).round(6).tolist()
      [0.0, -0.5, 0.25, 0.0]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 1, inverted.
    """
    moved = warp_points(
        outline("boxes", boxes, transform, points_per_side),
        transform,
        theta,
        image_shape=image_shape,
        output_shape=output_shape,
        align_corners=align_corners,
        pixel_centers=pixel_centers,
    )
    return enclosing_boxes(moved)


def outline(name: str, boxes: AnyArray, transform: Transform, points_per_side: int) -> Array:
    """Points ``[..., points, 2]`` on the outlines of checked boxes ``[..., 4]``."""
    boxes = _checks.floating(name, boxes)
    if boxes.shape[-1:] != (4,) or transform.ndim != 2:
        raise ValueError(
            f"{name} must be [..., 4], (x0, y0, x1, y1), moved by a 2-D transform; got shape "
            f"{boxes.shape} and a {transform.ndim}-D {transform.name}."
        )
    if points_per_side < 2:
        raise ValueError(f"points_per_side must be at least 2, the corners; got {points_per_side}.")
    along = np.linspace(0, 1, points_per_side)
    sides = [[(s, 0), (s, 1), (0, s), (1, s)] for s in along]
    shares = np.reshape(sides, (-1, 2)).astype(boxes.dtype)[(None,) * (boxes.ndim - 1)]
    low, high = boxes[..., None, :2], boxes[..., None, 2:]
    return low * (1 - shares) + high * shares


def enclosing_boxes(outlines: Array) -> Array:
    """The smallest axis-aligned boxes ``[..., 4]`` around points ``[..., points, 2]``."""
    return jnp.concatenate([outlines.min(axis=-2), outlines.max(axis=-2)], axis=-1)
