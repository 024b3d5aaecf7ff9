"""The derivative rules of sampling.

Sampling is three primitives:

* ``sample``: the value of a formula at its operands;
* ``push``: the derivative of that value along tangents of the operands;
* ``pull``: the transpose of ``push``, from a cotangent of the value to cotangents of the operands.
  **The image's gradient is computed here**, by the ``pull`` of an engine.

An engine evaluates ``sample`` and ``pull``. JAX chooses the engine when it lowers a program for a
platform (:mod:`stn_jax.sampling.backends.registry`). Derivatives of every order need nothing else:

* A sum over taps is linear in the image and in the weights of each axis. So its derivative is the
  same sum with one operand replaced by its tangent.
* A sum from pixel coordinates is a sum over taps that are computed from the coordinates, and these
  from the matrix of an affine map if that is given.
* The displacement along a path is a loop over sums from pixel coordinates.
* A sum over box means is a sum from pixel coordinates in an array that is computed from the image.

Each ``vmap`` puts one batch axis in front of every operand, of the full size or of size 1. Batched
operands are therefore never reshaped, and keep their sharding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.interpreters import ad, mlir
from jaxtyping import Array

from stn_jax.sampling import meshes, primitives
from stn_jax.sampling.backends import registry
from stn_jax.sampling.backends.base import (
    FILL,
    IMAGE,
    Formula,
    Paths,
    Points,
    full_sizes,
    sum_over,
)
from stn_jax.sampling.expanded import expanded


def evaluate(formula: Formula, *operands: Array) -> Array:
    """The sum of a formula at operands without batch axes: ``[*out, channels]``."""
    return primitives.sample(formula, 0, operands)


def _push_by_parts(*both: Array, formula: Formula, batch: int, wrt: tuple[int, ...]) -> Array:
    """The derivative along tangents, as a sum of samples with operands replaced by tangents."""
    operands, tangents = both[: -len(wrt)], both[-len(wrt) :]
    given = dict(zip(wrt, tangents, strict=True))
    if isinstance(formula, Points):
        terms = []
        is_path = isinstance(formula, Paths)
        linear = [operand for operand in wrt if operand <= FILL and not is_path]
        if linear:
            terms.append(primitives.sample(formula, batch, _exchanged(operands, given, linear)))
        along = [operand for operand in wrt if operand not in linear]
        if along:
            terms.append(
                _jvp(
                    lambda *moved: expanded(formula, batch, *_replaced(operands, along, moved)),
                    [operands[k] for k in along],
                    [given[k] for k in along],
                )
            )
    else:
        terms = [
            primitives.sample(formula, batch, _exchanged(operands, given, slot))
            for slot in _slots(formula)
            if any(operand in wrt for operand in slot)
        ]
    total = functools.reduce(jnp.add, terms)
    return _of_full_size(batch, both, total)


def _of_full_size(batch: int, every: Sequence[Array], result: Array) -> Array:
    """The result with full batch axes.

    Where a tangent without a batch axis has replaced the only operand that had it, the result has
    size 1 along that axis.
    """
    shape = (*full_sizes(batch, every), *result.shape[batch:])
    return result if result.shape == shape else jnp.broadcast_to(result, shape)


def _slots(formula: Formula) -> list[tuple[int, ...]]:
    """Groups of operands; a sum over taps is linear in each group."""
    return [(IMAGE, FILL), *((source,) for source in formula.sources)]


def _exchanged(
    operands: Sequence[Array], given: dict[int, Array], slot: Sequence[int]
) -> list[Array]:
    """The operands, with those of ``slot`` replaced by the given tangents, or by zeros."""
    results = list(operands)
    slot = (IMAGE, FILL) if slot[0] <= FILL else slot
    for operand in slot:
        results[operand] = meshes.instantiated(given.get(operand), operands[operand])
    return results


# Derivative rules.


def _sample_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, formula: Formula, batch: int
) -> tuple[Array, Any]:
    value = primitives.sample(formula, batch, primals)
    wrt = [k for k, each in enumerate(tangents) if type(each) is not ad.Zero]
    if not wrt or not jnp.issubdtype(value.dtype, jnp.floating):
        return value, _no_tangent(value)
    return value, primitives.push(formula, batch, primals, wrt, [tangents[k] for k in wrt])


def _sample_transpose(cotangent: Any, *operands: Any, formula: Formula, batch: int) -> list[Any]:
    """Cotangents of the operands in which the value is linear: the image, or one axis' weights."""
    wrt = [k for k, each in enumerate(operands) if ad.is_undefined_primal(each)]
    linear = () if isinstance(formula, Paths) else (IMAGE, FILL)
    if isinstance(formula, Points) and not set(wrt) <= set(linear):
        raise NotImplementedError(
            "sampling is not linear in its coordinates, nor a path in its velocities, so it cannot "
            "be transposed in them. Use jax.vjp, which transposes the derivative."
        )
    if type(cotangent) is ad.Zero:
        return [ad.Zero(operands[k].aval) if k in wrt else None for k in range(len(operands))]
    known, avals = _zeros_for_unknown(operands)
    sizes = full_sizes(batch, [*known, cotangent])
    reduced = tuple(_reduced_to(avals[k], sizes) for k in wrt)
    results = iter(primitives.pull(formula, batch, known, wrt, reduced, cotangent))
    return [next(results) if k in wrt else None for k in range(len(operands))]


def _push_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    formula: Formula,
    batch: int,
    wrt: tuple[int, ...],
) -> tuple[Array, Any]:
    value = primitives.push_p.bind(*meshes.alike(primals), formula=formula, batch=batch, wrt=wrt)
    operands, first = primals[: -len(wrt)], primals[-len(wrt) :]
    operands_dot, first_dot = tangents[: -len(wrt)], tangents[-len(wrt) :]
    terms = []
    again = [k for k, each in enumerate(first_dot) if type(each) is not ad.Zero]
    if again:  # ``push`` is linear in its tangents.
        terms.append(
            primitives.push(
                formula, batch, operands, [wrt[k] for k in again], [first_dot[k] for k in again]
            )
        )
    moving = {k: each for k, each in enumerate(operands_dot) if type(each) is not ad.Zero}
    if moving and isinstance(formula, Points):
        names = list(moving)

        def derivative(*moved: Array) -> Array:
            each = _replaced(operands, names, moved)
            return _jvp(
                lambda *chosen: expanded(formula, batch, *_replaced(each, wrt, chosen)),
                [each[k] for k in wrt],
                first,
            )

        terms.append(_jvp(derivative, [operands[k] for k in names], list(moving.values())))
    elif moving:
        for slot in _slots(formula):
            rest = [k for k in wrt if k not in slot]
            if rest and any(k in moving for k in slot):
                directions = [first[wrt.index(k)] for k in rest]
                exchanged = _exchanged(operands, moving, slot)
                terms.append(primitives.push(formula, batch, exchanged, rest, directions))
    if not terms:
        return value, _no_tangent(value)
    return value, jnp.broadcast_to(functools.reduce(jnp.add, terms), value.shape)


def _push_transpose(
    cotangent: Any, *both: Any, formula: Formula, batch: int, wrt: tuple[int, ...]
) -> list[Any]:
    operands, tangents = both[: -len(wrt)], both[-len(wrt) :]
    unknown = [k for k, each in enumerate(both) if ad.is_undefined_primal(each)]
    results: list[Any] = [None] * len(both)
    if type(cotangent) is ad.Zero:
        for k in unknown:
            results[k] = ad.Zero(both[k].aval)
        return results
    known, avals = _zeros_for_unknown(both)
    sizes = full_sizes(batch, [*known, cotangent])
    start = len(operands)
    if any(k < start for k in unknown):
        # Second derivatives: the unknown is a tangent that replaced an operand.
        slot = [k for k in unknown if k < start]
        for k in slot:
            results[k] = jnp.zeros(avals[k].shape, avals[k].dtype)
        for operand, tangent in zip(wrt, tangents, strict=True):
            exchanged = _exchanged(known[:start], {operand: tangent}, (operand,))
            reduced = tuple(_reduced_to(avals[k], sizes) for k in slot)
            parts = primitives.pull(formula, batch, exchanged, slot, reduced, cotangent)
            for k, part in zip(slot, parts, strict=True):
                results[k] = results[k] + part
        return results
    wanted = [wrt[k - start] for k in unknown]
    reduced = tuple(_reduced_to(avals[k], sizes) for k in unknown)
    parts = primitives.pull(formula, batch, known[:start], wanted, reduced, cotangent)
    for k, part in zip(unknown, parts, strict=True):
        results[k] = part
    return results


def _pull_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    formula: Formula,
    batch: int,
    wrt: tuple[int, ...],
    reduced: primitives.Reduced,
) -> tuple[list[Array], list[Any]]:
    *operands, cotangent = primals
    *operands_dot, cotangent_dot = tangents
    values = primitives.pull(formula, batch, operands, wrt, reduced, cotangent)
    totals: list[Any] = [None] * len(wrt)

    def add(numbers: Sequence[int], parts: Sequence[Array]) -> None:
        for k, part in zip(numbers, parts, strict=True):
            totals[k] = part if totals[k] is None else totals[k] + part

    if type(cotangent_dot) is not ad.Zero:
        every = range(len(wrt))
        add(every, primitives.pull(formula, batch, operands, wrt, reduced, cotangent_dot))
    moving = {k: each for k, each in enumerate(operands_dot) if type(each) is not ad.Zero}
    if moving and isinstance(formula, Points):
        names = list(moving)

        def gradients(*moved: Array) -> list[Array]:
            return _pull_expanded(
                formula, batch, wrt, reduced, *_replaced(operands, names, moved), cotangent
            )

        parts = _jvp(gradients, [operands[k] for k in names], list(moving.values()))
        add(range(len(wrt)), parts)
    elif moving:
        for slot in _slots(formula):
            rest = [k for k, operand in enumerate(wrt) if operand not in slot]
            if rest and any(k in moving for k in slot):
                exchanged = _exchanged(operands, moving, slot)
                sums = tuple(reduced[k] for k in rest)
                add(
                    rest,
                    primitives.pull(
                        formula, batch, exchanged, [wrt[k] for k in rest], sums, cotangent
                    ),
                )
    tangents_out = [
        _no_tangent(value) if total is None else jnp.broadcast_to(total, value.shape)
        for value, total in zip(values, totals, strict=True)
    ]
    return values, tangents_out


def _pull_expanded(
    formula: Points, batch: int, wrt: Sequence[int], reduced: primitives.Reduced, *both: Array
) -> list[Array]:
    """The cotangents, computed from the expanded sum, which can be differentiated once more."""
    *operands, cotangent = both
    sizes = full_sizes(batch, both)
    chosen = []
    for k, sums in zip(wrt, reduced, strict=True):
        own = operands[k].shape[:batch]
        leading = [n if s else size for n, s, size in zip(own, sums, sizes, strict=True)]
        chosen.append(jnp.broadcast_to(operands[k], (*leading, *operands[k].shape[batch:])))
    _, pull_back = jax.vjp(
        lambda *chosen: expanded(formula, batch, *_replaced(operands, wrt, chosen)), *chosen
    )
    return [sum_over(each, sums) for each, sums in zip(pull_back(cotangent), reduced, strict=True)]


def _pull_transpose(
    cotangents: Any,
    *both: Any,
    formula: Formula,
    batch: int,
    wrt: tuple[int, ...],
    reduced: primitives.Reduced,
) -> list[Any]:
    unknown = [k for k, each in enumerate(both) if ad.is_undefined_primal(each)]
    results: list[Any] = [None] * len(both)
    given = {
        operand: each
        for operand, each in zip(wrt, cotangents, strict=True)
        if type(each) is not ad.Zero
    }
    if not given:
        for k in unknown:
            results[k] = ad.Zero(both[k].aval)
        return results
    known, avals = _zeros_for_unknown(both)
    *operands, cotangent = known
    last = len(operands)
    if unknown == [last]:
        result = primitives.push(formula, batch, operands, list(given), list(given.values()))
        results[last] = jnp.broadcast_to(result, avals[last].shape)
        return results
    # Second derivatives: the unknown is a tangent that replaced an operand.
    slot = [k for k in unknown if k < last]
    sizes = full_sizes(batch, [*known, *given.values()])
    sums = tuple(_reduced_to(avals[k], sizes) for k in slot)
    for group in _slots(formula):
        if any(k in given for k in group):
            exchanged = _exchanged(operands, given, group)
            parts = primitives.pull(formula, batch, exchanged, slot, sums, cotangent)
            for k, part in zip(slot, parts, strict=True):
                results[k] = part if results[k] is None else results[k] + part
    return results


def _jvp(function: Callable[..., Any], primals: Sequence[Array], tangents: Sequence[Array]) -> Any:
    """The derivative along tangents; batch axes of size 1 are broadcast first."""
    shapes = [
        jnp.broadcast_shapes(p.shape, t.shape) for p, t in zip(primals, tangents, strict=True)
    ]
    primals, tangents = (
        [jnp.broadcast_to(each, shape) for each, shape in zip(arrays, shapes, strict=True)]
        for arrays in (primals, tangents)
    )
    return jax.jvp(function, primals, tangents)[1]


def _no_tangent(value: Array) -> Any:
    return ad.Zero(jax.typeof(value).to_tangent_aval())


def _zeros_for_unknown(operands: Sequence[Any]) -> tuple[list[Array], list[Any]]:
    """Operands with zeros in place of the unknown ones, and the type of each operand."""
    avals = [each.aval if ad.is_undefined_primal(each) else jax.typeof(each) for each in operands]
    known = [
        meshes.zeros(aval) if ad.is_undefined_primal(each) else each
        for each, aval in zip(operands, avals, strict=True)
    ]
    return known, avals


def _reduced_to(aval: Any, sizes: Sequence[Any]) -> tuple[bool, ...]:
    """For each batch axis, whether a cotangent is summed over it to fit the operand's shape."""
    return tuple(aval.shape[axis] == 1 and size != 1 for axis, size in enumerate(sizes))


def _replaced(
    operands: Sequence[Array], numbers: Sequence[int], values: Sequence[Array]
) -> list[Array]:
    results = list(operands)
    for k, value in zip(numbers, values, strict=True):
        results[k] = value
    return results


for _primitive, _jvp_rule, _transpose_rule in (
    (primitives.sample_p, _sample_jvp, _sample_transpose),
    (primitives.push_p, _push_jvp, _push_transpose),
    (primitives.pull_p, _pull_jvp, _pull_transpose),
):
    ad.primitive_jvps[_primitive] = _jvp_rule
    ad.primitive_transposes[_primitive] = _transpose_rule
mlir.register_lowering(primitives.push_p, mlir.lower_fun(_push_by_parts, multiple_results=False))


def _sample_by_steps(*operands: Array, formula: Points, batch: int) -> Array:
    return expanded(formula, batch, *operands)


def _pull_by_steps(
    *both: Array, formula: Points, batch: int, wrt: tuple[int, ...], reduced: primitives.Reduced
) -> list[Array]:
    return _pull_expanded(formula, batch, wrt, reduced, *both)


for _which, _primitive, _step_by_step in (
    ("sample", primitives.sample_p, mlir.lower_fun(_sample_by_steps, multiple_results=False)),
    ("pull", primitives.pull_p, mlir.lower_fun(_pull_by_steps, multiple_results=True)),
):
    for _platform in registry.PLATFORMS:
        _lowering = functools.partial(registry.lower, _which, _platform, _step_by_step)
        mlir.register_lowering(_primitive, _lowering, platform=_platform)
