"""The differentiable sampler: kernels, paddings, engines and ``grid_sample``."""

from stn_jax.sampling.api import grid_sample
from stn_jax.sampling.backends.registry import Implementation, implementations
from stn_jax.sampling.kernels import Kernel, cubic
from stn_jax.sampling.surrogate import Linearized

__all__ = ["Implementation", "Kernel", "Linearized", "cubic", "grid_sample", "implementations"]
