"""The arrays and sizes that public functions take."""

from typing import Any

import jax
import numpy as np

AnyArray = jax.Array | np.ndarray

# The size of an axis: an integer, or a symbol while a program is exported for any size.
Size = Any
