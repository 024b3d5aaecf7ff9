"""Transform, lattice and sampler as one call."""

import functools
from collections.abc import Sequence

import jax
from jaxtyping import Array, ArrayLike, Float, Shaped

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.coordinates import pixels_from_displacement, regular_grid
from stn_jax.sampling.kernels import Kernel, KernelName
from stn_jax.sampling.padding import PaddingName
from stn_jax.sampling.sampler import SampleOptions, sample_pixels
from stn_jax.transforms.base import Transform


def warp(
    image: Shaped[AnyArray, "*space channels"],
    transform: Transform,
    theta: Float[AnyArray, " params"],
    *,
    output_shape: Sequence[int] | None = None,
    kernel: KernelName | Kernel = "linear",
    padding: PaddingName = "constant",
    fill_value: ArrayLike = 0.0,
    align_corners: bool = False,
) -> Shaped[Array, "*out channels"]:
    """Warps an image: every output pixel reads the input at the point ``theta`` sends it to.

    With the parameters of the identity and an output of the input's shape, the result is the
    input bit for bit, for every family of transforms and every kernel that interpolates.

    Args:
      image: ``[height, width, channels]`` or ``[depth, height, width, channels]``; batch with
        ``jax.vmap``. Integer and boolean images are sampled with the nearest kernel only.
      transform: A family of maps from target to source points, such as :func:`affine`.
      theta: Its parameters, a flat vector ``[num_params]``.
      output_shape: Spatial shape of the output; the image's when ``None``.
      kernel: As in :func:`grid_sample`.
      padding: As in :func:`grid_sample`.
      fill_value: As in :func:`grid_sample`.
      align_corners: As in :func:`grid_sample`.

    Returns:
      ``[*output_shape, channels]`` in the image's dtype.

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

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.
    """
    if not isinstance(transform, Transform):
        raise TypeError(
            f"transform must be a Transform, such as stn_jax.affine(); got {transform!r}."
        )
    options = SampleOptions.create(kernel, padding, align_corners)
    image = options.check_image(image, transform.ndim)
    theta = transform.check_theta(theta)
    if output_shape is None:
        output_shape = image.shape[:-1]
    output_shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
    fill = options.check_fill_value(fill_value, image)
    return _warp(image, theta, fill, transform, output_shape, options)


@functools.partial(jax.jit, static_argnames=("transform", "output_shape", "options"))
def _warp(
    image: Array,
    theta: Array,
    fill: Array,
    transform: Transform,
    output_shape: tuple[int, ...],
    options: SampleOptions,
) -> Array:
    align_corners = options.align_corners
    points = regular_grid(output_shape, align_corners=align_corners, dtype=theta.dtype)
    displacement = transform.displacement(theta, points)
    pixels = pixels_from_displacement(displacement, image.shape[:-1], align_corners=align_corners)
    return sample_pixels(image, pixels, fill, options)
