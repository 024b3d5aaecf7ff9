"""Every option of the sampler for the laws of composition, and a warp under each of them."""

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from stn_jax.sampling.filters import FILTERS
from stn_jax.sampling.kernels import KERNELS, SPLINES
from stn_jax.sampling.padding import PADDINGS

# What differs from the defaults.
OPTIONS = {
    **{f"kernel {name}": {"kernel": name} for name in KERNELS | SPLINES},
    "kernel cubic, a traced": {"kernel": stn.cubic(a=-0.6)},
    **{f"padding {name}": {"padding": name} for name in PADDINGS},
    "fill_value": {"fill_value": 0.5},
    "align_corners": {"align_corners": True},
    "gradient linearized": {"gradient": "linearized"},
    "deterministic": {"deterministic": True},
    "antialias": {"antialias": True},
    "antialias, wrap": {"antialias": True, "padding": "wrap"},
    **{f"antialias {name}": {"antialias": name} for name in FILTERS},
    "clip": {"clip": True, "kernel": "cubic"},
    **{
        f"implementation {each.name}": {"implementation": each.name}
        for each in stn.implementations()
        if each.available
    },
}
SHAPE = (4, 5, 2)
THETA = np.float32([0.9, 0.1, 0.03, -0.2, 0.8, 0.07])


def warp(option, image, theta, **others):
    options = {"output_shape": (3, 2)} | OPTIONS[option] | others
    # Filters with names take maps that keep the axes apart.
    is_upright = isinstance(options.get("antialias"), str)
    transform, theta = (stn.attention(), theta[:3]) if is_upright else (stn.affine(), theta)
    return stn.warp(image, transform, theta, **options)


def an_image(*batch, seed=0):
    return np.float32(np.random.default_rng(seed).normal(size=(*batch, *SHAPE)))


def look(option, image, theta):
    """The value, and its gradients."""

    def loss(image, theta):
        return jnp.sum(jnp.sin(warp(option, image, theta)))

    return warp(option, image, theta), jax.grad(loss, (0, 1))(image, theta)
