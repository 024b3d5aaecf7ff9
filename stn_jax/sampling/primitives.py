"""The three JAX primitives of sampling: result types and batching rules.

:mod:`stn_jax.sampling.derivatives` describes the three, and holds their derivative rules and
lowerings.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching
from jaxtyping import Array

from stn_jax.sampling import meshes
from stn_jax.sampling.backends.base import IMAGE, Formula, full_sizes

Reduced = tuple[tuple[bool, ...], ...]


def sample(formula: Formula, batch: int, operands: Sequence[Array]) -> Array:
    """The value of a formula at operands with batch axes."""
    operands = meshes.alike(operands)
    return sample_p.bind(*operands, formula=formula, batch=batch)


def push(
    formula: Formula,
    batch: int,
    operands: Sequence[Array],
    wrt: Sequence[int],
    tangents: Sequence[Array],
) -> Array:
    """The derivative of the value along tangents of the operands named by ``wrt``."""
    both = meshes.alike([*operands, *tangents])
    return push_p.bind(*both, formula=formula, batch=batch, wrt=tuple(wrt))


def pull(
    formula: Formula,
    batch: int,
    operands: Sequence[Array],
    wrt: Sequence[int],
    reduced: Reduced,
    cotangent: Array,
) -> list[Array]:
    """The cotangents of the operands named by ``wrt``.

    ``reduced`` says, for each of them and each batch axis, whether to sum over that axis.
    """
    both = meshes.alike([*operands, cotangent])
    return pull_p.bind(*both, formula=formula, batch=batch, wrt=tuple(wrt), reduced=tuple(reduced))


# Result types.


def _sample_aval(*operands: Any, formula: Formula, batch: int) -> Any:
    shape = meshes.shape_of_value(formula, batch, operands)
    spec = meshes.spec_of_value(formula, batch, operands)
    return meshes.updated(operands[2], shape, operands[IMAGE].dtype, spec)


def _push_aval(*both: Any, formula: Formula, batch: int, wrt: tuple[int, ...]) -> Any:
    operands, tangents = both[: -len(wrt)], both[-len(wrt) :]
    sizes = full_sizes(batch, both)
    shape = (*sizes, *meshes.shape_of_value(formula, batch, operands)[batch:])
    spec = meshes.spec_of_value(formula, batch, operands, wrt, tangents)
    return meshes.updated(operands[2], shape, operands[IMAGE].dtype, spec)


def _pull_avals(
    *both: Any, formula: Formula, batch: int, wrt: tuple[int, ...], reduced: Reduced
) -> Any:
    *operands, cotangent = both
    sizes = full_sizes(batch, both)
    specs = meshes.specs_of_operands(formula, batch, operands, wrt, reduced, cotangent)
    avals = []
    for operand, sums, spec in zip(wrt, reduced, specs, strict=True):
        aval = operands[operand]
        leading = tuple(1 if s else size for s, size in zip(sums, sizes, strict=True))
        avals.append(meshes.updated(aval, (*leading, *aval.shape[batch:]), aval.dtype, spec))
    return avals


# Batching rules.


def _in_front(operands: Sequence[Array], dims: Sequence[int | None]) -> list[Array]:
    """The operands with the new batch axis in front; of size 1 for operands without that axis."""
    return [
        jnp.expand_dims(each, 0) if dim is None else jnp.moveaxis(each, dim, 0)
        for each, dim in zip(operands, dims, strict=True)
    ]


def _sample_batch(
    axis_data: Any, operands: Any, dims: Any, *, formula: Formula, batch: int
) -> tuple[Array, int | None]:
    if all(dim is None for dim in dims):
        return sample(formula, batch, operands), None
    return sample(formula, batch + 1, _in_front(operands, dims)), 0


def _push_batch(
    axis_data: Any, both: Any, dims: Any, *, formula: Formula, batch: int, wrt: tuple[int, ...]
) -> tuple[Array, int | None]:
    options = {"formula": formula, "wrt": wrt}
    if all(dim is None for dim in dims):
        return push_p.bind(*meshes.alike(both), batch=batch, **options), None
    both = meshes.alike(_in_front(both, dims))
    return push_p.bind(*both, batch=batch + 1, **options), 0


def _pull_batch(
    axis_data: Any,
    both: Any,
    dims: Any,
    *,
    formula: Formula,
    batch: int,
    wrt: tuple[int, ...],
    reduced: Reduced,
) -> tuple[list[Array], list[int | None]]:
    *operands, cotangent = both
    if all(dim is None for dim in dims):
        return pull(formula, batch, operands, wrt, reduced, cotangent), [None] * len(wrt)
    *operands, cotangent = _in_front(both, dims)
    # Each entry of the new axis has a gradient of its own: do not sum over it.
    reduced = tuple((False, *each) for each in reduced)
    return pull(formula, batch + 1, operands, wrt, reduced, cotangent), [0] * len(wrt)


# The primitives.


@functools.lru_cache(maxsize=1024)
def _compiled(primitive: Primitive, parameters: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(functools.partial(primitive.bind, **dict(parameters)))


def _primitive(
    name: str,
    aval: Callable[..., Any],
    batch: Callable[..., Any],
    *,
    multiple_results: bool = False,
) -> Primitive:
    primitive = Primitive(f"stn_jax_{name}")
    primitive.multiple_results = multiple_results

    def run(*operands: Array, **parameters: Any) -> Any:
        # Compile under disable_jit too: without jit this function would call itself forever.
        with jax.disable_jit(False):
            return _compiled(primitive, tuple(parameters.items()))(*operands)

    primitive.def_impl(run)
    primitive.def_abstract_eval(aval)
    batching.fancy_primitive_batchers[primitive] = batch
    return primitive


sample_p = _primitive("sample", _sample_aval, _sample_batch)
push_p = _primitive("push", _push_aval, _push_batch)
pull_p = _primitive("pull", _pull_avals, _pull_batch, multiple_results=True)
