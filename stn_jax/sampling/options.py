"""The options of every sampling function, checked and kept in one record."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from stn_jax import _checks
from stn_jax.sampling import kernels, surrogate
from stn_jax.sampling.backends import registry
from stn_jax.sampling.backends.base import ImplementationName
from stn_jax.sampling.kernels import KERNELS, Kernel
from stn_jax.sampling.padding import PADDINGS
from stn_jax.sampling.polynomials import polynomial
from stn_jax.sampling.surrogate import Linearized


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernel", "gradient"],
    meta_fields=[
        "polynomial",
        "padding",
        "align_corners",
        "deterministic",
        "implementation",
        "gradient_reach",
        "clip",
    ],
)
@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """The options of a sampling function; a pytree of the kernel's and the gradient's parameters.

    ``polynomial`` is the kernel, if engines compute its weights themselves; ``None`` if JAX does.
    It is static, while ``kernel`` may hold tracers. ``gradient_reach`` is the largest distance in
    pixels from a coordinate at which the gradient reads the image; ``None`` if it is traced.
    ``clip`` keeps samples in the image's range.
    """

    kernel: Kernel
    polynomial: Kernel | None
    gradient: Linearized | None
    padding: str
    align_corners: bool
    deterministic: bool
    implementation: ImplementationName | None
    gradient_reach: int | None
    clip: bool = False

    @classmethod
    def create(
        cls,
        kernel: Any,
        padding: Any,
        align_corners: bool,
        gradient: Any,
        deterministic: bool,
        implementation: Any,
        clip: Any = False,
    ) -> "SampleOptions":
        """Checks the options of a sampling function and returns their record."""
        _checks.option("padding", padding, PADDINGS)
        gradient = surrogate.resolve(gradient)
        kernel = kernels.resolve(kernel)
        return cls(
            kernel,
            polynomial(kernel),
            gradient,
            padding,
            bool(align_corners),
            bool(deterministic),
            registry.check(implementation),
            0 if gradient is None else gradient.reach,
            bool(clip),
        )

    def replaced(self, **changes: Any) -> "SampleOptions":
        """These options with some of them changed."""
        if "kernel" in changes:
            changes["polynomial"] = polynomial(changes["kernel"])
        return dataclasses.replace(self, **changes)

    def check_image(self, image: Any, ndim: int) -> Array:
        """Checks that these options can sample ``image``; returns it as an array."""
        is_nearest = self.polynomial == KERNELS["nearest"]
        image = _checks.image(image, ndim, integers_allowed=is_nearest)
        is_signed = PADDINGS[self.padding].sign is not None
        if is_signed and not jnp.issubdtype(image.dtype, jnp.floating):
            raise TypeError(
                f"image must have a floating dtype with padding={self.padding!r}, which changes "
                f"the sign of pixels; got {image.dtype}. Convert it, or use another padding."
            )
        return image

    def check_fill_value(self, fill_value: ArrayLike, image: Array) -> Array | None:
        """``fill_value`` as an array that broadcasts against the channels; ``None`` for a plain 0.

        A fill value of 0, the default, adds nothing to the sum.
        """
        if isinstance(fill_value, int | float) and fill_value == 0:
            return None
        _check_real(fill_value)
        if jnp.issubdtype(image.dtype, jnp.floating):
            fill = _checks.as_array("fill_value", fill_value, _checks.widest(image.dtype))
        else:
            _check_range(fill_value, image.dtype)
            fill = _checks.as_array("fill_value", fill_value, image.dtype)
        if fill.shape not in ((), image.shape[-1:]):
            raise ValueError(
                f"fill_value must be a scalar or one value for each of the {image.shape[-1]} "
                f"channels; got shape {fill.shape}."
            )
        return fill


def _check_real(fill_value: Any) -> None:
    """Raises if a fill value is neither a real number nor an array or a list of them."""
    dtypes = [
        each.dtype if hasattr(each, "dtype") else np.asarray(each).dtype
        for each in jax.tree.leaves(fill_value)
    ]
    real = (jnp.floating, jnp.integer, jnp.bool_)
    if not dtypes or not all(any(jnp.issubdtype(d, kind) for kind in real) for d in dtypes):
        raise TypeError(
            f"fill_value must be a real number, or one for each channel; got {fill_value!r}. "
            "Leave it out for 0."
        )


def _check_range(fill_value: ArrayLike, dtype: Any) -> None:
    """Raises if an integer image cannot hold the fill value."""
    if isinstance(fill_value, jax.core.Tracer):
        return
    values = np.asarray(fill_value)
    low, high = (0, 1) if dtype.kind == "b" else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    with np.errstate(invalid="ignore"):
        fits = (values >= low) & (values <= high) & (values == np.floor(values))
    if not fits.all():
        raise ValueError(
            f"fill_value must be a whole number from {low} to {high} for an image of {dtype}; got "
            f"{fill_value!r}. Use another value, or convert the image to a dtype that holds it."
        )
