"""Tests of thin plate splines alone."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from families import CONTROL, MEMBERS
from members import apply, first_derivatives, invert, second_derivatives, single
from oracles import lattice_points, spline_oracle

import stn_jax as stn


def test_arguments_that_mean_the_same_make_one_record():
    t = stn.thin_plate_spline((4, 4))
    assert t is stn.thin_plate_spline([4, 4], smoothing=0.0)
    own = stn.thin_plate_spline(control_points=CONTROL)
    assert own is stn.thin_plate_spline(control_points=CONTROL.copy())
    assert own is not stn.thin_plate_spline(control_points=CONTROL, smoothing=0.1)
    np.testing.assert_array_equal(own.identity, CONTROL.ravel())
    assert t.name == "thin_plate_spline"
    assert t.num_params == 32


@pytest.mark.parametrize("member", ["thin plate spline", "spline of own points"])
def test_control_points_go_where_theta_says(member):
    t, theta = MEMBERS[member].transform, MEMBERS[member].theta(0)
    mapped = apply(t, *single(theta, t.identity.reshape(-1, 2)))
    np.testing.assert_allclose(mapped.ravel(), theta, atol=2e-6)


def test_lattice_runs_row_by_row():
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    np.testing.assert_array_equal(stn.thin_plate_spline((2, 3)).identity.reshape(-1, 2), expected)


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_spline_reproduces_affine_maps(smoothing, rng):
    t = stn.thin_plate_spline((3, 3), smoothing=smoothing)
    matrix, offset = rng.normal(size=(2, 2)), rng.normal(size=2)
    theta = t.identity.reshape(-1, 2) @ matrix + offset
    points = rng.uniform(-2, 2, size=(30, 2))
    mapped = apply(t, *single(theta.ravel(), points))
    np.testing.assert_allclose(mapped, points @ matrix + offset, atol=1e-5)


def test_a_large_lattice_is_accurate_in_float32(rng):
    t, oracle = stn.thin_plate_spline((12, 12)), spline_oracle(lattice_points(12, 12))
    theta = t.identity + rng.uniform(-0.05, 0.05, t.num_params)
    points = rng.uniform(-1, 1, (200, 2))
    mapped = apply(t, *single(theta, points))
    np.testing.assert_allclose(mapped, oracle(theta, points), atol=5e-5)


@pytest.mark.parametrize("distance", [0.0, 1e-20, 1e-8, 1e-6])
def test_derivatives_at_control_points_are_finite(distance):
    t = stn.thin_plate_spline((3, 3))
    theta, points = single(t.identity + np.linspace(-0.1, 0.2, 18), t.identity.reshape(-1, 2))
    points = points + distance
    along = jnp.ones_like(theta), jnp.ones_like(points)
    reverse, forward = first_derivatives(t, theta, points)
    chex.assert_tree_all_finite((reverse, forward))
    chex.assert_tree_all_finite(second_derivatives(t, (theta, points), along))
    chex.assert_trees_all_close(forward, reverse, atol=1e-5)


def test_a_mirror_is_no_fold(rng):
    t = stn.thin_plate_spline((3, 3))
    (theta,) = single((t.identity.reshape(-1, 2) * [-1, 1]).ravel() + rng.uniform(-0.05, 0.05, 18))
    (points,) = single(rng.uniform(-0.9, 0.9, (20, 2)))
    np.testing.assert_allclose(invert(t, theta, apply(t, theta, points)), points, atol=1e-5)


ERRORS = {
    "spline of films": (lambda: stn.thin_plate_spline((2,) * 4), r"rows, columns.*\(2, 2, 2, 2\)"),
    "points in a plane": (
        lambda: stn.thin_plate_spline(control_points=np.pad(CONTROL, [(0, 0), (0, 1)])),
        r"one plane.*6 coplanar.*Add",
    ),
    "aspect of a volume": (
        lambda: stn.thin_plate_spline((2, 2, 2), aspect=1.5),
        r"width / depth, height / depth.*1\.5",
    ),
    "spline of one row": (lambda: stn.thin_plate_spline((1, 4)), r"at least 2.*\(1, 4\).*Use"),
    "spline of no rows": (lambda: stn.thin_plate_spline((0, 4)), r"shape.*\(0, 4\)"),
    "spline of fractions": (lambda: stn.thin_plate_spline((2.5, 4)), r"shape.*integers.*2\.5"),
    "negative smoothing": (lambda: stn.thin_plate_spline(smoothing=-1.0), r"smoothing.*-1\.0"),
    "smoothing that is NaN": (lambda: stn.thin_plate_spline(smoothing=np.nan), r"smoothing.*nan"),
    "two points": (
        lambda: stn.thin_plate_spline(control_points=CONTROL[:2]),
        r"at least 3.*\(2, 2\)",
    ),
    "flat points": (
        lambda: stn.thin_plate_spline(control_points=CONTROL.ravel()),
        r"\[K, 2\].*\(12,",
    ),
    "points on a line": (
        lambda: stn.thin_plate_spline(
            control_points=np.outer(np.arange(5.0) / 3, [1.0, 0.3]) + 0.1
        ),
        r"one line.*5 collinear.*Add",
    ),
    "points twice": (
        lambda: stn.thin_plate_spline(control_points=CONTROL[[0, 1, 2, 3, 1]]),
        r"distinct.*\[0\.8, -1\.0\] 2 times.*Remove",
    ),
    "points that are NaN": (
        lambda: stn.thin_plate_spline(control_points=np.full((4, 2), np.nan)),
        r"finite",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(case, no_runtime_types):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
