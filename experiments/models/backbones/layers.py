"""Convolutions with stored normalisation, and 3×3 pooling."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, PRNGKeyArray


class FrozenBatchNorm(nnx.Module):
    """Batch normalisation with stored statistics, which never change.

    ``(x − mean) / sqrt(variance + epsilon) · scale + bias``; scale and bias are trained. The paper
    uses the statistics of each batch. That has three costs: a device normalises over only the few
    crops of its part, unless every layer exchanges means; training and testing differ; and a step
    has to update statistics, too. ImageNet's statistics suit photographs of birds, and with them
    the loss is a pure function of the parameters.

    Args:
      features: Number of maps.
      scale: The initial scale; with 0 a residual branch adds nothing at first.
      epsilon: Added to the variance.
    """

    def __init__(self, features: int, *, scale: float, epsilon: float) -> None:
        self.scale = nnx.Param(_full(features, scale))
        self.bias = nnx.Param(_full(features, 0.0))
        self.mean = nnx.BatchStat(_full(features, 0.0))
        self.variance = nnx.BatchStat(_full(features, 1.0))
        self.epsilon = epsilon

    def factor_and_offset(self) -> tuple[Float[Array, " features"], Float[Array, " features"]]:
        """Factor and offset of the normalisation, ``x · factor + offset``."""
        factor = self.scale[...] / jnp.sqrt(self.variance[...] + self.epsilon)
        return factor, self.bias[...] - self.mean[...] * factor


class NormedConvolution(nnx.Module):
    """A convolution, normalisation with stored statistics and ``relu``, in one pass over the maps.

    The normalisation's factor multiplies the kernel, which is much smaller than the maps. The
    padding is half the filter's side, so that a stride of 1 keeps the maps' shape. The kernel is
    zero until :func:`draw_kernels` is called.

    Args:
      in_features: Number of input maps.
      features: Number of output maps.
      size: Side of the square filters.
      stride: Step of the filters.
      biased: Whether the convolution adds a bias before the normalisation.
      rectified: Whether ``relu`` follows.
      scale: As in :class:`FrozenBatchNorm`.
      epsilon: Added to the variance.
      dtype: The dtype to compute in; variables are float32.
    """

    def __init__(
        self,
        in_features: int,
        features: int,
        size: int,
        *,
        stride: int = 1,
        biased: bool = False,
        rectified: bool = True,
        scale: float = 1.0,
        epsilon: float = 1e-5,
        dtype: Any,
    ) -> None:
        self.kernel = nnx.Param(_full((size, size, in_features, features), 0.0))
        self.bias = nnx.Param(_full(features, 0.0)) if biased else None
        self.norm = FrozenBatchNorm(features, scale=scale, epsilon=epsilon)
        self.stride = stride
        self.rectified = rectified
        self.dtype = dtype

    def __call__(
        self, maps: Float[Array, "batch height width in_features"]
    ) -> Float[Array, "batch rows columns features"]:
        """The maps of a layer."""
        factor, offset = self.norm.factor_and_offset()
        if self.bias is not None:
            offset = offset + self.bias[...] * factor
        side, stride = self.kernel.shape[0], self.stride
        if side == 1:
            # XLA on the CPU is slow at the gradient of a strided convolution.
            maps, stride = maps[:, ::stride, ::stride], 1
        maps = jax.lax.conv_general_dilated(
            maps.astype(self.dtype),
            (self.kernel[...] * factor).astype(self.dtype),
            window_strides=(stride, stride),
            padding=2 * [(side // 2, side // 2)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        maps = maps + offset.astype(self.dtype)
        return nnx.relu(maps) if self.rectified else maps


def draw_kernels(module: nnx.Module, rngs: nnx.Rngs) -> None:
    """Draws all :class:`NormedConvolution` kernels of a module, by the initialisation of He et al.

    It makes one draw for all kernels, since a compilation for each shape would take minutes.
    """
    kernels = [
        each.kernel for _, each in nnx.iter_modules(module) if isinstance(each, NormedConvolution)
    ]
    sizes = [math.prod(kernel.shape) for kernel in kernels]
    drawn: Array | np.ndarray = _normal(rngs.params(), sum(sizes))
    if not isinstance(drawn, jax.core.Tracer):
        # NumPy, because slicing a NumPy array needs no compilation.
        drawn = np.asarray(drawn)
    ends = itertools.accumulate(sizes)
    for kernel, size, end in zip(kernels, sizes, ends, strict=True):
        *inputs, _ = shape = kernel.shape
        deviation = math.sqrt(2 / math.prod(inputs))
        kernel.set_value(jax.device_put(deviation * drawn[end - size : end].reshape(shape)))


@functools.partial(jax.jit, static_argnums=1)
def _normal(key: PRNGKeyArray, size: int) -> Array:
    return jax.random.normal(key, (size,))


def _full(shape: int | tuple[int, ...], value: float) -> Array:
    """An array made without a compilation for its shape."""
    return jax.device_put(np.full(shape, value, np.float32))


def max_pool_3x3(
    maps: Float[Array, "batch height width c"], *, stride: int, padding: tuple[int, int]
) -> Float[Array, "batch rows columns c"]:
    """3×3 max-pooling, in the form whose gradient XLA runs fast on the CPU.

    Args:
      maps: The maps.
      stride: Step of the windows.
      padding: How far windows reach beyond the first, and beyond the last, row and column.
        PyTorch's padding of 1 with stride 2 is ``(1, 0)`` for even sides, and its ceil mode is
        ``(0, 1)``.
    """
    return _pool_3x3(maps, jnp.maximum, -jnp.inf, stride, padding)


def average_pool_3x3(
    maps: Float[Array, "batch height width c"],
) -> Float[Array, "batch height width c"]:
    """The mean of the 3×3 pixels around each; pixels outside the maps count as zeros."""
    return _pool_3x3(maps, jnp.add, 0.0, 1, (1, 1)) / 9


def _pool_3x3(
    maps: Array,
    combine: Callable[[Array, Array], Array],
    outside: float,
    stride: int,
    padding: tuple[int, int],
) -> Array:
    around = [(0, 0), padding, padding, (0, 0)]
    maps = jnp.pad(maps, around, constant_values=outside)
    for axis in (1, 2):
        last = (maps.shape[axis] - 3) // stride * stride
        shifted = [
            jax.lax.slice_in_dim(maps, first, first + last + 1, stride, axis) for first in range(3)
        ]
        maps = functools.reduce(combine, shifted)
    return maps
