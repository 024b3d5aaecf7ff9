"""Confidence intervals of error rates."""

import math

import numpy as np
from jaxtyping import Bool
from scipy import stats

INTERVAL_METHOD = (
    "95 %: Wilson's interval at the effective number of test images, as the copies of one image "
    "are not independent; with several seeds Student's t interval of their mean is added in "
    "quadrature"
)


def interval(wrong: Bool[np.ndarray, "seeds copies images"]) -> tuple[float, float]:
    """The 95 % interval of a mean test error.

    The copies of one test image are a cluster. The effective number of test images is the number of
    independent ones whose mean error has the same variance (Korn and Graubard, Confidence Intervals
    for Proportions with Small Expected Number of Positive Counts, 1998). With one copy and one seed
    it is the number of images.

    Args:
      wrong: Whether the model of each seed misclassified each copy of each test image.

    Returns:
      Lower and upper end in percent. With one seed the interval covers the choice of test images,
      but not the spread over seeds.
    """
    by_image = wrong.mean(axis=(0, 1))
    rate, spread = by_image.mean(), by_image.var()
    images = len(by_image) * (rate * (1 - rate) / spread if spread else 1.0)
    below, above = _wilson(rate, images)
    seeds = len(wrong)
    over_seeds = 0.0
    if seeds > 1:
        deviation = wrong.mean(axis=(1, 2)).std(ddof=1)
        over_seeds = stats.t.ppf(0.975, seeds - 1) * deviation / math.sqrt(seeds)
    low = rate - math.hypot(rate - below, over_seeds)
    high = rate + math.hypot(above - rate, over_seeds)
    return 100 * max(0.0, low), 100 * min(1.0, high)


def _wilson(rate: float, trials: float) -> tuple[float, float]:
    """Wilson's 95 % score interval; the number of trials need not be whole."""
    z2 = stats.norm.ppf(0.975) ** 2
    centre = (rate + z2 / (2 * trials)) / (1 + z2 / trials)
    half = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2))) / (1 + z2 / trials)
    return centre - half, centre + half
