"""Marks that run a test for every member, and compiled calls of a transform."""

import functools

import jax
import jax.numpy as jnp
import pytest
from families import MEMBERS


def parametrize(names):
    marks = {name: [pytest.mark.slow] * MEMBERS[name].slow for name in names}
    return pytest.mark.parametrize("member", [pytest.param(n, marks=m) for n, m in marks.items()])


every_member = parametrize(MEMBERS)
every_member_with_an_identity = parametrize([n for n, each in MEMBERS.items() if each.has_identity])


@functools.partial(jax.jit, static_argnums=0)
def apply(t, theta, points):
    return t.apply(theta, points)


@functools.partial(jax.jit, static_argnums=0)
def invert(t, theta, points):
    return t.invert(theta, points)


@functools.partial(jax.jit, static_argnums=0)
def first_derivatives(t, theta, points):
    """With respect to theta and to the points, in reverse and in forward mode."""
    return [mode(t.apply, (0, 1))(theta, points) for mode in (jax.jacrev, jax.jacfwd)]


@functools.partial(jax.jit, static_argnums=0)
def second_derivatives(t, operands, along):
    """The gradient of a function of the map, and its derivative along a direction, three ways."""

    def value(theta, points):
        return jnp.sum(jnp.sin(t.apply(theta, points)))

    def slope(*operands):
        return jax.jvp(value, operands, along)[1]

    def product(*operands):
        gradient = jax.grad(value, (0, 1))(*operands)
        return sum(jnp.sum(a * b) for a, b in zip(gradient, along, strict=True))

    gradient, forward_reverse = jax.jvp(jax.grad(value, (0, 1)), operands, along)
    reverse_forward, reverse_reverse = (jax.grad(f, (0, 1))(*operands) for f in (slope, product))
    return gradient, (forward_reverse, reverse_forward, reverse_reverse)


def single(*arrays):
    return [jnp.asarray(array, jnp.float32) for array in arrays]
