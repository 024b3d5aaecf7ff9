"""What a registration is made of: levels of a pyramid, equations, loops and starts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.optimize import least_squares

import stn_jax as stn
from stn_jax.registration import checks, solvers
from stn_jax.registration.objective import Objective, Side
from stn_jax.registration.pyramid import reduced, reduced_shape
from stn_jax.registration.search import Search
from stn_jax.sampling.options import SampleOptions


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("factor", [2, 3, 2.5])
def test_levels_keep_the_outer_edges(factor, align_corners, x64):
    slopes = np.array([[2.0], [3.0]])
    plane = stn.regular_grid((24, 30), align_corners=align_corners) @ slopes + 1
    small, none = reduced(plane, None, factor, align_corners)
    assert none is None
    assert small.shape[:-1] == reduced_shape((24, 30), factor)
    expected = stn.regular_grid(small.shape[:-1], align_corners=align_corners) @ slopes + 1
    # Pixels are squares: where a mean ends within one, it is off by up to an eighth of its step.
    steps = np.abs(np.diff(plane, axis=0)).max() + np.abs(np.diff(plane, axis=1)).max()
    exact = factor != 2.5 and not align_corners
    corners = small[:: len(small) - 1, :: small.shape[1] - 1]
    np.testing.assert_allclose(small[1:-1, 1:-1], expected[1:-1, 1:-1], atol=steps / 8 + 1e-12)
    if exact:
        np.testing.assert_allclose(small, expected, atol=1e-12)
    assert np.abs(np.mean(corners) - 1) < 1e-12


def test_levels_are_means_of_what_counts(x64):
    rng = np.random.default_rng(1)
    image, weights = rng.normal(size=(8, 12, 2)), rng.uniform(size=(8, 12))
    small, counts = reduced(jnp.asarray(image), jnp.asarray(weights), 2, False)
    blocks = image.reshape(4, 2, 6, 2, 2), weights.reshape(4, 2, 6, 2)
    expected = np.average(
        blocks[0], axis=(1, 3), weights=np.broadcast_to(blocks[1][..., None], blocks[0].shape)
    )
    np.testing.assert_allclose(small, expected, rtol=1e-12)
    np.testing.assert_allclose(counts, blocks[1].mean(axis=(1, 3)), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "masked"), [("cross_correlation", True), ("mean_squared_error", False)]
)
def test_normal_equations_are_those_of_the_loss(loss, masked, x64):
    rng = np.random.default_rng(2)
    fixed, moving = (gaussian_filter(rng.normal(size=(9, 11, 2)), (1, 1, 0)) for _ in range(2))
    masks = [jnp.asarray(rng.uniform(0.2, 1, (9, 11))) if masked else None for _ in range(2)]
    options = SampleOptions.create("linear", "border", False, "exact", False, None)
    sides = [
        Side(jnp.asarray(each), mask) for each, mask in zip((fixed, moving), masks, strict=True)
    ]
    objective = Objective(
        *sides,
        transform=stn.projective(),
        loss=loss,
        options=options,
        bending=jnp.array(0.3),
        consistency=jnp.array(0.7),
        min_overlap=0.2,
    )
    thetas = jnp.asarray(stn.projective().identity + 0.1 * rng.normal(size=(2, 8)))
    value, matrix, right = jax.jit(objective.normal_equations)(thetas)
    expected, score = jax.jit(objective.value)(thetas)
    np.testing.assert_allclose([value, score], expected, rtol=1e-10)
    slope = jax.jit(jax.grad(lambda thetas: objective.value(thetas)[0]))(thetas)
    np.testing.assert_allclose(2 * right, slope.ravel(), rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12


def test_levenberg_and_marquardt_end_where_scipy_does(x64):
    times = np.linspace(0, 3, 20)
    data = 2.5 * np.exp(-1.3 * times) + 0.05 * np.random.default_rng(3).normal(size=20)

    def residuals(theta):
        return theta[0] * jnp.exp(-theta[1] * times) - data

    def equations(theta):
        here, jacobian = residuals(theta), jax.jacfwd(residuals)(theta)
        return jnp.sum(here**2), jacobian.T @ jacobian, jacobian.T @ here

    ours = solvers.levenberg_marquardt(
        equations, jnp.array([1.0, 0.2]), jnp.ones(2), iterations=50, tolerance=1e-10
    )
    expected = least_squares(lambda theta: np.asarray(residuals(theta)), [1.0, 0.2], xtol=1e-14)
    np.testing.assert_allclose(ours.point, expected.x, rtol=1e-6)
    assert ours.steps < 50


def test_the_search_starts_all_around():
    assert Search().angles == tuple(range(0, 360, 15))
    assert Search(angle=0).angles == (0.0,)
    with pytest.raises(ValueError, match="angle must be from 0 to 180"):
        Search(angle=200)
    with pytest.raises(ValueError, match="scales must be positive"):
        Search(scales=(1, -1))
    with pytest.raises(ValueError, match="shift must be from 0 to 1"):
        Search(shift=3)


@pytest.mark.parametrize(
    ("shape", "is_linear", "factors"),
    [
        ((160, 200), True, (8, 4, 2, 1)),
        ((160, 200), False, (4, 2, 1)),
        ((48, 52, 64), True, (4, 2, 1)),
        ((20, 20), True, (1,)),
    ],
)
def test_levels_go_down_to_few_pixels(shape, is_linear, factors):
    assert checks.shrink_factors(None, shape, shape, is_linear) == factors
