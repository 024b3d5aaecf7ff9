"""Pictures for the pages and the README, drawn from result files in the repository."""

import numpy as np
from matplotlib.figure import Figure

from experiments.invariance.report import InvarianceResult
from experiments.report import figures


def invariance(record: InvarianceResult) -> Figure:
    """Test error against the angle of the test digits."""
    names = [model.name for model in record.models]
    return figures.errors_by_angle(names, record.angles, np.array(record.errors))
