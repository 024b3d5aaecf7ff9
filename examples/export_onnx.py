"""Exports a trained classifier to ONNX, and runs it by ONNX Runtime beside the model itself.

``python -m examples.export_onnx`` needs ``pip install jax2onnx onnxruntime``, which nothing else
here does. jax2onnx converts JAX's own operations and does not know this library's primitives, so
:func:`in_jax_operations` first replaces each sample by the sum of gathers that XLA would be given.
It prints the file's size and the largest difference of a logit.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.extend.core import ClosedJaxpr, Literal

from experiments import pretrained
from experiments.classification.trained import load_run
from stn_jax.sampling.backends import dense, xla
from stn_jax.sampling.backends.base import Paths
from stn_jax.sampling.backends.batching import batched_sample

# An old version of ONNX's operators, for as many runtimes as possible; newer ones do, too.
OPSET = 21
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "custom_vjp_call")
ENGINES = {"xla": xla.sample, "dense": dense.sample}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments:
    """The options.

    Attributes:
      run: The folder of a finished run of a classifier, or its file.
      seed: The training to take, of a run of several seeds; the first by default.
      out: The ONNX file.
    """

    run: tyro.conf.Positional[Path] = pretrained.FILE
    seed: int | None = None
    out: Path = Path("runs/examples/model.onnx")


def in_jax_operations(
    function: Callable[..., Any], *, implementation: str = "xla"
) -> Callable[..., Any]:
    """The same function of arrays, with JAX's own operations in place of this library's primitives.

    Args:
      function: Of arrays, to be converted and not to be differentiated.
      implementation: ``xla``, sums of gathers, or ``dense``, matrix products with the weights of
        all pixels.

    Raises:
      ValueError: At the call, if the function samples inside a loop or a branch of JAX, or
        integrates paths.
    """

    def converted(*arrays: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*arrays)
        results = _evaluated(closed, jax.tree.leaves(arrays), implementation)
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return converted


def _evaluated(closed: ClosedJaxpr, arrays: Sequence[Any], implementation: str) -> list[Any]:
    """The results of a traced function, each sample by the named engine."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts, strict=True))
    values |= dict(zip(jaxpr.invars, arrays, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        operands, name = list(map(read, equation.invars)), equation.primitive.name
        if name == "stn_jax_sample" and not isinstance(equation.params["formula"], Paths):
            sample = batched_sample(ENGINES[implementation])
            results: list[Any] = [sample(*operands, **equation.params)]
        elif name == "platform_index":
            # ONNX is for no platform of JAX, so of variants for several the last, the default.
            results = [np.int32(len(equation.params["platforms"]) - 1)]
        elif name == "cond" and not isinstance(operands[0], jax.core.Tracer):
            branch = equation.params["branches"][int(operands[0])]
            results = _evaluated(branch, operands[1:], implementation)
        elif name in _CALLS and (inner := _inner(equation.params)) is not None:
            results = _evaluated(inner, operands, implementation)
        elif name == "stn_jax_sample":
            raise ValueError(
                "function must not integrate paths, as diffeomorphic does: that is a loop, in "
                "which samples are not replaced. Use another family."
            )
        elif "stn_jax_" in str(equation.params):
            raise ValueError(
                f"function must not sample inside {name}; got a sample there. Take it out of the "
                "loop or the branch."
            )
        else:
            results = equation.primitive.bind(*operands, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        values |= dict(zip(equation.outvars, results, strict=True))
    return list(map(read, jaxpr.outvars))


def _inner(parameters: dict[str, Any]) -> ClosedJaxpr | None:
    """The function that a call calls."""
    for name in ("jaxpr", "call_jaxpr"):
        if isinstance(parameters.get(name), ClosedJaxpr):
            inner: ClosedJaxpr = parameters[name]
            return inner
    return None


def to_onnx(function: Callable[[Any], Any], in_shape: Sequence[int]) -> bytes:
    """The function as the content of an ONNX file, for any number of images of this shape."""
    import jax2onnx

    plain = in_jax_operations(function)
    # jax2onnx puts primitives of its own into what is traced meanwhile. JAX keeps what it has
    # traced, and could not run it: forget it, before and afterwards.
    jax.clear_caches()
    model = jax2onnx.to_onnx(plain, [("batch", *in_shape)], opset=OPSET)
    jax.clear_caches()
    return bytes(model.SerializeToString())


def run_onnx(content: bytes, images: np.ndarray) -> np.ndarray:
    """The first output of an ONNX model, by ONNX Runtime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: images})[0]
    return found


def main(command_line: Sequence[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Runs the command line; returns the logits of the model and of the ONNX file."""
    arguments = tyro.cli(Arguments, args=command_line, description=__doc__)
    model, pipeline = load_run(arguments.run, seed=arguments.seed)
    content = to_onnx(model, pipeline.input_shape)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(content)
    images = np.asarray(pipeline.test_images(range(100))[0])
    here, there = np.asarray(model(jnp.asarray(images))), run_onnx(content, images)
    print(f"exported: {arguments.out}, {len(content):,} bytes, opset {OPSET}")
    print(f"largest difference of a logit: {np.abs(here - there).max():.1e}")
    return here, there


if __name__ == "__main__":
    main()
