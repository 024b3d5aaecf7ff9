"""The head of the experiments' localization networks."""

import functools

from stn_jax import nn as stnn

# The paper's. The rates of the experiments, and the results that are kept, are of this head.
plain_head = functools.partial(stnn.RegressionHead, scale=1.0)
