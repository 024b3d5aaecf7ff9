"""The differentiable sampler: kernels, paddings and ``grid_sample``."""

from stn_jax.sampling.gradients import Linearized
from stn_jax.sampling.kernels import Kernel, cubic
from stn_jax.sampling.sampler import grid_sample

__all__ = ["Kernel", "Linearized", "cubic", "grid_sample"]
