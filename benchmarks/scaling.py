"""How the time of a warp grows with sizes: ``python -m benchmarks.scaling``.

It varies one quantity at a time: pixels, channels, images, control points of a thin plate spline,
parallel transforms of one image, or the kernel's radius. For each pass it fits the slope of log
time over log quantity to the larger half of the sizes: 1 means proportional, 0 means free.
``--picture FILE.png`` draws a panel each.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import stn_jax as stn
from benchmarks.harness import records, timing
from benchmarks.harness.unfinished import Planned
from benchmarks.peers import in_jax
from benchmarks.peers.cases import PASSES, Case, Operands, Pass, affine_operands

SHAPE = (16, 64, 64, 4)
SMALL_SHAPE = (2, 8, 8, 1)
SweepName = Literal["pixels", "channels", "batch", "control_points", "transforms", "radius"]


class Sweep(NamedTuple):
    """One quantity that grows.

    Attributes:
      quantity: Its name on the axis of the plot.
      sizes: Its values; ``--small`` takes the first two.
      create: Takes a value and the common shape; gives the warp of one image, the shape, and the
        transform whose parameters are ``theta``.
    """

    quantity: str
    sizes: Sequence[float]
    create: Callable[[Any, tuple[int, ...]], "Work"]


class Work(NamedTuple):
    """The timed warp for one value of a quantity."""

    shape: tuple[int, ...]
    transform: stn.Transform = stn.affine()
    num_transforms: int = 1
    kernel: Any = "linear"


def sweeps() -> dict[SweepName, Sweep]:
    """All sweeps by name, with sizes in ascending order."""
    return {
        "pixels": Sweep(
            "pixels of an image",
            tuple(4**k for k in range(3, 10)),
            lambda pixels, shape: Work((shape[0], *[int(pixels**0.5)] * 2, shape[-1])),
        ),
        "channels": Sweep(
            "channels",
            (1, 2, 4, 8, 16, 32, 64, 128),
            lambda channels, shape: Work((*shape[:-1], channels)),
        ),
        "batch": Sweep(
            "images",
            (1, 2, 4, 8, 16, 32, 64, 128),
            lambda batch, shape: Work((batch, *shape[1:])),
        ),
        "control_points": Sweep(
            "control points of a thin plate spline",
            (4, 9, 16, 36, 64, 144, 256),
            lambda points, shape: Work(shape, stn.thin_plate_spline([int(points**0.5)] * 2)),
        ),
        "transforms": Sweep(
            "parallel transforms",
            (1, 2, 4, 8, 16, 32),
            lambda count, shape: Work(shape, num_transforms=count),
        ),
        "radius": Sweep(
            "radius of the kernel",
            (1, 2, 3, 4, 5, 6),
            lambda radius, shape: Work(shape, kernel=lanczos(radius)),
        ),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arguments(records.Options):
    """The options.

    Attributes:
      sweeps: Quantities to grow.
      passes: Passes to time: forward, or forward+backward to theta, or to image and theta;
        ``--small`` takes only the first.
      picture: File to draw the panels to.
    """

    sweeps: tuple[SweepName, ...] = tuple(sweeps())
    passes: tuple[Pass, ...] = tuple(PASSES)
    picture: Path | None = None


@functools.cache
def lanczos(radius: int) -> stn.Kernel:
    """A windowed sinc of any radius; cached, so that each radius is compiled once."""

    def weight(t: jax.Array) -> jax.Array:
        return jnp.where(jnp.abs(t) < radius, jnp.sinc(t) * jnp.sinc(t / radius), 0.0)

    return stn.Kernel(float(radius), weight, normalize=True)


def contender(work: Work, which: Pass, seed: int) -> timing.Run:
    """A function that runs the warp and waits for it."""
    case = Case(work.shape, "float32", which)
    rng = np.random.default_rng(seed)
    images, _, cotangent = affine_operands(case, seed)
    count = work.num_transforms
    parameters = (work.shape[0], count, work.transform.num_params)
    theta = np.asarray(work.transform.identity) + 0.05 * rng.normal(size=parameters)
    cotangent = np.repeat(cotangent[:, None], count, axis=1)

    def warp(image: jax.Array, theta: jax.Array) -> jax.Array:
        one = functools.partial(stn.warp, image, work.transform, kernel=work.kernel)
        return jax.vmap(one)(theta)

    operands = Operands(images, theta.astype(np.float32), cotangent)
    return in_jax.contender(work.transform.name, warp, case, operands).run


def slope(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope, in logarithms, of a line through the larger half of the points, at least two."""
    half = min(len(sizes) // 2, len(sizes) - 2)
    return float(np.polyfit(np.log(sizes[half:]), np.log(seconds[half:]), 1)[0])


def plan(arguments: Arguments) -> Iterator[Planned]:
    """A row for each quantity and pass; the sizes of a row are measured in turns."""
    passes = arguments.passes[:1] if arguments.small else arguments.passes
    for name, which in itertools.product(arguments.sweeps, passes):
        labels = {"sweep": name, "quantity": sweeps()[name].quantity, "pass": PASSES[which]}
        yield Planned(labels, functools.partial(_row, labels, sweeps()[name], which, arguments))


def _row(labels: dict[str, str], sweep: Sweep, which: Pass, arguments: Arguments) -> records.Row:
    sizes = sweep.sizes[:2] if arguments.small else sweep.sizes
    shape = SMALL_SHAPE if arguments.small else SHAPE
    print(f"{sweep.quantity}: {', '.join(map(str, sizes))}", flush=True)
    runs = {
        str(size): contender(sweep.create(size, shape), which, arguments.seed) for size in sizes
    }
    seconds = timing.measure(runs, arguments.budget, seed=arguments.seed)
    medians = [float(np.median(seconds[str(size)])) for size in sizes]
    row: records.Row = {
        "sizes": list(sizes),
        "seconds": {size: timing.Spread.of(values)._asdict() for size, values in seconds.items()},
        "slope": slope(sizes, medians),
    }
    milliseconds = "  ".join(f"{1e3 * each:.3g}" for each in medians)
    print(f"    {labels['pass']:32} slope {row['slope']:5.2f}   ms {milliseconds}", flush=True)
    return row


def draw(path: Path, rows: Sequence[records.Row]) -> None:
    """A panel for each quantity, a line for each pass, its slope in the title."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    names = list(dict.fromkeys(row["sweep"] for row in rows))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        of_panel = [row for row in rows if row["sweep"] == name]
        for row in of_panel:
            spreads, sizes = row["seconds"].values(), row["sizes"]
            median, low, high = (
                [1e3 * spread[each] for spread in spreads]
                for each in ("median", "first_quartile", "third_quartile")
            )
            axes.plot(sizes, median, marker="o", label=row["pass"])
            axes.fill_between(sizes, low, high, alpha=0.2)
        axes.set(xscale="log", yscale="log", xlabel=row["quantity"], ylabel="ms")
        axes.set_xticks(sizes, labels=[str(size) for size in sizes], fontsize="small")
        axes.xaxis.set_minor_formatter(NullFormatter())
        slopes = ", ".join(f"{row['slope']:.2f}" for row in of_panel)
        axes.set_title(f"slope {slopes}", fontsize="medium")
    for axes in panels[len(names) :]:
        axes.axis("off")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def main(command_line: Sequence[str] | None = None) -> list[records.Row]:
    """Prints the slopes; draws them with ``--picture`` and saves them with ``--save``."""
    return records.run_command("scaling", Arguments, __doc__, plan, command_line, _finish)


def _finish(arguments: Arguments, rows: Sequence[records.Row]) -> None:
    if arguments.picture is not None:
        draw(arguments.picture, rows)


if __name__ == "__main__":
    main()
