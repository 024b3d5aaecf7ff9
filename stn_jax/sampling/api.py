"""``grid_sample`` and ``sample_pixels``: sampling at normalised and at pixel coordinates."""

from typing import Any

import jax
from jaxtyping import Array, ArrayLike, Float, Shaped

from stn_jax import _checks
from stn_jax._types import AnyArray
from stn_jax.coordinates import by_coordinate, pixels_from_grid
from stn_jax.sampling import interpolate
from stn_jax.sampling.backends.base import ImplementationName
from stn_jax.sampling.kernels import Kernel, KernelName
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PaddingName
from stn_jax.sampling.surrogate import GradientName, Linearized


def grid_sample(
    image: Shaped[AnyArray, "*space channels"],
    grid: Float[AnyArray, "*out n"],
    *,
    kernel: KernelName | Kernel = "linear",
    padding: PaddingName = "constant",
    fill_value: ArrayLike = 0.0,
    clip: bool = False,
    align_corners: bool = False,
    gradient: GradientName | Linearized = "exact",
    deterministic: bool = False,
    implementation: ImplementationName | None = None,
) -> Shaped[Array, "*out channels"]:
    """Samples an image at the points of a grid.

    Args:
      image: ``[height, width, channels]`` or ``[depth, height, width, channels]``; batch with
        ``jax.vmap``. Integer and boolean images are sampled with the nearest kernel only.
      grid: Source points ``[..., n]`` in normalised coordinates, ``(x, y)`` or ``(x, y, z)`` on
        the last axis; usually ``[out_height, out_width, 2]``.
      kernel: ``"nearest"``, ``"linear"``, ``"cubic"`` (Keys' with a = −0.5), ``"lanczos3"`` and
        ``"lanczos5"`` (weights normalised to sum to 1), ``"bspline2"`` to ``"bspline5"`` (the
        spline through the pixels, see :func:`spline_coefficients`) or a :class:`Kernel`.
      padding: Values of the pixels outside the image. ``"constant"``: ``fill_value``; with 0 this
        is PyTorch's ``zeros``. ``"border"``: the nearest pixel of the image. ``"reflection"``: the
        image mirrored at its outer edges, or with ``align_corners`` at the centres of the corner
        pixels. ``"wrap"``: the image repeated. ``"dst1"`` and ``"dst2"``: the image mirrored with
        the other sign, at the centres of the pixels just outside, which are 0, or at the outer
        edges; floating images only. ``"renormalized"``: pixels outside are left out, and the
        weights of those inside divided by their sum, as in ``jax.image``; a point outside the image
        has ``fill_value``. Splines do not take it.
      fill_value: Scalar, or one value per channel ``[channels]``.
      clip: Whether to limit samples to the image's smallest and largest value, over all channels;
        with ``"constant"`` and ``"renormalized"`` padding the fill value counts as a pixel. Cubic,
        Lanczos and spline kernels overshoot at edges.
      align_corners: If true, −1 and 1 are the centres of the corner pixels; if false, the outer
        edges of the image.
      gradient: The derivative with respect to the coordinates: ``"exact"``; ``"linearized"``, the
        slope of a linear fit to a wider neighbourhood; or :class:`Linearized` with your own spread.
      deterministic: Whether the image's gradient has the same bits on every run. Accelerators sum
        it in parallel, in any order, and a fixed result costs about three times as much. The native
        engine adds in a fixed order anyway, so there it costs nothing.
      implementation: Name of an engine: ``"native"``, ``"xla"`` or ``"dense"``. ``None`` takes the
        best that supports the call. :func:`stn_jax.implementations` lists those installed.

    Returns:
      ``[..., channels]`` in the image's dtype. Coordinates and weights are computed in float32 or
      wider. Infinite and far coordinates lie outside the image. A NaN coordinate gives NaN (in an
      integer image: the pixel at index 0), and all its derivatives are zero.

    Raises:
      ValueError: If shapes do not fit, or an option is unknown.
      NotImplementedError: If the engine named by ``implementation`` does not support the call.
      TypeError: If ``grid`` is not floating, or ``image`` is neither floating nor sampled with the
        nearest kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.array([[0.0, 10.0], [20.0, 30.0]])[..., None]
      >>> stn.grid_sample(image, jnp.array([[0.0, 0.0], [0.5, -0.5]])).tolist()
      [[15.0], [10.0]]

    Note:
      The derivative with respect to the coordinates is exact. At a kink, such as a whole pixel
      coordinate of the linear kernel, it is that of the cell to the right. PyTorch does the same,
      except exactly on the border under border and reflection padding, where it gives 0.

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equations 3 to 7.
    """
    grid = _points("grid", grid)
    options = SampleOptions.create(
        kernel, padding, align_corners, gradient, deterministic, implementation, clip
    )
    image = options.check_image(image, grid.shape[-1])
    return _grid_sample(image, grid, options.check_fill_value(fill_value, image), options)


def sample_pixels(
    image: Shaped[AnyArray, "*space channels"],
    pixels: Float[AnyArray, "*out n"],
    *,
    kernel: KernelName | Kernel = "linear",
    padding: PaddingName = "constant",
    fill_value: ArrayLike = 0.0,
    clip: bool = False,
    align_corners: bool = False,
    gradient: GradientName | Linearized = "exact",
    deterministic: bool = False,
    implementation: ImplementationName | None = None,
) -> Shaped[Array, "*out channels"]:
    """Samples an image at pixel coordinates.

    Like :func:`grid_sample`, without the conversion from normalised coordinates and its rounding:
    whole and half pixels are hit exactly.

    Args:
      image: ``[height, width, channels]`` or ``[depth, height, width, channels]``; batch with
        ``jax.vmap``. Integer and boolean images are sampled with the nearest kernel only.
      pixels: Source points ``[..., n]`` in pixels of the image, ``(x, y)`` or ``(x, y, z)`` on the
        last axis; the centre of the first pixel is 0, the centre of the next is 1.
      kernel: As in :func:`grid_sample`. Half way between two pixels, ``"nearest"`` reads the one on
        the right.
      padding: As in :func:`grid_sample`.
      fill_value: As in :func:`grid_sample`.
      clip: As in :func:`grid_sample`.
      align_corners: Whether ``padding="reflection"`` mirrors at the centres of the corner pixels
        rather than at the outer edges. Nothing else depends on it, since coordinates are pixels.
      gradient: As in :func:`grid_sample`.
      deterministic: As in :func:`grid_sample`.
      implementation: As in :func:`grid_sample`.

    Returns:
      ``[..., channels]`` in the image's dtype, as in :func:`grid_sample`.

    Raises:
      ValueError: If shapes do not fit, or an option is unknown.
      NotImplementedError: If the engine named by ``implementation`` does not support the call.
      TypeError: If ``pixels`` is not floating, or ``image`` is neither floating nor sampled with
        the nearest kernel.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> image = jnp.array([[0.0, 10.0], [20.0, 30.0]])[..., None]
      >>> stn.sample_pixels(image, jnp.array([[0.5, 0.5], [1.0, 0.0]])).tolist()
      [[15.0], [10.0]]

      The same as SciPy's ``map_coordinates(image, [y, x], order=1, mode="nearest")``:

      >>> y, x = jnp.array([[0.0, 0.75]]), jnp.array([[0.25, 4.0]])
      >>> pixels = jnp.stack([x, y], axis=-1)
      >>> stn.sample_pixels(image, pixels, padding="border")[..., 0].tolist()
      [[2.5, 25.0]]

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 3.
    """
    pixels = _points("pixels", pixels)
    options = SampleOptions.create(
        kernel, padding, align_corners, gradient, deterministic, implementation, clip
    )
    image = options.check_image(image, pixels.shape[-1])
    return _sample_pixels(image, pixels, options.check_fill_value(fill_value, image), options)


def _points(name: str, array: Any) -> Array:
    """Checks points in 1, 2 or 3 dimensions; returns them in float32 or wider."""
    array = _checks.floating(name, array)
    if array.ndim == 0 or array.shape[-1] not in (1, 2, 3):
        raise ValueError(
            f"{name} must have 1, 2 or 3 coordinates on its last axis, (x, y) for an image; "
            f"got shape {array.shape}."
        )
    return array


@jax.jit
def _grid_sample(image: Array, grid: Array, fill: Array | None, options: SampleOptions) -> Array:
    pixels = pixels_from_grid(grid, image.shape[:-1], align_corners=options.align_corners)
    return interpolate.sample_pixels(image, pixels, fill, options)


@jax.jit
def _sample_pixels(
    image: Array, pixels: Array, fill: Array | None, options: SampleOptions
) -> Array:
    return interpolate.sample_pixels(image, by_coordinate(pixels), fill, options)
