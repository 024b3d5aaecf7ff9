"""Shapes, shardings and varying mesh axes of the sampling primitives' operands and results.

JAX has three kinds of mesh axes. Along an Auto axis the compiler finds the sharding. Along an
Explicit axis the sharding is part of an array's type, so this file computes it for every result.
Along a Manual axis, inside ``shard_map``, an array's type says whether its values vary; all
operands of a primitive must then vary along the same axes.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.interpreters import ad, mlir
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from stn_jax.sampling.backends.base import IMAGE, Formula, full_sizes

# The mesh axis, or axes, that one array axis is sharded over; None if it is not sharded.
Entry = Any


def on_one_mesh(operands: Sequence[Array]) -> list[Array]:
    """The operands, all of them on the Explicit mesh that one of them lies on.

    The type of a constant made outside the mesh names no mesh, and a function traced for such a
    type cannot be batched over the mesh.
    """
    avals = [jax.typeof(each) for each in operands]
    mesh = next((aval.sharding.mesh for aval in avals if explicit_axes([aval])), None)
    if mesh is None:
        return list(operands)
    whole = NamedSharding(mesh, P())
    return [
        jax.sharding.reshard(each, whole) if aval.sharding.mesh.empty else each
        for each, aval in zip(operands, avals, strict=True)
    ]


def sharded_as_channels(fill: Array, image: Array) -> Array:
    """The fill value ``[channels]``, sharded over Explicit mesh axes as the image's channels."""
    aval = jax.typeof(image)
    entry = aval.sharding.spec[-1] if explicit_axes([aval]) and aval.sharding.spec else None
    if entry is None:
        return fill
    return jax.sharding.reshard(fill, NamedSharding(aval.sharding.mesh, P(entry)))


def alike(operands: Sequence[Array]) -> list[Array]:
    """The operands, cast so that all vary over the same Manual mesh axes."""
    varying = [_varying(each) for each in operands]
    every = frozenset().union(*varying)
    return [
        each if own == every else _cast_to_vary(each, tuple(sorted(every - own)))
        for each, own in zip(operands, varying, strict=True)
    ]


def _varying(operand: Array) -> frozenset[str]:
    aval = jax.typeof(operand)
    # In JAX 0.8.1 the attribute is vma.
    return aval.mat.varying if hasattr(aval, "mat") else aval.vma


def _cast_to_vary(operand: Array, axes: tuple[str, ...]) -> Array:
    # JAX 0.8.1 has pvary in its place.
    if hasattr(jax.lax, "pcast"):
        return jax.lax.pcast(operand, axes, to="varying")
    return jax.lax.pvary(operand, axes)  # type: ignore[attr-defined]


def zeros(aval: Any) -> Array:
    """Zeros of the given type, with its sharding and varying axes."""
    return ad.instantiate_zeros(ad.Zero(aval))


def instantiated(tangent: Array | None, operand: Any) -> Array:
    """The tangent, or zeros like the operand if there is none."""
    return zeros(jax.typeof(operand)) if tangent is None else tangent


def names_of_operands(
    formula: Formula, batch: int, operands: Sequence[Any]
) -> list[tuple[str, ...]]:
    """A name for each axis of each operand; axes of the same name have the same size, or size 1."""
    leading = tuple(f"batch {axis}" for axis in range(batch))
    return [(*leading, *names) for names in formula.axes(_points(formula, batch, operands))]


def names_of_value(formula: Formula, batch: int, operands: Sequence[Any]) -> tuple[str, ...]:
    """A name for each axis of the value."""
    leading = tuple(f"batch {axis}" for axis in range(batch))
    return (*leading, *_points(formula, batch, operands), "c")


def shape_of_value(formula: Formula, batch: int, operands: Sequence[Any]) -> tuple[Any, ...]:
    """The shape of the value, ``[*batch, *out, channels]``."""
    points = formula.out_shape(operands, batch)
    return (*full_sizes(batch, operands), *points, operands[IMAGE].shape[-1])


def updated(aval: Any, shape: Sequence[Any], dtype: Any, spec: P | None) -> Any:
    """``aval`` with another shape, dtype and sharding; it keeps its varying axes."""
    spec = P(*[None] * len(shape)) if spec is None else spec
    sharding = aval.sharding.update(spec=spec)
    return aval.update(shape=tuple(shape), dtype=dtype, weak_type=False, sharding=sharding)


def explicit_axes(avals: Sequence[Any]) -> frozenset[str]:
    """The Explicit axes of the arrays' mesh."""
    names: set[str] = set()
    for aval in avals:
        mesh = aval.sharding.mesh
        names.update(
            name
            for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
            if kind == AxisType.Explicit
        )
    return frozenset(names)


def spec_of_value(
    formula: Formula,
    batch: int,
    operands: Sequence[Any],
    wrt: Sequence[int] = (),
    tangents: Sequence[Any] = (),
) -> P | None:
    """The sharding of the value; each axis is sharded as the operands' axis of the same name."""
    if not explicit_axes([*operands, *tangents]):
        return None
    sharded = _sharded(formula, batch, operands, wrt, tangents)
    return P(*(sharded.get(name) for name in names_of_value(formula, batch, operands)))


def specs_of_operands(
    formula: Formula,
    batch: int,
    operands: Sequence[Any],
    wrt: Sequence[int],
    reduced: Sequence[Sequence[bool]],
    cotangent: Any,
) -> list[P | None]:
    """The shardings of the cotangents; an operand's axis is sharded as the same axis of the value.

    Axes that are summed over are not sharded.
    """
    if not explicit_axes([*operands, cotangent]):
        return [None] * len(wrt)
    sharded = _sharded(formula, batch, operands, (), (), cotangent)
    names = names_of_operands(formula, batch, operands)
    specs: list[P | None] = []
    for operand, sums in zip(wrt, reduced, strict=True):
        summed = {f"batch {axis}" for axis, each in enumerate(sums) if each}
        specs.append(P(*(None if name in summed else sharded.get(name) for name in names[operand])))
    return specs


def axes_to_sum(spec: P, specs: Sequence[P]) -> tuple[str, ...]:
    """The mesh axes over which some operand is sharded but the result is not."""
    over = {name for each in specs for entry in each for name in _as_names(entry)}
    own = {name for entry in spec for name in _as_names(entry)}
    return tuple(sorted(over - own))


def on_each_device(
    function: Callable[..., Any], avals_in: Sequence[Any], avals_out: Sequence[Any]
) -> Callable[..., Any]:
    """Turns a function of each device's parts into one of global arrays, over the Explicit axes.

    Results of the parts are not summed across devices; ``function`` does that where needed.
    """
    mesh = next(a.sharding.mesh for a in avals_in if explicit_axes([a]))
    spread = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(aval.sharding.spec for aval in avals_in),
        out_specs=tuple(aval.sharding.spec for aval in avals_out),
        axis_names=explicit_axes(avals_in),
        check_vma=False,
    )

    def whole(*operands: Array) -> Any:
        with jax.sharding.use_abstract_mesh(mesh):
            return spread(*operands)

    return whole


def is_partitioned(axis_context: Any) -> bool:
    """Whether XLA partitions the program that JAX lowers in this axis context."""
    if isinstance(axis_context, mlir.ShardingContext):
        return axis_context.num_devices > 1
    if isinstance(axis_context, mlir.SPMDAxisContext):
        return axis_context.manual_axes != frozenset(axis_context.mesh.axis_names)
    return False


def _points(formula: Formula, batch: int, operands: Sequence[Any]) -> tuple[str, ...]:
    return tuple(f"point {axis}" for axis in range(len(formula.out_shape(operands, batch))))


def _as_names(entry: Entry) -> tuple[str, ...]:
    return () if entry is None else entry if isinstance(entry, tuple) else (entry,)


def _sharded(
    formula: Formula,
    batch: int,
    operands: Sequence[Any],
    wrt: Sequence[int],
    tangents: Sequence[Any],
    cotangent: Any = None,
) -> dict[str, Entry]:
    """The mesh axes that each named axis is sharded over."""
    names = names_of_operands(formula, batch, operands)
    arrays = list(zip(operands, names, strict=True))
    arrays += [(each, names[operand]) for operand, each in zip(wrt, tangents, strict=True)]
    if cotangent is not None:
        arrays.append((cotangent, names_of_value(formula, batch, operands)))
    found: dict[str, Entry] = {}
    for array, its_names in arrays:
        spec = (*array.sharding.spec, *[None] * array.ndim)
        for name, entry in zip(its_names, spec, strict=False):
            if entry is None:
                continue
            if name in ("row", "column"):
                raise ValueError(
                    "theta must not be sharded along its parameters; got the sharding "
                    f"{array.sharding.spec} of its matrix. Shard the batch, or replicate it with "
                    "jax.sharding.reshard."
                )
            if name in ("x", "y", "z") or name.startswith("taps"):
                raise ValueError(
                    "image must not be sharded along its height, width or depth, since any output "
                    f"pixel may read any input pixel; got the sharding {array.sharding.spec}. "
                    "Shard the batch or the channels, or replicate it with jax.sharding.reshard."
                )
            if found.setdefault(name, entry) != entry:
                raise ValueError(
                    "images and points must be sharded alike along a common axis; got "
                    f"{found[name]!r} and {entry!r}. Reshard one of them with "
                    "jax.sharding.reshard."
                )
    return found
