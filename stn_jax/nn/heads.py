"""Heads: from features to the parameters of a transform, the end of a localization network."""

import math
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from stn_jax import _checks
from stn_jax._records import closed
from stn_jax._types import AnyArray
from stn_jax.nn.initializers import InitialTheta, exact_identity, starting_theta
from stn_jax.transforms import Transform

# The least standard deviation, above 0, since the KL divergence takes its logarithm.
_SMALLEST_STD = 1e-4

# The default scale: a power of two, so that multiplying by it does not round.
_SCALE = 0.125


class RegressionHead(nnx.Module):
    """The linear regression that ends a localization network.

    Its weights start at zero and its bias at ``initial_theta``, the identity, so that an untrained
    spatial transformer passes its input on unchanged:

        theta = identity + scale · (weights · features + bias − identity)

    All features move theta together, so at a usual learning rate it moves far in a few steps, and
    once it has left the image no gradient brings it back. A small ``scale`` shortens the steps of
    theta under any optimizer; it does not bound theta. Of 20 trainings of a small affine ST-CNN in
    NNX with SGD at 0.1, all fail at scale 1 and one at the default scale; with Adam at 0.01, one
    and none. The classifier alone never fails: ``python -m experiments.stability obvious``.

    Args:
      in_features: Number of features of an example.
      transform: The family whose parameters are regressed.
      num_transforms: Number N of parallel transforms.
      initial_theta: The theta of an untrained head: :func:`exact_identity`,
        :func:`perturbed_identity`, :func:`tiled`, any function called as they are, or the values
        themselves, ``[num_params]`` or ``[N, num_params]``.
      scale: Factor on theta's distance from the identity, positive. 1 is the plain regression, for
        weights that were trained without a scale, and for a bias that you set by hand.
      rngs: Flax random state, from which ``initial_theta`` may draw.

    Raises:
      ValueError: If ``num_transforms`` or ``scale`` is not positive, or ``initial_theta``
        is of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> head = stnn.RegressionHead(16, stn.attention(), rngs=nnx.Rngs(0))
      >>> head(jnp.ones((2, 16))).tolist()
      [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]

      The plain regression, as the head of a localization network:

      >>> import functools
      >>> plain = functools.partial(stnn.RegressionHead, scale=1.0)
      >>> localization = stnn.FullyConnectedLocalization(
      ...     (8, 8, 1), stn.attention(), head=plain, rngs=nnx.Rngs(0)
      ... )

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, section 3.1, where nothing
      is scaled.
    """

    def __init__(
        self,
        in_features: int,
        transform: Transform,
        *,
        num_transforms: SupportsIndex = 1,
        initial_theta: InitialTheta = exact_identity,
        scale: float = _SCALE,
        rngs: nnx.Rngs,
    ) -> None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be a positive number; got {scale!r}.")
        self.scale = float(scale)  # A NumPy scalar would widen theta.
        self.num_transforms = num_transforms = _checks.positive("num_transforms", num_transforms)
        start = starting_theta(initial_theta, transform, num_transforms, rngs)
        if self.scale != 1:
            # ``closed`` hides the transform's arrays, which Flax would add to the model's state.
            self.transform = closed(transform)
            start = self._from_identity(start, 1 / self.scale)
        self.linear = _constant_linear(in_features, start.ravel(), rngs)

    def __call__(
        self, features: Float[Array, "batch features"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Regresses theta: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        theta = self.linear(features)
        if self.num_transforms > 1:
            params = theta.shape[1] // self.num_transforms
            theta = theta.reshape(theta.shape[0], self.num_transforms, params)
        return theta if self.scale == 1 else self._from_identity(theta, self.scale)

    def _from_identity(self, theta: Array, factor: float) -> Array:
        """Theta ``[..., num_params]``, its distance from the identity times a factor."""
        start = jnp.broadcast_to(jnp.asarray(self.transform.identity, theta.dtype), theta.shape)
        return start + factor * (theta - start)


class Gaussian(NamedTuple):
    """A Gaussian of independent parameters.

    Attributes:
      mean: ``[batch, num_params]``.
      std: Standard deviations ``[batch, num_params]``, positive.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> head = stnn.GaussianHead(16, stn.translation(), initial_std=0.25, rngs=nnx.Rngs(0))
      >>> mean, std = head.distribution(jnp.ones((1, 16)))
      >>> mean.tolist(), std.tolist()
      ([[0.0, 0.0]], [[0.25, 0.25]])

    Reference:
      Schwöbel et al., Probabilistic Spatial Transformer Networks, arXiv:2004.03637.
    """

    mean: Float[Array, "batch params"]
    std: Float[Array, "batch params"]


class GaussianHead(nnx.Module):
    """Regresses a distribution over theta and draws the parallel transforms from it.

    The distribution of an image is a Gaussian of independent parameters; its N draws are the N
    parallel transforms. Average the network's predictions over them. ``model.eval()`` makes every
    draw the mean and ``model.train()`` draws again, as for ``nnx.Dropout``.

    The gradient reaches mean and standard deviation through the draws. A KL divergence to a prior
    needs no second forward pass: see the example, or take the distribution out of a whole model by
    ``nnx.capture(model, nnx.Intermediate, method_outputs=nnx.Intermediate)``, under
    ``"distribution"``.

    Args:
      in_features: Number of features of an example.
      transform: The family whose parameters are drawn.
      num_transforms: Number N of draws, the ``num_transforms`` of the spatial transformer.
      initial_theta: The mean of an untrained head, one transform's, as in :class:`RegressionHead`.
      initial_std: The standard deviation of an untrained head, one number or ``[num_params]``, in
        the parameters' own units; above 0.0001, which is the least.
      scale: Factor on the distance of the mean from the identity, as in :class:`RegressionHead`.
      deterministic: Whether to return the mean in place of draws.
      rngs: Flax random state; draws come from its stream ``"theta"``, or its default one.

    Raises:
      ValueError: If ``num_transforms`` or ``scale`` is not positive, or ``initial_theta``
        or ``initial_std`` is of another shape or too small.

    Example:
      >>> import jax.numpy as jnp
      >>> import stn_jax as stn
      >>> from flax import nnx
      >>> from stn_jax import nn as stnn
      >>> t = stn.affine()
      >>> localization = stnn.FullyConnectedLocalization(
      ...     (8, 8, 1), t, num_transforms=5, head=stnn.GaussianHead, rngs=nnx.Rngs(0)
      ... )
      >>> st = stnn.SpatialTransformer(localization, t)
      >>> images = jnp.ones((3, 8, 8, 1))
      >>> st(images).shape
      (3, 5, 8, 8, 1)

      The same in steps, which give the distribution for a KL divergence:

      >>> head = st.localization.head
      >>> mean, std = head.distribution(st.localization.features(images))
      >>> st.warp(images, head.sample(mean, std)).shape
      (3, 5, 8, 8, 1)
      >>> stnn.gaussian_kl(mean, std, t.identity, 0.1).shape
      (3,)

    Reference:
      Schwöbel et al., Probabilistic Spatial Transformer Networks, arXiv:2004.03637.
    """

    def __init__(
        self,
        in_features: int,
        transform: Transform,
        *,
        num_transforms: SupportsIndex = 1,
        initial_theta: InitialTheta = exact_identity,
        initial_std: ArrayLike | Sequence[float] = 0.1,
        scale: float = _SCALE,
        deterministic: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_transforms = _checks.positive("num_transforms", num_transforms)
        stds = np.array(initial_std, np.float64)
        size = transform.num_params
        if stds.shape not in ((), (size,)) or not (stds > _SMALLEST_STD).all():
            raise ValueError(
                f"initial_std must be above {_SMALLEST_STD}, one number or one for each of the "
                f"{size} parameters of {transform.name}; got {initial_std!r}."
            )
        self.deterministic = deterministic
        self.mean = RegressionHead(
            in_features,
            transform,
            initial_theta=initial_theta,
            scale=scale,
            rngs=rngs,
        )
        before_softplus = np.log(np.expm1(np.broadcast_to(stds, size) - _SMALLEST_STD))
        self.spread = _constant_linear(in_features, jnp.asarray(before_softplus), rngs)
        self.rngs = rngs["theta"].fork()

    def __call__(
        self, features: Float[Array, "batch features"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Draws theta: ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1."""
        return self.sample(*self.distribution(features))

    def distribution(self, features: Float[Array, "batch features"]) -> Gaussian:
        """The mean and the standard deviation of theta, ``[batch, num_params]`` each."""
        return Gaussian(self.mean(features), jax.nn.softplus(self.spread(features)) + _SMALLEST_STD)

    def sample(
        self, mean: Float[Array, "batch params"], std: Float[Array, "batch params"]
    ) -> Float[Array, "batch params"] | Float[Array, "batch transforms params"]:
        """Draws from a distribution, or copies its mean where the head is deterministic.

        Args:
          mean: ``[batch, num_params]``.
          std: ``[batch, num_params]``.

        Returns:
          ``[batch, num_params]``, or ``[batch, N, num_params]`` for N > 1.
        """
        shape = (mean.shape[0], self.num_transforms, mean.shape[1])
        if self.deterministic:
            theta = jnp.broadcast_to(mean[:, None], shape)
        else:
            # Draw in float32, since bfloat16 has few values far from 0.
            wide = jnp.float64 if mean.dtype == jnp.float64 else jnp.float32
            noise = jax.random.normal(self.rngs(), shape, wide).astype(mean.dtype)
            theta = mean[:, None] + std[:, None] * noise
        return theta[:, 0] if self.num_transforms == 1 else theta

    def set_view(self, deterministic: bool | None = None) -> None:
        """Used by ``nnx.view``.

        Args:
          deterministic: Whether to return the mean in place of draws.
        """
        if deterministic is not None:
            self.deterministic = deterministic


def gaussian_kl(
    mean: Float[AnyArray, "*batch params"],
    std: Float[AnyArray, "*batch params"],
    prior_mean: ArrayLike,
    prior_std: ArrayLike,
) -> Float[Array, "*batch"]:
    """The Kullback-Leibler divergence of Gaussians of independent parameters, to a prior.

    ``Σ log(σ₀/σ) + (σ² + (μ − μ₀)²) / (2 σ₀²) − ½`` over the parameters. An evidence lower bound
    subtracts it from the expected log-likelihood.

    Args:
      mean: ``[..., num_params]``, as :meth:`GaussianHead.distribution` gives it.
      std: Standard deviations ``[..., num_params]``, positive.
      prior_mean: The prior's mean, one number or ``[num_params]``; the transform's ``identity``
        keeps theta near it.
      prior_std: The prior's standard deviation, one number or ``[num_params]``, positive.

    Returns:
      ``[...]``, in nats, not negative; in the dtype of ``mean`` and ``std``, float32 at least.

    Raises:
      TypeError: If ``mean`` or ``std`` is not of a floating dtype.

    Example:
      >>> import jax.numpy as jnp
      >>> from stn_jax import nn as stnn
      >>> mean, std = jnp.array([3.0, 0.0]), jnp.array([1.0, 1.0])
      >>> stnn.gaussian_kl(mean, std, 0.0, 1.0).item()
      4.5

    Reference:
      Kingma and Welling, Auto-Encoding Variational Bayes, arXiv:1312.6114, appendix B.
    """
    mean, std = _checks.floating("mean", mean), _checks.floating("std", std)
    mean, std = _checks.common_dtype(mean, std)

    def like_mean(prior: ArrayLike) -> Array:
        prior = _checks.as_array("prior", prior, mean.dtype)
        return prior.reshape((1,) * (mean.ndim - prior.ndim) + prior.shape)

    prior_mean, prior_std = like_mean(prior_mean), like_mean(prior_std)
    ratio, shift = std / prior_std, (mean - prior_mean) / prior_std
    return jnp.sum((ratio**2 + shift**2 - 1) / 2 - jnp.log(ratio), axis=-1)


def _constant_linear(in_features: int, output: Array, rngs: nnx.Rngs) -> nnx.Linear:
    """A linear layer that, before training, returns ``output`` for every input."""
    return nnx.Linear(
        in_features,
        len(output),
        kernel_init=nnx.initializers.zeros,
        bias_init=lambda key, shape, dtype: output.astype(dtype),
        rngs=rngs,
    )
