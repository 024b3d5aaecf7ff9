"""Sampling of box means of an image in place of its pixels."""

import calls
import jax
import numpy as np
import oracle
import pytest

# Along an axis of three pixels: a margin of one entry on either side, the fill value in front and a
# copy behind; then the means of neighbours, and every second mean of these, backwards.
AXIS = [(0, 1, -1, -1, 0), (4, 1, 3, 3, 0), (5, 4, 0, 1, 1), (9, 2, 7, 8, -2)]
SIZE, ENTRIES, BOXES = 3, 11, 2


def layout(ndim, runs=AXIS):
    """Attributes of a call."""
    return calls.kernel("linear") | {
        "padding": oracle.PADDINGS["border"],
        "align_corners": 0,
        "margin": 1,
        "runs": np.array(ndim * list(runs), np.int64).ravel(),
        "run_counts": np.array(ndim * [len(runs)], np.int64),
    }


def expanded(image, fill):
    """All box means of an image ``[*space, channels]``, by the definition of a run."""
    for axis in range(image.ndim - 1):
        pixels = np.moveaxis(image, axis, 0)
        entries = np.full((ENTRIES, *pixels.shape[1:]), np.nan)
        entries[1 : 1 + SIZE] = pixels
        for to, count, first, second, step in AXIS:
            for k in range(count):
                sources = entries[first + k * step], entries[second + k * step]
                entries[to + k] = fill if first < 0 else sum(sources) / 2
        image = np.moveaxis(entries, 0, axis)
    return image


def sample(image, fill, coordinates, *, num_batch_dims=0, cotangent=None, **attributes):
    """The mean of all boxes; or the gradients to the coordinates, of the full batch."""
    arrays = [image, fill, *coordinates] + ([] if cotangent is None else [cotangent])
    batch = calls.full_batch(*arrays, num_batch_dims=num_batch_dims)
    attributes |= {"num_batch_dims": num_batch_dims, "ndim": len(coordinates)}
    if cotangent is None:
        shape = (*batch, *coordinates[0].shape[num_batch_dims + 1 :], image.shape[-1])
        return calls.call("stn_jax_boxes", [(shape, image.dtype)], *arrays, **attributes)[0]
    results = [((*batch, *c.shape[num_batch_dims:]), c.dtype) for c in coordinates]
    attributes |= {"wrt_image": 0, "wrt_coordinates": 1}
    return calls.call("stn_jax_boxes_pull", results, *arrays, **attributes)


def operands(ndim, channels, dtype, batch=()):
    rng = np.random.default_rng(ndim)
    image = rng.normal(size=(*batch, *ndim * [SIZE], channels)).astype(dtype)
    fill = rng.normal(size=(*batch, channels)).astype(dtype)
    coordinates = [
        rng.uniform(0, ENTRIES - 1, (*batch, BOXES, 5, 27)).astype(dtype) for _ in range(ndim)
    ]
    return image, fill, coordinates, rng.normal(size=(*batch, 5, 27, channels)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("ndim", [1, 2, 3])
def test_values_and_gradients(ndim, channels, dtype):
    image, fill, cs, cotangent = operands(ndim, channels, calls.DTYPES[dtype])
    means = expanded(image.astype(np.float64), fill.astype(np.float64))
    flat = [c.astype(np.float64).reshape(-1) for c in cs[::-1]]
    every = oracle.sample(means, np.zeros(channels), flat, "linear", "border", False)
    value = sample(image, fill, cs, **layout(ndim))
    expected = every.reshape(BOXES, 5, 27, channels).mean(axis=0)
    calls.assert_close(value, expected, dtype)
    shared = np.broadcast_to(cotangent.astype(np.float64) / BOXES, (BOXES, *cotangent.shape))
    _, slopes = oracle.sample_pull(
        means, np.zeros(channels), flat, "linear", "border", False, shared.reshape(-1, channels)
    )
    found = sample(image, fill, cs, cotangent=cotangent, **layout(ndim))
    for one, slope in zip(found, slopes[::-1], strict=True):
        calls.assert_close(one, slope.reshape(one.shape), dtype, 5)


def test_images_and_points_of_a_batch():
    """More images than threads, and images that several sets of points read."""
    image, fill, cs, cotangent = operands(2, 2, np.float32, (5, 3))
    image, fill = image[:, :1], fill[:, :1]
    value = sample(image, fill, cs, num_batch_dims=2, **layout(2))
    gradients = sample(image, fill, cs, cotangent=cotangent, num_batch_dims=2, **layout(2))
    for i, j in np.ndindex(5, 3):
        own = (image[i, 0], fill[i, 0], [c[i, j] for c in cs])
        np.testing.assert_array_equal(value[i, j], sample(*own, **layout(2)))
        one = sample(*own, cotangent=cotangent[i, j], **layout(2))
        np.testing.assert_array_equal([g[i, j] for g in gradients], one)


def test_long_rows_are_divided():
    """Into pieces of the inner axes, with the fill value in each."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(SIZE, 3001, 3))
    fill = np.array([1.0, 2.0, 3.0])
    attributes = layout(2)
    attributes |= {"runs": np.array([*AXIS, (0, 1, -1, -1, 0)]).ravel(), "run_counts": [4, 1]}
    attributes["run_counts"] = np.array(attributes["run_counts"])
    columns = np.broadcast_to(np.arange(3002.0), (1, ENTRIES, 3002))
    rows = np.broadcast_to(np.arange(float(ENTRIES))[:, None], columns.shape)
    value = sample(image, fill, [columns, rows], **attributes)
    whole = np.concatenate([np.broadcast_to(fill, (SIZE, 1, 3)), image], axis=1)
    expected = np.full((ENTRIES, 3002, 3), np.nan)
    expected[1 : 1 + SIZE] = whole
    for to, count, first, second, step in AXIS:
        for k in range(count):
            both = expected[first + k * step] + expected[second + k * step]
            expected[to + k] = fill if first < 0 else both / 2
    np.testing.assert_allclose(value, expected, rtol=1e-14)


def test_several_fill_values_of_an_image_are_refused():
    image, fill, cs, _ = operands(2, 2, np.float32, (3,))
    with pytest.raises(jax.errors.JaxRuntimeError, match="must have one fill value"):
        sample(image[:1], fill, cs, num_batch_dims=1, **layout(2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"margin": -1}, "margin must not be negative"),
        ({"run_counts": np.array([4])}, "a number for each axis"),
        ({"run_counts": np.array([4, 5])}, "five numbers for each run"),
        ({"run_counts": np.array([4, 3])}, "Each entry|more runs"),
        (layout(2, [AXIS[0], (5, 1, 1, 1, 0)]), "Each entry of the box means must be written"),
        (layout(2, [*AXIS, (0, 1, 1, 1, 0)]), "must not write an entry twice"),
        (layout(2, [(0, 1, 99, 99, 0)]), "must read entries that are known"),
        (layout(2, [(0, 1, 0, 0, 0)]), "must read entries that are known"),
        (layout(2, [(-1, 1, 1, 1, 0)]), "entries 0 to 2"),
        (layout(2, [(1 << 40, 1, 1, 1, 0)]), "entries 0 to 2"),
    ],
)
def test_refused(changes, message):
    image, fill, coordinates, _ = operands(2, 3, np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        sample(image, fill, coordinates, **(layout(2) | changes))
