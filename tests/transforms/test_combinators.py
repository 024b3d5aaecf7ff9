"""The laws of combinators, and of points and boxes that move with an image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from families import LINEAR, MEMBERS

import stn_jax as stn
from stn_jax import conversions
from stn_jax.transforms.newton import newton_inverse


def test_arguments_that_mean_the_same_make_one_record():
    t = stn.affine()
    assert stn.bounded(t, radius=1) is stn.bounded(t, radius=1.0)
    assert stn.bounded(t, radius=1) is stn.bounded(t, radius=[1] * 6)
    assert stn.fixed(t, {0: 1, 2: 0}) is stn.fixed(t, {2: 0.0, 0: 1.0})


def test_a_chain_is_its_members_in_order(x64):
    a, b = stn.affine(), stn.projective()
    theta_a, theta_b = (jnp.asarray(MEMBERS[t.name].theta(5)) for t in (a, b))
    points = MEMBERS["affine"].points(6, 9)
    chained = stn.chain(a, b).apply(jnp.concatenate([theta_a, theta_b]), points)
    np.testing.assert_allclose(chained, b.apply(theta_b, a.apply(theta_a, points)), atol=1e-14)


def test_a_chain_resamples_once():
    """A turn chained with its inverse is the identity in one warp; two warps blur."""
    image = jnp.asarray(np.random.default_rng(0).normal(size=(21, 21, 1)), jnp.float32)
    there, back = jnp.asarray([0.4, 0.0, 0.0]), jnp.asarray([-0.4, 0.0, 0.0])
    once = stn.warp(image, stn.chain(stn.rigid(), stn.rigid()), jnp.concatenate([there, back]))
    twice = stn.warp(stn.warp(image, stn.rigid(), back), stn.rigid(), there)
    middle = np.s_[6:15, 6:15]
    np.testing.assert_allclose(once[middle], image[middle], atol=1e-5)
    assert float(jnp.abs(twice[middle] - image[middle]).max()) > 0.5


@pytest.mark.parametrize("member", LINEAR)
def test_inverse_swaps_the_directions(member, x64):
    t = MEMBERS[member].transform
    theta, points = jnp.asarray(MEMBERS[member].theta(7)), MEMBERS[member].points(8, 9)
    swapped = stn.inverted(t)
    look = lambda t: jax.jit(lambda v, p: (t.apply(v, p), t.invert(v, p), t.matrix(v)))  # noqa: E731
    there, back, matrix = look(t)(theta, points)
    swapped_there, swapped_back, inverse = look(swapped)(theta, points)
    np.testing.assert_allclose(swapped_there, back, atol=1e-14)
    np.testing.assert_allclose(swapped_back, there, atol=1e-14)
    np.testing.assert_allclose(inverse @ matrix, np.eye(t.ndim + 1), atol=1e-13)


def test_bounded_stays_in_its_box_and_starts_with_slope_one(x64):
    t = stn.bounded(stn.translation(), radius=[0.5, 0.25])
    origin = jnp.zeros(2)
    for theta in ([1e9, -1e9], [-3.0, 3.0]):
        moved = t.apply(jnp.asarray(theta), origin)
        assert bool(jnp.all(jnp.abs(moved) <= jnp.asarray([0.5, 0.25])))
    np.testing.assert_allclose(jax.jacrev(t.apply)(origin, origin), np.eye(2))


def test_fixed_holds_its_values(x64):
    t = stn.fixed(stn.similarity(), {0: 0.5, 2: 0.25})
    theta = jnp.asarray([0.3, -0.1])
    whole = jnp.asarray([0.5, 0.3, 0.25, -0.1])
    points = MEMBERS["similarity"].points(9, 5)
    expected = stn.similarity().apply(whole, points)
    np.testing.assert_allclose(t.apply(theta, points), expected, atol=1e-15)
    np.testing.assert_array_equal(t.identity, [0, 0])


def bend(theta, points):
    """A map that folds where theta is large."""
    return theta[0] * jnp.sin(3 * points[..., ::-1]) + theta[1] * points**2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_newton_inverts_and_differentiates(dtype):
    with jax.enable_x64(dtype == "float64"):
        invert = jax.jit(newton_inverse(bend))
        theta = jnp.asarray([0.15, 0.1], dtype)
        points = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (50, 2)), dtype)
        source = points + bend(theta, points)
        tolerance = 1e-12 if dtype == "float64" else 2e-6
        np.testing.assert_allclose(invert(theta, source), points, atol=tolerance)
        if dtype == "float32":
            return
        expected = reference.central_differences(
            lambda v: np.asarray(invert(jnp.asarray(v), source)), np.asarray(theta)
        )
        for differentiate in (jax.jacrev, jax.jacfwd):
            jacobian = jax.jit(differentiate(newton_inverse(bend)))(theta, source)
            np.testing.assert_allclose(jacobian, expected, atol=1e-7)


def test_newton_gives_nan_where_there_is_no_inverse():
    invert = jax.jit(newton_inverse(bend))
    folded = invert(jnp.asarray([0.0, 1.0]), jnp.asarray([[-0.5, 0.0], [0.11, 0.24]]))
    # p + p² = −0.5 has no real root; 0.11 and 0.24 are the images of 0.1 and 0.2.
    assert bool(jnp.isnan(folded[0]).all())
    np.testing.assert_allclose(folded[1], [0.1, 0.2], atol=1e-6)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("t", [stn.affine(), stn.projective()], ids=lambda t: t.name)
def test_points_and_boxes_move_with_the_image(t, align_corners):
    """After the warp, a bright dot lies at the point that warp_points gives."""
    theta = jnp.asarray(MEMBERS[t.name].theta(10, 0.5), jnp.float32)
    shape, output_shape = (40, 50), (60, 45)
    y, x = np.mgrid[: shape[0], : shape[1]]
    options = {"output_shape": output_shape, "align_corners": align_corners}
    for point in ([20.0, 15.0], [30.0, 22.5]):
        dot = np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / 8)[..., None]
        warped = np.asarray(stn.warp(jnp.asarray(dot, jnp.float32), t, theta, **options))[..., 0]
        where = np.array(np.unravel_index(warped.argmax(), warped.shape))[::-1]
        moved = stn.warp_points(jnp.asarray(point), t, theta, image_shape=shape, **options)
        np.testing.assert_allclose(moved, where, atol=1.0)
        box = jnp.asarray([point[0] - 3, point[1] - 2, point[0] + 3, point[1] + 2])
        x0, y0, x1, y1 = stn.warp_boxes(box, t, theta, image_shape=shape, **options)
        assert x0 < moved[0] < x1
        assert y0 < moved[1] < y1


def test_a_box_turned_by_45_degrees_is_the_diamonds_box(x64):
    theta = jnp.asarray([np.pi / 4, 0.0, 0.0])
    boxes = jnp.asarray([[-0.5, -0.5, 0.5, 0.5], [0.0, 0.0, 0.0, 0.0]])
    moved = stn.warp_boxes(boxes, stn.rigid(), theta)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(moved, [[-half, -half, half, half], [0, 0, 0, 0]], atol=1e-15)


BAD = {
    "no transforms": (lambda: stn.chain(), r"one or more transforms"),
    "other dimensions": (lambda: stn.chain(stn.affine(), stn.affine(ndim=3)), r"affine: 2.*3"),
    "radius of zero": (lambda: stn.bounded(stn.affine(), radius=0.0), r"positive.*0\.0"),
    "radius too long": (lambda: stn.bounded(stn.rigid(), radius=[1, 2]), r"3 parameters of rigid"),
    "index out of range": (lambda: stn.fixed(stn.rigid(), {3: 0.0}), r"0 to 2 of rigid.*3"),
    "aspect of zero": (lambda: stn.isotropic(stn.rigid(), aspect=0), r"width over height.*got 0"),
    "aspect of a shape": (lambda: stn.isotropic(stn.rigid(), aspect=(96, 128)), r"96, 128"),
    "aspect of a volume": (
        lambda: stn.isotropic(stn.rigid(ndim=3), aspect=1.0),
        r"width / depth, height / depth.*1\.0",
    ),
    "all held": (lambda: stn.fixed(stn.translation(), {0: 0, 1: 0}), r"not all"),
    "output shape alone": (
        lambda: stn.warp_points(jnp.zeros(2), stn.rigid(), jnp.zeros(3), output_shape=(2, 2)),
        r"needs image_shape",
    ),
    "boxes of three": (
        lambda: stn.warp_boxes(jnp.zeros((2, 3)), stn.rigid(), jnp.zeros(3)),
        r"x0, y0, x1, y1.*\(2, 3\)",
    ),
    "one point a side": (
        lambda: stn.warp_boxes(jnp.zeros(4), stn.rigid(), jnp.zeros(3), points_per_side=1),
        r"at least 2",
    ),
}


@pytest.mark.usefixtures("no_runtime_types")
@pytest.mark.parametrize("case", BAD)
def test_error(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        call()


def test_isotropic_keeps_right_angles_between_pixels():
    t = stn.isotropic(stn.similarity(), aspect=128 / 96)
    theta = jnp.array([1.2, 0.5, 0.1, -0.2])
    matrix = conversions.pixel_matrix(t.matrix(theta)[:2], (96, 128), (96, 128))
    np.testing.assert_allclose(matrix[:, :2], 1.2 * reference.rotation([0.5]), atol=1e-6)
    np.testing.assert_allclose(
        matrix @ jnp.array([63.5, 47.5, 1]), [63.5 + 0.1 * 48, 47.5 - 0.2 * 48], atol=1e-4
    )


def test_the_aspect_of_each_image_of_a_batch_may_be_traced():
    def moved(aspect):
        turn = stn.isotropic(stn.rigid(), aspect=aspect)
        return turn.apply(jnp.array([0.5, 0.0, 0.0]), jnp.array([0.5, 0.25]))

    aspects = jnp.array([0.5, 1.0, 2.0])
    expected = [moved(float(aspect)) for aspect in aspects]
    np.testing.assert_allclose(jax.jit(jax.vmap(moved))(aspects), expected, rtol=1e-6)
    slope = (moved(1.01) - moved(0.99)) / 0.02
    np.testing.assert_allclose(jax.jacfwd(moved)(1.0), slope, atol=1e-4)
