"""Compiled CPU kernels of stn_jax, as handlers for XLA's foreign function interface."""

from stn_jax_native._native import build_info, handlers

__all__ = ["INTERFACE", "build_info", "handlers"]

# The version of the handlers' operands and attributes; stn_jax refuses another than its own.
INTERFACE = 5
__version__ = "0.1.0"
