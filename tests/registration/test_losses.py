"""The losses against NumPy in float64, SciPy, scikit-learn and SimpleITK, and their laws."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter
from sklearn.metrics import mutual_info_score

from stn_jax import registration
from stn_jax.registration.losses import MEASURES

LOSSES = [
    registration.mean_squared_error,
    registration.cross_correlation,
    registration.local_cross_correlation,
    registration.mutual_information,
]
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


@functools.cache
def compiled(loss, **options):
    """One program, which XLA compiles sooner than one for each operation."""
    return jax.jit(functools.partial(loss, **options))


def images(seed, *shape):
    """Two images that are alike, and weights with some zeros."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=shape)
    second = 0.7 * first + 0.5 * rng.normal(size=shape) + 0.3
    weights = rng.uniform(size=shape[:-1]) * (rng.uniform(size=shape[:-1]) < 0.8)
    return first, second, weights


def shapes(data):
    ndim = data.draw(st.integers(1, 3))
    space = [data.draw(st.integers(3, 7)) for _ in range(ndim)]
    return (*space, data.draw(st.integers(1, 3)))


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_mean_squared_error_is_the_weighted_mean(data, seed):
    a, b, w = images(seed, *shapes(data))
    w.flat[0] = 1
    every = np.broadcast_to(w[..., None], a.shape)
    expected = np.average((a - b) ** 2, weights=every)
    with jax.enable_x64(True):
        ours = compiled(registration.mean_squared_error)(a, b, weights=w)
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_cross_correlation_is_that_of_numpy(data, seed):
    shape = shapes(data)
    a, b, w = images(seed, *shape)
    w.flat[:2] = 1
    flat = [each.reshape(-1, shape[-1]) for each in (a, b)]
    centred = [each - np.average(each, axis=0, weights=w.ravel()) for each in flat]
    pooled = [each.ravel() for each in centred]
    every = np.repeat(w.ravel(), shape[-1])
    # The means are 0 already, so this is Pearson's coefficient with the weights.
    covariance = np.cov(*pooled, aweights=every, ddof=0)
    means = [np.average(each, weights=every) for each in pooled]
    np.testing.assert_allclose(means, 0, atol=1e-12)
    expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    with jax.enable_x64(True):
        ours = compiled(registration.cross_correlation)(a, b, weights=w)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("shape", [(7, 1), (6, 7, 2), (4, 5, 6, 1)])
@pytest.mark.parametrize("window", [3, 5])
def test_local_cross_correlation_is_the_mean_over_windows(shape, window, x64):
    a, b, w = images(1, *shape)
    share = w / w.sum()
    reach = window // 2
    whole = [np.average((x - np.average(x, axis=tuple(range(x.ndim - 1)), weights=w)) ** 2,
                        axis=tuple(range(x.ndim - 1)), weights=w) for x in (a, b)]  # fmt: skip
    total = 0.0
    for index in itertools.product(*map(range, shape[:-1])):
        box = tuple(slice(max(i - reach, 0), i + reach + 1) for i in index)
        for channel in range(shape[-1]):
            x, y, v = (each[box].ravel() for each in (a[..., channel], b[..., channel], w))
            if v.sum() == 0:
                continue
            covariance = np.cov(x, y, aweights=v, ddof=0) if v.size > 1 else np.zeros((2, 2))
            floor = 1e-6 * whole[0][channel] * whole[1][channel]
            square = covariance[0, 1] ** 2 / (covariance[0, 0] * covariance[1, 1] + floor)
            total += share[index] * square / shape[-1]
    ours = compiled(registration.local_cross_correlation, window=window)(a, b, weights=w)
    np.testing.assert_allclose(ours, total, rtol=1e-9)


def parzen(values, weights, bins):
    """Cubic B-spline weights of bins, by SciPy."""
    counted = values[weights > 0]
    unit = (values - counted.min()) / (counted.max() - counted.min())
    place = unit * (bins - 3) + 1
    spline = BSpline.basis_element(np.arange(-2, 3), extrapolate=False)
    return np.nan_to_num(spline(place[:, None] - np.arange(bins)))


@pytest.mark.parametrize("bins", [8, 32])
def test_mutual_information_is_that_of_the_joint_histogram(bins, x64):
    a, b, w = images(2, 9, 8, 2)
    expected = 0.0
    for channel in range(2):
        x, y, v = a[..., channel].ravel(), b[..., channel].ravel(), w.ravel()
        joint = (parzen(x, v, bins) * v[:, None]).T @ parzen(y, v, bins) / v.sum()
        apart = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        filled = joint > 0
        expected += np.sum(joint[filled] * np.log(joint[filled] / apart[filled])) / 2
    ours = compiled(registration.mutual_information, bins=bins)(a, b, weights=w)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


@given(seed=st.integers(0, 2**32 - 1), bins=st.integers(4, 9))
def test_mutual_information_of_labels_is_that_of_scikit_learn(seed, bins):
    rng = np.random.default_rng(seed)
    a = rng.integers(0, bins, (8, 9, 1))
    b = (a + rng.integers(0, 3, a.shape)) % bins
    a.flat[:2] = b.flat[:2] = [0, bins - 1]  # so that bins begin and end at labels
    loss = compiled(registration.mutual_information, bins=bins, smooth=False)
    ours = loss(a.astype(np.float32), b.astype(np.float32))
    np.testing.assert_allclose(ours, mutual_info_score(a.ravel(), b.ravel()), atol=1e-5)


def test_mutual_information_in_chunks_is_that_of_the_whole(monkeypatch, x64):
    a, b, w = images(3, 20, 21, 1)

    def value_and_slope():
        loss = lambda a: registration.mutual_information(a, b, weights=w)  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(a)

    whole = value_and_slope()
    monkeypatch.setattr(registration.losses, "_CHUNK", 64)
    parts = value_and_slope()
    for ours, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_metrics_are_those_of_simpleitk():
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    rng = np.random.default_rng(4)
    a = gaussian_filter(rng.normal(size=(64, 48)), 3)
    b = gaussian_filter(rng.normal(size=(64, 48)), 3) + 0.8 * a
    pair = [sitk.GetImageFromArray(each) for each in (a, b)]

    def metric(name, *options):
        method = sitk.ImageRegistrationMethod()
        method.SetInitialTransform(sitk.TranslationTransform(2))
        getattr(method, f"SetMetricAs{name}")(*options)
        return method.MetricEvaluate(*pair)

    first, second = (each[..., None] for each in (a, b))
    with jax.enable_x64(True):
        squares = float(registration.mean_squared_error(first, second))
        correlation = float(registration.cross_correlation(first, second))
    np.testing.assert_allclose(metric("MeanSquares"), squares, rtol=1e-5)
    np.testing.assert_allclose(metric("Correlation"), -(correlation**2), rtol=1e-5)


@every_loss
def test_derivatives_match_central_differences(loss, x64):
    a, b, w = images(5, 6, 7, 2)
    direction = np.random.default_rng(6).normal(size=b.shape)
    # The extreme values decide the bins, and are held constant.
    held = np.zeros(b.shape, bool)
    for channel in range(2):
        counted = np.where(w > 0, b[..., channel], np.nan)
        for extreme in (np.nanargmin(counted), np.nanargmax(counted)):
            held[(*np.unravel_index(extreme, w.shape), channel)] = True
    direction[held] = 0

    @jax.jit
    def along(step):
        return loss(a, b + step * direction, weights=w)

    difference = (along(1e-5) - along(-1e-5)) / 2e-5
    forward = jax.jit(lambda: jax.jvp(along, (0.0,), (1.0,))[1])()
    backward = np.sum(jax.jit(jax.grad(lambda b: loss(a, b, weights=w)))(b) * direction)
    np.testing.assert_allclose(forward, difference, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(backward, forward, rtol=1e-9, atol=1e-12)


@every_loss
def test_pixels_of_weight_zero_count_for_nothing(loss):
    a, b, w = (each.astype(np.float32) for each in images(7, 8, 9, 1))
    value_and_slope = jax.jit(jax.value_and_grad(loss))
    expected, slope = value_and_slope(a, b, weights=w)
    spoilt = np.where(w[..., None] > 0, a, np.nan)
    ours, spoilt_slope = value_and_slope(spoilt, b, weights=w)
    np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(spoilt_slope, slope)
    assert not np.any(slope[w == 0])


@every_loss
def test_jit_vmap_and_eager_agree(loss):
    pairs = [images(seed, 6, 7, 2) for seed in range(3)]
    a, b, w = (np.stack(each).astype(np.float32) for each in zip(*pairs, strict=True))
    batched = jax.jit(jax.vmap(lambda a, b, w: loss(a, b, weights=w)))(a, b, w)
    expected = [loss(x, y, weights=v) for x, y, v in zip(a, b, w, strict=True)]
    np.testing.assert_allclose(batched, expected, rtol=1e-5)


@pytest.mark.parametrize("shade", [1.0, -3.0])
def test_what_each_loss_ignores(shade):
    a, b, _ = (each.astype(np.float32) for each in images(8, 24, 24, 1))
    changed = shade * b + 2
    correlation = compiled(registration.cross_correlation)
    np.testing.assert_allclose(
        correlation(a, changed), np.sign(shade) * correlation(a, b), rtol=1e-4
    )
    for name in ("local_cross_correlation", "mutual_information"):
        loss = compiled(getattr(registration, name))
        np.testing.assert_allclose(loss(a, changed), loss(a, b), rtol=1e-3)


def test_a_constant_image_correlates_with_nothing():
    a, _, _ = images(9, 8, 8, 1)
    flat = jnp.full((8, 8, 1), 0.3)
    for loss in LOSSES[1:]:
        value, slope = jax.jit(jax.value_and_grad(loss))(flat, a.astype(np.float32))
        np.testing.assert_allclose(value, 0, atol=1e-6)
        assert np.isfinite(slope).all()


@pytest.mark.parametrize("name", ["cross_correlation", "mean_squared_error"])
def test_projections_are_the_derivatives_of_their_residuals(name, x64):
    a, b, w = map(jnp.asarray, images(10, 5, 6, 2))
    measure = MEASURES[name]

    @jax.jit
    def residuals(second):
        return measure.projection(a, second, w).residuals

    value = jax.jit(measure.value)(a, b, w)
    np.testing.assert_allclose(jnp.sum(residuals(b) ** 2), value, rtol=1e-10)
    change = np.random.default_rng(11).normal(size=b.shape)
    expected = (residuals(b + 1e-6 * change) - residuals(b - 1e-6 * change)) / 2e-6
    _, root, gain, directions = jax.jit(measure.projection)(a, b, w)
    moved = (root[..., None] * change).ravel()
    basis = np.reshape(directions, (len(directions), change.size))
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-12)
    projected = gain * (moved - basis.T @ (basis @ moved))
    np.testing.assert_allclose(projected, np.ravel(expected), atol=1e-8)


@every_loss
@pytest.mark.usefixtures("no_runtime_types")
def test_bad_operands_are_refused(loss):
    a = jnp.zeros((4, 5, 1))
    with pytest.raises(ValueError, match=r"first and second must both be .* got shapes"):
        loss(a, a[:3])
    with pytest.raises(ValueError, match=r"weights must have the images' spatial shape, \(4, 5\)"):
        loss(a, a, weights=jnp.ones((5, 4)))
    with pytest.raises(TypeError, match="second must have a floating dtype"):
        loss(a, a.astype(int))


@pytest.mark.usefixtures("no_runtime_types")
def test_bad_options_are_refused():
    a = jnp.zeros((4, 5, 1))
    with pytest.raises(ValueError, match="window must be odd and at least 3"):
        registration.local_cross_correlation(a, a, window=4)
    with pytest.raises(ValueError, match="bins must be at least 4"):
        registration.mutual_information(a, a, bins=3)
