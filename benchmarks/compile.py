"""Times of compilation and of imports: ``python -m benchmarks.compile``.

It compiles a warp with each kernel, antialiased, and of a thin plate spline; its gradient; a
training step of each model; and ``jax.scipy.ndimage.map_coordinates``. Caches are empty each time.
Each import is timed in a new process: ``import stn_jax`` after ``import jax``, for example.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.compilation_cache import compilation_cache

import stn_jax as stn
from benchmarks.harness import records, timing
from benchmarks.harness.rows import print_labels
from benchmarks.harness.unfinished import Planned
from benchmarks.peers import in_jax
from benchmarks.peers.cases import PASSES, Case, Operands, Pass, affine_operands
from benchmarks.train_step import LEARNING_RATE, NAMES, Name, Training
from experiments.classification.step import make_classifier
from experiments.data.tasks import TASKS
from experiments.engine import all_devices, initial_states, make_program

SHAPE = (256, 28, 28, 1)
KERNELS = ("nearest", "linear", "cubic", "lanczos3")
# The timed import, and the imports before it.
IMPORTS = {
    "stn_jax": "jax",
    "stn_jax.nn": "stn_jax, flax.nnx",
    "torch": "numpy",
    "kornia": "torch",
}
SMALL = ("affine, linear", "map_coordinates", "st-fcn", "import stn_jax after jax")
_TIME_IMPORT = """
import time
import {before}
start = time.perf_counter()
import {module}
print(time.perf_counter() - start)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      passes: Passes to compile: forward, or forward+backward to theta, or to image and theta.
      only: Measure only rows whose names begin with one of these, such as "affine" or "import"; all
        if empty.
    """

    passes: tuple[Pass, ...] = tuple(PASSES)
    only: tuple[str, ...] = ()

    def wants(self, name: str) -> bool:
        """Whether the row of this name is to be measured."""
        return name.startswith(self.only or (SMALL if self.small else ("",)))

    @property
    def budget(self) -> timing.Budget:
        """Few rounds, as compiling and importing vary little and take long."""
        if self.small:
            return timing.Budget(rounds=1, least=1)
        return timing.Budget(seconds=self.seconds, rounds=min(self.rounds, 9), least=3)


def warps(case: Case, seed: int) -> Iterator[tuple[str, in_jax.Warp, Operands]]:
    """The functions to compile, by name, with operands."""
    operands = affine_operands(case, seed)
    for kernel in KERNELS:
        yield f"affine, {kernel}", functools.partial(_warp, stn.affine(), kernel=kernel), operands
    yield "affine, antialiased", functools.partial(_warp, stn.affine(), antialias=True), operands
    spline = stn.thin_plate_spline((4, 4))
    theta = np.tile(spline.identity.astype(np.float32), (case.shape[0], 1))
    of_spline = operands._replace(theta=theta)
    yield "thin plate spline, linear", functools.partial(_warp, spline), of_spline
    yield "map_coordinates, linear", in_jax.map_coordinates, operands


def training_step(name: Name) -> tuple[Any, tuple[Any, ...]]:
    """The compiled steps of a classifier, and their arguments."""
    case = Training.create(name)
    problem = make_classifier(
        case.create_model, optax.adam(LEARNING_RATE), TASKS["none"], case.batch_size
    ).problem
    data = jnp.asarray(case.images), jnp.asarray(case.labels)
    keys = jnp.stack([jax.random.key(0)])
    operands = *initial_states(problem, [0]), data, keys, case.steps
    return make_program(problem, all_devices("jit", case.batch_size)).run, operands


def compile_anew(function: Any, operands: tuple[Any, ...]) -> None:
    """Traces and compiles again, even if it was compiled before."""
    jax.clear_caches()
    function.lower(*operands).compile()


def trace_anew(function: Any, operands: tuple[Any, ...]) -> None:
    """Traces and lowers again, even if it was traced before."""
    jax.clear_caches()
    function.lower(*operands)


def import_time(module: str, before: str) -> float:
    """Seconds of an import after another, in a new process."""
    code = _TIME_IMPORT.format(module=module, before=before)
    root = Path(__file__).parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    return float(found.stdout.split()[-1])


def compilations(arguments: Arguments) -> Iterator[Planned]:
    """Rows of trace and compile times, with JAX's cache on disk switched off."""
    for which in arguments.passes:
        case = Case(SHAPE, "float32", which)
        for name, warp, operands in warps(case, arguments.seed):
            if arguments.wants(name):
                make = functools.partial(in_jax.jitted, warp, case, operands)
                labels = {"what": name, "pass": PASSES[which]}
                yield Planned(labels, functools.partial(_row, labels, make, arguments))
    for model in filter(arguments.wants, NAMES):
        labels = {"what": model, "pass": "training step"}
        make = functools.partial(training_step, model)
        yield Planned(labels, functools.partial(_row, labels, make, arguments))


def imports(arguments: Arguments) -> Iterator[Planned]:
    """Rows of import times, each with the median of several processes."""
    for module, before in IMPORTS.items():
        name = f"import {module} after {before}"
        if not arguments.wants(name):
            continue
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            print(f"{name}: not installed")
            continue
        repeats = 1 if arguments.small else 7
        measure = functools.partial(_import_row, name, module, before, repeats)
        yield Planned({"what": name, "pass": "import"}, measure)


def plan(arguments: Arguments) -> Iterator[Planned]:
    """Rows of compilations, then of imports."""
    yield from compilations(arguments)
    yield from imports(arguments)


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the rows; saves them if ``--save`` is given."""
    return records.run_command("compile", Arguments, __doc__, plan, command_line)


@contextlib.contextmanager
def _without_cache_on_disk() -> Iterator[None]:
    config: Any = jax.config  # The flags are attributes at run time, but not in the type.
    folder = config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        compilation_cache.reset_cache()


@_without_cache_on_disk()
def _row(
    labels: dict[str, str], make: Callable[[], tuple[Any, tuple[Any, ...]]], arguments: Arguments
) -> records.Row:
    print_labels(labels)
    function, operands = make()
    runs = {
        "trace": functools.partial(trace_anew, function, operands),
        "trace and compile": functools.partial(compile_anew, function, operands),
    }
    seconds = timing.measure(runs, arguments.budget, seed=arguments.seed, warm_up=False)
    spreads = {name: timing.Spread.of(values)._asdict() for name, values in seconds.items()}
    for name, spread in spreads.items():
        print(f"    {name:32}{records.milliseconds(spread):>20} ms", flush=True)
    return {"seconds": spreads}


def _import_row(name: str, module: str, before: str, repeats: int) -> records.Row:
    seconds = [import_time(module, before) for _ in range(repeats)]
    spread = timing.Spread.of(np.array(seconds))._asdict()
    print(f"{name}: {records.milliseconds(spread)} ms", flush=True)
    return {"seconds": {module: spread}}


def _warp(
    transform: stn.Transform, image: jax.Array, theta: jax.Array, **options: Any
) -> jax.Array:
    return stn.warp(image, transform, theta, **options)


if __name__ == "__main__":
    main()
