"""What cannot be registered is said at once."""

import numpy as np
import pytest

import stn_jax as stn

ONES = np.ones((8, 9, 1), np.float32)
RAMP = np.arange(72, dtype=np.float32).reshape(8, 9, 1)


@pytest.mark.parametrize(
    ("fixed", "moving", "options", "kind", "message"),
    [
        (RAMP.astype(int), RAMP, {}, TypeError, "fixed must have a floating dtype"),
        (RAMP[..., 0], RAMP, {}, ValueError, r"fixed must be \[height, width, channels\]"),
        (RAMP, RAMP[None], {}, ValueError, r"moving must be .* batch with jax.vmap"),
        (RAMP, np.repeat(RAMP, 3, -1), {}, ValueError, "same number of channels"),
        (ONES, RAMP, {}, ValueError, "fixed must not be constant"),
        (RAMP, np.where(RAMP > 9, RAMP, np.nan), {}, ValueError, "moving must be finite"),
        (RAMP, RAMP, {"fixed_mask": ONES}, ValueError, r"fixed_mask must have .* \(8, 9\)"),
        (RAMP, RAMP, {"moving_mask": 0 * ONES[..., 0]}, ValueError, "positive somewhere"),
        (RAMP, RAMP, {"loss": "ncc"}, ValueError, "loss must be one of 'cross_correlation'"),
        (RAMP, RAMP, {"loss": 3}, TypeError, "loss must be a name or a function"),
        (
            RAMP,
            RAMP,
            {"loss": "mutual_information", "optimizer": "gauss_newton"},
            ValueError,
            "no sum of squares",
        ),
        (RAMP, RAMP, {"optimizer": "adam"}, ValueError, 'optimizer must be "gauss_newton"'),
        (RAMP, RAMP, {"shrink_factors": (1, 2)}, ValueError, "shrink_factors must fall"),
        (RAMP, RAMP, {"shrink_factors": (0.5,)}, ValueError, "numbers of at least 1"),
        (RAMP, RAMP, {"iterations": 0}, ValueError, "iterations must be an integer"),
        (RAMP, RAMP, {"min_overlap": 1.5}, ValueError, "min_overlap must lie between"),
        (RAMP, RAMP, {"bending": -1}, ValueError, "weight of a penalty"),
        (RAMP, RAMP, {"bending": "low"}, ValueError, "weight of a penalty"),
        (RAMP, RAMP, {"shrink_factors": 2}, ValueError, "numbers of at least 1.*got 2"),
        (RAMP, RAMP, {"min_overlap": "half"}, ValueError, "min_overlap must lie between"),
        (RAMP, RAMP, {"search": {"angle": 30}}, TypeError, "search must be True, False"),
        (
            RAMP,
            RAMP,
            {"theta": np.array([1, 0, 5, 0, 1, 0], np.float32)},
            ValueError,
            "must overlap at the start",
        ),
    ],
)
@pytest.mark.usefixtures("no_runtime_types")
def test_errors_come_at_once(fixed, moving, options, kind, message):
    with pytest.raises(kind, match=message):
        stn.register(fixed, moving, stn.affine(), **options)


@pytest.mark.usefixtures("no_runtime_types")
def test_a_transform_is_asked_for():
    with pytest.raises(TypeError, match="transform must be a Transform"):
        stn.register(RAMP, RAMP, "affine")
