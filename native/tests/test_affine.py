"""Sampling at a regular lattice under an affine map: the same as at its coordinates."""

import calls
import numpy as np
import oracle
import pytest

SPACES = {1: (9,), 2: (6, 11), 3: (5, 4, 7)}
# Rows longer and shorter than a vector, and lattices of more points than are handled at a time.
OUTS = {1: [(5,), (2500,)], 2: [(7, 3), (33, 65)], 3: [(3, 4, 5), (11, 9, 23)]}


def lattice(out, align_corners):
    """Normalised points [*out, n], x first, in float64."""
    axes = [
        np.linspace(-1, 1, n) if align_corners and n > 1 else (2 * np.arange(n) + 1) / n - 1
        for n in out
    ]
    return np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)


def coordinates(change, space, points, align_corners):
    """Pixel coordinates, x first, of the points moved by the identity plus ``change``."""
    moved = points + points @ change[:, :-1].T + change[:, -1]
    sizes = np.array(space[::-1])
    if align_corners:
        return list(np.moveaxis((moved + 1) * (sizes - 1) / 2, -1, 0))
    return list(np.moveaxis(((moved + 1) * sizes - 1) / 2, -1, 0))


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("kernel", oracle.KERNELS)
@pytest.mark.parametrize("padding", oracle.PADDINGS)
@pytest.mark.parametrize("ndim", SPACES)
def test_values_and_gradients(ndim, padding, kernel, align_corners, dtype):
    rng = np.random.default_rng(ndim)
    dtype, space = calls.DTYPES[dtype], SPACES[ndim]
    modes = calls.kernel(kernel)
    modes |= {"padding": oracle.PADDINGS[padding], "align_corners": align_corners}
    for out, channels in zip(OUTS[ndim], (1, 3), strict=True):
        image = rng.normal(size=(*space, channels)).astype(dtype)
        fill = rng.normal(size=channels).astype(dtype)
        cotangent = rng.normal(size=(*out, channels)).astype(dtype)
        change = rng.normal(size=(ndim, ndim + 1), scale=0.4)
        change = change.astype(calls.coordinate_dtype(dtype))
        points = lattice(out, align_corners)
        cs = coordinates(change.astype(np.float64), space, points, align_corners)
        cs = [c.astype(change.dtype) for c in cs]
        operands = (image, fill, change)
        value = calls.affine(*operands, out=out, **modes)
        expected = calls.sample(image, fill, cs, **modes).astype(np.float64)
        name = dtype.name
        # Coordinates differ by their rounding.
        calls.assert_close(value, expected, name, 10)
        d_image, d_change = calls.affine_pull(*operands, cotangent, ((), ()), out=out, **modes)
        expected, *d_cs = calls.sample_pull(image, fill, cs, cotangent, ((), [()] * ndim), **modes)
        scale = 10 * (1 + np.abs(expected.astype(np.float64)).max())
        calls.assert_close(d_image, expected.astype(np.float64), name, scale)
        pixels = np.array(space[::-1]) - int(align_corners)
        slopes = np.stack(d_cs, axis=-1).astype(np.float64).reshape(-1, ndim) * pixels / 2
        columns = np.concatenate([points.reshape(-1, ndim), np.ones((len(slopes), 1))], axis=1)
        digits = "float64" if name == "float64" else "float32"
        calls.assert_close(d_change, slopes.T @ columns, digits, 10 * np.abs(slopes).sum())


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("space", [(6,), (28, 28), (5, 7), (3, 6, 5)])
def test_no_movement_copies_the_image(space, dtype):
    """Whole pixels are hit exactly, so infinities beside a pixel are not seen."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(*space, 2)).astype(calls.DTYPES[dtype])
    image[0] = np.inf
    change = np.zeros((len(space), len(space) + 1), calls.coordinate_dtype(image.dtype))
    for align_corners in (False, True):
        modes = calls.kernel("linear") | {"padding": 0, "align_corners": align_corners}
        value = calls.affine(image, np.zeros(2, image.dtype), change, out=space, **modes)
        np.testing.assert_array_equal(value, image)


@pytest.mark.parametrize("shared", ["image", "matrix", "nothing"])
@pytest.mark.parametrize("d_image", [(2, 3), (1, 3), (1, 1)])
@pytest.mark.parametrize("d_matrix", [(2, 3), (2, 1), (1, 1)])
def test_batches(shared, d_image, d_matrix):
    """Each item is a call of its own; gradients are summed over axes of size 1."""
    rng = np.random.default_rng(3)
    batch, out = (2, 3), (9, 40)
    sizes = {each: (2, 1) if each == shared else batch for each in ("image", "matrix")}
    image = rng.normal(size=(*sizes["image"], 6, 5, 3)).astype(np.float32)
    matrix = rng.normal(size=(*sizes["matrix"], 2, 3), scale=0.3).astype(np.float32)
    fill = rng.normal(size=(1, 3, 3)).astype(np.float32)
    cotangent = rng.normal(size=(*batch, *out, 3)).astype(np.float32)
    modes = calls.kernel("linear") | {"padding": 0, "align_corners": False, "out": out}
    value = calls.affine(image, fill, matrix, num_batch_dims=2, **modes)
    found = calls.affine_pull(
        image, fill, matrix, cotangent, (d_image, d_matrix), num_batch_dims=2, **modes
    )
    of_items = [np.zeros((*batch, 6, 5, 3)), np.zeros((*batch, 2, 3))]
    for item, parts in calls.items(batch, image, fill, matrix, cotangent):
        im, fi, ma, ct = (each.astype(np.float32) for each in parts)
        np.testing.assert_array_equal(value[item], calls.affine(im, fi, ma, **modes))
        for all_items, one in zip(
            of_items, calls.affine_pull(im, fi, ma, ct, ((), ()), **modes), strict=True
        ):
            all_items[item] = one
    for each, sums, d_batch in zip(found, of_items, (d_image, d_matrix), strict=True):
        expected = calls.summed(sums, d_batch)
        calls.assert_close(each, expected, "float32", 1 + np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64])
def test_bytes(dtype):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 99, (7, 6, 2)).astype(dtype)
    fill = np.array([100, 101], dtype)
    change = rng.normal(size=(2, 3), scale=0.4)
    modes = calls.kernel("nearest") | {"padding": 0, "align_corners": False}
    for of in (np.float32, np.float64):
        cs = coordinates(change, (7, 6), lattice((40, 30), False), False)
        expected = calls.sample(
            image, fill, [c.astype(of) for c in cs], name="stn_jax_sample_bytes", **modes
        )
        value = calls.affine(
            *(image, fill, change.astype(of)),
            out=(40, 30),
            name="stn_jax_affine_bytes",
            **modes,
        )
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 3e38, -3e38])
def test_matrices_beyond_sense(number):
    """A NaN gives NaN without gradients; what is far away is the value outside."""
    image, fill = np.ones((4, 5, 1), np.float32), np.full(1, 7, np.float32)
    change = np.zeros((2, 3), np.float32)
    change[0, 2] = number
    modes = calls.kernel("linear") | {"padding": 0, "align_corners": False, "out": (3, 2)}
    value = calls.affine(image, fill, change, **modes)
    np.testing.assert_allclose(value, np.nan if np.isnan(number) else 7, rtol=1e-6)
    cotangent = np.ones_like(value)
    gradients = calls.affine_pull(image, fill, change, cotangent, ((), ()), **modes)
    for each in gradients:
        np.testing.assert_array_equal(each, 0)


def test_empty_outputs():
    image, fill = np.ones((2, 4, 5, 1), np.float32), np.ones((2, 1), np.float32)
    modes = calls.kernel("linear") | {"padding": 0, "align_corners": False, "out": (3, 0)}
    matrix = np.zeros((2, 2, 3), np.float32)
    assert calls.affine(image, fill, matrix, num_batch_dims=1, **modes).shape == (2, 3, 0, 1)
    cotangent = np.zeros((2, 3, 0, 1), np.float32)
    gradients = calls.affine_pull(
        image, fill, matrix, cotangent, ((2,), (1,)), num_batch_dims=1, **modes
    )
    for each in gradients:
        np.testing.assert_array_equal(each, 0)
