"""Thin plate splines and displacement fields, against SciPy and central differences in float64."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import integrate, interpolate, ndimage

import stn_jax as stn
from stn_jax.transforms.displacement import diffeomorphic, displacement, flow
from stn_jax.transforms.thin_plate_spline import thin_plate_spline

CONTROL = np.array([[-0.9, -0.7], [0.8, -1.0], [0.1, 0.05], [-0.4, 0.9], [1.0, 0.6], [0.3, -0.3]])


def spline_oracle(control, smoothing=0.0):
    """SciPy's kernel is r² log r, half of ours."""

    def apply(theta, points):
        places = theta.reshape(-1, 2)
        kernel = {"kernel": "thin_plate_spline", "degree": 1, "smoothing": smoothing / 2}
        interpolator = interpolate.RBFInterpolator(control, places, **kernel)
        return interpolator(points.reshape(-1, 2)).reshape(points.shape)

    return apply


def lattice_offsets(shape):
    """SciPy's B-spline of the lattice, continued at its edges."""

    def offsets(theta, points):
        lattice = theta.reshape(*shape, len(shape))
        index = np.stack(
            [
                np.clip(reference.pixel(points[..., k], shape[-1 - k], True), -2, shape[-1 - k] + 1)
                for k in reversed(range(len(shape)))
            ]
        )
        margin = 4
        wide = np.pad(lattice, [(margin, margin)] * len(shape) + [(0, 0)], mode="edge")
        options = {"order": 3, "prefilter": False, "mode": "nearest"}
        channels = [
            ndimage.map_coordinates(wide[..., c], index + margin, **options)
            for c in range(len(shape))
        ]
        return np.stack(channels, axis=-1)

    return offsets


def lattice_oracle(shape):
    return lambda theta, points: points + lattice_offsets(shape)(theta, points)


def flow_oracle(shape, align_corners):
    def apply(theta, points):
        field = theta.reshape(*shape, len(shape))
        index = np.stack(
            [
                reference.pixel(points[..., k], shape[-1 - k], align_corners)
                for k in reversed(range(len(shape)))
            ]
        )
        channels = [
            ndimage.map_coordinates(field[..., c], index, order=1, mode="nearest")
            for c in range(len(shape))
        ]
        return points + np.stack(channels, axis=-1)

    return apply


def diffeomorphic_oracle(shape):
    offsets = lattice_offsets(shape)

    def apply(theta, points):
        rate = lambda _, p: offsets(theta, p.reshape(points.shape)).ravel()  # noqa: E731
        options = {"method": "DOP853", "rtol": 1e-9, "atol": 1e-10}
        return (
            integrate.solve_ivp(rate, (0, 1), points.ravel(), **options)
            .y[:, -1]
            .reshape(points.shape)
        )

    return apply


def regular(rows, columns):
    return reference.regular_grid((rows, columns), True).reshape(-1, 2)


# The family, its oracle, the spread of its parameters, and the tolerance in float64.
FAMILIES = {
    "spline": (thin_plate_spline(), spline_oracle(regular(4, 4)), 0.1, 1e-12),
    "spline-smoothed": (
        thin_plate_spline((3, 4), smoothing=0.3),
        spline_oracle(regular(3, 4), 0.3),
        0.1,
        1e-12,
    ),
    "spline-points": (
        thin_plate_spline(control_points=CONTROL),
        spline_oracle(CONTROL),
        0.1,
        1e-12,
    ),
    "displacement": (displacement((4, 5)), lattice_oracle((4, 5)), 0.2, 1e-13),
    "displacement-2x2": (displacement((2, 2)), lattice_oracle((2, 2)), 0.2, 1e-13),
    "displacement-3d": (displacement((2, 4, 3)), lattice_oracle((2, 4, 3)), 0.2, 1e-13),
    "flow": (flow((5, 6)), flow_oracle((5, 6), False), 0.06, 1e-13),
    "flow-aligned": (
        flow((4, 3), align_corners=True),
        flow_oracle((4, 3), True),
        0.1,
        1e-13,
    ),
    "flow-3d": (flow((2, 3, 4)), flow_oracle((2, 3, 4), False), 0.06, 1e-13),
    "diffeomorphic": (diffeomorphic((4, 5)), diffeomorphic_oracle((4, 5)), 0.3, 3e-5),
    "diffeomorphic-3d": (diffeomorphic((3, 2, 4)), diffeomorphic_oracle((3, 2, 4)), 0.3, 3e-5),
}
every_family = pytest.mark.parametrize("name", FAMILIES)
one_of_each = pytest.mark.parametrize("name", ["spline", "displacement", "flow", "diffeomorphic"])


@functools.partial(jax.jit, static_argnums=0)
def apply(t, theta, points):
    return t.apply(theta, points)


@functools.partial(jax.jit, static_argnums=0)
def invert(t, theta, points):
    return t.invert(theta, points)


@functools.partial(jax.jit, static_argnums=0)
def jacobians(t, theta, points):
    return jax.vmap(jax.jacfwd(t.apply, 1), (None, 0))(theta, points)


@functools.partial(jax.jit, static_argnums=0)
def derivatives(t, theta, points, along):
    """Jacobians in reverse and forward mode; a gradient, and its derivative along a direction."""
    value = lambda v, p: jnp.sum(jnp.sin(t.apply(v, p)))  # noqa: E731
    reverse = jax.jacrev(t.apply, (0, 1))(theta, points)
    forward = jax.jacfwd(t.apply, (0, 1))(theta, points)
    return reverse, forward, *jax.jvp(jax.grad(value, (0, 1)), (theta, points), along)


def single(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]


def some_theta(name, seed=0):
    t, _, spread, _ = FAMILIES[name]
    return t.identity + np.random.default_rng(seed).uniform(-spread, spread, t.num_params)


def some_points(name, *shape, seed=1, extent=1.0):
    ndim = FAMILIES[name][0].ndim
    return np.random.default_rng(seed).uniform(-extent, extent, (*shape, ndim))


@pytest.mark.parametrize(
    ("make", "arguments", "options"),
    [
        (thin_plate_spline, (4, 4), {"smoothing": 0.0}),
        (displacement, (4, 5), {}),
        (flow, (5, 6), {"align_corners": False}),
        (diffeomorphic, (4, 5), {"steps": 6}),
    ],
)
def test_one_record_so_that_jit_compiles_once(make, arguments, options):
    t = make(arguments)
    assert t is make(list(arguments), **options)
    assert t is make(np.array(arguments).tolist())
    assert t.name == make.__name__
    assert t.ndim == 2
    assert t.num_params == 2 * np.prod(arguments)
    hash(t)


def test_own_control_points_make_one_record():
    t = thin_plate_spline(control_points=CONTROL)
    assert t is thin_plate_spline(control_points=CONTROL.copy())
    assert t is not thin_plate_spline(control_points=CONTROL, smoothing=0.1)
    np.testing.assert_array_equal(t.identity, CONTROL.ravel())


@every_family
def test_identity_is_exact(name):
    t = FAMILIES[name][0]
    identity, points = single(t.identity, some_points(name, 40, extent=1.5))
    np.testing.assert_array_equal(apply(t, identity, points), points)


@every_family
def test_apply_matches_the_oracle(name):
    t, oracle, _, tolerance = FAMILIES[name]
    for seed in range(3):
        theta, points = some_theta(name, seed), some_points(name, 40, extent=1.7)
        expected = oracle(theta, points)
        mapped = apply(t, *single(theta, points))
        np.testing.assert_allclose(mapped, expected, atol=max(tolerance, 5e-6))
        with jax.enable_x64(True):
            mapped = apply(t, jnp.asarray(theta), jnp.asarray(points))
            np.testing.assert_allclose(mapped, expected, atol=tolerance)


@pytest.mark.parametrize(
    "name", ["spline", "displacement", "displacement-3d", "flow", "diffeomorphic"]
)
def test_invert_undoes_apply(name):
    t = FAMILIES[name][0]
    identity, points = single(t.identity, some_points(name, 40, extent=1.5))
    np.testing.assert_array_equal(invert(t, identity, points), points)
    theta, points = single(some_theta(name), some_points(name, 40))
    tolerance = 5e-5 if "diffeomorphic" in name else 1e-5
    back = invert(t, theta, apply(t, theta, points))
    np.testing.assert_allclose(back, points, atol=tolerance)
    forth = apply(t, theta, invert(t, theta, points))
    np.testing.assert_allclose(forth, points, atol=tolerance)


@one_of_each
def test_jit_vmap_and_eager_agree(name):
    t = FAMILIES[name][0]
    thetas = jnp.stack(single(*(some_theta(name, seed) for seed in range(3))))
    (points,) = single(some_points(name, 3, 40))
    eager = t.apply(thetas[0], points[0])
    compiled = [apply(t, *operands) for operands in zip(thetas, points, strict=True)]
    batched = jax.jit(jax.vmap(t.apply))(thetas, points)
    chex.assert_trees_all_close(eager, compiled[0], atol=1e-6)
    chex.assert_trees_all_close(jnp.stack(compiled), batched, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["spline", "displacement", "displacement-3d", "flow", "diffeomorphic"]
)
@pytest.mark.parametrize("at_identity", [True, False])
def test_derivatives(name, at_identity, x64):
    t, oracle, _, tolerance = FAMILIES[name]
    theta = t.identity if at_identity else some_theta(name)
    points = some_points(name, 4) * np.array([[1], [0.7], [1.6], [1]])  # one beyond the lattice
    operands = jnp.asarray(theta), jnp.asarray(points)
    along = tuple(np.random.default_rng(2).normal(size=each.shape) for each in operands)
    reverse, forward, _, second = derivatives(t, *operands, along)

    tolerance = max(1e-8, 10 * tolerance)
    step = 1e-3 if name == "diffeomorphic" else 1e-6
    oracles = (lambda v: oracle(v, points)), (lambda p: oracle(theta, p))
    for argument, function in enumerate(oracles):
        expected = reference.central_differences(function, operands[argument], step)
        np.testing.assert_allclose(reverse[argument], expected, atol=tolerance)
        np.testing.assert_allclose(forward[argument], expected, atol=tolerance)

    # The first derivatives being right, their own differences are an oracle for the second.
    def gradient(step):
        moved = (each + step * way for each, way in zip(operands, along, strict=True))
        return derivatives(t, *moved, along)[2]

    expected = jax.tree.map(lambda a, b: (a - b) / 2e-6, gradient(1e-6), gradient(-1e-6))
    chex.assert_trees_all_close(second, expected, atol=1e-6)


@one_of_each
def test_points_that_are_not_finite_or_far_away(name):
    t = FAMILIES[name][0]
    (theta,) = single(some_theta(name))
    points = jnp.asarray([[jnp.nan, 0.0], [0.0, jnp.nan], [1e9, 0.0], [1e30, -jnp.inf]])
    edge = points.at[2:].set(jnp.asarray([[9.0, 0.0], [9.0, -9.0]]))
    displaced = jax.jit(t.displacement)
    assert np.isnan(displaced(theta, points)[:2]).all()
    if name in ("displacement", "flow"):
        np.testing.assert_allclose(
            displaced(theta, points)[2:], displaced(theta, edge)[2:], rtol=1e-6
        )


# --- Thin plate splines -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["spline", "spline-points"])
def test_control_points_go_where_theta_says(name):
    t, theta = FAMILIES[name][0], some_theta(name)
    mapped = apply(t, *single(theta, t.identity.reshape(-1, 2)))
    np.testing.assert_allclose(mapped.ravel(), theta, atol=2e-6)


def test_lattice_runs_row_by_row():
    expected = [[-1, -1], [0, -1], [1, -1], [-1, 1], [0, 1], [1, 1]]
    np.testing.assert_array_equal(thin_plate_spline((2, 3)).identity.reshape(-1, 2), expected)


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_spline_reproduces_affine_maps(smoothing, rng):
    t = thin_plate_spline((3, 3), smoothing=smoothing)
    matrix, offset = rng.normal(size=(2, 2)), rng.normal(size=2)
    theta = t.identity.reshape(-1, 2) @ matrix + offset
    points = rng.uniform(-2, 2, size=(30, 2))
    mapped = apply(t, *single(theta.ravel(), points))
    np.testing.assert_allclose(mapped, points @ matrix + offset, atol=1e-5)


def test_a_large_lattice_is_accurate_in_float32(rng):
    t, oracle = thin_plate_spline((12, 12)), spline_oracle(regular(12, 12))
    theta = t.identity + rng.uniform(-0.05, 0.05, t.num_params)
    points = rng.uniform(-1, 1, (200, 2))
    mapped = apply(t, *single(theta, points))
    np.testing.assert_allclose(mapped, oracle(theta, points), atol=5e-5)


@pytest.mark.parametrize("distance", [0.0, 1e-20, 1e-8, 1e-6])
def test_derivatives_at_control_points_are_finite(distance):
    t = thin_plate_spline((3, 3))
    theta, points = single(t.identity + np.linspace(-0.1, 0.2, 18), t.identity.reshape(-1, 2))
    points = points + distance
    along = jnp.ones_like(theta), jnp.ones_like(points)
    reverse, forward, *others = derivatives(t, theta, points, along)
    chex.assert_tree_all_finite((reverse, forward, others))
    chex.assert_trees_all_close(forward, reverse, atol=1e-5)


# --- Displacement fields ------------------------------------------------------------------------


@pytest.mark.parametrize("make", [displacement, flow, diffeomorphic])
@pytest.mark.parametrize("shape", [(2, 5), (3, 2, 4)])
def test_equal_offsets_are_a_translation(make, shape):
    t = make(shape)
    offset = np.array([0.3, -0.2, 0.7], np.float32)[: t.ndim]
    theta = jnp.asarray(np.broadcast_to(offset, (*shape, t.ndim)).ravel())
    points = np.random.default_rng(4).uniform(-2, 2, (40, t.ndim)).astype(np.float32)
    moved = jax.jit(t.displacement)(theta, points)
    np.testing.assert_allclose(moved, np.broadcast_to(offset, points.shape), rtol=5e-7)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", [(41, 70), (3, 1, 4)])
def test_flow_at_its_pixels_is_what_was_stored(shape, align_corners, rng):
    t = flow(shape, align_corners=align_corners)
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
    t = flow((2, 3), align_corners=True)
    theta = jnp.asarray(np.stack([[[0.0, 1.0, 4.0]] * 2, np.zeros((2, 3))], axis=-1).ravel())
    points = jnp.asarray([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.2, 0.0], [-1.2, 0.0]])
    slope = jacobians(t, theta, points)[:, 0, 0] - 1
    np.testing.assert_allclose(slope, [1, 3, 0, 0, 0])


def test_not_a_number_adds_nothing_to_the_gradient_of_a_flow(rng):
    t = flow((3, 4))
    points = rng.uniform(-1, 1, (5, 2)).astype(np.float32)
    theta = jnp.asarray(rng.normal(size=t.num_params), jnp.float32)
    gradient = jax.jit(jax.grad(lambda v, p: jnp.nansum(t.displacement(v, p) ** 2)))
    spoiled = np.concatenate([points, [[np.nan, 0.0]]]).astype(np.float32)
    np.testing.assert_allclose(gradient(theta, spoiled), gradient(theta, points), atol=1e-6)


@pytest.mark.parametrize(("shape", "limit"), [((5, 6), 0.48), ((4, 3, 4), 0.40)])
def test_small_offsets_do_not_fold_a_lattice(shape, limit, rng):
    t = displacement(shape)
    spacing = 2 / (np.array(shape[::-1]) - 1)
    theta = limit * spacing * rng.choice([-1.0, 1.0], (200, *shape, len(shape)))
    points = jnp.asarray(rng.uniform(-1, 1, (50, len(shape))), jnp.float32)
    (thetas,) = single(theta.reshape(200, -1))
    matrices = jax.jit(jax.vmap(lambda each: jacobians(t, each, points)))(thetas)
    assert np.linalg.det(matrices).min() > 0


def test_a_diffeomorphism_does_not_fold_and_its_inverse_undoes_it(rng):
    t = diffeomorphic((5, 5))
    (points,) = single(reference.regular_grid((30, 30), True).reshape(-1, 2))
    for _ in range(5):
        (theta,) = single(0.4 * rng.normal(size=t.num_params))
        mapped = apply(t, theta, points)
        np.testing.assert_allclose(invert(t, theta, mapped), points, atol=1e-4)
        assert np.linalg.det(jacobians(t, theta, points)).min() > 0
        assert np.abs(mapped - points).max() > 0.25, "the map is not a small one"


def test_more_steps_are_more_exact(x64):
    theta, points = some_theta("diffeomorphic") * 2, some_points("diffeomorphic", 40)
    expected = diffeomorphic_oracle((4, 5))(theta, points)
    errors = [
        np.abs(apply(diffeomorphic((4, 5), steps=steps), jnp.asarray(theta), points) - expected)
        for steps in (4, 16)
    ]
    assert errors[1].max() < errors[0].max() / 50


# --- Errors -------------------------------------------------------------------------------------

ERRORS = {
    "spline of a volume": (lambda: thin_plate_spline((3, 3, 3)), r"rows, columns.*\(3, 3, 3\)"),
    "spline of one row": (lambda: thin_plate_spline((1, 4)), r"at least 2.*\(1, 4\).*Take"),
    "spline of no rows": (lambda: thin_plate_spline((0, 4)), r"shape.*\(0, 4\)"),
    "spline of fractions": (lambda: thin_plate_spline((2.5, 4)), r"shape.*integers.*2\.5"),
    "negative smoothing": (lambda: thin_plate_spline(smoothing=-1.0), r"smoothing.*-1\.0"),
    "smoothing that is NaN": (lambda: thin_plate_spline(smoothing=np.nan), r"smoothing.*nan"),
    "two points": (lambda: thin_plate_spline(control_points=CONTROL[:2]), r"at least 3.*\(2, 2\)"),
    "flat points": (lambda: thin_plate_spline(control_points=CONTROL.ravel()), r"\[K, 2\].*\(12,"),
    "points on a line": (
        lambda: thin_plate_spline(control_points=np.outer(np.arange(5.0) / 3, [1.0, 0.3]) + 0.1),
        r"one line.*5 collinear.*Add",
    ),
    "points twice": (
        lambda: thin_plate_spline(control_points=CONTROL[[0, 1, 2, 3, 1]]),
        r"distinct.*\[0\.8, -1\.0\] 2 times.*Remove",
    ),
    "points that are NaN": (
        lambda: thin_plate_spline(control_points=np.full((4, 2), np.nan)),
        r"finite",
    ),
    "lattice of four axes": (lambda: displacement((2, 2, 2, 2)), r"planes.*\(2, 2, 2, 2\)"),
    "lattice of one axis": (lambda: displacement((4,)), r"rows.*\(4,\)"),
    "lattice of one row": (lambda: displacement((1, 4)), r"at least 2.*\(1, 4\)"),
    "velocity of one row": (lambda: diffeomorphic((1, 4)), r"at least 2.*\(1, 4\)"),
    "no steps": (lambda: diffeomorphic((4, 4), steps=0), r"steps.*at least 1.*0"),
    "flow of one axis": (lambda: flow((4,)), r"height.*\(4,\).*1 entries"),
    "flow of no rows": (lambda: flow((0, 4)), r"shape.*\(0, 4\)"),
    "theta of another lattice": (
        lambda: displacement((3, 4)).apply(jnp.zeros(18), jnp.zeros(2)),
        r"theta.*\(24,\).*displacement.*\(18,\)",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_error(case, no_runtime_types):
    call, message = ERRORS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()
