"""The head of the experiments' localization networks."""

import functools

from stn_jax import nn as stnn

# The paper's head. The experiments' learning rates were chosen, and their results made, with it.
plain_head = functools.partial(stnn.RegressionHead, scale=1.0)
