"""The logged metrics of every step, and the findings that follow from them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
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
    inside, scales, angles, distances, folds = [], [], [], [], []
    for each in theta.reshape(6, -1):
        matrix = reference.matrix("affine", each, ndim)
        linear = matrix[:ndim, :ndim]
        moved = reference.act(matrix, points)
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
    turning = theta.reshape(6, -1)[1:]
    if len(angles) == 5:
        np.testing.assert_allclose(
            numbers(t, turning, points.shape[:-1])["rotation"], np.mean(angles), rtol=1e-4
        )


def test_scale_and_rotation_mean_the_same_for_every_family():
    """A spline and a chain, given one and the same similarity."""
    scale, angle = 0.6, -0.5
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    lattice = reference.regular_grid((3, 3), True).reshape(-1, 2)
    members = {
        stn.similarity(): [scale, angle, 0.1, 0.2],
        stn.thin_plate_spline((3, 3)): (lattice @ linear.T + [0.1, 0.2]).ravel(),
        stn.chain(stn.attention(), stn.rigid()): [scale, 0, 0, angle, 0.1, 0.2],
    }
    records = [numbers(t, theta) for t, theta in members.items()]
    for record in records:
        np.testing.assert_allclose([record["scale"], record["rotation"]], [0.6, 0.5], rtol=1e-4)
        np.testing.assert_allclose(record["distance"], records[0]["distance"], rtol=1e-4)
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


AFFINE, ATTENTION = stn.affine(), stn.attention()
SWIRL = 0.8 * np.random.default_rng(0).uniform(-1, 1, (3, 50))
FAULTS = {
    "stuck at the identity": (AFFINE, np.tile(AFFINE.identity, (3, 1))),
    "collapsed to a point": (ATTENTION, [[0.01, 0.2, 0.1], [0.02, -0.3, 0.0]]),
    "collapsed to a line": (AFFINE, [[1, 0, 0, 1e-4, 0, 0.1]]),
    "left the image": (stn.translation(), [[1.9, 0.0], [-0.1, 2.5]]),
    "zoomed out of it": (ATTENTION, [[6.0, 0.0, 0.0]]),
    "folding": (stn.displacement((5, 5)), SWIRL),
    "mirrored": (AFFINE, [[-1, 0, 0, 0, 1, 0]]),
    "not finite": (ATTENTION, [[0.5, np.nan, 0.1], [0.7, 0.2, 0.1]]),
}
CALLED = {
    "collapsed to a line": "collapsed to a point",
    "zoomed out of it": "left the image",
    "mirrored": "folding",
}
HEALTHY = {
    "rotating": (stn.rigid(), [[0.7, 0.05, 0], [-0.9, 0, 0.1], [0.01, -0.1, 0]]),
    "cropping": (ATTENTION, [[0.3, 0.5, -0.5], [0.4, -0.4, 0.5]]),
    "bending": (stn.displacement((5, 5)), 0.1 * SWIRL),
    "a little off": (AFFINE, [1.01, 0, 0.02, 0, 1.01, 0]),
}
NORMS = {"gradient_localization": 0.3, "gradient_rest": 1.0}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_by_its_numbers(fault):
    transform, theta = FAULTS[fault]
    record = numbers(transform, theta) | NORMS
    (finding,) = stnn.diagnose(record)
    assert finding.name == CALLED.get(fault, fault)
    assert record[finding.evidence] == pytest.approx(finding.value)
    text = str(finding)
    assert f"{finding.name}: {finding.evidence} is {finding.value:.3g}" in text
    assert finding.remedy in text


@pytest.mark.parametrize("theta", HEALTHY)
def test_nothing_is_found_in_what_is_healthy(theta):
    diagnosis = stnn.diagnose(numbers(*HEALTHY[theta]) | NORMS)
    assert not diagnosis
    assert str(diagnosis) == "nothing wrong"


@pytest.mark.parametrize(
    ("norms", "names"),
    [
        ((1e-6, 1.0), ["localization gradient vanished"]),
        ((0.0, 0.0), ["localization gradient vanished"]),
        ((500.0, 1.0), ["localization gradient dominates"]),
        ((np.nan, 1.0), ["gradient not finite"]),
        ((0.02, 1.0), []),
        ((20.0, 1.0), []),
    ],
)
def test_gradients_are_judged_side_by_side(norms, names):
    record = dict(zip(NORMS, norms, strict=True))
    assert [finding.name for finding in stnn.diagnose(record)] == names


def test_a_history_is_judged_by_its_end():
    """In every form; the start at the identity and one strange batch are no findings."""
    good, still = numbers(*HEALTHY["rotating"]), numbers(*FAULTS["stuck at the identity"])
    strange = numbers(*FAULTS["left the image"])
    records = 30 * [still] + 12 * [good] + 3 * [strange] + 5 * [good | {"loss": 0.1}]
    columns = {name: np.array([record[name] for record in records]) for name in good}
    for history in (records, columns):
        assert not stnn.diagnose(history)
        (finding,) = stnn.diagnose(history, window=50)
        assert finding.name == "stuck at the identity"
    late = 5 * [good] + 20 * [strange]
    assert [finding.name for finding in stnn.diagnose(late)] == ["left the image"]
    once = [good, numbers(*FAULTS["not finite"]), *(30 * [good])]
    assert [finding.name for finding in stnn.diagnose(once)] == ["not finite"]


def test_one_nan_is_left_out_by_what_is_advised():
    """Outside MultiSteps; inside it the running mean of gradients stays NaN for ever."""
    rate, every = optax.sgd(1.0), 2
    steps = optax.MultiSteps(rate, every).gradient_transformation()
    ways = {
        "outside": optax.apply_if_finite(steps, 100),
        "inside": optax.MultiSteps(optax.apply_if_finite(rate, 100), every),
    }
    gradients = [jnp.array([1.0, 1.0]), jnp.array([jnp.nan, 1.0]), *5 * [jnp.array([1.0, 1.0])]]
    found = {}
    for name, optimizer in ways.items():
        params = jnp.zeros(2)
        state = optimizer.init(params)
        for gradient in gradients:
            updates, state = optimizer.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
        found[name] = params.tolist()
    assert found == {"outside": [-3.0, -3.0], "inside": [0.0, 0.0]}
    clipped, _ = optax.clip_by_global_norm(1.0).update(gradients[:2], optax.EmptyState())
    assert all(np.isnan(each).all() for each in clipped)


@pytest.mark.usefixtures("no_runtime_types")
def test_errors():
    with pytest.raises(ValueError, match=r"history must hold some of coverage.*got \['loss'\]"):
        stnn.diagnose({"loss": 0.5})
    with pytest.raises(ValueError, match=r"history must hold some.*got \[\]"):
        stnn.diagnose([])
    with pytest.raises(ValueError, match="window must be an integer of at least 1"):
        stnn.diagnose({"scale": 0.5}, window=0)
    with pytest.raises(ValueError, match=r"theta must have a last axis of length 6.*\(2, 5\)"):
        stnn.monitor(AFFINE, jnp.ones((2, 5)), SHAPE)
    with pytest.raises(ValueError, match="output_shape must have 2 entries"):
        stnn.monitor(AFFINE, jnp.ones(6), (3, 3, 3))
