"""The one derivative rule of sampling, and how sampling composes with JAX's transformations.

Sampling is three primitives:

* ``sample``: the value of a formula at its operands;
* ``push``: its derivative along tangents of the operands, linear in them;
* ``pull``: the transpose of ``push``, from a cotangent of the value to cotangents of the operands.
  **The image's gradient is computed here**, by the ``pull`` of an engine.

An engine evaluates ``sample`` and ``pull``; which one is chosen when a program is lowered for a
platform (:mod:`stn_jax.sampling.backends.registry`). All else follows from two facts. A sum over
taps is linear in the image and in the weights of each axis, so its derivatives, of every order, are
the same sum with operands exchanged. And the sum from pixel coordinates is the sum over taps that
are computed from them.

Operands carry batch axes in front, one for each ``vmap`` around, each of the full size or of size
1; so a batched operand is never reshaped, and what is sharded stays so.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from stn_jax.sampling import meshes
from stn_jax.sampling.backends import registry
from stn_jax.sampling.backends.base import FILL, IMAGE, Formula, Points
from stn_jax.sampling.backends.batching import full_sizes, sum_over

Reduced = tuple[tuple[bool, ...], ...]


def evaluate(formula: Formula, *operands: Array) -> Array:
    """The sum of a formula at operands without batch axes: ``[*out, channels]``."""
    return _sample(formula, 0, operands)


def _sample(formula: Formula, batch: int, operands: Sequence[Array]) -> Array:
    operands = meshes.alike(operands)
    return sample_p.bind(*operands, formula=formula, batch=batch)


def _push(
    formula: Formula,
    batch: int,
    operands: Sequence[Array],
    wrt: Sequence[int],
    tangents: Sequence[Array],
) -> Array:
    both = meshes.alike([*operands, *tangents])
    return push_p.bind(*both, formula=formula, batch=batch, wrt=tuple(wrt))


def _pull(
    formula: Formula,
    batch: int,
    operands: Sequence[Array],
    wrt: Sequence[int],
    reduced: Reduced,
    cotangent: Array,
) -> list[Array]:
    both = meshes.alike([*operands, cotangent])
    return pull_p.bind(*both, formula=formula, batch=batch, wrt=tuple(wrt), reduced=tuple(reduced))


# What the primitives give.


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


# What is evaluated where no engine has anything faster.


def _push_by_parts(*both: Array, formula: Formula, batch: int, wrt: tuple[int, ...]) -> Array:
    """The derivative along tangents as a sum of samples: one for each operand that is linear."""
    operands, tangents = both[: -len(wrt)], both[-len(wrt) :]
    if isinstance(formula, Points):
        given = dict(zip(wrt, tangents, strict=True))
        terms = []
        linear = [operand for operand in wrt if operand <= FILL]
        if linear:
            terms.append(_sample(formula, batch, _exchanged(operands, given, linear)))
        along = [operand for operand in wrt if operand > FILL]
        if along:
            terms.append(
                _jvp(
                    lambda *pixels: _by_taps(formula, batch, *_replaced(operands, along, pixels)),
                    [operands[k] for k in along],
                    [given[k] for k in along],
                )
            )
        return functools.reduce(jnp.add, terms)
    return functools.reduce(
        jnp.add,
        [
            _sample(formula, batch, _exchanged(operands, dict(zip(wrt, tangents, strict=True)), s))
            for s in _slots(formula)
            if any(operand in wrt for operand in s)
        ],
    )


def _slots(formula: Formula) -> list[tuple[int, ...]]:
    """The groups of operands in each of which a sum over taps is linear."""
    return [(IMAGE, FILL), *((source,) for source in formula.sources)]


def _exchanged(
    operands: Sequence[Array], given: dict[int, Array], slot: Sequence[int]
) -> list[Array]:
    """The operands with those of a slot exchanged for what is given; zero where nothing is."""
    results = list(operands)
    slot = (IMAGE, FILL) if slot[0] <= FILL else slot
    for operand in slot:
        results[operand] = meshes.instantiated(given.get(operand), operands[operand])
    return results


def _by_taps(formula: Points, batch: int, *operands: Array) -> Array:
    """The sum from pixel coordinates, as one over taps computed from them."""
    image, fill, *pixels = operands
    sizes = image.shape[batch:-1][::-1]
    indices, weights = [], []
    for pixel, size in zip(pixels, sizes, strict=True):
        taps = formula.taps_of(pixel, size)
        stacked = [
            tap.index if tap.inside is None else jnp.where(tap.inside, tap.index, -1)
            for tap in taps
        ]
        indices.append(jnp.stack(stacked, axis=batch))
        weights.append(jnp.stack([tap.weight for tap in taps], axis=batch))
    return _sample(formula.over_taps(), batch, (image, fill, *indices, *weights))


# Derivatives.


def _sample_jvp(
    primals: Sequence[Array], tangents: Sequence[Any], *, formula: Formula, batch: int
) -> tuple[Array, Any]:
    value = _sample(formula, batch, primals)
    wrt = [k for k, each in enumerate(tangents) if type(each) is not ad.Zero]
    if not wrt or not jnp.issubdtype(value.dtype, jnp.floating):
        return value, _no_tangent(value)
    return value, _push(formula, batch, primals, wrt, [tangents[k] for k in wrt])


def _sample_transpose(cotangent: Any, *operands: Any, formula: Formula, batch: int) -> list[Any]:
    """For operands in which the value is linear: the image, or one axis' weights."""
    wrt = [k for k, each in enumerate(operands) if ad.is_undefined_primal(each)]
    if type(cotangent) is ad.Zero:
        return [ad.Zero(operands[k].aval) if k in wrt else None for k in range(len(operands))]
    known, avals = _zeros_for_unknown(operands)
    sizes = full_sizes(batch, [*known, cotangent])
    reduced = tuple(_reduced_to(avals[k], sizes) for k in wrt)
    results = iter(_pull(formula, batch, known, wrt, reduced, cotangent))
    return [next(results) if k in wrt else None for k in range(len(operands))]


def _push_jvp(
    primals: Sequence[Array],
    tangents: Sequence[Any],
    *,
    formula: Formula,
    batch: int,
    wrt: tuple[int, ...],
) -> tuple[Array, Any]:
    value = push_p.bind(*meshes.alike(primals), formula=formula, batch=batch, wrt=wrt)
    operands, first = primals[: -len(wrt)], primals[-len(wrt) :]
    operands_dot, first_dot = tangents[: -len(wrt)], tangents[-len(wrt) :]
    terms = []
    again = [k for k, each in enumerate(first_dot) if type(each) is not ad.Zero]
    if again:  # Linear in the tangents.
        terms.append(
            _push(formula, batch, operands, [wrt[k] for k in again], [first_dot[k] for k in again])
        )
    moving = {k: each for k, each in enumerate(operands_dot) if type(each) is not ad.Zero}
    if moving and isinstance(formula, Points):
        names = list(moving)

        def derivative(*moved: Array) -> Array:
            each = _replaced(operands, names, moved)
            return _jvp(
                lambda *chosen: _by_taps(formula, batch, *_replaced(each, wrt, chosen)),
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
                terms.append(_push(formula, batch, exchanged, rest, directions))
    if not terms:
        return value, _no_tangent(value)
    return value, functools.reduce(jnp.add, terms)


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
        # Linear in an operand that a derivative put in the place of another: second derivatives.
        slot = [k for k in unknown if k < start]
        for k in slot:
            results[k] = jnp.zeros(avals[k].shape, avals[k].dtype)
        for operand, tangent in zip(wrt, tangents, strict=True):
            exchanged = _exchanged(known[:start], {operand: tangent}, (operand,))
            reduced = tuple(_reduced_to(avals[k], sizes) for k in slot)
            parts = _pull(formula, batch, exchanged, slot, reduced, cotangent)
            for k, part in zip(slot, parts, strict=True):
                results[k] = results[k] + part
        return results
    wanted = [wrt[k - start] for k in unknown]
    reduced = tuple(_reduced_to(avals[k], sizes) for k in unknown)
    parts = _pull(formula, batch, known[:start], wanted, reduced, cotangent)
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
    reduced: Reduced,
) -> tuple[list[Array], list[Any]]:
    *operands, cotangent = primals
    *operands_dot, cotangent_dot = tangents
    values = _pull(formula, batch, operands, wrt, reduced, cotangent)
    totals: list[Any] = [None] * len(wrt)

    def add(numbers: Sequence[int], parts: Sequence[Array]) -> None:
        for k, part in zip(numbers, parts, strict=True):
            totals[k] = part if totals[k] is None else totals[k] + part

    if type(cotangent_dot) is not ad.Zero:
        every = range(len(wrt))
        add(every, _pull(formula, batch, operands, wrt, reduced, cotangent_dot))
    moving = {k: each for k, each in enumerate(operands_dot) if type(each) is not ad.Zero}
    if moving and isinstance(formula, Points):
        names = list(moving)

        def gradients(*moved: Array) -> list[Array]:
            return _pull_by_taps(
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
                add(rest, _pull(formula, batch, exchanged, [wrt[k] for k in rest], sums, cotangent))
    tangents_out = [
        _no_tangent(value) if total is None else total
        for value, total in zip(values, totals, strict=True)
    ]
    return values, tangents_out


def _pull_by_taps(
    formula: Points, batch: int, wrt: Sequence[int], reduced: Reduced, *both: Array
) -> list[Array]:
    """The cotangents as those of the sum over taps, which can be differentiated once more."""
    *operands, cotangent = both
    sizes = full_sizes(batch, both)
    chosen = []
    for k, sums in zip(wrt, reduced, strict=True):
        own = operands[k].shape[:batch]
        leading = [n if s else size for n, s, size in zip(own, sums, sizes, strict=True)]
        chosen.append(jnp.broadcast_to(operands[k], (*leading, *operands[k].shape[batch:])))
    _, pull_back = jax.vjp(
        lambda *chosen: _by_taps(formula, batch, *_replaced(operands, wrt, chosen)), *chosen
    )
    return [sum_over(each, sums) for each, sums in zip(pull_back(cotangent), reduced, strict=True)]


def _pull_transpose(
    cotangents: Any,
    *both: Any,
    formula: Formula,
    batch: int,
    wrt: tuple[int, ...],
    reduced: Reduced,
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
        results[last] = _push(formula, batch, operands, list(given), list(given.values()))
        return results
    # Linear in an operand that a derivative put in the place of another: second derivatives.
    slot = [k for k in unknown if k < last]
    sizes = full_sizes(batch, [*known, *given.values()])
    sums = tuple(_reduced_to(avals[k], sizes) for k in slot)
    for group in _slots(formula):
        if any(k in given for k in group):
            exchanged = _exchanged(operands, given, group)
            parts = _pull(formula, batch, exchanged, slot, sums, cotangent)
            for k, part in zip(slot, parts, strict=True):
                results[k] = part if results[k] is None else results[k] + part
    return results


def _jvp(function: Callable[..., Any], primals: Sequence[Array], tangents: Sequence[Array]) -> Any:
    """The derivative along tangents; they and the primals may have batch axes of size 1."""
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
    """Operands with zeros in place of what is to be found, and what each is like."""
    avals = [each.aval if ad.is_undefined_primal(each) else jax.typeof(each) for each in operands]
    known = [
        meshes.zeros(aval) if ad.is_undefined_primal(each) else each
        for each, aval in zip(operands, avals, strict=True)
    ]
    return known, avals


def _reduced_to(aval: Any, sizes: Sequence[Any]) -> tuple[bool, ...]:
    """Along which batch axes a cotangent is summed to have the shape of its operand."""
    return tuple(aval.shape[axis] == 1 and size != 1 for axis, size in enumerate(sizes))


def _replaced(
    operands: Sequence[Array], numbers: Sequence[int], values: Sequence[Array]
) -> list[Array]:
    results = list(operands)
    for k, value in zip(numbers, values, strict=True):
        results[k] = value
    return results


# Batches.


def _in_front(axis_data: Any, operands: Sequence[Array], dims: Sequence[int | None]) -> list[Array]:
    """The operands with the new batch axis in front, of size 1 where an operand has none."""
    return [
        jnp.expand_dims(each, 0) if dim is None else jnp.moveaxis(each, dim, 0)
        for each, dim in zip(operands, dims, strict=True)
    ]


def _sample_batch(
    axis_data: Any, operands: Any, dims: Any, *, formula: Formula, batch: int
) -> tuple[Array, int | None]:
    if all(dim is None for dim in dims):
        return _sample(formula, batch, operands), None
    return _sample(formula, batch + 1, _in_front(axis_data, operands, dims)), 0


def _push_batch(
    axis_data: Any, both: Any, dims: Any, *, formula: Formula, batch: int, wrt: tuple[int, ...]
) -> tuple[Array, int | None]:
    options = {"formula": formula, "wrt": wrt}
    if all(dim is None for dim in dims):
        return push_p.bind(*meshes.alike(both), batch=batch, **options), None
    both = meshes.alike(_in_front(axis_data, both, dims))
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
        return _pull(formula, batch, operands, wrt, reduced, cotangent), [None] * len(wrt)
    *operands, cotangent = _in_front(axis_data, both, dims)
    # A batch of gradients: none is summed over the new axis.
    reduced = tuple((False, *each) for each in reduced)
    return _pull(formula, batch + 1, operands, wrt, reduced, cotangent), [0] * len(wrt)


# Programs.


@functools.lru_cache(maxsize=1024)
def _compiled(primitive: Primitive, parameters: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    return jax.jit(functools.partial(primitive.bind, **dict(parameters)))


def _primitive(
    name: str,
    aval: Callable[..., Any],
    jvp: Callable[..., Any],
    transpose: Callable[..., Any],
    batch: Callable[..., Any],
    lowering: Callable[..., Any],
    *,
    platforms: Sequence[str | None],
    multiple_results: bool = False,
) -> Primitive:
    primitive = Primitive(f"stn_jax_{name}")
    primitive.multiple_results = multiple_results

    def run(*operands: Array, **parameters: Any) -> Any:
        # Compiled also under disable_jit, where jit would call this function again.
        with jax.disable_jit(False):
            return _compiled(primitive, tuple(parameters.items()))(*operands)

    primitive.def_impl(run)
    primitive.def_abstract_eval(aval)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.fancy_primitive_batchers[primitive] = batch
    for platform in platforms:
        mlir.register_lowering(primitive, lowering(platform), platform=platform)
    return primitive


def _lowered_by_engine(which: str) -> Callable[[str | None], Any]:
    return lambda platform: functools.partial(registry.lower, which, platform)


sample_p = _primitive(
    "sample",
    _sample_aval,
    _sample_jvp,
    _sample_transpose,
    _sample_batch,
    _lowered_by_engine("sample"),
    platforms=registry.PLATFORMS,
)
push_p = _primitive(
    "push",
    _push_aval,
    _push_jvp,
    _push_transpose,
    _push_batch,
    lambda platform: mlir.lower_fun(_push_by_parts, multiple_results=False),
    platforms=[None],
)
pull_p = _primitive(
    "pull",
    _pull_avals,
    _pull_jvp,
    _pull_transpose,
    _pull_batch,
    _lowered_by_engine("pull"),
    platforms=registry.PLATFORMS,
    multiple_results=True,
)
