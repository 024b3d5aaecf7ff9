"""Reference coordinates of pixels, in plain NumPy and float64."""

import types
from typing import Any

import numpy as np

import stn_jax as stn
from stn_jax.sampling.padding import PaddingName

# PyTorch's names of kernels and paddings, and our kernel for each.
PYTORCH_KERNEL = {"nearest": "nearest", "linear": "bilinear", "cubic": "bicubic"}
OUR_KERNEL: dict[str, Any] = {"nearest": "nearest", "linear": "linear", "cubic": stn.cubic(a=-0.75)}
PYTORCH_PADDING: dict[PaddingName, str] = {
    "constant": "zeros",
    "border": "border",
    "reflection": "reflection",
}


def pytorch() -> types.ModuleType | None:
    """PyTorch, or ``None`` if it is not installed."""
    try:
        import torch
    except ImportError:
        return None
    return torch


def channels_first(image: np.ndarray) -> np.ndarray:
    """``[1, channels, *space]``, as PyTorch takes an image."""
    return np.moveaxis(image, -1, 0)[None]


def channels_last(images: np.ndarray) -> np.ndarray:
    """The inverse of :func:`channels_first`."""
    return np.moveaxis(images[0], 0, -1)


def lattice_points(shape: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """Normalised centres of the pixels ``[*shape, n]``, x first."""
    axes = [
        (2 * np.arange(size) + 1 - size) / max(size - 1 if align_corners else size, 1)
        for size in shape
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)


def pixels_of_points(points: np.ndarray, shape: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """Pixel coordinates of normalised points, x first."""
    sizes = np.array(shape[::-1], np.float64)
    scale = (sizes - 1 if align_corners else sizes) / 2
    return np.asarray(points, np.float64) * scale + (sizes - 1) / 2


def points_of_pixels(pixels: np.ndarray, shape: tuple[int, ...], align_corners: bool) -> np.ndarray:
    """The inverse of :func:`pixels_of_points`."""
    sizes = np.array(shape[::-1], np.float64)
    scale = (sizes - 1 if align_corners else sizes) / 2
    return (np.asarray(pixels, np.float64) - (sizes - 1) / 2) / scale


def source_pixels(
    theta: np.ndarray, shape: tuple[int, ...], out_shape: tuple[int, ...], align_corners: bool
) -> np.ndarray:
    """Pixel coordinates to which an affine matrix ``[n, n + 1]`` maps the output's pixels."""
    theta = np.asarray(theta, np.float64)
    points = lattice_points(out_shape, align_corners) @ theta[:, :-1].T + theta[:, -1]
    return pixels_of_points(points, shape, align_corners)


def is_clear(pixels: np.ndarray, kernel: str, margin: float = 1e-3) -> np.ndarray:
    """Whether each point is farther than ``margin`` pixels from every kink of the kernel.

    At a kink rounding decides between two sub-gradients, or between two pixels.
    """
    kink = 0.5 if kernel == "nearest" else 0.0
    return np.all(np.abs((pixels - kink + 0.5) % 1 - 0.5) > margin, axis=-1)
