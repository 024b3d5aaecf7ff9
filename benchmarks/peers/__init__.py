"""The contenders: this library and others, each making the same warp."""

import os

# JAX must not reserve all memory of an accelerator, as PyTorch needs some.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.45")
# PyTorch's profiler, which measures memory, logs each of its starts otherwise.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
