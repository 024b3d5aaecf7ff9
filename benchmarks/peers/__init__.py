"""Ways to make the same warp: this library's and those of others, as contenders."""

import os

# An accelerator's memory is shared with PyTorch.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
# The profiler, which tells how much memory PyTorch takes, would log each of its starts.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
