"""Displacements of points along a velocity field, and their gradients."""

import calls
import jax
import numpy as np
import oracle
import pytest

FIELDS = {2: [(8, 8), (2, 40)], 3: [(4, 5, 6), (3, 2, 20)]}
MODES = calls.kernel("keys") | {"padding": oracle.PADDINGS["border"], "align_corners": 0}
RULE = ((0, 1 / 2, 1 / 2, 1), (1 / 6, 1 / 3, 1 / 3, 1 / 6))


def velocity(field, points):
    """At points ``[axes, points]`` in array order: ``[axes, points]``, too."""
    value = oracle.sample(field, np.zeros(len(points)), list(points), "keys", "border", False)
    return value.T[::-1]


def pulled_back(field, points, cotangent):
    """The gradients to the field and to the points."""
    value = oracle.sample_pull(
        field, np.zeros(len(points)), list(points), "keys", "border", False, cotangent[::-1].T
    )
    return value[0], np.stack(value[1])


def expected(field, points, cotangent, steps):
    """The displacement and its gradients, by the definition of a Runge-Kutta step."""
    moved, places = np.zeros(points.shape), []
    for _ in range(steps):
        slope, total = np.zeros(points.shape), np.zeros(points.shape)
        for along, share in zip(*RULE, strict=True):
            places.append(points + moved + along / steps * slope)
            slope = velocity(field, places[-1])
            total += share / steps * slope
        moved = moved + total
    d_field, d_moved = np.zeros(field.shape), cotangent
    for _ in range(steps):
        arrived, later = d_moved, np.zeros(points.shape)
        # From the last stage to the first; "along" is how far the stage after it went.
        for along, share in zip((0, *RULE[0][:0:-1]), RULE[1][::-1], strict=True):
            of_slope = share / steps * arrived + along / steps * later
            of_field, later = pulled_back(field, places.pop(), of_slope)
            d_field, d_moved = d_field + of_field, d_moved + later
    return moved, d_field, d_moved - cotangent


def points_in(space, count, how, rng):
    """Coordinates ``[axes, count]``, in and around a field."""
    sizes = np.array(space)[:, None]
    if how == "apart":
        return rng.uniform(-3, sizes + 2, (len(space), count))
    if how == "in one cell":
        return rng.uniform(0.4, 0.6, (len(space), count))
    along = np.linspace(-1, 1, count) * rng.uniform(0.2, 0.6, (len(space), 1))
    return (along + 0.5) * (sizes - 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", ["apart", "in one cell", "along a line"])
@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("ndim", "count"), [(2, 83), (2, 500), (3, 83)])  # Few and many points.
def test_values_and_gradients(ndim, count, number, how, dtype):
    rng, space, steps = np.random.default_rng(number), FIELDS[ndim][number], 3
    name, dtype = dtype, calls.DTYPES[dtype]
    field = (0.5 * rng.normal(size=(*space, ndim))).astype(dtype)
    points = points_in(space, count, how, rng).astype(dtype)
    cotangent = rng.normal(size=(count, ndim)).astype(dtype)
    operands = (field, np.zeros(ndim, dtype), list(points[::-1]))
    wide = [each.astype(np.float64) for each in (field, points, cotangent.T[::-1])]
    moved, d_field, d_points = expected(*wide, steps)
    value = calls.follow(*operands, steps=steps, **MODES)
    calls.assert_close(value, moved.T[:, ::-1], name, 5)
    found, *by_axis = calls.follow_pull(*operands, cotangent, steps=steps, **MODES)
    calls.assert_close(found, d_field, name, 5 * (1 + np.abs(d_field).max()))
    calls.assert_close(np.stack(by_axis[::-1]), d_points, name, 5 * (1 + np.abs(d_points).max()))


def test_a_batch_shares_points_and_fields():
    rng = np.random.default_rng(0)
    field, shared = rng.normal(size=(2, 1, 5, 4, 2)), rng.normal(size=(1, 1, 2))
    points = [rng.uniform(0, 4, (1, 3, 20)), rng.uniform(0, 4, (1, 1, 20))]
    cotangent = rng.normal(size=(2, 3, 20, 2))
    options = MODES | {"num_batch_dims": 2, "steps": 2}
    value = calls.follow(field, shared, points, **options)
    gradients = calls.follow_pull(field, shared, points, cotangent, **options)
    for i, j in np.ndindex(2, 3):
        own = (field[i, 0], shared[0, 0], [points[0][0, j], points[1][0, 0]])
        options = MODES | {"steps": 2}
        np.testing.assert_array_equal(value[i, j], calls.follow(*own, **options))
        for all_of, one in zip(
            gradients, calls.follow_pull(*own, cotangent[i, j], **options), strict=True
        ):
            np.testing.assert_array_equal(all_of[i, j], one)


@pytest.mark.parametrize(("ndim", "count"), [(2, 40), (2, 400), (3, 40)])
def test_coordinates_that_are_not_finite_spoil_nothing_else(ndim, count):
    rng, space = np.random.default_rng(0), FIELDS[ndim][0]
    field = rng.normal(size=(*space, ndim))
    points = points_in(space, count, "along a line", rng)
    cotangent = rng.normal(size=(count, ndim))
    bad = points.copy()
    bad[0, 3], bad[-1, 5], bad[-1, 7] = np.nan, np.inf, -1e30
    operands = (field, np.zeros(ndim), list(bad[::-1]))
    options = MODES | {"steps": 2}
    value = calls.follow(*operands, **options)
    d_field, *by_axis = calls.follow_pull(*operands, cotangent, **options)
    assert np.isnan(value[3]).all()
    assert np.isfinite(np.delete(value, 3, axis=0)).all()
    assert np.isfinite(d_field).all()
    assert np.isfinite(by_axis).all()
    assert by_axis[0][5] == 0
    assert by_axis[0][7] == 0
    assert all(each[3] == 0 for each in by_axis)
    good = np.delete(np.arange(count), [3, 5, 7])
    plain = calls.follow(field, np.zeros(ndim), list(points[::-1]), **options)
    np.testing.assert_allclose(value[good], plain[good], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [50, 500])
def test_no_velocity_moves_nothing(count):
    points = np.random.default_rng(0).uniform(-9, 9, (2, count)).astype(np.float32)
    field = np.zeros((8, 8, 2), np.float32)
    value = calls.follow(field, np.zeros(2, np.float32), list(points), steps=6, **MODES)
    np.testing.assert_array_equal(value, np.zeros((count, 2), np.float32))


@pytest.mark.parametrize(
    ("field", "changes", "message"),
    [
        ((5, 4, 2), {"steps": -1}, "steps must be 1 to 1024"),
        ((5, 4, 2), {"steps": 1025}, "steps must be 1 to 1024"),
        ((5, 4, 3), {}, "a field of 2 or 3 axes with a channel for each"),
        ((5, 4, 2), {"padding": 0}, "a cubic kernel and the padding 1"),
        ((5, 4, 2), calls.kernel("linear"), "a cubic kernel and the padding 1"),
        ((1025, 1024, 2), {}, "more than 262144 pixels"),
    ],
)
def test_refused(field, changes, message):
    operands = (np.zeros(field, np.float32), np.zeros(field[-1], np.float32))
    points = [np.zeros(7, np.float32)] * 2
    with pytest.raises(jax.errors.JaxRuntimeError, match=message):
        calls.follow(*operands, points, **(MODES | {"steps": 2} | changes))


def test_half_precision_is_refused():
    half = np.dtype(np.float16)
    operands = (np.zeros((5, 4, 2), half), np.zeros(2, half), [np.zeros(7, np.float32)] * 2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="float32 or float64 field"):
        calls.follow(*operands, steps=2, **MODES)
