"""How to sample: the options of every sampling function, resolved and checked."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from stn_jax import _checks
from stn_jax.sampling import gradients, kernels
from stn_jax.sampling.gradients import Linearized
from stn_jax.sampling.kernels import Kernel
from stn_jax.sampling.padding import PADDINGS


class SampleOptions(NamedTuple):
    """Static under ``jax.jit``."""

    kernel: Kernel
    padding: str
    align_corners: bool
    gradient: Linearized | None
    deterministic: bool

    @classmethod
    def create(
        cls, kernel: Any, padding: Any, align_corners: bool, gradient: Any, deterministic: bool
    ) -> "SampleOptions":
        """Checks the options that every sampling function takes."""
        _checks.option("padding", padding, PADDINGS)
        return cls(
            kernels.resolve(kernel),
            padding,
            bool(align_corners),
            gradients.resolve(gradient),
            bool(deterministic),
        )

    def check_image(self, image: Any, ndim: int) -> Array:
        """``image`` as an array that these options can sample."""
        return _checks.image(
            image, ndim, integers_allowed=self.kernel == kernels.KERNELS["nearest"]
        )

    def check_fill_value(self, fill_value: ArrayLike, image: Array) -> Array | None:
        """``fill_value`` as an array that broadcasts against the channels; ``None`` for a plain 0.

        Nothing needs to be added for a 0, the default.
        """
        if isinstance(fill_value, int | float) and fill_value == 0:
            return None
        fill = jnp.asarray(fill_value)
        if fill.shape not in ((), image.shape[-1:]):
            raise ValueError(
                f"fill_value must be a scalar or one value for each of the {image.shape[-1]} "
                f"channels; got shape {fill.shape}."
            )
        return fill
