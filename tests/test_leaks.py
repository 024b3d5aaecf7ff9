"""The check for leaked tracers finds them, also where an older object holds them."""

import jax
import jax.numpy as jnp
import pytest
from leaks import checking_leaks

OLD = []


def test_a_tracer_that_an_older_object_holds_is_found():
    with checking_leaks(), pytest.raises(Exception, match=r"[Ll]eaked"):
        jax.jit(lambda x: OLD.append(x) or x)(jnp.zeros(3))
    OLD.clear()


def test_what_does_not_leak_passes():
    with checking_leaks():
        assert jax.jit(jax.grad(lambda x: jnp.sin(x)))(0.0) == 1
