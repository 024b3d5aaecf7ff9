"""The mean of several boxes around a point, out of an array of box means."""

import itertools

import calls
import jax
import numpy as np
import oracle
import pytest

# Along an axis of three pixels with a margin of two entries: the fill value in front and a copy
# behind; then level 1, the means of neighbours, between copies; and one box of level 2.
AXIS = [(0, 2, -1, -1, 0), (5, 2, 4, 4, 0)]
AXIS += [(7, 2, 2, 2, 0), (9, 4, 1, 2, 1), (13, 2, 4, 4, 0)]
AXIS += [(15, 2, 9, 9, 0), (17, 2, 9, 11, 1), (19, 2, 12, 12, 0)]
STARTS, REACH, SIZE = [2, 9, 17], 1, 3
FIRSTS, DENSITIES, LASTS = (0, -0.5, -0.5), (1, 1, 0.5), (2, 3, 2)
COORDINATES = "constant", "border", "reflection", "wrap"


def layout(ndim, runs=AXIS, padding="border", each_point=False, starts=STARTS):
    """Attributes of a call."""
    return calls.kernel("linear") | {
        "padding": oracle.PADDINGS[padding],
        "align_corners": 0,
        "reach": REACH,
        "each_point": int(each_point),
        "runs": np.array(ndim * list(runs), np.int64).ravel(),
        "run_counts": np.array(ndim * [len(runs)], np.int64),
        "starts": np.array(ndim * list(starts), np.int64),
        "level_counts": np.array(ndim * [len(starts)], np.int64),
    }


def grown(array, axis, fill, runs=AXIS, margin=2 * REACH):
    """An axis with the entries of runs, by the definition of a run."""
    pixels = np.moveaxis(array, axis, 0)
    entries = np.full((max(to + n for to, n, *_ in runs), *pixels.shape[1:]), np.nan)
    entries[margin : margin + len(pixels)] = pixels
    for to, count, first, second, step in runs:
        for k in range(count):
            sources = entries[first + k * step], entries[second + k * step]
            entries[to + k] = fill if first < 0 else sum(sources) / 2
    return np.moveaxis(entries, 0, axis)


def expanded(image, fill):
    """All box means of an image ``[*space, channels]``."""
    for axis in range(image.ndim - 1):
        image = grown(image, axis, fill)
    return image


def placed(pixels, levels, offsets, padding):
    """The coordinates in the array and their slopes, for one axis and side of each edge."""
    at = pixels + offsets
    slope = np.ones_like(at)
    if padding in ("reflection", "wrap"):
        period = SIZE if padding == "wrap" else 2 * SIZE
        at = at % period
        if padding == "reflection":
            mirrored = period - 1 - at
            slope = np.where(at <= mirrored, slope, -1)
            at = np.minimum(at, mirrored)
    levels = np.maximum(levels, 0)
    first, density, last, start = (
        np.array(each)[levels] for each in (FIRSTS, DENSITIES, LASTS, STARTS)
    )
    place, high = (at - first) * density, last + REACH
    slope = slope * density * ((place > -REACH) & (place < high))
    return np.clip(place, -REACH, high) + start, slope


def by_definition(image, fill, pixels, levels, edges, cotangent, padding):
    """Value and gradients of one item, in float64; operands in the order x, y, z."""
    ndim, channels = len(pixels), image.shape[-1]
    means = expanded(image, fill)
    shape = pixels[0].shape
    levels = np.broadcast_to(
        levels.reshape(ndim, *(levels.shape[1:] or [1] * len(shape))), (ndim, *shape)
    )
    own = edges.reshape(ndim, ndim, *(edges.shape[2:] or [1] * len(shape)))
    plain = [each.ravel() for each in pixels[::-1]], "linear", padding, False
    value = oracle.sample(image, fill, *plain).reshape(*shape, channels)
    flat = cotangent.reshape(-1, channels)
    _, slopes = oracle.sample_pull(image, fill, *plain, flat)
    on_image = levels[0] < 0
    d_pixels = [np.where(on_image, each.reshape(shape), 0) for each in slopes[::-1]]
    d_edges = np.zeros((ndim, ndim, *shape))
    mean = 0
    for signs in itertools.product((-1, 1), repeat=ndim):
        places, growths = zip(
            *(
                placed(
                    pixels[k],
                    levels[k],
                    sum(s * e[k] for s, e in zip(signs, own, strict=True)),
                    padding,
                )
                for k in range(ndim)
            ),
            strict=True,
        )
        at = [each.ravel() for each in places[::-1]], "linear", "border", False
        mean = mean + oracle.sample(means, np.zeros(channels), *at) / 2**ndim
        _, slopes = oracle.sample_pull(means, np.zeros(channels), *at, flat)
        for k, (slope, growth) in enumerate(zip(slopes[::-1], growths, strict=True)):
            each = np.where(on_image, 0, slope.reshape(shape) * growth / 2**ndim)
            d_pixels[k] = d_pixels[k] + each
            for edge, sign in enumerate(signs):
                d_edges[edge, k] += sign * each
    value = np.where(on_image[..., None], value, mean.reshape(value.shape))
    if edges.ndim == 2:
        d_edges = d_edges.sum(axis=tuple(range(2, d_edges.ndim)))
    return value, [*d_pixels, d_edges]


def sample(image, fill, points, *, num_batch_dims=0, cotangent=None, **attributes):
    """The means; or the gradients to the coordinates and edges, of the full batch."""
    *pixels, _, edges = points
    arrays = [image, fill, *points] + ([] if cotangent is None else [cotangent])
    batch = calls.full_batch(*arrays, num_batch_dims=num_batch_dims)
    attributes |= {"num_batch_dims": num_batch_dims, "ndim": len(pixels)}
    if cotangent is None:
        shape = (*batch, *pixels[0].shape[num_batch_dims:], image.shape[-1])
        return calls.call("stn_jax_box_means", [(shape, image.dtype)], *arrays, **attributes)[0]
    results = [((*batch, *c.shape[num_batch_dims:]), c.dtype) for c in (*pixels, edges)]
    attributes |= {"wrt_image": 0, "wrt_coordinates": 1}
    return calls.call("stn_jax_box_means_pull", results, *arrays, **attributes)


def operands(ndim, channels, dtype, batch=(), each_point=False, out=(5, 211)):
    """Image, fill, points and cotangent; some points, or items, read the image itself."""
    rng = np.random.default_rng(ndim)
    own = out if each_point else ()
    image = rng.normal(size=(*batch, *ndim * [SIZE], channels)).astype(dtype)
    fill = rng.normal(size=(*batch, channels)).astype(dtype)
    # Multiples of 1/64, so that no rounding moves a point into another cell.
    pixels = [
        rng.integers(-64 * SIZE, 128 * SIZE, (*batch, *out)).astype(dtype) / 64 for _ in range(ndim)
    ]
    levels = rng.integers(0, len(STARTS), (*batch, ndim, *own))
    none = rng.uniform(size=(*batch, 1, *own)) < 0.3
    if each_point:
        none[..., :1025] = True  # A whole part of the points.
        none[..., -1, :] = False
    levels = np.where(none, -1, levels).astype(np.int32)
    edges = rng.integers(-128, 128, (*batch, ndim, ndim, *own)).astype(dtype) / 64
    cotangent = rng.normal(size=(*batch, *out, channels)).astype(dtype)
    return image, fill, [*pixels, levels, edges], cotangent


@pytest.mark.parametrize("each_point", [False, True])
@pytest.mark.parametrize(
    ("ndim", "channels", "padding", "dtype"),
    [
        (1, 1, "reflection", "float64"),
        (2, 1, "constant", "float32"),
        (2, 3, "constant", "float64"),
        (2, 3, "border", "float32"),
        (2, 3, "reflection", "float32"),
        (2, 6, "wrap", "float32"),
        (3, 2, "wrap", "float64"),
    ],
)
def test_values_and_gradients(ndim, channels, padding, dtype, each_point):
    image, fill, points, cotangent = operands(ndim, channels, calls.DTYPES[dtype], (2,), each_point)
    attributes = layout(ndim, padding=padding, each_point=each_point)
    value = sample(image, fill, points, num_batch_dims=1, **attributes)
    found = sample(image, fill, points, num_batch_dims=1, cotangent=cotangent, **attributes)
    for i in range(2):
        *pixels, levels, edges = (each[i] for each in points)
        wide = [each.astype(np.float64) for each in (image[i], fill[i])]
        pixels = [each.astype(np.float64) for each in pixels]
        both = edges.astype(np.float64), cotangent[i].astype(np.float64)
        expected, gradients = by_definition(*wide, pixels, levels, *both, padding)
        calls.assert_close(value[i], expected, dtype, 4)
        for one, other in zip(found, gradients, strict=True):
            # A sum over all points rounds each of them.
            many = 60 if other.shape == (ndim, ndim) else 10
            calls.assert_close(one[i], other, dtype, many)


@pytest.mark.parametrize("each_point", [False, True])
def test_images_and_points_of_a_batch(each_point):
    """More images than threads, and images that several sets of points read."""
    image, fill, points, cotangent = operands(2, 2, np.float32, (5, 3), each_point)
    image, fill = image[:, :1], fill[:, :1]
    attributes = layout(2, each_point=each_point)
    value = sample(image, fill, points, num_batch_dims=2, **attributes)
    gradients = sample(image, fill, points, cotangent=cotangent, num_batch_dims=2, **attributes)
    for i, j in np.ndindex(5, 3):
        own = (image[i, 0], fill[i, 0], [each[i, j] for each in points])
        np.testing.assert_array_equal(value[i, j], sample(*own, **attributes))
        one = sample(*own, cotangent=cotangent[i, j], **attributes)
        for gradient, each in zip(gradients, one, strict=True):
            np.testing.assert_array_equal(gradient[i, j], each)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_levels_that_are_not_read_are_left_out(level):
    """Each image of a batch has its own highest level; the values stay."""
    image, fill, points, _ = operands(2, 1, np.float64, (4,))
    *pixels, levels, edges = points
    levels = np.minimum(levels, [[level, 0], [0, level], [level, level], [-1, -1]])
    levels = levels.astype(np.int32)
    value = sample(image, fill, [*pixels, levels, edges], num_batch_dims=1, **layout(2))
    for i in range(4):
        own = [each[i] for each in pixels]
        zeros = np.zeros((5, 211, 1))
        expected, _ = by_definition(image[i], fill[i], own, levels[i], edges[i], zeros, "border")
        np.testing.assert_allclose(value[i], expected, rtol=1e-12, atol=1e-13)


def test_long_rows_are_divided():
    """Into pieces of the inner axes, with the fill value in each."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(SIZE, 3001, 3))
    fill = np.array([1.0, 2.0, 3.0])
    row = [(0, 2, -1, -1, 0), (3003, 2, -1, -1, 0)]
    attributes = layout(2, padding="constant")
    attributes |= {
        "runs": np.array([*AXIS, *row]).ravel(),
        "run_counts": np.array([len(AXIS), 2]),
        "starts": np.array([*STARTS, 2]),
        "level_counts": np.array([3, 1]),
    }
    columns, rows = np.meshgrid(np.arange(3001.0), np.arange(-0.5, 3, 1))
    levels, edges = np.array([0, 1], np.int32), np.zeros((2, 2))
    value = sample(image, fill, [columns, rows, levels, edges], **attributes)
    expected = grown(grown(image, 1, fill, row), 0, fill)[9:13, 2:-2]
    np.testing.assert_allclose(value, expected, rtol=1e-14)


def test_nothing_is_read_at_nan_and_far_points():
    image, fill, points, cotangent = operands(2, 2, np.float32)
    for k, far in enumerate((np.nan, np.inf, -np.inf, 1e30)):
        points[0][0, k] = far
    points[-2][:] = 1
    value = sample(image, fill, points, **layout(2))
    assert np.isnan(value[0, 0]).all()
    assert np.isfinite(value[0, 1:]).all()
    found = sample(image, fill, points, cotangent=cotangent, **layout(2))
    assert all(np.isfinite(each).all() for each in found)
    np.testing.assert_array_equal(found[0][0, :4], 0)


def test_several_fill_values_of_an_image_are_refused():
    image, fill, points, _ = operands(2, 2, np.float32, (3,))
    with pytest.raises(jax.errors.JaxRuntimeError, match="must have one fill value"):
        sample(image[:1], fill, points, num_batch_dims=1, **layout(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reach": -1}, "reach must be 0 to"),
        (calls.kernel("keys"), "need the linear kernel"),
        ({"run_counts": np.array([8])}, "a number for each axis"),
        ({"run_counts": np.array([8, 9])}, "five numbers for each run"),
        ({"run_counts": np.array([8, 7])}, "Each entry|more runs"),
        ({"level_counts": np.array([3, 4])}, "starts must have a number"),
        ({"level_counts": np.array([3, 2])}, "Each level|more starts|must begin"),
        (layout(2, starts=[2, 9, 10]), "must begin behind the margin"),
        (layout(2, starts=[2, 9, 1 << 40]), "must begin behind the margin"),
        (layout(2, starts=[2, 6, 17]), "must belong to level 0"),
        (layout(2, starts=[2, 9, 30]), "Each level must have entries"),
        (layout(2, starts=[2, 8, 17]), "must write one level"),
        (layout(2, [*AXIS[:5], AXIS[6], *AXIS[5:]][::-1]), "must read entries that are known"),
        (layout(2, [*AXIS[:-1], (20, 1, 1, 1, 0)]), "Each entry of the box means must be written"),
        (layout(2, [*AXIS, (0, 1, 1, 1, 0)]), "must not write an entry twice"),
        (layout(2, [(0, 1, 99, 99, 0)]), "must read entries that are known"),
        (layout(2, [(0, 1, 0, 0, 0)]), "must read entries that are known"),
        (layout(2, [(-1, 1, 1, 1, 0)]), "entries 0 to 2"),
        (layout(2, [(1 << 40, 1, 1, 1, 0)]), "entries 0 to 2"),
        (layout(2, [AXIS[0], (5, 1, 4, 4, 0), *AXIS[2:], (6, 1, 9, 9, 0)]), "read no higher one"),
    ],
)
def test_refused(changes, message):
    image, fill, points, _ = operands(2, 3, np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        sample(image, fill, points, **(layout(2) | changes))
