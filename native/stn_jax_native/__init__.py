"""Compiled CPU kernels of stn_jax, as handlers for XLA's foreign function interface."""

from stn_jax_native._native import build_info, handlers

__all__ = ["build_info", "handlers"]
__version__ = "0.1.0"
