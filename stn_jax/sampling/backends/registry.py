"""Chooses the engine that evaluates a formula, when a program is lowered for a platform."""

from typing import Any, NamedTuple

import jax
from jax.interpreters import mlir
from jaxtyping import Array

from stn_jax import _checks
from stn_jax.sampling import meshes
from stn_jax.sampling.backends import dense, native_cpu, xla
from stn_jax.sampling.backends.base import (
    FORMULAS_OF_STEPS,
    Call,
    Engine,
    ImplementationName,
    Lowering,
)

# In order of preference. An engine that is not automatic is used only if it is named.
ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (native_cpu.NATIVE, xla.XLA, dense.DENSE)
}

# Platforms for which lowerings are registered; None stands for all others.
PLATFORMS = ("cpu", None)


class Implementation(NamedTuple):
    """An engine, and whether it is available.

    Attributes:
      name: Value of ``implementation=`` that selects it.
      available: Whether it can be used here.
      reason: Why it is not available, and the remedy; empty if it is.

    Example:
      >>> import stn_jax as stn
      >>> stn.implementations()[1]
      Implementation(name='xla', available=True, reason='')

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 3.
    """

    name: str
    available: bool
    reason: str


def implementations() -> tuple[Implementation, ...]:
    """Lists the engines that evaluate samples, and why any of them is not available.

    The option ``implementation`` of :func:`stn_jax.grid_sample`, :func:`stn_jax.warp` and
    :class:`stn_jax.nn.SpatialTransformer` names an engine. ``None`` takes the first that supports
    the call on the platform that the program runs on.

    * ``"native"``: compiled C++ for CPUs, from the package stn-jax-native.
    * ``"xla"``: JAX operations; runs everywhere.
    * ``"dense"``: matrix products with the weights of all pixels, for devices whose gathers are
      slow; used only if named.

    Returns:
      A record for each engine: ``name``, ``available`` and ``reason``.

    Example:
      >>> import stn_jax as stn
      >>> [each.name for each in stn.implementations()]
      ['native', 'xla', 'dense']
      >>> dict((each.name, each.available) for each in stn.implementations())["xla"]
      True

    Reference:
      Jaderberg et al., Spatial Transformer Networks, arXiv:1506.02025, equation 3.
    """
    missing = [(engine.name, engine.missing()) for engine in ENGINES.values()]
    return tuple(Implementation(name, why is None, why or "") for name, why in missing)


def check(implementation: Any) -> ImplementationName | None:
    """Checks that the named engine is available; ``None`` stands for the best."""
    if implementation is None:
        return None
    missing = _checks.option("implementation", implementation, ENGINES).missing()
    if missing is not None:
        raise ValueError(f"implementation={implementation!r} is not available: {missing}")
    return implementation


def choose(call: Call) -> Engine | None:
    """The engine named by the formula, or the first that supports the call.

    ``None`` if the steps of a formula are to be taken one by one.
    """
    named = call.formula.implementation
    if isinstance(call.formula, FORMULAS_OF_STEPS):
        engines = (
            each for each in ENGINES.values() if type(call.formula) in each.formulas_of_steps
        )
        able = (each for each in engines if named in (None, each.name) and _able(each, call))
        return next(able, None)
    if named is not None:
        refusal = ENGINES[named].missing() or ENGINES[named].refuses(call)
        if refusal is not None:
            raise NotImplementedError(
                f"implementation={named!r} does not support this call: {refusal} "
                "implementation=None chooses an engine that does."
            )
        return ENGINES[named]
    return next(each for each in ENGINES.values() if each.automatic and _able(each, call))


def _able(engine: Engine, call: Call) -> bool:
    return engine.missing() is None and engine.refuses(call) is None


def lower(
    which: str,
    platform: str | None,
    step_by_step: Lowering,
    ctx: Any,
    *operands: Any,
    **parameters: Any,
) -> Any:
    """Lowers ``sample`` or ``pull`` by the chosen engine, or ``step_by_step`` if there is none."""
    if meshes.explicit_axes(ctx.avals_in):
        on_parts = _on_parts(ctx.primitive, ctx, parameters)
        multiple = ctx.primitive.multiple_results
        return mlir.lower_fun(on_parts, multiple_results=multiple)(ctx, *operands)
    module = ctx.module_context
    call = Call(
        parameters["formula"],
        which,
        parameters["batch"],
        ctx.avals_in,
        ctx.avals_out,
        platform or module.platforms[0],
        module.lowering_parameters.for_export,
        meshes.is_partitioned(module.axis_context),
        parameters.get("wrt", ()),
    )
    engine = choose(call)
    if engine is None:
        return step_by_step(ctx, *operands, **parameters)
    return getattr(engine, which)(call, ctx, *operands, **parameters)


def _on_parts(primitive: Any, ctx: Any, parameters: dict[str, Any]) -> Any:
    """Runs the primitive on each device's part of operands that are sharded over Explicit axes."""
    avals_in, avals_out = ctx.avals_in, ctx.avals_out
    specs = [aval.sharding.spec for aval in avals_in]

    def body(*parts: Array) -> Any:
        results = primitive.bind(*parts, **parameters)
        if not primitive.multiple_results:
            return (results,)
        summed = []
        for result, aval in zip(results, avals_out, strict=True):
            over = meshes.axes_to_sum(aval.sharding.spec, specs)
            summed.append(jax.lax.psum(result, over) if over else result)
        return tuple(summed)

    def whole(*operands: Array) -> Any:
        results = meshes.on_each_device(body, avals_in, avals_out)(*operands)
        return list(results) if primitive.multiple_results else results[0]

    return whole
