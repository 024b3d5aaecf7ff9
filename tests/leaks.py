"""JAX's check for leaked tracers, for processes that hold much."""

import contextlib
import gc

import jax


@contextlib.contextmanager
def checking_leaks():
    """``jax.checking_leaks``, but fast in a process of many objects.

    JAX collects garbage for each trace of a function with a ``custom_jvp``, and then looks for its
    tracers. A worker that has run a thousand tests holds so many objects that a test took a
    minute. Objects that are older than the check are no tracers of it, so they are left out of
    both.
    """
    gc.collect()
    gc.freeze()
    try:
        with jax.checking_leaks():
            yield
    finally:
        gc.unfreeze()
