"""Drawings of warps. Only this package of the library needs matplotlib."""

from stn_jax.visualize.checkerboard import registration
from stn_jax.visualize.drawing import COLORS, draw_grid, draw_region, draw_regions
from stn_jax.visualize.geometry import grid_lines, region_outline
from stn_jax.visualize.pictures import show_image, strip

__all__ = [
    "COLORS",
    "draw_grid",
    "draw_region",
    "draw_regions",
    "grid_lines",
    "region_outline",
    "registration",
    "show_image",
    "strip",
]
