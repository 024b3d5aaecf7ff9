"""Affine maps of points: displacements from a matrix, and the pixels that a warp reads."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from stn_jax._types import Size
from stn_jax.coordinates import by_coordinate, pixels_from_displacement, regular_grid


def affine_pixels(
    change: Float[Array, "n columns"],
    out_shape: tuple[Size, ...],
    shape: tuple[Size, ...],
    *,
    align_corners: bool,
) -> list[Float[Array, "*out"]]:
    """Source pixel coordinates of the output lattice under an affine map.

    Args:
      change: ``[n, n + 1]``, the map's matrix in normalised coordinates less the identity.
      out_shape: Spatial shape of the output.
      shape: Spatial shape of the image that is sampled.
      align_corners: As in :func:`regular_grid`.

    Returns:
      One array ``[*out_shape]`` per coordinate, x first.
    """
    points = regular_grid(out_shape, align_corners=align_corners, dtype=change.dtype)
    moved = affine_combinations(change, *by_coordinate(points))
    return pixels_from_displacement(jnp.stack(moved, axis=-1), shape, align_corners=align_corners)


@jax.custom_jvp
def affine_combinations(rows: Array, *coordinates: Array) -> list[Array]:
    """``row[0] x + row[1] y + … + row[n]`` of each row."""
    results = []
    for entries in _entries(rows):
        terms = [entry * each for entry, each in zip(entries, coordinates, strict=False)]
        results.append(sum(terms, start=entries[-1]))
    return results


@functools.partial(affine_combinations.defjvp, symbolic_zeros=True)
def _affine_combinations_jvp(primals: Any, tangents: Any) -> tuple[list[Array], list[Array]]:
    """The tangent along the rows is a matrix product, so that its transpose is one as well.

    Elementwise operations would transpose to a separate sum over all points per matrix entry.
    """
    rows, *coordinates = primals
    rows_dot, *coordinates_dot = tangents
    values = affine_combinations(rows, *coordinates)
    along = [k for k, dot in enumerate(coordinates_dot) if not isinstance(dot, SymbolicZero)]
    terms = [[entries[k] * coordinates_dot[k] for k in along] for entries in _entries(rows)]
    if not isinstance(rows_dot, SymbolicZero):
        # Ones computed from a coordinate are sharded as the coordinate is.
        one = (coordinates[0] == coordinates[0]).astype(rows_dot.dtype)
        columns = jnp.stack([*coordinates, one], axis=-1)
        # A product for each row: one for all rows would first join their cotangents.
        for row, row_dot in zip(terms, rows_dot, strict=True):
            row.append(jnp.matmul(columns, row_dot, precision=jax.lax.Precision.HIGHEST))
    return values, [
        functools.reduce(jnp.add, row) if row else jnp.zeros_like(value)
        for row, value in zip(terms, values, strict=True)
    ]


def _entries(rows: Array) -> list[list[Array]]:
    """The entries of a matrix as scalars, row by row."""
    count, length = rows.shape
    each = jax.lax.split(rows.ravel(), [1] * (count * length))
    scalars = [jax.lax.squeeze(entry, (0,)) for entry in each]
    return [scalars[start : start + length] for start in range(0, len(scalars), length)]
