"""The general contraction and its gradients against the oracle."""

import calls
import numpy as np
import oracle
import pytest

SPACES = {1: (7,), 2: (5, 4), 3: (3, 4, 2)}


def operands(rng, ndim, counts, channels, dtype, batch=(), out=(23,)):
    """In the order x, y, z; some weights are 0 and some indices outside."""
    space = SPACES[ndim]
    image = rng.normal(size=(*batch, *space, channels)).astype(dtype)
    fill = rng.normal(size=(*batch, channels)).astype(dtype)
    indices, weights = [], []
    for n, k in zip(space[::-1], counts, strict=True):
        indices.append(rng.integers(-1, n, (*batch, k, *out), np.int32))
        weight = rng.normal(size=(*batch, k, *out)).astype(calls.coordinate_dtype(dtype))
        weight[rng.random(weight.shape) < 0.2] = 0
        weights.append(weight)
    cotangent = rng.normal(size=(*batch, *out, channels)).astype(dtype)
    return image, fill, indices, weights, cotangent


def expected(image, fill, indices, weights, cotangent, batch=()):
    """Value, and unsummed gradients to the image and the weights."""
    out = indices[0].shape[len(batch) + 1 :]
    ndim, channels = len(indices), image.shape[-1]
    value = np.zeros((*batch, *out, channels))
    d_image = np.zeros((*batch, *image.shape[len(batch) :]))
    d_weights = [np.zeros((*batch, *w.shape[len(batch) :])) for w in weights]
    for item, (im, fi, ct, *rest) in calls.items(batch, image, fill, cotangent, *indices, *weights):
        flat = [a.reshape(len(a), -1) for a in rest]
        idx, w = flat[:ndim][::-1], flat[ndim:][::-1]
        value[item] = oracle.contract(im, fi, idx, w).reshape(value[item].shape)
        di, dw = oracle.contract_pull(im, fi, idx, w, ct.reshape(-1, channels))
        d_image[item] = di
        for d, got in zip(d_weights, dw[::-1], strict=True):
            d[item] = got.reshape(d[item].shape)
    return value, d_image, d_weights


def check(image, fill, indices, weights, cotangent, batch=(), d_batches=None):
    """All results of one case."""
    k = len(batch)
    name = image.dtype.name
    digits = "float64" if name == "float64" else "float32"
    value, d_image, d_weights = expected(image, fill, indices, weights, cotangent, batch)
    found = calls.taps(image, fill, indices, weights, num_batch_dims=k)
    calls.assert_close(found, value, name, 8)
    d_batches = d_batches or (batch, [batch] * len(weights))
    found = calls.taps_pull(image, fill, indices, weights, cotangent, d_batches, num_batch_dims=k)
    scale = 1 + np.abs(d_image[np.isfinite(d_image)]).max(initial=0)
    calls.assert_close(found[0], calls.summed(d_image, d_batches[0]), name, scale)
    for f, d, b in zip(found[1:], d_weights, d_batches[1], strict=True):
        calls.assert_close(f, calls.summed(d, b), digits, 100)
    for mask in range(1, 1 << len(weights)):
        chosen = [b if mask >> j & 1 else None for j, b in enumerate(d_batches[1])]
        some = calls.taps_pull(
            image, fill, indices, weights, cotangent, (None, chosen), num_batch_dims=k
        )
        wanted = [f for j, f in enumerate(found[1:]) if mask >> j & 1]
        for f, g in zip(some, wanted, strict=True):
            np.testing.assert_array_equal(f, g)


@pytest.mark.parametrize("dtype", calls.DTYPES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("counts", [(1,), (4,), (6,), (2, 3), (4, 4), (2, 3, 2), (4, 4, 4)])
def test_values_and_gradients(counts, channels, dtype):
    rng = np.random.default_rng(0)
    check(*operands(rng, len(counts), counts, channels, calls.DTYPES[dtype]))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("out", [(70,), (9, 8)])
def test_neighbouring_pixels(channels, out):
    """As a cubic kernel reads them: runs of four along each axis."""
    rng = np.random.default_rng(1)
    image = rng.normal(size=(9, 8, channels)).astype(np.float32)
    fill = rng.normal(size=channels).astype(np.float32)
    steps = np.arange(4, dtype=np.int32).reshape(4, *(1,) * len(out))
    indices = [rng.integers(0, n - 3, out, np.int32) + steps for n in (8, 9)]
    # Some points touch the border.
    indices[0][:, 3] = np.where(steps[:, 0] == 0, -1, indices[0][:, 3])
    weights = [rng.normal(size=i.shape).astype(np.float32) for i in indices]
    cotangent = rng.normal(size=(*out, channels)).astype(np.float32)
    check(image, fill, indices, weights, cotangent)


@pytest.mark.parametrize(
    ("d_image", "d_weights"),
    [((2, 3), [(2, 3), (2, 3)]), ((1, 3), [(2, 1), (1, 1)]), ((1, 1), [(1, 1), (1, 3)])],
)
@pytest.mark.parametrize("image_batch", [(2, 3), (1, 3), (1, 1)])
def test_batches(image_batch, d_image, d_weights):
    rng = np.random.default_rng(2)
    image, fill, indices, weights, cotangent = operands(rng, 2, (3, 4), 3, np.float32, (2, 3), (5,))
    image = image[: image_batch[0], : image_batch[1]]
    indices[0] = indices[0][:1]
    weights[1] = weights[1][:, :1]
    check(image, fill, indices, weights, cotangent, (2, 3), (d_image, d_weights))


@pytest.mark.parametrize("channels", [1, 3, 9])
def test_bad_pixels_and_weights(channels):
    """A NaN weight spoils the value, but no gradient; a weight or cotangent of 0 hides pixels."""
    rng = np.random.default_rng(3)
    image, fill, indices, weights, cotangent = operands(rng, 2, (3, 4), channels, np.float32)
    image[rng.random(image.shape) < 0.2] = np.nan
    image[rng.random(image.shape) < 0.1] = np.inf
    weights[1][rng.random(weights[1].shape) < 0.1] = np.nan
    cotangent[rng.random(cotangent.shape) < 0.5] = 0
    with np.errstate(invalid="ignore"):
        check(image, fill, indices, weights, cotangent)


def test_wild_indices_count_as_outside():
    rng = np.random.default_rng(4)
    image, fill, indices, weights, cotangent = operands(rng, 2, (3, 4), 3, np.float32)
    wild = [i.copy() for i in indices]
    for w, i in zip(wild, indices, strict=True):
        w[i == -1] = rng.choice([-(2**31), -2, 100, 2**31 - 1], (i == -1).sum())
    np.testing.assert_array_equal(
        calls.taps(image, fill, wild, weights), calls.taps(image, fill, indices, weights)
    )
    d_batches = ((), [(), ()])
    for a, b in zip(
        calls.taps_pull(image, fill, wild, weights, cotangent, d_batches),
        calls.taps_pull(image, fill, indices, weights, cotangent, d_batches),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("batch", [(0,), (2,)])
@pytest.mark.parametrize("out", [(), (0,)])
def test_empty_and_scalar_outputs(batch, out):
    rng = np.random.default_rng(5)
    check(*operands(rng, 2, (3, 4), 3, np.float32, batch, out), batch, ((1,), [(1,), (1,)]))
