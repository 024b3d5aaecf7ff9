"""Tests of displacement fields alone: lattices, flows and diffeomorphisms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from families import MEMBERS
from members import apply, invert, single

import stn_jax as stn
from stn_jax import diagnostics, fields


@functools.partial(jax.jit, static_argnums=0)
def jacobians(t, theta, points):
    return diagnostics.jacobian(t, theta, points)


@pytest.mark.parametrize(
    ("make", "arguments", "options"),
    [
        (stn.displacement, (4, 5), {}),
        (stn.flow, (5, 6), {"align_corners": False}),
        (stn.diffeomorphic, (4, 5), {"steps": 6}),
    ],
)
def test_arguments_that_mean_the_same_make_one_record(make, arguments, options):
    t = make(arguments)
    assert t is make(list(arguments), **options)
    assert t.name == make.__name__
    assert t.num_params == 2 * np.prod(arguments)


@pytest.mark.parametrize("member", ["displacement", "flow"])
def test_the_edge_continues_however_far(member):
    t = MEMBERS[member].transform
    theta, points = single(MEMBERS[member].theta(0), [[1e9, 0.0], [1e30, -np.inf]])
    displaced = jax.jit(t.displacement)
    edge = displaced(theta, jnp.asarray([[9.0, 0.0], [9.0, -9.0]]))
    np.testing.assert_allclose(displaced(theta, points), edge, rtol=1e-6)


@pytest.mark.parametrize("make", [stn.displacement, stn.flow, stn.diffeomorphic])
@pytest.mark.parametrize("shape", [(2, 5), (3, 2, 4)])
def test_equal_offsets_are_a_translation(make, shape):
    t = make(shape)
    offset = np.array([0.3, -0.2, 0.7], np.float32)[: t.ndim]
    theta = jnp.asarray(np.broadcast_to(offset, (*shape, t.ndim)).ravel())
    points = np.random.default_rng(4).uniform(-2, 2, (40, t.ndim)).astype(np.float32)
    moved = jax.jit(t.displacement)(theta, points)
    np.testing.assert_allclose(moved, np.broadcast_to(offset, points.shape), rtol=5e-7)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(
    ("shape", "out"), [((8, 8), (28, 31)), ((2, 5), (7, 1)), ((3, 4, 5), (6, 7, 8))]
)
def test_a_lattice_on_an_output_is_that_at_its_points(shape, out, align_corners, rng, x64):
    t = stn.displacement(shape)
    theta = jnp.asarray(rng.normal(size=(3, t.num_params)))
    points = stn.regular_grid(out, align_corners=align_corners)
    cotangent = jnp.asarray(rng.normal(size=(3, *out, len(shape))))

    def with_gradient(function):
        value, pull = jax.vjp(jax.vmap(function), theta)
        return value, *pull(cotangent)

    found = with_gradient(
        lambda theta: fields.from_transform(t, theta, out, align_corners=align_corners)
    )
    expected = with_gradient(lambda theta: t.displacement(theta, points))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(fields.from_transform(t, jnp.zeros(t.num_params), out), 0)
    single = fields.from_transform(t, theta[0].astype(np.float32), out, align_corners=align_corners)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, expected[0][0], atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(41, 70), (3, 1, 4)])
def test_flow_at_its_pixels_is_what_was_stored(shape, align_corners, rng):
    t = stn.flow(shape, align_corners=align_corners)
    field = rng.normal(size=(*shape, len(shape))).astype(np.float32)
    lattice = reference.regular_grid(shape, align_corners).astype(np.float32)
    theta = jnp.asarray(field.ravel())
    displaced = jax.jit(t.displacement)
    np.testing.assert_allclose(displaced(theta, lattice), field, atol=5e-5)
    exact = stn.regular_grid(shape, align_corners=align_corners)
    np.testing.assert_array_equal(displaced(theta, exact), field)
    each = displaced(theta, lattice.reshape(-1, len(shape)))
    np.testing.assert_allclose(each.reshape(field.shape), field, atol=5e-5)


def test_flow_slopes_at_its_pixels_are_those_of_the_cell_on_the_right(x64):
    t = stn.flow((2, 3), align_corners=True)
    theta = jnp.asarray(np.stack([[[0.0, 1.0, 4.0]] * 2, np.zeros((2, 3))], axis=-1).ravel())
    points = jnp.asarray([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.2, 0.0], [-1.2, 0.0]])
    slope = jacobians(t, theta, points)[:, 0, 0] - 1
    np.testing.assert_allclose(slope, [1, 3, 0, 0, 0])


def test_not_a_number_adds_nothing_to_the_gradient_of_a_flow(rng):
    t = stn.flow((3, 4))
    points = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
    theta = jnp.asarray(rng.normal(size=t.num_params), jnp.float32)
    gradient = jax.jit(jax.grad(lambda v, p: jnp.nansum(t.displacement(v, p) ** 2)))
    spoiled = np.concatenate([points, [[np.nan, 0.0]]]).astype(np.float32)
    np.testing.assert_allclose(gradient(theta, spoiled), gradient(theta, points), atol=1e-6)


@pytest.mark.parametrize(("shape", "limit"), [((5, 6), 0.48), ((4, 3, 4), 0.40)])
def test_small_offsets_do_not_fold_a_lattice(shape, limit, rng):
    t = stn.displacement(shape)
    spacing = 2 / (np.array(shape[::-1]) - 1)
    theta = limit * spacing * rng.choice([-1.0, 1.0], (200, *shape, len(shape)))
    points = jnp.asarray(rng.uniform(-1, 1, (50, len(shape))), jnp.float32)
    (thetas,) = single(theta.reshape(200, -1))
    matrices = jax.jit(jax.vmap(lambda each: jacobians(t, each, points)))(thetas)
    assert np.linalg.det(matrices).min() > 0


def test_the_inverse_is_never_on_a_fold(x64):
    """x − sin(πx) / 2 mirrors around 0, where points have three origins."""
    size = 33
    x = np.linspace(-1, 1, size)
    field = np.stack(np.broadcast_arrays(-0.5 * np.sin(np.pi * x)[None], np.zeros((2, 1))), axis=-1)
    t = stn.flow((2, size), align_corners=True)
    theta = jnp.asarray(field.ravel())
    targets = jnp.asarray(np.stack([np.linspace(-0.99, 0.99, 200), np.zeros(200)], axis=-1))
    sources = apply(t, theta, targets)
    found = invert(t, theta, sources)
    known = ~np.isnan(found).any(axis=-1)
    np.testing.assert_allclose(apply(t, theta, found)[known], sources[known], atol=1e-12)
    assert float(jnp.linalg.det(jacobians(t, theta, found))[known].min()) > 0
    beside, amid = np.abs(targets[:, 0]) > 0.8, np.abs(targets[:, 0]) < 0.02
    assert known[beside].all()
    assert not known[amid].any()


def test_a_diffeomorphism_does_not_fold_and_its_inverse_undoes_it(rng):
    t = stn.diffeomorphic((5, 5))
    (points,) = single(reference.regular_grid((30, 30), True).reshape(-1, 2))
    for _ in range(5):
        (theta,) = single(0.4 * rng.normal(size=t.num_params))
        mapped = apply(t, theta, points)
        np.testing.assert_allclose(invert(t, theta, mapped), points, atol=1e-4)
        assert np.linalg.det(jacobians(t, theta, points)).min() > 0
        assert np.abs(mapped - points).max() > 0.25, "the map is not a small one"


def test_more_steps_are_more_exact(x64):
    member = MEMBERS["diffeomorphic"]
    theta, points = member.theta(0, 2.0), member.points(1, 40)
    expected = member.oracle(theta, points)
    default, few, many = (
        np.abs(apply(t, jnp.asarray(theta), jnp.asarray(points)) - expected).max()
        for t in [stn.diffeomorphic((4, 5))] + [stn.diffeomorphic((4, 5), steps=n) for n in (4, 16)]
    )
    assert default < 3e-5
    assert many < few / 50


ERRORS = {
    "lattice of four axes": (lambda: stn.displacement((2, 2, 2, 2)), r"planes.*\(2, 2, 2, 2\)"),
    "lattice of one axis": (lambda: stn.displacement((4,)), r"rows.*\(4,\)"),
    "lattice of one row": (lambda: stn.displacement((1, 4)), r"at least 2.*\(1, 4\)"),
    "velocity of one row": (lambda: stn.diffeomorphic((1, 4)), r"at least 2.*\(1, 4\)"),
    "no steps": (lambda: stn.diffeomorphic((4, 4), steps=0), r"steps.*at least 1.*0"),
    "flow of one axis": (lambda: stn.flow((4,)), r"height.*\(4,\).*1 entries"),
    "flow of no rows": (lambda: stn.flow((0, 4)), r"shape.*\(0, 4\)"),
    "theta of another lattice": (
        lambda: stn.displacement((3, 4)).apply(jnp.zeros(18), jnp.zeros(2)),
        r"theta.*\(24,\).*displacement.*\(18,\)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(case, no_runtime_types):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
