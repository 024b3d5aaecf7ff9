"""Registration of two images: the call, its losses and penalties, and its result."""

from stn_jax.registration.api import register
from stn_jax.registration.losses import (
    cross_correlation,
    local_cross_correlation,
    mean_squared_error,
    mutual_information,
)
from stn_jax.registration.penalties import bending_energy, inverse_consistency
from stn_jax.registration.record import Registration
from stn_jax.registration.search import Search

__all__ = [
    "Registration",
    "Search",
    "bending_energy",
    "cross_correlation",
    "inverse_consistency",
    "local_cross_correlation",
    "mean_squared_error",
    "mutual_information",
    "register",
]
