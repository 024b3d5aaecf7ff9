"""The findings that follow from the logged metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import stn_jax as stn
from stn_jax import nn as stnn

SHAPE = (7, 9)
watch = jax.jit(stnn.monitor, static_argnums=(0, 2))


def numbers(transform, theta):
    record = watch(transform, jnp.asarray(theta, jnp.float32), SHAPE)
    return {name: float(value) for name, value in record.items()}


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
    "alike and hardly moved": (AFFINE, np.tile([1.01, 0, 0.05, 0, 1.01, 0], (3, 1))),
    "one image": (ATTENTION, [[0.3, 0.5, -0.5]]),
    "zooming alike, turning apart": (stn.similarity(), [[0.6, 0.3, 0, 0], [0.6, -0.2, 0, 0]]),
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


SPLINE = stn.thin_plate_spline((3, 3))
ALIKE = {
    "in one corner": (ATTENTION, [0.3, 0.6, -0.6], 0.01),
    "never moved from the start": (stn.fixed(ATTENTION, {0: 1 / 3}), [0.0, 0.0], 0.0),
    "at a bound": (stn.bounded(AFFINE, radius=0.3), [9.0, -8, 9, 9, 9, -9], 1.0),
    "a crop by a spline": (SPLINE, 0.5 * SPLINE.identity + 0.3, 0.01),
}


@pytest.mark.parametrize("where", ALIKE)
def test_transforms_that_ignore_the_image_are_found(where):
    """By how far they are apart beside how far they move, whatever the family."""
    transform, common, noise = ALIKE[where]
    rng = np.random.default_rng(0)
    theta = np.asarray(common) + noise * rng.normal(size=(8, transform.num_params))
    record = numbers(transform, theta) | NORMS
    (finding,) = stnn.diagnose(record)
    assert finding.name == "same for every image"
    assert finding.value == pytest.approx(record["spread"] / record["distance"])
    assert "spread_ratio" in str(finding)
    # The same transform of one image alone is no finding.
    assert not stnn.diagnose(numbers(transform, theta[:1]) | NORMS)


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


# Medians at the end of trainings: sums of two digits, and crops of digits that many canvases share.
LOGGED = {
    "spline, 90 % error": ({"fold": 0.28, "distance": 3.3, "coverage": 0.37}, "folding"),
    "affine, 90 % error": ({"fold": 0.49, "distance": 3.6, "coverage": 0.35}, "folding"),
    "spline, 9 % error": ({"fold": 0.02, "distance": 0.42, "coverage": 0.75}, None),
    "crops in a corner, 2 % found": ({"spread": 0.0, "distance": 1.09}, "same for every image"),
    "crops in the middle, 7 %": ({"spread": 0.015, "distance": 0.54}, "same for every image"),
    "crops at two digits of three": ({"spread": 0.46, "distance": 0.72}, None),
    "crops at the digits": ({"spread": 0.55, "distance": 0.76}, None),
}


@pytest.mark.parametrize("training", LOGGED)
def test_thresholds_part_trainings_that_failed_from_good_ones(training):
    record, name = LOGGED[training]
    found = [finding.name for finding in stnn.diagnose(record)]
    assert found == ([] if name is None else [name])


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
