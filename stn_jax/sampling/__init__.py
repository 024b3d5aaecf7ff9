"""The differentiable sampler: kernels, paddings and engines."""

from stn_jax.sampling.api import grid_sample, sample_pixels
from stn_jax.sampling.backends.registry import Implementation, implementations
from stn_jax.sampling.kernels import Kernel, b_spline, cubic
from stn_jax.sampling.splines import spline_coefficients
from stn_jax.sampling.surrogate import Linearized

__all__ = [
    "Implementation",
    "Kernel",
    "Linearized",
    "b_spline",
    "cubic",
    "grid_sample",
    "implementations",
    "sample_pixels",
    "spline_coefficients",
]
