"""Sampling and its gradients against the oracle."""

import calls
import numpy as np
import oracle
import pytest

SPACES = {1: (7,), 2: (5, 4), 3: (3, 4, 2)}


def numbers(rng, shape, dtype):
    """Normal numbers with the digits of a dtype."""
    return rng.normal(size=shape).astype(dtype)


def coordinates(rng, space, shape, dtype):
    """Inside and well outside, in 64ths of a pixel: exact in float32. In the order x, y, z."""
    return [
        (rng.integers(-3 * 64 * n, 4 * 64 * n, shape) / 64).astype(calls.coordinate_dtype(dtype))
        for n in space[::-1]
    ]


def modes(kernel, padding, align_corners):
    """Attributes of a call."""
    return {
        **calls.kernel(kernel),
        "padding": oracle.PADDINGS[padding],
        "align_corners": align_corners,
    }


def check(image, fill, cs, cotangent, mode, d_batches=None, num_batch_dims=0):
    """All results of one case."""
    name = image.dtype.name
    batch = cotangent.shape[:num_batch_dims]
    value = calls.sample(image, fill, cs, num_batch_dims=num_batch_dims, **modes(*mode))
    calls.assert_close(value, calls.expected_sample(image, fill, cs, batch, *mode), name)

    d_image, d_cs = calls.expected_pull(image, fill, cs, cotangent, batch, *mode)
    d_batches = d_batches or (batch, [batch] * len(cs))
    scale = 1 + np.abs(d_image[np.isfinite(d_image)]).max(initial=0)
    found = calls.sample_pull(
        image, fill, cs, cotangent, d_batches, num_batch_dims=num_batch_dims, **modes(*mode)
    )
    calls.assert_close(found[0], calls.summed(d_image, d_batches[0]), name, scale)
    for f, d, b in zip(found[1:], d_cs, d_batches[1], strict=True):
        # Coordinates' gradients are computed in float32 also where the image has fewer digits.
        digits = "float64" if name == "float64" else "float32"
        calls.assert_close(f, calls.summed(d, b), digits, 10)
    only_image = calls.sample_pull(
        image,
        fill,
        cs,
        cotangent,
        (d_batches[0], None),
        num_batch_dims=num_batch_dims,
        **modes(*mode),
    )
    only_cs = calls.sample_pull(
        image,
        fill,
        cs,
        cotangent,
        (None, d_batches[1]),
        num_batch_dims=num_batch_dims,
        **modes(*mode),
    )
    for f, g in zip(found, only_image + only_cs, strict=True):
        np.testing.assert_array_equal(f, g)


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("ndim", SPACES)
@pytest.mark.parametrize("padding", oracle.PADDINGS)
@pytest.mark.parametrize("kernel", oracle.KERNELS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 11])
def test_values_and_gradients(kernel, padding, ndim, dtype, channels):
    rng = np.random.default_rng(0)
    dtype = calls.DTYPES[dtype]
    space = SPACES[ndim]
    image = numbers(rng, (*space, channels), dtype)
    fill = numbers(rng, channels, dtype)
    cs = coordinates(rng, space, (10, 7), dtype)
    cotangent = numbers(rng, (10, 7, channels), dtype)
    for align_corners in (False, True) if padding == "reflection" else (False,):
        check(image, fill, cs, cotangent, (kernel, padding, align_corners))


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("kernel", ["linear", "keys"])
@pytest.mark.parametrize("space", [(90,), (12, 14), (5, 7, 6)])
def test_points_well_inside(space, kernel, channels, dtype):
    """They are read in a way of their own, unless one near them is not like them."""
    rng = np.random.default_rng(7)
    dtype = calls.DTYPES[dtype]
    image, fill = numbers(rng, (*space, channels), dtype), numbers(rng, channels, dtype)
    cs = [
        ((2 * rng.integers(0, 64 * (n - 1), 219) + 1) / 128).astype(calls.coordinate_dtype(dtype))
        for n in space[::-1]
    ]
    for c, n in zip(cs, space[::-1], strict=True):
        c[40] = n - 1.25  # Reads the last pixel of all.
    cs[0][[17, 50, 100]] = [-0.5, space[-1] - 0.75, np.nan]
    cs[-1][72:80] = 2
    for c in cs:
        c[120:219] = np.sort(c[120:219])  # Neighbours share their pixels,
        c[150:160] = c[150]  # and these all of them.
    check(image, fill, cs, numbers(rng, (219, channels), dtype), (kernel, "constant", False))


@pytest.mark.parametrize("padding", oracle.PADDINGS)
@pytest.mark.parametrize("kernel", oracle.KERNELS)
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("space", [(1,), (1, 1), (1, 5), (4, 1), (1, 1, 1), (2, 1, 3)])
def test_short_axes(space, kernel, padding, align_corners):
    rng = np.random.default_rng(1)
    image, fill = numbers(rng, (*space, 3), np.float32), numbers(rng, 3, np.float32)
    cs = coordinates(rng, space, 65, image.dtype)
    check(image, fill, cs, numbers(rng, (65, 3), np.float32), (kernel, padding, align_corners))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shared",
    [
        {},
        {"image": (1, 1)},
        {"image": (1, 3), "coordinates": (2, 1)},
        {"fill": (1, 3), "coordinates": (1, 1)},
        {"image": (2, 1), "fill": (1, 1)},
    ],
)
@pytest.mark.parametrize("d_image", [(2, 3), (1, 3), (2, 1), (1, 1)])
@pytest.mark.parametrize("d_coordinates", [(2, 3), (1, 3), (1, 1)])
def test_batches(dtype, shared, d_image, d_coordinates):
    rng = np.random.default_rng(2)
    dtype = calls.DTYPES[dtype]
    batch, space, channels = (2, 3), (4, 5), 3
    image = numbers(rng, (*shared.get("image", batch), *space, channels), dtype)
    fill = numbers(rng, (*shared.get("fill", batch), channels), dtype)
    cs = coordinates(rng, space, (*shared.get("coordinates", batch), 9), dtype)
    cotangent = numbers(rng, (*batch, 9, channels), dtype)
    d_batches = (d_image, [d_coordinates, (2, 1)])
    check(image, fill, cs, cotangent, ("linear", "constant", False), d_batches, num_batch_dims=2)


@pytest.mark.parametrize("batch", [(0,), (2,), (0, 3)])
@pytest.mark.parametrize("out", [(), (0,), (3, 0)])
def test_empty_and_scalar_outputs(batch, out):
    rng = np.random.default_rng(3)
    image = numbers(rng, (*batch, 4, 5, 3), np.float32)
    fill = numbers(rng, (*batch, 3), np.float32)
    cs = coordinates(rng, (4, 5), (*batch, *out), image.dtype)
    cotangent = numbers(rng, (*batch, *out, 3), np.float32)
    ones = (1,) * len(batch)
    for d_batches in (None, (ones, [ones, ones])):
        mode = ("linear", "constant", False)
        check(image, fill, cs, cotangent, mode, d_batches, num_batch_dims=len(batch))


def test_no_channels():
    cs = [np.zeros(5, np.float32)] * 2
    image, fill = np.zeros((4, 4, 0), np.float32), np.zeros(0, np.float32)
    cotangent = np.zeros((5, 0), np.float32)
    check(image, fill, cs, cotangent, ("linear", "border", False))


SPECIAL = [np.nan, np.inf, -np.inf, 1e10, -1e10, 3e38, -3e38, 2.0**23, -(2.0**23), 2.0**23 - 0.5]


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("padding", ["constant", "border"])
@pytest.mark.parametrize("kernel", oracle.KERNELS)
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_coordinates_beyond_sense(kernel, padding, dtype, channels):
    rng = np.random.default_rng(4)
    dtype = calls.DTYPES[dtype]
    image, fill = numbers(rng, (5, 4, channels), dtype), numbers(rng, channels, dtype)
    x = np.array([*SPECIAL, *[1.25] * len(SPECIAL), np.nan], calls.coordinate_dtype(dtype))
    y = np.array([*[2.5] * len(SPECIAL), *SPECIAL, np.inf], calls.coordinate_dtype(dtype))
    cotangent = numbers(rng, (len(x), channels), dtype)
    check(image, fill, [x, y], cotangent, (kernel, padding, False))


@pytest.mark.parametrize("padding", ["reflection", "wrap"])
@pytest.mark.parametrize("kernel", ["nearest", "linear"])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_huge_coordinates_of_periodic_paddings(kernel, padding, n):
    """Rounding decides which pixel is seen; but it is one of the image's."""
    rng = np.random.default_rng(5)
    x = np.array(SPECIAL[1:], np.float32)
    image, fill = numbers(rng, (n, 1), np.float32), np.full(1, np.nan, np.float32)
    for align_corners in (False, True):
        mode = (kernel, padding, align_corners)
        value = calls.sample(image, fill, [x], **modes(*mode))
        assert np.all((value >= image.min() - 1e-6) & (value <= image.max() + 1e-6))
        np.testing.assert_array_equal(value[:2], np.broadcast_to(image[0], (2, 1)))
        cotangent = np.ones((len(x), 1), np.float32)
        d_image, d_x = calls.sample_pull(image, fill, [x], cotangent, ((), [()]), **modes(*mode))
        np.testing.assert_allclose(d_image.sum(), len(x), rtol=1e-5)
        assert np.all(d_x[:-1] == 0)


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("ndim", SPACES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("kernel", ["linear", "keys"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weight_zero_hides_pixels(ndim, channels, kernel, dtype, bad):
    """At whole coordinates a bad neighbour is not seen, nor through a cotangent of 0."""
    rng = np.random.default_rng(6)
    dtype = calls.DTYPES[dtype]
    space = SPACES[ndim]
    image = numbers(rng, (*space, channels), dtype)
    image[rng.random(image.shape) < 0.3] = bad
    fill = np.full(channels, bad, dtype)
    whole = [c.astype(calls.coordinate_dtype(dtype)) for c in np.indices(space)[::-1]]
    value = calls.sample(image, fill, whole, **modes(kernel, "constant", False))
    np.testing.assert_array_equal(value.astype(np.float64), image.astype(np.float64))
    cotangent = numbers(rng, (*space, channels), dtype)
    cotangent[rng.random(cotangent.shape) < 0.5] = 0
    with np.errstate(invalid="ignore"):
        check(image, fill, whole, cotangent, (kernel, "constant", False))
        half = [whole[0] + whole[0].dtype.type(0.5), *whole[1:]]
        check(image, fill, half, cotangent, (kernel, "constant", False))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("kernel", ["linear", "keys"])
@pytest.mark.parametrize("channels", [1, 3, 8])
def test_weight_zero_hides_cotangents(channels, kernel, bad):
    """A cotangent that is not finite reaches no pixel by a weight of 0."""
    rng = np.random.default_rng(7)
    image, fill = numbers(rng, (4, 5, channels), np.float32), np.zeros(channels, np.float32)
    whole = [c.astype(np.float32) for c in np.indices((4, 5))[::-1]]
    cotangent = numbers(rng, (4, 5, channels), np.float32)
    cotangent[2, 2] = bad
    d_image = calls.sample_pull(
        image, fill, whole, cotangent, ((), None), **modes(kernel, "constant", False)
    )[0]
    np.testing.assert_array_equal(d_image, cotangent)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int32", "float32", "int64"])
@pytest.mark.parametrize("coordinate", [np.float32, np.float64])
@pytest.mark.parametrize("padding", oracle.PADDINGS)
def test_bytes(dtype, coordinate, padding):
    rng = np.random.default_rng(8)
    image = rng.integers(0, 2 if dtype == "bool" else 100, (2, 4, 5, 3)).astype(dtype)
    fill = rng.integers(0, 2 if dtype == "bool" else 100, (1, 3)).astype(dtype)
    cs = [c.astype(coordinate) for c in coordinates(rng, (4, 5), (2, 9), np.dtype(np.float64))]
    mode = ("nearest", padding, False)
    expected = calls.expected_sample(image, fill, cs, (2,), *mode)
    found = calls.sample(
        image, fill, cs, num_batch_dims=1, name="stn_jax_sample_bytes", **modes(*mode)
    )
    np.testing.assert_array_equal(found, expected.astype(dtype))


def test_bytes_at_nan():
    image, fill = np.arange(12, dtype=np.int32).reshape(3, 4, 1), np.full(1, 99, np.int32)
    x, y = np.array([np.nan, 2, np.nan], np.float32), np.array([1, np.nan, np.nan], np.float32)
    found = calls.sample(
        image, fill, [x, y], name="stn_jax_sample_bytes", **modes("nearest", "constant", False)
    )
    np.testing.assert_array_equal(found[:, 0], [4, 2, 0])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_points_outside_have_the_fill_value_and_no_gradient(ndim, channels, dtype):
    """Even if the fill value or the cotangent is NaN, and whoever the neighbours are."""
    rng = np.random.default_rng(0)
    dtype, count = calls.DTYPES[dtype], 64
    space = (4, 5, 6)[-ndim:]
    image = numbers(rng, (*space, channels), dtype)
    # Eight points outside, then the same between points inside.
    cs = [np.full(count, 1.25, calls.coordinate_dtype(dtype)) for _ in range(ndim)]
    size = space[-1]
    outside = [-1.25, -np.inf, -1e30, size, size + 0.25, 1e9, np.inf, -2]
    cs[0][:8], cs[0][16:32:2] = outside, outside
    are_outside = ~((cs[0] >= -1) & (cs[0] < size))
    assert are_outside.sum() == 16
    mode = modes("linear", "constant", 0)
    for fill, cotangent in ((np.nan, 1), (0.5, np.nan)):
        fills = np.full(channels, fill, dtype)
        found = calls.sample(image, fills, cs, **mode)
        np.testing.assert_array_equal(found[are_outside].astype(np.float32), fill)
        cotangents = np.full((count, channels), cotangent, dtype)
        cotangents[~are_outside] = 1
        d_image, *d_cs = calls.sample_pull(image, fills, cs, cotangents, ((), [()] * ndim), **mode)
        assert np.isfinite(d_image.astype(np.float64)).all()
        for each in d_cs:
            np.testing.assert_array_equal(each[are_outside], 0)
            assert np.isfinite(each).all()


def test_the_last_pixels_of_an_axis_too_long_for_float32():
    """Points inside, though the rounded number of pixels is smaller."""
    size = 2**24 + 2
    image = np.zeros((size, 1), np.float32)
    image[2**24] = 7
    c = np.full(64, 2**24, np.float32)
    found = calls.sample(image, -np.ones(1, np.float32), [c], **modes("linear", "constant", 0))
    np.testing.assert_array_equal(found, 7)
