"""The spatial transformer as a Flax NNX module."""

from collections.abc import Callable, Sequence

import jax
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks
from stn_jax.sampling import Kernel
from stn_jax.sampling.gradients import GradientName, Linearized
from stn_jax.sampling.kernels import KernelName
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PaddingName
from stn_jax.transforms import Transform
from stn_jax.warp import warp


class SpatialTransformer(nnx.Module):
    """Localization network, transform and sampler in one layer.

    Args:
      localization: Any callable from images ``[batch, height, width, channels]`` to theta,
        ``[batch, num_params]``, or ``[batch, N, num_params]`` (or flat, ``[batch, N·num_params]``)
        for N parallel transforms.
      transform: The family of transforms.
      output_shape: Spatial shape of the output; the input's when ``None``.
      num_transforms: Number N of parallel transforms.
      kernel: As in :func:`stn_jax.warp`; so are all that follow.
      padding: What lies outside the image.
      fill_value: The value of constant padding.
      align_corners: Whether −1 and 1 are centres of corner pixels rather than outer edges.
      antialias: Whether what is made smaller is averaged.
      gradient: The derivative with respect to the coordinates.
      deterministic: Whether the images' gradient has the same bits on every run.

    Raises:
      ValueError: If an option is unknown, or shapes do not fit.
      TypeError: If ``localization`` is not callable or ``transform`` is not a transform.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> transform = stn.affine()
      >>> localization = stnn.ConvolutionalLocalization((28, 28, 1), transform, rngs=nnx.Rngs(0))
      >>> st = stnn.SpatialTransformer(localization, transform)
      >>> images = jnp.ones((5, 28, 28, 1))
      >>> bool((st(images) == images).all())  # untrained, it is the identity
      True

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.
    """

    def __init__(
        self,
        localization: Callable[[Array], Array],
        transform: Transform,
        *,
        output_shape: Sequence[int] | None = None,
        num_transforms: int = 1,
        kernel: KernelName | Kernel = "linear",
        padding: PaddingName = "constant",
        fill_value: ArrayLike = 0.0,
        align_corners: bool = False,
        antialias: bool = False,
        gradient: GradientName | Linearized = "exact",
        deterministic: bool = False,
    ) -> None:
        if not callable(localization):
            raise TypeError(
                f"localization must be callable, from images to theta; got {localization!r}."
            )
        if not isinstance(transform, Transform):
            raise TypeError(
                f"transform must be a Transform, such as stn_jax.affine(); got {transform!r}."
            )
        SampleOptions.create(kernel, padding, align_corners, gradient, deterministic)
        if output_shape is not None:
            output_shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
        _checks.positive("num_transforms", num_transforms)
        self.localization = localization
        self.transform = transform
        self.output_shape = output_shape
        self.num_transforms = num_transforms
        self.kernel = kernel
        self.padding = padding
        self.fill_value = fill_value
        self.align_corners = align_corners
        self.antialias = antialias
        self.gradient = gradient
        self.deterministic = deterministic

    def localize(self, images: Float[Array, "batch *space channels"]) -> Float[Array, "batch ..."]:
        """Regresses the parameters of the transforms of each image.

        Args:
          images: ``[batch, height, width, channels]``.

        Returns:
          Theta ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1 transforms.

        Raises:
          ValueError: If the localization network gives another shape.
        """
        theta = self.localization(images)
        shape = self._theta_shape(len(images))
        flat = (len(images), self.num_transforms * self.transform.num_params)
        if theta.shape not in (shape, flat):
            raise ValueError(
                f"localization must give theta of shape {shape}"
                + (f" or {flat}" if flat != shape else "")
                + f" for {self.num_transforms} {self.transform.name} transform(s); "
                f"got {theta.shape}."
            )
        return theta.reshape(shape)

    def warp(
        self, images: Float[Array, "batch *space channels"], theta: Float[Array, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """Warps each image by its parameters.

        Args:
          images: ``[batch, height, width, channels]``.
          theta: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1 transforms.

        Returns:
          ``[batch, *output_shape, channels]``, or ``[batch, N, *output_shape, channels]``.

        Raises:
          ValueError: If shapes do not fit.
        """
        shape = self._theta_shape(len(images))
        if theta.shape != shape:
            raise ValueError(f"theta must have shape {shape}; got {theta.shape}.")

        def warp_one(image: Array, theta: Array) -> Array:
            return warp(
                image,
                self.transform,
                theta,
                output_shape=self.output_shape,
                kernel=self.kernel,
                padding=self.padding,
                fill_value=self.fill_value,
                align_corners=self.align_corners,
                antialias=self.antialias,
                gradient=self.gradient,
                deterministic=self.deterministic,
            )

        if self.num_transforms > 1:
            warp_one = jax.vmap(warp_one, in_axes=(None, 0))
        return jax.vmap(warp_one)(images, theta)

    def __call__(self, images: Float[Array, "batch *space channels"]) -> Float[Array, "batch ..."]:
        """:meth:`localize` and :meth:`warp` in one.

        Args:
          images: ``[batch, height, width, channels]``.

        Returns:
          ``[batch, *output_shape, channels]``, or ``[batch, N, *output_shape, channels]``.
        """
        return self.warp(images, self.localize(images))

    def _theta_shape(self, batch: int) -> tuple[int, ...]:
        parallel = () if self.num_transforms == 1 else (self.num_transforms,)
        return (batch, *parallel, self.transform.num_params)
