"""The logged metrics of every step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from scipy import linalg

import stn_jax as stn
from stn_jax import nn as stnn

SHAPE = (7, 9)
watch = jax.jit(stnn.monitor, static_argnums=(0, 2), static_argnames="align_corners")


def numbers(transform, theta, shape=SHAPE):
    record = watch(transform, jnp.asarray(theta, jnp.float32), shape)
    assert all(value.shape == () for value in record.values())
    return {name: float(value) for name, value in record.items()}


@pytest.mark.parametrize("ndim", [2, 3])
def test_numbers_of_affine_maps(ndim, rng):
    """Against SciPy's polar decomposition and points moved one by one."""
    t = stn.affine(ndim=ndim)
    theta = t.identity + rng.uniform(-0.4, 0.4, (2, 3, t.num_params))
    theta[0, 0, : ndim + 1] *= -1  # one that mirrors
    points = reference.regular_grid(SHAPE[-1:] + SHAPE if ndim == 3 else SHAPE, False)
    inside, scales, angles, distances, folds, shifts = [], [], [], [], [], []
    for each in theta.reshape(6, -1):
        matrix = reference.matrix("affine", each, ndim)
        linear = matrix[:ndim, :ndim]
        moved = reference.act(matrix, points)
        shifts.append(moved - points)
        inside.append(np.mean(np.all(np.abs(moved) <= 1, axis=-1)))
        distances.append(np.sqrt(np.mean(np.sum((moved - points) ** 2, axis=-1))))
        scales.append(abs(np.linalg.det(linear)) ** (1 / ndim))
        folds.append(np.linalg.det(linear) < 0)
        if np.linalg.det(linear) > 0:
            rotation = linalg.polar(linear)[0]
            angles.append(np.abs(np.angle(np.linalg.eigvals(rotation))).max())
    record = numbers(t, theta, points.shape[:-1])
    np.testing.assert_allclose(record["coverage"], np.mean(inside), atol=1e-5)
    np.testing.assert_allclose(record["coverage_min"], np.min(inside), atol=1e-5)
    np.testing.assert_allclose(record["scale"], np.mean(scales), rtol=1e-5)
    np.testing.assert_allclose(record["distance"], np.mean(distances), rtol=1e-5)
    np.testing.assert_allclose(record["fold"], np.mean(folds), atol=1e-5)
    # Two images, three transforms of each.
    variances = np.var(np.reshape(shifts, (2, 3, *points.shape)), axis=0).sum(axis=-1)
    np.testing.assert_allclose(record["spread"], np.sqrt(np.mean(variances)), rtol=1e-5)
    turning = theta.reshape(6, -1)[1:]
    if len(angles) == 5:
        np.testing.assert_allclose(
            numbers(t, turning, points.shape[:-1])["rotation"], np.mean(angles), rtol=1e-4
        )


def test_numbers_mean_the_same_for_every_family():
    """A spline and a chain, given the same two similarities."""
    scale, angles = 0.6, (-0.5, 0.3)
    lattice = reference.regular_grid((3, 3), True).reshape(-1, 2)

    def control_points(angle):
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        return (lattice @ np.array([[cosine, sine], [-sine, cosine]]) + [0.1, 0.2]).ravel()

    members = {
        stn.similarity(): lambda angle: [scale, angle, 0.1, 0.2],
        stn.thin_plate_spline((3, 3)): control_points,
        stn.chain(stn.attention(), stn.rigid()): lambda angle: [scale, 0, 0, angle, 0.1, 0.2],
    }
    records = [numbers(t, [theta(angle) for angle in angles]) for t, theta in members.items()]
    for record in records:
        np.testing.assert_allclose([record["scale"], record["rotation"]], [0.6, 0.4], rtol=1e-4)
        for name in ("distance", "spread"):
            np.testing.assert_allclose(record[name], records[0][name], rtol=1e-4)
    turned = numbers(stn.rigid(ndim=3), [0.3, -0.4, 1.2, 0.0, 0.0, 0.0], (3, 3, 3))
    np.testing.assert_allclose([turned["scale"], turned["rotation"]], [1, 1.3], rtol=1e-5)


def test_what_is_not_finite_is_counted_and_left_out():
    theta = np.array([[0.5, 0.2, 0.0], [np.nan, 0, 0], [0.7, -0.2, 0.1], [1, np.inf, 0]])
    record = numbers(stn.attention(), theta)
    assert record.pop("nonfinite") == 0.5
    healthy = numbers(stn.attention(), theta[[0, 2]])
    assert healthy.pop("nonfinite") == 0
    assert record == pytest.approx(healthy, rel=1e-6)
    gone = numbers(stn.attention(), np.full((2, 3), np.nan))
    assert gone.pop("nonfinite") == 1
    assert all(np.isnan(value) for value in gone.values())


def test_spread_is_of_images_not_of_their_transforms():
    """Nothing is said of one image, nor of one whose theta alone is finite."""
    crops = np.array([[0.5, -0.5, 0.0], [0.5, 0.5, 0.0]])
    t = stn.attention()
    assert numbers(t, crops)["spread"] == pytest.approx(0.5, rel=1e-6)
    assert numbers(t, np.stack([crops, crops]))["spread"] == 0
    assert numbers(t, np.stack([crops, crops[::-1]]))["spread"] == pytest.approx(0.5, rel=1e-6)
    for one in (crops[0], crops[:1], crops[None]):
        assert "spread" not in numbers(t, one)
    lost = np.array([[crops[0], crops[1]], [[np.nan, 0, 0], crops[0]]])
    assert numbers(t, lost)["spread"] == pytest.approx(0.5, rel=1e-6)
    assert np.isnan(numbers(t, lost[:, 0])["spread"])


def test_gradient_norms(rng):
    kernel, bias, logits = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=5)
    grads = {"st": {"localization": {"kernel": kernel, "bias": bias}}, "logits": logits}
    norms = jax.jit(lambda grads: stnn.gradient_norms(grads, stnn.localization_labels))(grads)
    expected = np.linalg.norm(np.append(kernel, bias)), np.linalg.norm(logits)
    assert norms["gradient_localization"] == pytest.approx(expected[0], rel=1e-6)
    assert norms["gradient_rest"] == pytest.approx(expected[1], rel=1e-6)
    for labels in ({"st": "localization"}, {"st": "localization", "logits": "classifier"}):
        with pytest.raises(ValueError, match="labels must hold 'localization' or 'rest' for each"):
            stnn.gradient_norms(grads, labels)
    none = stnn.gradient_norms({"logits": logits}, stnn.localization_labels)
    assert none["gradient_localization"] == 0


@pytest.mark.usefixtures("no_runtime_types")
def test_errors():
    with pytest.raises(ValueError, match=r"theta must have a last axis of length 6.*\(2, 5\)"):
        stnn.monitor(stn.affine(), jnp.ones((2, 5)), SHAPE)
    with pytest.raises(ValueError, match="output_shape must have 2 entries"):
        stnn.monitor(stn.affine(), jnp.ones(6), (3, 3, 3))
