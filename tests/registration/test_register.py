"""Registration recovers known maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from sklearn.datasets import load_sample_image

import stn_jax as stn
from stn_jax import registration
from stn_jax.registration.search import searched

SHAPE = (48, 64)
ISOTROPIC = stn.isotropic(stn.similarity(), aspect=64 / 48)
WIDE = np.array([[1.06, -0.5, 8.0], [0.5, 1.06, -5.0]])  # 25 degrees, a scale of 1.17


@functools.cache
def photograph():
    """A grey photograph, less sharp than its pixels."""
    grey = load_sample_image("china.jpg").mean(axis=-1) / 255
    return gaussian_filter(grey, 3)[::3, ::3]


def taken(photo, points):
    """The photograph at points ``(x, y)`` relative to its middle, in pixels, by SciPy."""
    middle = (np.array(photo.shape[::-1]) - 1) / 2
    rows = np.moveaxis((points + middle)[..., ::-1], -1, 0)
    return map_coordinates(photo, rows, order=3, mode="nearest")[..., None].astype(np.float32)


def centred(shape):
    """The pixels of an image relative to its middle, x first."""
    axes = [np.arange(size) - (size - 1) / 2 for size in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)[..., ::-1]


def pair(matrix, shape=SHAPE, image=None):
    """A fixed and a moving image; points of fixed go to ``matrix``, in pixels about the middle."""
    image = photograph() if image is None else image
    points, ndim = centred(shape), len(shape)
    back = (points - matrix[:, ndim]) @ np.linalg.inv(matrix[:, :ndim]).T
    return taken(image, points), taken(image, back)


def error(transform, theta, matrix, shape=SHAPE):
    """The mean distance of mapped lattice points from their true places, in pixels."""
    ndim, half = len(shape), np.array(shape[::-1]) / 2
    points = np.stack(np.meshgrid(*[np.linspace(-0.9, 0.9, 5)] * ndim), axis=-1)
    found = np.asarray(transform.apply(theta, points.astype(np.float32))) * half
    true = (points * half) @ matrix[:, :ndim].T + matrix[:, ndim]
    return np.linalg.norm(found - true, axis=-1).mean()


def start(transform, matrix, shape=SHAPE):
    """Theta of a map in pixels, for an affine family."""
    half = np.array(shape[::-1]) / 2
    normalised = matrix * np.append(half, 1)[None] / half[:, None]
    return normalised.astype(np.float32).ravel()


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(stn.affine(), id="affine"),
        pytest.param(ISOTROPIC, id="isotropic", marks=pytest.mark.slow),
    ],
)
def test_a_wide_map_is_found_without_a_start(transform):
    found = stn.register(*pair(WIDE), transform)
    assert error(transform, found.theta, WIDE) < 0.05
    assert found.folds == 0
    assert 0.5 < found.overlap < 1
    assert found.residual < 0.03
    assert found.shapes == ((12, 16), (24, 32), (48, 64))
    fixed, moving = pair(WIDE)
    warped = found.warp(moving, padding="border")
    inside = stn.diagnostics.coverage(transform, found.theta, SHAPE).mask[..., None]
    assert jnp.sqrt(jnp.mean((warped - fixed) ** 2, where=inside)) < 0.03


def test_the_history_falls_and_ends_at_the_loss():
    found = stn.register(*pair(WIDE), stn.affine())
    for history, steps in zip(found.history, found.iterations, strict=True):
        assert np.isfinite(history[: steps + 1]).all()
        assert np.isnan(history[steps + 1 :]).all()
        assert (np.diff(history[: steps + 1]) <= 0).all()
    assert found.history[-1, found.iterations[-1]] == found.loss
    fixed, moving = pair(WIDE)
    warped, seen = stn.warp(
        moving, stn.affine(), found.theta, padding="border", return_coverage=True
    )
    correlation = registration.cross_correlation(fixed, warped, weights=seen.mask)
    np.testing.assert_allclose(found.loss, 1 - correlation, atol=3e-3)


@pytest.mark.slow
def test_homographies_with_large_motions_are_found():
    """Each corner moves by a tenth of the side, in a drawn direction, in each of eight pairs."""
    shape, corners = (96, 96), 48.0 * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    image = gaussian_filter(load_sample_image("flower.jpg").mean(axis=-1) / 255, 1.5)[::2, ::2]
    errors = []
    for seed in range(8):
        angles = np.random.default_rng(seed).uniform(0, 2 * np.pi, 4)
        moves = 9.6 * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
        to_moving = np.asarray(stn.estimation.homography(corners, (corners + moves).astype("f4")))

        def mapped(matrix, points):
            moved = points @ matrix[:, :2].T + matrix[:, 2]
            return moved[..., :2] / moved[..., 2:]

        fixed = taken(image, centred(shape))
        moving = taken(image, mapped(np.linalg.inv(to_moving), centred(shape)))
        theta = stn.register(fixed, moving, stn.projective()).theta
        found = np.asarray(stn.projective().apply(theta, corners / 48)) * 48
        errors.append(np.linalg.norm(found - corners - moves, axis=-1).mean())
    assert np.max(errors) < 0.3, errors
    assert np.median(errors) < 0.05, errors


@pytest.mark.slow
def test_a_volume_is_registered():
    rng = np.random.default_rng(0)
    volume = gaussian_filter(rng.normal(size=(48, 48, 48)), 4)
    volume /= volume.std()
    a, b = np.deg2rad(20), np.deg2rad(-15)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    matrix = np.concatenate([turn, [[2.0], [-3.0], [1.0]]], axis=1)
    shape = (20, 24, 28)
    fixed, moving = pair(matrix, shape, volume)
    transform = stn.isotropic(stn.rigid(ndim=3), aspect=(28 / 20, 24 / 20))
    found = stn.register(fixed, moving, transform)
    assert error(transform, found.theta, matrix, shape) < 0.05


@pytest.mark.slow
def test_an_elastic_map_behind_an_affine_one():
    fixed, moving = pair(WIDE)
    points = stn.regular_grid(SHAPE)
    bent = 0.06 * jnp.sin(3 * points[..., ::-1])
    pixels = stn.pixels_from_normalized(points + bent, SHAPE)
    fixed = stn.sample_pixels(jnp.asarray(fixed), pixels, padding="border")
    chain = stn.chain(stn.displacement((5, 5)), stn.affine())
    assert searched(chain)[0].sum() == 6
    straight = stn.register(fixed, moving, stn.affine())
    found = stn.register(fixed, moving, chain, bending=1e-4)
    assert found.folds == 0
    inner = np.stack(np.meshgrid(*[np.linspace(-0.7, 0.7, 5)] * 2), -1).astype(np.float32)
    true = (inner + 0.06 * np.sin(3 * inner[..., ::-1])) * np.array([32, 24])
    true = true @ WIDE[:, :2].T + WIDE[:, 2]

    def distance(transform, theta):
        mapped = np.asarray(transform.apply(theta, inner)) * np.array([32, 24])
        return np.linalg.norm(mapped - true, axis=-1).mean()

    assert distance(chain, found.theta) < 0.25 < distance(stn.affine(), straight.theta)
    assert registration.bending_energy(chain, found.theta, SHAPE) > 0


NEAR = np.array([[1.02, -0.06, 1.5], [0.05, 0.98, -1.0]])


def doubled(fixed, warped, weights):
    return 2 * registration.mean_squared_error(fixed, warped, weights=weights)


@pytest.mark.parametrize(
    ("loss", "change", "limit"),
    [
        ("mean_squared_error", lambda image: image, 0.05),
        ("local_cross_correlation", lambda image: image + np.linspace(0, 0.2, 64)[:, None], 0.2),
        ("mutual_information", lambda image: np.cos(3 * image), 0.4),
        (doubled, lambda image: image, 0.2),
    ],
    ids=["mean_squared_error", "local_cross_correlation", "mutual_information", "own"],
)
def test_each_loss_finds_the_map(loss, change, limit):
    fixed, moving = pair(NEAR)
    moving = change(moving).astype(np.float32)
    found = stn.register(
        fixed, moving, stn.affine(), loss=loss, search=False, shrink_factors=(2, 1)
    )
    assert error(stn.affine(), found.theta, NEAR) < limit


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optax.adam(0.1), id="adam"),
        pytest.param(optax.lbfgs(), id="lbfgs", marks=pytest.mark.slow),
    ],
)
def test_optax_serves(optimizer):
    fixed, moving = pair(NEAR)
    found = stn.register(
        fixed, moving, stn.affine(), optimizer=optimizer, search=False, shrink_factors=(1,)
    )
    assert error(stn.affine(), found.theta, NEAR) < 0.2
    assert found.loss == np.nanmin(found.history)


@pytest.mark.slow
def test_vmap_and_jit_give_what_a_call_gives():
    angles = [-0.3, 0.1, 0.25]
    matrices = [
        np.array([[np.cos(a), -np.sin(a), 20 * a], [np.sin(a), np.cos(a), 3.0]]) for a in angles
    ]
    fixed, moving = (np.stack(each) for each in zip(*map(pair, matrices), strict=True))
    call = functools.partial(stn.register, transform=ISOTROPIC)
    found = jax.jit(jax.vmap(lambda a, b: call(a, b)))(fixed, moving)
    assert found.theta.shape == (3, 4)
    for k, matrix in enumerate(matrices):
        assert error(ISOTROPIC, found.theta[k], matrix) < 0.05
    single = call(fixed[0], moving[0])
    np.testing.assert_allclose(found.theta[0], single.theta, atol=1e-3)


def test_masks_leave_out_what_does_not_move_along():
    fixed, moving = pair(NEAR)
    fixed, moving = fixed.copy(), moving.copy()
    fixed[5:20, 8:30], moving[30:40, 40:60] = np.nan, 1e6
    masks = [np.ones(SHAPE, bool) for _ in range(2)]
    masks[0][5:20, 8:30] = masks[1][30:40, 40:60] = False
    found = stn.register(
        fixed,
        moving,
        stn.affine(),
        fixed_mask=masks[0],
        moving_mask=masks[1],
        shrink_factors=(2, 1),
        search=False,
    )
    assert error(stn.affine(), found.theta, NEAR) < 0.1
    assert found.overlap < 0.98


def test_a_start_is_followed_and_may_be_exact():
    matrix = np.array([[-0.5, -1.0, 3.0], [1.0, -0.5, 2.0]])
    fixed, moving = pair(matrix)
    found = stn.register(fixed, moving, stn.affine(), theta=start(stn.affine(), matrix))
    assert error(stn.affine(), found.theta, matrix) < 0.05
    assert found.history[0, 0] < 0.1
    same = stn.register(fixed, fixed, stn.affine())
    np.testing.assert_allclose(same.theta, stn.affine().identity, atol=1e-5)
    np.testing.assert_allclose([same.loss, same.residual], 0, atol=1e-4)


@pytest.mark.slow
def test_images_of_different_sizes():
    matrix = np.array([[1.0, -0.2, 4.0], [0.2, 1.0, -3.0]])
    shape, larger = (40, 48), (72, 60)
    fixed = taken(photograph(), centred(shape))
    back = (centred(larger) - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    moving = taken(photograph(), back)
    found = stn.register(fixed, moving, stn.affine())
    points = np.stack(np.meshgrid(*[np.linspace(-0.9, 0.9, 5)] * 2), -1).astype(np.float32)
    mapped = np.asarray(stn.affine().apply(found.theta, points)) * np.array([30, 36])
    true = (points * np.array([24, 20])) @ matrix[:, :2].T + matrix[:, 2]
    assert np.linalg.norm(mapped - true, axis=-1).mean() < 0.1
    assert found.warp(moving).shape == (*shape, 1)


@pytest.mark.slow
def test_the_backward_map_undoes_the_forward_one():
    fixed, moving = pair(WIDE)
    found = stn.register(fixed, moving, stn.affine(), inverse_consistency=1.0)
    back = np.linalg.inv(np.vstack([WIDE, [0, 0, 1]]))[:2]
    assert error(stn.affine(), found.theta, WIDE) < 0.1
    assert error(stn.affine(), found.backward, back) < 0.1
    apart = registration.inverse_consistency(stn.affine(), found.theta, found.backward, SHAPE)
    assert apart < 1e-5


def test_progress_is_told_for_each_level(capsys):
    fixed, moving = pair(NEAR)
    options = {"search": False, "shrink_factors": (2, 1)}
    told = []
    found = stn.register(
        fixed, moving, stn.affine(), progress=lambda *each: told.append(each), **options
    )
    assert [each[:2] for each in told] == [(0, (24, 32)), (1, (48, 64))]
    assert float(told[1][2]) == float(found.loss)
    stn.register(fixed, moving, stn.affine(), progress=True, **options)
    assert capsys.readouterr().out.startswith("level 1, 24×32: loss 0.")


def test_the_picture_shows_both_images_and_checkerboards():
    fixed, moving = pair(NEAR)
    found = stn.register(fixed, moving, stn.affine(), search=False, shrink_factors=(2, 1))
    figure = found.visualize(fixed, moving)
    shown = [axes.images[0].get_array() for axes in figure.axes]
    assert [each.shape[:2] for each in shown] == [SHAPE] * 4

    def seams(picture):
        """Steps across the squares' borders, beside those elsewhere."""
        steps = np.abs(np.diff(np.asarray(picture)[..., 0], axis=1))
        return steps[:, 7::8].mean() / steps.mean()

    assert seams(shown[3]) < 1.3 < seams(shown[2])
