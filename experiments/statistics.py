"""Error rates with honest intervals."""

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

INTERVAL_METHOD = (
    "95 %: Wilson's interval for the finite test set; with several seeds Student's t interval of "
    "their mean is added in quadrature"
)


def interval(errors: Sequence[float], test_images: int) -> tuple[float, float]:
    """The 95 % interval of a mean test error.

    Args:
      errors: Test error in percent of each seed, all on the same test images.
      test_images: Number of test images.

    Returns:
      Lower and upper end in percent. The spread over seeds is unknown from one seed, whose
      interval holds the chance in the test images alone.
    """
    mean = float(np.mean(errors))
    wilson = stats.binomtest(round(mean / 100 * test_images), test_images).proportion_ci(
        method="wilson"
    )
    below, above = mean - 100 * wilson.low, 100 * wilson.high - mean
    over_seeds = 0.0
    if len(errors) > 1:
        quantile = stats.t.ppf(0.975, len(errors) - 1)
        over_seeds = quantile * float(np.std(errors, ddof=1)) / math.sqrt(len(errors))
    return max(0.0, mean - math.hypot(below, over_seeds)), min(
        100.0, mean + math.hypot(above, over_seeds)
    )
