"""Evaluation in batches of one size, so that a function is compiled once."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Integer


def in_batches(
    function: Callable[[Integer[np.ndarray, " size"]], Any],
    total: int,
    size: int,
    *,
    axis: int = 0,
) -> Any:
    """Calls a function on ``0 … total - 1``, ``size`` numbers at a time; joins the results.

    Args:
      function: Takes numbers of examples; gives arrays, or a tree of arrays, of their results.
      total: How many examples there are.
      size: Numbers in a call. The last call is padded with the first numbers; the results of the
        padding are dropped.
      axis: The axis of the examples in the results.

    Returns:
      NumPy arrays with ``total`` examples along ``axis``.
    """
    parts = [
        jax.tree.map(np.asarray, function((first + np.arange(size)) % total))
        for first in range(0, total, size)
    ]
    return jax.tree.map(
        lambda *each: np.take(np.concatenate(each, axis=axis), np.arange(total), axis=axis), *parts
    )
