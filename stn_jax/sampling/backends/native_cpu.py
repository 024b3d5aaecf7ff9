"""The compiled engine for CPUs, from the package stn-jax-native if that is installed.

Only this file calls the handlers of that package. It registers them when a program is first lowered
for a CPU: if JAX rejected a handler before its CPU backend has started, the backend could not
start.
"""

import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters import mlir

from stn_jax.sampling import meshes
from stn_jax.sampling.backends import shared_fields, xla
from stn_jax.sampling.backends.base import (
    FILL,
    IMAGE,
    AffinePoints,
    BoxMeans,
    Call,
    Engine,
    Formula,
    Paths,
    Points,
    full_sizes,
    sum_over,
)
from stn_jax.sampling.backends.batching import batched_pull
from stn_jax.sampling.box_means import recipe_of
from stn_jax.sampling.polynomials import POLYNOMIALS

_PADDINGS = {"constant": 0, "border": 1, "reflection": 2, "wrap": 3}
# For each dtype of images, the dtype of their coordinates and weights.
_DTYPES = {"float32": "float32", "bfloat16": "float32", "float16": "float32", "float64": "float64"}
# The handlers' limits on pixels along an axis, and on pixels of an image.
_LONGEST_AXIS, _MOST_PIXELS = 2**29, 2**31 - 1
# Their limits on steps along a path, and on pixels of the field that it follows, with a margin of
# so many pixels along each axis.
_MOST_STEPS, _MOST_PIXELS_OF_FIELD, _MARGIN_OF_FIELD = 1024, 2**18, 21
# For fewer points, or fewer for each pixel of the field, a loop over stages is faster, since the
# handler first copies the field.
_FEWEST_POINTS, _FEWEST_POINTS_OF_PIXEL = 16, 1 / 8
# The version of the handlers' attributes that this file passes; as in the package's ``interface``.
_INTERFACE = 5
# Letters that name axes in a rule for XLA's partitioner.
_FACTORS = "ijklmnopqrstuvwxyz"


_REMEDY = "Install stn-jax-native: `make setup` builds it with a C++17 compiler."


@functools.cache
def _missing() -> str | None:
    """Registers the handlers; returns the reason if that fails, else ``None``."""
    try:
        native = importlib.import_module("stn_jax_native")
    except ImportError as error:
        return f"the package stn-jax-native cannot be imported ({error}). {_REMEDY}"
    interface = getattr(native, "INTERFACE", 1)
    if interface != _INTERFACE:
        return (
            f"stn-jax-native {native.__version__} has interface {interface}; this version of "
            f"stn_jax needs interface {_INTERFACE}. Build it again: `make setup`, or `pip install "
            "./native` in the sources."
        )
    try:
        jax.local_devices(backend="cpu")
        for name, handler in native.handlers().items():
            jax.ffi.register_ffi_target(name, handler, platform="cpu")
            jax.ffi.register_ffi_target_as_batch_partitionable(name)
    except Exception as error:  # JAX documents no exception type for a rejected handler.
        return (
            f"JAX {jax.__version__} rejects the handlers of stn-jax-native ({error}). "
            "Rebuild it against this version of JAX."
        )
    return None


def _refuses(call: Call) -> str | None:
    """Why the handlers do not support a call; ``None`` if they do."""
    formula, image = call.formula, call.operands[IMAGE]
    arrays = [*call.operands, *call.results]
    if call.platform != "cpu":
        return f"it runs on CPUs; the program is compiled for {call.platform!r}."
    if call.exported:
        return "an exported program must run without stn-jax-native."
    if not all(isinstance(size, int) for each in arrays for size in each.shape):
        return "it does not support symbolic sizes."
    if any(0 in each.shape for each in arrays):
        return "it does not support empty arrays."
    space = image.shape[call.batch : -1]
    if isinstance(formula, BoxMeans):
        space = formula.layout.entries
    if max(space) > _LONGEST_AXIS or math.prod(space) > _MOST_PIXELS:
        return f"it does not support images of {math.prod(space):,} pixels."
    if isinstance(formula, Paths):
        refusal = _refuses_path(formula, call.operands, call.batch)
        if refusal is not None:
            return refusal
    if isinstance(formula, BoxMeans):
        if IMAGE in call.wrt or FILL in call.wrt:
            return "it has no gradient of box means to the image."
        fill = call.operands[FILL].shape
        own = zip(fill[: call.batch], image.shape[: call.batch], strict=True)
        if formula.filled and any(of_fill > of_image for of_fill, of_image in own):
            return "it does not support several fill values for one image of box means."
    if isinstance(formula, Points) and formula.padding not in _PADDINGS:
        return f"it does not support the padding {formula.padding!r}."
    if jnp.issubdtype(image.dtype, jnp.floating):
        if (
            _DTYPES.get(image.dtype.name)
            != call.operands[-1 if call.which == "sample" else -2].dtype
        ):
            return f"it does not support {image.dtype} images with coordinates of another width."
    elif not isinstance(formula, Points) or image.dtype.itemsize not in (1, 2, 4, 8):
        return f"it does not support {image.dtype} images."
    if call.partitioned:
        sizes = full_sizes(call.batch, arrays)
        shapes = [each.shape[: call.batch] for each in arrays]
        # The fill value need not have batch axes: ``_repeat`` repeats it for each image.
        del shapes[FILL]
        if any(shape != sizes for shape in shapes):
            return "XLA cannot partition among devices a call whose batch shares images or points."
        if len(_factors(call)) > len(_FACTORS):
            return "the arrays have too many axes for a rule of XLA's partitioner."
    return None


def _refuses_path(formula: Paths, operands: Sequence[Any], batch: int) -> str | None:
    """Why the handlers do not support a path; ``None`` if they do."""
    space = operands[IMAGE].shape[batch:-1]
    with_margin = math.prod(size + _MARGIN_OF_FIELD for size in space)
    if formula.steps > _MOST_STEPS or with_margin > _MOST_PIXELS_OF_FIELD:
        return f"it does not support {formula.steps} steps in a field of {math.prod(space)} pixels."
    sizes = full_sizes(batch, operands)
    shared = (sizes[axis] for axis in shared_fields.shared_axes(batch, operands))
    points = math.prod((*formula.out_shape(operands, batch), *shared))
    if points < max(_FEWEST_POINTS, _FEWEST_POINTS_OF_PIXEL * math.prod(space)):
        return f"it does not support {points} points in a field of {math.prod(space)} pixels."
    return None


def _sample(call: Call, ctx: Any, *operands: Any, formula: Formula, batch: int) -> Sequence[Any]:
    if _shares_fill(call):
        again = functools.partial(_repeat, ctx.primitive, FILL, formula=formula, batch=batch)
        return mlir.lower_fun(again, multiple_results=False)(ctx, *operands)
    if isinstance(formula, Paths) and shared_fields.shared_axes(batch, ctx.avals_in):
        merged = functools.partial(
            shared_fields.sample_merged, ctx.primitive, formula=formula, batch=batch
        )
        return mlir.lower_fun(merged, multiple_results=False)(ctx, *operands)
    if not isinstance(formula, Points):
        return _custom_call("stn_jax_taps", call, ctx, operands, batch)
    floating = jnp.issubdtype(ctx.avals_in[IMAGE].dtype, jnp.floating)
    target = _target(formula) if floating else f"{_target(formula)}_bytes"
    return _custom_call(target, call, ctx, operands, batch, **_options(formula))


def _pull(
    call: Call,
    ctx: Any,
    *operands: Any,
    formula: Formula,
    batch: int,
    wrt: tuple[int, ...],
    reduced: tuple[tuple[bool, ...], ...],
) -> Sequence[Any]:
    parameters: dict[str, Any] = {
        "formula": formula,
        "batch": batch,
        "wrt": wrt,
        "reduced": reduced,
    }
    if ctx.avals_in[-1].shape[:batch] != full_sizes(batch, ctx.avals_in):
        # The handlers read the batch's sizes off the cotangent, so give it the full sizes.
        again = functools.partial(_repeat, ctx.primitive, len(operands) - 1, **parameters)
        return mlir.lower_fun(again, multiple_results=True)(ctx, *operands)
    if _shares_fill(call) and FILL not in wrt:
        again = functools.partial(_repeat, ctx.primitive, FILL, **parameters)
        return mlir.lower_fun(again, multiple_results=True)(ctx, *operands)
    if FILL in wrt:
        split = functools.partial(_with_fill, ctx.primitive, **parameters)
        return mlir.lower_fun(split, multiple_results=True)(ctx, *operands)
    if isinstance(formula, Paths) and shared_fields.merged_axes(batch, ctx.avals_in, wrt, reduced):
        merged = functools.partial(shared_fields.pull_merged, ctx.primitive, **parameters)
        return mlir.lower_fun(merged, multiple_results=True)(ctx, *operands)
    if isinstance(formula, Paths | BoxMeans) and any(map(any, reduced)):
        apart = functools.partial(_pull_apart, ctx.primitive, **parameters)
        return mlir.lower_fun(apart, multiple_results=True)(ctx, *operands)
    image = IMAGE in wrt
    wanted = [source in wrt for source in formula.sources]
    if isinstance(formula, Points):
        target = f"{_target(formula)}_pull"
        wrt_sources = "wrt_matrix" if isinstance(formula, AffinePoints) else "wrt_coordinates"
        options = _options(formula) | {wrt_sources: any(wanted)}
        # The handler computes the cotangents of all coordinates together.
        computed = formula.sources if any(wanted) else ()
    else:
        target = "stn_jax_taps_pull"
        options = {"wrt_weights": sum(each << axis for axis, each in enumerate(wanted))}
        computed = tuple(s for s, want in zip(formula.sources, wanted, strict=True) if want)
    order = (*([IMAGE] if image else []), *computed)
    given = dict(zip(wrt, ctx.avals_out, strict=True))
    sizes = full_sizes(batch, ctx.avals_in)
    avals = [
        given[operand]
        if operand in given
        else ctx.avals_in[operand].update(shape=(*sizes, *ctx.avals_in[operand].shape[batch:]))
        for operand in order
    ]
    options["wrt_image"] = image
    results = _custom_call(
        target, call, ctx.replace(avals_out=avals), operands, batch, order, **options
    )
    found = dict(zip(order, results, strict=True))
    return [found[operand] for operand in wrt]


def _with_fill(primitive: Any, *both: Any, **parameters: Any) -> list[Any]:
    """Computes the fill value's cotangent by the engine ``xla``, and the others by this one."""
    wrt, reduced = parameters.pop("wrt"), parameters.pop("reduced")
    named = dict(zip(wrt, reduced, strict=True))
    (of_fill,) = batched_pull(xla.pull)(
        *both, **parameters, wrt=(FILL,), reduced=(named.pop(FILL),)
    )
    results = {FILL: of_fill}
    if named:
        others = primitive.bind(
            *both, **parameters, wrt=tuple(named), reduced=tuple(named.values())
        )
        results |= zip(named, others, strict=True)
    return [results[operand] for operand in wrt]


def _pull_apart(primitive: Any, *both: Any, **parameters: Any) -> list[Any]:
    """Computes the cotangents for each batch entry, and then sums them."""
    reduced = parameters.pop("reduced")
    none = tuple(tuple(False for _ in sums) for sums in reduced)
    apart = primitive.bind(*both, **parameters, reduced=none)
    return [sum_over(each, sums) for each, sums in zip(apart, reduced, strict=True)]


def _shares_fill(call: Call) -> bool:
    """Whether the call is partitioned among devices and its images share one fill value.

    XLA partitions all operands alike, so each image then needs a fill value of its own.
    """
    sizes = full_sizes(call.batch, call.operands)
    return call.partitioned and call.operands[FILL].shape[: call.batch] != sizes


def _repeat(primitive: Any, number: int, *operands: Any, **parameters: Any) -> Any:
    """Makes the call again with full batch axes of one operand."""
    batch, given = parameters["batch"], list(operands)
    shape = (*full_sizes(batch, given), *given[number].shape[batch:])
    given[number] = jnp.broadcast_to(given[number], shape)
    return primitive.bind(*given, **parameters)


def _target(formula: Points) -> str:
    if isinstance(formula, Paths):
        return "stn_jax_follow"
    if isinstance(formula, BoxMeans):
        return "stn_jax_box_means"
    return "stn_jax_affine" if isinstance(formula, AffinePoints) else "stn_jax_sample"


def _options(formula: Points) -> dict[str, Any]:
    coefficients = POLYNOMIALS[formula.kernel]
    options: dict[str, Any] = {
        "taps": len(coefficients),
        "coefficients": np.ravel(coefficients).astype(np.float64),
        "padding": _PADDINGS[formula.padding],
        "align_corners": formula.align_corners,
    }
    if isinstance(formula, AffinePoints):
        options["out"] = np.array(formula.out, np.int64)
    if isinstance(formula, Paths):
        options["steps"] = formula.steps
    if isinstance(formula, BoxMeans):
        recipe = {name: np.ravel(each) for name, each in recipe_of(formula.layout).items()}
        options |= {"reach": formula.layout.reach, "each_point": formula.each_point, **recipe}
    return options


def _custom_call(
    target: str,
    call: Call,
    ctx: Any,
    operands: Sequence[Any],
    batch: int,
    order: Any = None,
    **attributes: Any,
) -> Sequence[Any]:
    """Calls a handler; on a mesh, with the rule by which XLA partitions it without collectives."""
    extra = {}
    if call.partitioned and batch:
        extra = {
            "mhlo.frontend_attributes": mlir.ir_attribute({"num_batch_dims": str(batch)}),
            "sdy.sharding_rule": mlir.ir.Attribute.parse(_sharding_rule(call, order)),
        }
    attributes |= {"num_batch_dims": batch, "ndim": call.formula.ndim}
    numbers = {
        name: value if isinstance(value, np.ndarray) else np.int64(value)
        for name, value in attributes.items()
    }
    return jax.ffi.ffi_lowering(target, extra_attributes=extra)(ctx, *operands, **numbers)


def _factors(call: Call) -> dict[str, tuple[str, int]]:
    """A letter and a size for each named axis of the operands and the value."""
    operands = call.operands[: len(call.operands) - (call.which == "pull")]
    names = meshes.names_of_operands(call.formula, call.batch, operands)
    value = call.results[0] if call.which == "sample" else call.operands[-1]
    arrays = [*operands, value]
    names.append(meshes.names_of_value(call.formula, call.batch, operands))
    sizes = {
        name: size
        for each, its_names in zip(arrays, names, strict=True)
        for name, size in zip(its_names, each.shape, strict=True)
    }
    letters = [*_FACTORS, *["?"] * len(sizes)]
    return {name: (letters[k], size) for k, (name, size) in enumerate(sizes.items())}


def _sharding_rule(call: Call, order: Sequence[int] | None) -> str:
    """The rule that relates axes of operands and results; XLA may partition only batch axes."""
    factors = _factors(call)
    operands = call.operands[: len(call.operands) - (call.which == "pull")]
    names = meshes.names_of_operands(call.formula, call.batch, operands)
    value = meshes.names_of_value(call.formula, call.batch, operands)
    inputs = names if order is None else [*names, value]
    outputs = [value] if order is None else [names[operand] for operand in order]

    def axes(each: Sequence[str]) -> str:
        return f"[{', '.join(factors[name][0] for name in each)}]"

    sizes = ", ".join(f"{letter}={size}" for letter, size in factors.values())
    whole = [letter for name, (letter, _) in factors.items() if not name.startswith("batch")]
    return (
        f"#sdy.op_sharding_rule<({', '.join(map(axes, inputs))})->"
        f"({', '.join(map(axes, outputs))}) {{{sizes}}} need_replication={{{', '.join(whole)}}}>"
    )


NATIVE = Engine(
    name="native",
    missing=_missing,
    refuses=_refuses,
    sample=_sample,
    pull=_pull,
    formulas_of_steps=(Paths, BoxMeans),
)
