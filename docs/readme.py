"""The README's tables, figures and pictures: ``python -m docs.readme``, or ``make readme-assets``.

What stands between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` in README.md is written from
the results kept with the code. A picture is drawn again only if what it is drawn from has changed
since; ``docs/images/inputs.json`` holds the hashes. The tests compare both, so that nothing stale
stays unseen.
"""

import hashlib
import importlib
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from docs import figures, results
from experiments.birds.records import BirdsResult
from experiments.engine.files import read_json, write_atomically, write_json
from experiments.report.records import TableEntry

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
INPUTS = IMAGES / "inputs.json"
_EXPONENTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Picture(NamedTuple):
    """A picture and what it depends on.

    Attributes:
      draw: Writes it to a path.
      inputs: Files, or functions as ``module:name``, whose text it depends on.
    """

    draw: Callable[[Path], object]
    inputs: tuple[str, ...]


def _draw_antialias(path: Path) -> None:
    from benchmarks import antialias

    antialias.draw(path)


def _draw_scaling(path: Path) -> None:
    from benchmarks import scaling

    scaling.draw(path, read_json(results.BENCHMARKS / "scaling.json")["rows"])


def _draw_invariance(path: Path) -> None:
    figures.invariance(results.read("invariance")).savefig(path)


def _left_by(file: str, command: str) -> Callable[[Path], object]:
    """Takes a picture from where a command that trains has left it."""

    def draw(path: Path) -> None:
        source = ROOT / file
        if not source.is_file():
            raise ValueError(f"{path.name} is drawn by a training; run {command} first.")
        shutil.copyfile(source, path)

    return draw


PICTURES = {
    "antialias.png": Picture(
        _draw_antialias, ("benchmarks/antialias.py", "stn_jax/sampling/antialias.py")
    ),
    "before_after.png": Picture(
        _left_by("runs/demo/before_after_st-cnn.png", "make demo"),
        ("experiments.report.figures:before_after", "stn_jax/visualize/drawing.py"),
    ),
    "invariance.png": Picture(
        _draw_invariance,
        ("experiments/results/invariance.json", "experiments.report.figures:errors_by_angle"),
    ),
    "rts_st_cnn.png": Picture(
        _left_by(
            "runs/table/before_after_RTS_st-cnn_affine.png",
            "python -m experiments.distorted_mnist table, as the README says, with --out "
            "runs/table,",
        ),
        ("experiments/results/distorted_mnist.json", "experiments.report.figures:before_after"),
    ),
    "scaling.png": Picture(
        _draw_scaling, ("benchmarks/results/scaling.json", "benchmarks.scaling:draw")
    ),
}


def inputs_of(picture: Picture) -> dict[str, str]:
    """A hash of each input."""
    return {name: hashlib.sha256(_text(name)).hexdigest()[:16] for name in picture.inputs}


def _text(name: str) -> bytes:
    module, colon, function = name.partition(":")
    if not colon:
        return (ROOT / name).read_bytes()
    return inspect.getsource(getattr(importlib.import_module(module), function)).encode()


def stale_pictures() -> list[str]:
    """Pictures that are missing, or drawn from something else than what there is now."""
    recorded: dict[str, Any] = read_json(INPUTS) if INPUTS.is_file() else {}
    return [
        name
        for name, picture in PICTURES.items()
        if not (IMAGES / name).is_file() or recorded.get(name) != inputs_of(picture)
    ]


def stability() -> str:
    """The training kit against one optimizer for all."""
    return results.stability_table(results.read("stability"))


def distorted_mnist() -> str:
    """Models × sets beside the paper's errors, and their order."""
    entries = results.read("distorted_mnist")
    shares = [entry.mean / entry.paper for entry in entries]
    verdicts = [entry.verdict for entry in entries]
    return f"{results.matrix_table(entries)}\n\n" + _filled(
        f"Of the {len(entries)} errors {verdicts.count('at or below')} are at or below the "
        f"paper's, {verdicts.count('within the interval')} more have the paper's in their "
        f"interval; they are {min(shares):.1f} to {max(shares):.1f} times the paper's. "
        f"{results.order_sentence(entries)}"
    )


def shown() -> str:
    """What the other experiments have shown, a line each."""
    clutter, addition = results.read("cluttered_mnist"), results.read("mnist_addition")
    found, turned = results.read("colocalisation"), results.read("invariance")
    signs, drawn = results.read("traffic_signs"), results.read("birds_drawn")
    solid = results.read("volumes")
    sizes = [entry.num_parameters for entry in clutter]
    sets = {"T": "of translated digits", "TC": "among clutter"}
    digits = "; ".join(
        f"{row.mean:.1f} % ({low:.1f} to {high:.1f}) {sets.get(row.set, row.set)}, "
        f"{_span(*map(float, row.paper), digits=0)} in the paper"
        for row in found.sets
        for low, high in [row.interval]
    )
    lines = [
        f"**Cluttered digits**, set TC, {min(sizes):,} to {max(sizes):,} parameters, "
        f"{_how(clutter)}: "
        f"{_errors(clutter)} ([figures](experiments/results/cluttered_mnist.json)).",
        f"**MNIST addition**, {_how(addition)}: {_errors(addition)} "
        "([figures](experiments/results/mnist_addition.json)).",
        f"**Co-localisation**, digits {', '.join(map(str, found.sets[0].digits))} of MNIST, "
        f"each by itself, {found.steps} steps, {_seeds(found.seeds)}, found on "
        f"{found.sets[0].canvases:,} test canvases: "
        f"{digits} "
        "([figures](experiments/results/colocalisation.json)).",
        f"**Volumes**, solid digits somewhere in 60³ voxels, {_how(solid)}: {_errors(solid)}, no "
        "numbers in the paper ([figures](experiments/results/volumes.json)).",
        f"**Traffic signs** (GTSRB), 32×32 pixels, {_how(signs)}: "
        f"{_errors(signs, 'published')} ([figures](experiments/results/traffic_signs.json)).",
        f"**Birds**, drawn ones, {_birds(drawn)} "
        "([figures](experiments/results/birds_drawn.json)).",
        "**Max-pooling is no invariance to rotation**: test error in percent, by the angle by "
        "which all "
        "test digits are turned ([figures](experiments/results/invariance.json)):",
    ]
    bullets = "\n".join(_filled(f"- {line}", "  ") for line in lines)
    return f"{bullets}\n\n{results.invariance_table(turned)}"


def _how(entries: Sequence[TableEntry]) -> str:
    one = entries[0]
    return (
        f"{one.steps:,} steps of {one.batch_size} images, rate "
        f"{one.settings['learning_rate']:g}, {_seeds(one.seeds)}"
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"


def _errors(entries: Sequence[TableEntry], source: str = "paper") -> str:
    return "; ".join(
        f"{entry.name} {entry.mean:.2f} %" + (f", {source} {entry.paper:g}" if entry.paper else "")
        for entry in entries
    )


def _birds(record: BirdsResult) -> str:
    """Accuracies, and how much more often crops contain parts than the untrained crops do."""
    (plain, parts), number = record.rows, len(record.seeds)
    accuracies = "; ".join(
        f"{row.model} {row.accuracy:.1f} % right ({low:.1f} to {high:.1f})"
        for row in (plain, parts)
        for low, high in [row.interval]
    )
    assert parts.held is not None
    assert parts.held_by_first_crops is not None
    first = parts.held_by_first_crops.transformers
    held = [
        np.mean([getattr(seed.transformers[k], part) for seed in parts.held])
        for k, part in enumerate(("head", "body"))
    ]
    moved = ", ".join(
        f"crop {k + 1} holds the {part} in {100 * now:.0f} % of images, at the start in "
        f"{100 * getattr(first[k], part):.0f}"
        for k, (part, now) in enumerate(zip(("head", "body"), held, strict=True))
    )
    return f"{record.settings['steps']:,} steps, {number} seeds: {accuracies}; {moved}"


def accuracy() -> str:
    """How exact the library is, a line for each table of the benchmark."""
    tables = read_json(results.BENCHMARKS / "accuracy.json")["tables"]
    same = tables["identity"]["rows"]
    warps, exact = (sum(row[key] for row in same) for key in ("warps", "bit for bit"))
    fused = sum(row["warps"] for row in same if row["displacement"] == "fused")
    torch = _largest(tables["pytorch"]["rows"], "relative")
    scipy = _largest(tables["scipy"]["rows"], "2-D", "3-D")
    places = {
        name: [
            max(row[name] for row in tables["positions"]["rows"] if row["width"] == width)
            for width in ("512", "4096")
        ]
        for name in ("warp", "PyTorch")
    }
    half = max(row["ours"] for row in tables["half"]["rows"])
    version = {
        name: tables[name]["title"].partition(name_in_title)[2].split(",")[0].split(" ")[1]
        for name, name_in_title in (("pytorch", "PyTorch"), ("scipy", "SciPy"))
    }
    rows = [
        (
            f"the identity's parameters; {tables['identity']['title'].partition(': ')[2]} × 4 "
            "kernels × "
            "4 dtypes",
            f"the same bits in {exact:,} of {warps:,} warps, {fused} of them whole calls with the "
            "linear "
            "kernel, the others with the displacement computed beforehand",
        ),
        (
            f"PyTorch {version['pytorch'].partition('+')[0]}, 2-D and 3-D, values, gradients, "
            "double "
            "backward, as a share of their size",
            f"{_power(torch['float64'])} in float64, {_power(torch['float32'])} in float32",
        ),
        (
            f"SciPy {version['scipy']} `map_coordinates`, orders 0 and 1, five modes",
            f"{_power(scipy['float64'])} in float64, {_power(scipy['float32'])} in float32",
        ),
        (
            "sampled positions in images 512 and 4,096 pixels wide, float32",
            f"`warp` {_power(places['warp'][0], 1)} and {_power(places['warp'][1], 1)} pixels at "
            "most, "
            f"PyTorch {_power(places['PyTorch'][0], 1)} and {_power(places['PyTorch'][1], 1)}",
        ),
        ("bfloat16 and float16 images", f"{half:.2f} roundings of the output at most"),
    ]
    return results.markdown_table(["", ""], rows)


def speed() -> str:
    """How fast the library is, as the range of PyTorch's time over ours."""
    on_cpu, on_gpu = (
        read_json(results.BENCHMARKS / f"{name}.json") for name in ("sampler", "sampler_h100")
    )
    steps = {
        row["model"]: min(ratio["median"] for ratio in row["ratios"].values())
        for row in read_json(results.BENCHMARKS / "train_step.json")["rows"]
        if row["steps per dispatch"] == 10
    }
    splines = [
        ratio["median"]
        for row in read_json(results.BENCHMARKS / "transforms.json")["rows"]
        for name, ratio in row.get("ratios", {}).items()
        if name.startswith("Kornia")
    ]
    slower = [
        1 - row["ratios"][row["best_peer"]]["median"]
        for row in on_gpu["rows"]
        if row["ratios"][row["best_peer"]]["median"] < 1
    ]
    return _filled(
        "How fast, as PyTorch's time over ours, so that above 1 we are faster. Affine warps in "
        f"float32 on an {_short(on_gpu['environment']['device'])}, beside the best of PyTorch "
        f"eager and compiled: {_beside_pytorch(on_gpu, 'forward')} forward, "
        f"{_beside_pytorch(on_gpu, 'forward+backward to θ')} with the gradient to θ, "
        f"{_beside_pytorch(on_gpu, 'forward+backward to image and θ')} to image and θ; in "
        f"{len(slower)} of {len(on_gpu['rows'])} rows some peer, mostly `map_coordinates` of JAX, "
        f"is faster, by {100 * max(slower):.0f} % at most. On two CPU cores, beside PyTorch eager: "
        f"{_beside_pytorch(on_cpu, 'forward')}, "
        f"{_beside_pytorch(on_cpu, 'forward+backward to θ')} and "
        f"{_beside_pytorch(on_cpu, 'forward+backward to image and θ')}; there a training step, ten "
        f"in a call, of the ST-CNN {steps['st-cnn']:.2f}, of the ST-FCN {steps['st-fcn']:.2f}. "
        f"Kornia's thin plate splines take {min(splines):.0f} to {max(splines):.0f} times ours. "
        "Every row, losses included, and how it was measured: [benchmarks](benchmarks/README.md)."
    )


def _beside_pytorch(record: Any, which: str) -> str:
    """PyTorch's time over ours, over the shapes: the best of eager and, on a GPU, compiled."""
    on_cpu = record["environment"]["backend"] == "cpu"
    ratios = [
        min(
            ratio["median"]
            for name, ratio in row["ratios"].items()
            if name.startswith("PyTorch, " if on_cpu else "PyTorch")
        )
        for row in record["rows"]
        if row["dtype"] == "float32" and row["pass"] == which
    ]
    return _span(*_ends(ratios), digits=2 if on_cpu else 1)


def _short(device: str) -> str:
    """``H100`` of ``NVIDIA H100 80GB HBM3``."""
    return device.removeprefix("NVIDIA ").split(" ")[0]


def _filled(text: str, indent: str = "") -> str:
    """A paragraph in lines of the README's width."""
    wrapper = textwrap.TextWrapper(
        119, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.fill(text)


def _ends(values: Iterable[float]) -> tuple[float, float]:
    each = list(values)
    return min(each), max(each)


def _span(low: float, high: float, *, digits: int = 2) -> str:
    return f"{low:.{digits}f}" if low == high else f"{low:.{digits}f} to {high:.{digits}f}"


def _largest(rows: list[Any], *columns: str) -> dict[str, float]:
    """By dtype."""
    dtypes = dict.fromkeys(row["dtype"] for row in rows)
    return {
        dtype: max(row[column] for row in rows if row["dtype"] == dtype for column in columns)
        for dtype in dtypes
    }


def _power(value: float, digits: int = 0) -> str:
    """A number as a power of ten, ``2·10⁻¹⁴``."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(_EXPONENTS)}"


SECTIONS: dict[str, Callable[[], str]] = {
    "stability": stability,
    "distorted_mnist": distorted_mnist,
    "shown": shown,
    "accuracy": accuracy,
    "speed": speed,
}


def written(text: str) -> str:
    """A README with its sections written anew.

    Raises:
      ValueError: If a section's markers are missing.
    """
    for name, render in SECTIONS.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md must hold the lines {begin} and {end}, once each.")
        before, rest = text.split(begin)
        text = f"{before}{begin}\n\n{render()}\n\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    """Writes what is stale; returns the exit status, 2 where a picture needs a training first."""
    text = written(README.read_text())
    write_atomically(README, lambda path: path.write_text(text))
    recorded = read_json(INPUTS) if INPUTS.is_file() else {}
    status = 0
    for name in stale_pictures():
        try:
            write_atomically(IMAGES / name, PICTURES[name].draw)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        recorded[name] = inputs_of(PICTURES[name])
        print(f"drawn: {name}")
    write_json(INPUTS, dict(sorted(recorded.items())))
    return status


if __name__ == "__main__":
    sys.exit(main())
