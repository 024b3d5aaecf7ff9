"""The lattice, and the way from normalised coordinates to pixels and back."""

import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

import stn_jax as stn

alignments = pytest.mark.parametrize("align_corners", [False, True])


@given(h=st.integers(1, 9), w=st.integers(1, 9), align_corners=st.booleans())
def test_regular_grid_matches_the_oracle(h, w, align_corners):
    grid = stn.regular_grid((h, w), align_corners=align_corners)
    expected = reference.regular_grid((h, w), align_corners)
    np.testing.assert_allclose(grid, expected, atol=6e-8)


@alignments
def test_affine_grid_is_the_affine_map_of_the_lattice(align_corners, rng, x64):
    for shape in [(4, 7), (3, 4, 5)]:
        matrix = rng.normal(size=(len(shape), len(shape) + 1))
        expected = reference.act(
            np.vstack([matrix, np.eye(len(shape) + 1)[-1]]),
            reference.regular_grid(shape, align_corners),
        )
        grid = stn.affine_grid(jnp.asarray(matrix), shape, align_corners=align_corners)
        np.testing.assert_allclose(grid, expected, atol=1e-14)


@alignments
def test_pixels_and_normalized_coordinates_are_inverse(align_corners, rng, x64):
    points = jnp.asarray(rng.normal(size=(20, 3)))
    shape = (5, 8, 3)
    pixels = stn.pixels_from_normalized(points, shape, align_corners=align_corners)
    for k, size in enumerate(reversed(shape)):
        expected = reference.pixel(np.asarray(points[:, k]), size, align_corners)
        np.testing.assert_allclose(pixels[:, k], expected, atol=1e-14)
    back = stn.normalized_from_pixels(pixels, shape, align_corners=align_corners)
    np.testing.assert_allclose(back, points, atol=1e-14)
