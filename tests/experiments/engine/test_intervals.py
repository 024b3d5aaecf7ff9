"""Confidence intervals against SciPy, and by simulation."""

import numpy as np
import pytest
import scipy.stats

from experiments.engine import intervals


def test_interval_of_one_seed_is_wilsons():
    wrong = np.zeros((1, 1, 10_000), bool)
    wrong[:, :, :100] = True
    expected = scipy.stats.binomtest(100, 10_000).proportion_ci(method="wilson")
    np.testing.assert_allclose(intervals.interval(wrong), np.multiply(100, expected))
    none = scipy.stats.binomtest(0, 10).proportion_ci(method="wilson")
    found = intervals.interval(np.zeros((1, 1, 10), bool))
    np.testing.assert_allclose(found, np.multiply(100, none), atol=1e-12)


@pytest.mark.parametrize("share_always", [0.0, 0.5, 1.0])
def test_interval_of_copies_holds_the_truth(share_always):
    """Of the hard images some are always misread, some by chance: 95 % of intervals hold 5 %."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        chance = np.where(rng.uniform(size=500) < share_always, rng.uniform(size=500) < 0.05, 0.05)
        low, high = intervals.interval(rng.uniform(size=(1, 8, 500)) < chance)
        held += low <= 5 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_interval_of_seeds_adds_their_spread():
    wrong = np.zeros((3, 1, 10_000), bool)
    for seed, count in enumerate((100, 200, 300)):
        wrong[seed, 0, 1000 * seed : 1000 * seed + count] = True
    students_t = 4.3027 * 1 / np.sqrt(3)
    low, high = intervals.interval(wrong)
    assert low == 0
    assert 2 + students_t < high < 2 + 1.05 * students_t
