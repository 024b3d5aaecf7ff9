"""The lattice, and conversions between normalised and pixel coordinates."""

import functools

import jax
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
    grid = jax.jit(lambda: stn.regular_grid((h, w), align_corners=align_corners))()
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


def halves(size, align_corners):
    """Every whole and half pixel of an axis and a little beyond, and the points rounded from it."""
    pixels = np.arange(-2, 2 * size + 2) / 2
    return pixels, (pixels - (size - 1) / 2) / max((size - align_corners) / 2, 0.5)


WIDTHS = range(1, 41)


@pytest.mark.cross_section(2)
@alignments
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_and_half_pixels_are_exact_at_every_position(align_corners, dtype, x64):
    widths = WIDTHS[1:] if align_corners else WIDTHS
    pixels, points = zip(*(halves(n, align_corners) for n in widths), strict=True)
    grids = [
        jnp.asarray(np.broadcast_to(each[:, None, None], (len(each), 19, 1)), dtype)
        for each in points
    ]

    def places(grids):
        return [
            stn.pixels_from_normalized(grid, (n,), align_corners=align_corners)[..., 0]
            for n, grid in zip(widths, grids, strict=False)
        ]

    for found in (jax.jit(places)(grids), places(grids[:3])):
        for each, expected in zip(found, pixels, strict=False):
            np.testing.assert_array_equal(each, np.broadcast_to(expected[:, None], each.shape))


def test_a_point_has_the_same_bits_at_every_position_of_every_grid(rng):
    points = jnp.asarray(rng.uniform(-1.5, 1.5, 16), jnp.float32)
    lengths = (1, 2, 3, 4, 5, 7, 8, 9, 15, 17, 33)

    @jax.jit
    def everywhere(points):
        return [
            stn.pixels_from_normalized(jnp.broadcast_to(points[:, None, None], (16, n, 1)), (size,))
            for n in lengths
            for size in (5, 7, 1000)
        ]

    found = everywhere(points)
    for k, size in enumerate((5, 7, 1000)):
        pixels = functools.partial(stn.pixels_from_normalized, shape=(size,))
        alone = pixels(points[:, None])
        # Factors are not joined with the scale, so what computes the points does not matter.
        within = jax.jit(lambda u, pixels=pixels: pixels(3 * u[:, None] * 0.1))(points)
        apart = pixels(jax.jit(lambda u: 3 * u[:, None] * 0.1)(points))
        np.testing.assert_array_equal(within, apart)
        for each in found[k::3]:
            np.testing.assert_array_equal(each[..., 0], np.broadcast_to(alone, each.shape[:2]))


def test_points_that_are_not_finite_stay_so():
    points = jnp.array([[jnp.inf, -jnp.inf], [jnp.nan, 0.0]])
    pixels = stn.pixels_from_normalized(points, (4, 5))
    np.testing.assert_array_equal(pixels, [[jnp.inf, -jnp.inf], [jnp.nan, 1.5]])


@pytest.mark.parametrize("implementation", [e.name for e in stn.implementations() if e.available])
def test_copies_of_a_point_read_one_pixel(implementation):
    """(−0.2, 0) lies half way between pixels 1 and 2 of 5; (−1, 1) on a corner."""
    options = {"implementation": implementation}
    kernel = "linear" if implementation == "dense" else "nearest"
    image = jnp.arange(15.0).reshape(3, 5, 1)

    @jax.jit
    def everywhere(point, theta):
        found = []
        for shape in ((1, 1), (3, 5), (5, 7), (2, 33)):
            grid = jnp.broadcast_to(point, (*shape, 2))
            found.append(stn.grid_sample(image, grid, kernel=kernel, **options))
            found.append(
                stn.warp(image, stn.affine(), theta, output_shape=shape, kernel=kernel, **options)
            )
        return found

    theta = jnp.array([0.0, 0.0, -0.2, 0.0, 0.0, 0.0])
    for each in everywhere(jnp.array([-0.2, 0.0]), theta):
        np.testing.assert_array_equal(each, jnp.full_like(each, 6.5 if kernel == "linear" else 7))

    def total(grid):
        sampled = stn.grid_sample(
            2 * jnp.arange(4.0)[None, :, None] * jnp.ones((3, 1, 1)), grid,
            padding="border", align_corners=True, **options,
        )  # fmt: skip
        return sampled.sum()

    slopes = jax.grad(total)(jnp.broadcast_to(jnp.array([-1.0, 1.0]), (2, 4, 2)))
    np.testing.assert_array_equal(slopes, np.broadcast_to([3.0, 0.0], (2, 4, 2)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_a_map_to_a_half_pixel_reads_one_pixel_from_everywhere(dtype, rng, x64):
    """Every whole and half pixel of some widths, from lattices of other sizes."""
    wide = jnp.float64 if dtype == "float64" else jnp.float32
    for size, out in ((5, 7), (12, 12), (37, 19)):
        image = jnp.arange(size)[None, :, None].astype(dtype)
        pixels, points = halves(size, False)
        inside = slice(2, -3)
        thetas = jnp.asarray([[0, 0, x, 0, 1, 0] for x in points[inside]], wide)
        warp = functools.partial(
            stn.warp, image, stn.affine(), output_shape=(1, out), kernel="nearest"
        )
        read = jax.jit(jax.vmap(warp))(thetas)
        expected = np.minimum(np.floor(pixels[inside] + 0.5), size - 1)
        np.testing.assert_array_equal(
            np.asarray(read[:, 0, :, 0], float),
            np.broadcast_to(expected[:, None], (len(thetas), out)),
        )


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_middle_is_zero_and_jit_changes_no_bit(align_corners):
    """``jnp.linspace`` misses 0 in the middle by 1e-8, and is another under jit."""
    sizes = (7, 6, 29)
    grid = stn.regular_grid(sizes, align_corners=align_corners)
    compiled = jax.jit(lambda: stn.regular_grid(sizes, align_corners=align_corners))()
    np.testing.assert_array_equal(grid, compiled)
    for size in (1, 3, 7, 49, 197):
        row = stn.regular_grid((1, size), align_corners=align_corners)
        assert row[0, size // 2].tolist() == [0, 0]
