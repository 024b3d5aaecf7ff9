"""The spatial transformer as a Flax NNX module."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, SupportsIndex, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks
from stn_jax._records import closed
from stn_jax._types import AnyArray
from stn_jax.sampling import Kernel
from stn_jax.sampling.backends.base import ImplementationName
from stn_jax.sampling.filters import FilterName
from stn_jax.sampling.kernels import KernelName
from stn_jax.sampling.options import SampleOptions
from stn_jax.sampling.padding import PaddingName
from stn_jax.sampling.surrogate import GradientName, Linearized
from stn_jax.transforms import Transform, chain
from stn_jax.warp import warp


class SpatialTransformer(nnx.Module):
    """Localization network, transform and sampler in one layer.

    With ``num_steps=K`` above 1 it is compositional. In each step the same localization network
    sees the image, warped by the steps before, and adds a transform. In the end the original image
    is resampled once, by the composition of all steps. Warping by ``T₁`` and the result by ``T₂``
    reads the image at ``T₁(T₂(p))``, so a target point passes the last step first. The whole map,
    :attr:`composition`, is therefore ``stn_jax.chain`` of K transforms whose theta,
    ``[batch, K·num_params]``, holds the last step's parameters first. The initial theta of the
    network is that of every step.

    ``return_theta=True`` returns theta along with the output. Inside a larger model,
    ``nnx.capture`` gets theta in the same forward pass; see the example.

    Args:
      localization: Any callable from images ``[batch, height, width, channels]`` to theta,
        ``[batch, num_params]``, or ``[batch, N, num_params]`` (or flat, ``[batch, N·num_params]``)
        for N parallel transforms.
      transform: The family of transforms of one step. JAX arrays in it, such as control points, are
        constants and cannot be traced.
      output_shape: Spatial shape of the output; ``None`` takes that of the input.
      num_transforms: Number N of parallel transforms. ``None`` takes that of the network's head, or
        1 if the head is not from this library. With several steps, the n-th transform continues
        from the n-th output, by the n-th theta that the network gives for that output.
      num_steps: Number K of steps that are composed; the localization network runs in each.
      kernel: As in :func:`stn_jax.warp`, like the options below.
      padding: Values of the pixels outside the image.
      fill_value: Value of constant padding.
      clip: Whether to limit outputs to the range of their images.
      align_corners: Whether −1 and 1 are the centres of the corner pixels rather than outer edges.
      antialias: Whether to average input pixels where the transform shrinks the image, or the name
        of a filter for it.
      gradient: The derivative with respect to the coordinates.
      deterministic: Whether the images' gradient has the same bits on every run.
      implementation: Name of the sampling engine; ``None`` takes the best that supports the call.

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

      Return theta along with the output, here of two steps:

      >>> st = stnn.SpatialTransformer(localization, transform, num_steps=2)
      >>> out, theta = st(images, return_theta=True)
      >>> theta.shape
      (5, 12)
      >>> stn.diagnostics.distance_from_identity(st.composition, theta[0], (28, 28)).item()
      0.0

      Get theta from inside any model, by the path of the module; this works under ``nnx.jit`` and
      ``jax.jit``, too:

      >>> model = nnx.Sequential(st, jnp.sin)
      >>> forward = nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)
      >>> out, captured = forward(images)
      >>> captured["layers"][0]["localize"][0].shape
      (5, 12)

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3; several steps:
      Lin and Lucey, Inverse Compositional Spatial Transformer Networks, arXiv:1612.03897.
    """

    def __init__(
        self,
        localization: Callable[[Array], Array],
        transform: Transform,
        *,
        output_shape: Sequence[int] | None = None,
        num_transforms: SupportsIndex | None = None,
        num_steps: SupportsIndex = 1,
        kernel: KernelName | Kernel = "linear",
        padding: PaddingName = "constant",
        fill_value: ArrayLike = 0.0,
        clip: bool = False,
        align_corners: bool = False,
        antialias: bool | FilterName = False,
        gradient: GradientName | Linearized = "exact",
        deterministic: bool = False,
        implementation: ImplementationName | None = None,
    ) -> None:
        if not callable(localization):
            raise TypeError(
                f"localization must be callable, from images to theta; got {localization!r}."
            )
        if not isinstance(transform, Transform):
            raise TypeError(
                f"transform must be a Transform, such as stn_jax.affine(); got {transform!r}."
            )
        SampleOptions.create(
            kernel, padding, align_corners, gradient, deterministic, implementation, clip
        )
        if output_shape is not None:
            output_shape = _checks.spatial_shape("output_shape", output_shape, transform.ndim)
        self.localization = localization
        # ``closed`` hides the transform's arrays, which Flax would add to the model's state.
        self.transform = closed(transform)
        self.output_shape = output_shape
        if num_transforms is None:
            head = getattr(localization, "head", localization)
            num_transforms = getattr(head, "num_transforms", 1)
        self.num_transforms = _checks.positive("num_transforms", num_transforms)
        self.num_steps = _checks.positive("num_steps", num_steps)
        self.kernel = kernel
        self.padding = padding
        self.fill_value = fill_value
        self.clip = clip
        self.align_corners = align_corners
        self.antialias = antialias
        self.gradient = gradient
        # Not named ``deterministic``: nnx.Module.train and eval overwrite that attribute.
        self.deterministic_gradient = deterministic
        self.implementation = implementation

    @property
    def composition(self) -> Transform:
        """The composition of all steps; the family ``transform`` itself if there is one step.

        :meth:`localize` returns its theta. Pass it together with this theta to
        :func:`stn_jax.warp`, and to functions that diagnose or draw transforms.
        """
        return _steps(self.transform, self.num_steps)

    def localize(
        self, images: Float[AnyArray, "batch *space channels"]
    ) -> Float[Array, "batch ..."]:
        """Regresses the parameters of the transforms of each image.

        Args:
          images: ``[batch, height, width, channels]``.

        Returns:
          Theta of :attr:`composition`: ``[batch, num_params]``, or ``[batch, N, num_params]`` for
          N > 1 transforms.

        Raises:
          ValueError: If the localization network returns another shape.
        """
        images = _checks.as_array("images", images)
        theta = self._regress(images)
        for steps in range(1, self.num_steps):
            so_far = _steps(self.transform, steps)
            seen = self._resample(images, so_far, theta, images.shape[1:-1])
            theta = jnp.concatenate([self._next_step(seen), theta], axis=-1)
        return theta

    def warp(
        self, images: Float[AnyArray, "batch *space channels"], theta: Float[AnyArray, "batch ..."]
    ) -> Float[Array, "batch ..."]:
        """Warps each image by its parameters.

        Args:
          images: ``[batch, height, width, channels]``.
          theta: As returned by :meth:`localize`: ``[batch, num_params]`` of :attr:`composition`, or
            ``[batch, N, num_params]`` for N > 1 transforms.

        Returns:
          ``[batch, *output_shape, channels]``, or ``[batch, N, *output_shape, channels]``.

        Raises:
          ValueError: If shapes do not fit.
        """
        images, theta = _checks.as_array("images", images), _checks.as_array("theta", theta)
        shape = self._theta_shape(images.shape[0], self.composition)
        if theta.shape != shape:
            raise ValueError(f"theta must have shape {shape}; got {theta.shape}.")
        return self._resample(images, self.composition, theta, self.output_shape)

    @overload
    def __call__(self, images: AnyArray, *, return_theta: Literal[False] = False) -> Array: ...

    @overload
    def __call__(self, images: AnyArray, *, return_theta: Literal[True]) -> tuple[Array, Array]: ...

    def __call__(
        self, images: Float[AnyArray, "batch *space channels"], *, return_theta: bool = False
    ) -> Float[Array, "batch ..."] | tuple[Float[Array, "batch ..."], Float[Array, "batch ..."]]:
        """Runs :meth:`localize`, then :meth:`warp`.

        Args:
          images: ``[batch, height, width, channels]``.
          return_theta: Whether to return theta, too.

        Returns:
          ``[batch, *output_shape, channels]``, or ``[batch, N, *output_shape, channels]``; with
          ``return_theta`` a pair of that array and theta.
        """
        theta = self.localize(images)
        out = self.warp(images, theta)
        return (out, theta) if return_theta else out

    def _regress(self, images: Array) -> Array:
        """Runs the localization network; checks and reshapes its output."""
        theta = self.localization(images)
        batch = images.shape[0]
        shape = self._theta_shape(batch, self.transform)
        flat = (batch, self.num_transforms * self.transform.num_params)
        if theta.shape not in (shape, flat):
            raise ValueError(
                f"localization must return theta of shape {shape}"
                + (f" or {flat}" if flat != shape else "")
                + f" for {self.num_transforms} {self.transform.name} transform(s); "
                f"got {theta.shape}. Build it for the same transform and num_transforms; its last "
                "layer gives one number for each parameter, flat."
            )
        return theta.reshape(shape)

    def _next_step(self, seen: Array) -> Array:
        """Theta of one more step; each of N parallel transforms takes it from its own output."""
        if self.num_transforms == 1:
            return self._regress(seen)
        batch, number = seen.shape[:2]
        theta = self._regress(seen.reshape(batch * number, *seen.shape[2:]))
        own = jnp.arange(number)
        return theta.reshape(batch, number, number, self.transform.num_params)[:, own, own]

    def _resample(
        self, images: Array, transform: Transform, theta: Array, shape: Sequence[int] | None
    ) -> Array:
        """Warps each image once, or N times for N parallel transforms."""

        def warp_one(image: Array, theta: Array) -> Array:
            return warp(
                image,
                transform,
                theta,
                output_shape=shape,
                kernel=self.kernel,
                padding=self.padding,
                fill_value=self.fill_value,
                clip=self.clip,
                align_corners=self.align_corners,
                antialias=self.antialias,
                gradient=self.gradient,
                deterministic=self.deterministic_gradient,
                implementation=self.implementation,
            )

        if self.num_transforms > 1:
            warp_one = jax.vmap(warp_one, in_axes=(None, 0))
        return jax.vmap(warp_one)(images, theta)

    def _theta_shape(self, batch: Any, transform: Transform) -> tuple[Any, ...]:
        """The shape of theta for a batch size, which is symbolic while a model is exported."""
        parallel = () if self.num_transforms == 1 else (self.num_transforms,)
        return (batch, *parallel, transform.num_params)


def _steps(transform: Transform, number: int) -> Transform:
    """The composition of a number of steps of one family."""
    return transform if number == 1 else chain(*number * [transform])
