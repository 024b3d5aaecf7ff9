"""The README's tables, figures and pictures: ``python -m docs.readme``, or ``make readme-assets``.

It writes the text between ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->`` in README.md from
result files in the repository. It draws a picture again only if one of its inputs has changed;
``docs/images/inputs.json`` holds their hashes. Tests fail if the text or a picture is stale.
"""

import hashlib
import importlib
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from docs import figures, results
from experiments.engine.files import read_json, write_atomically, write_json
from experiments.report.records import RunResult

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"
INPUTS = IMAGES / "inputs.json"
DEMO = ROOT / "experiments" / "results" / "demo"
DEMO_MODELS = ("fcn", "st-fcn")
_EXPONENTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Picture(NamedTuple):
    """A picture and its inputs.

    Attributes:
      draw: Writes it to a path.
      inputs: Files, functions as ``module:name``, and recipes as ``Makefile:target``; the picture
        depends on their text.
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
    """Copies a picture that a training command has drawn."""

    def draw(path: Path) -> None:
        source = ROOT / file
        if not source.is_file():
            raise ValueError(f"{path.name} is drawn by a training; run {command} first.")
        shutil.copyfile(source, path)

    return draw


def _draw_demo(path: Path) -> None:
    """Copies the picture of ``make demo``, and the results of the same run."""
    _left_by("runs/demo/before_after_st-fcn.png", "make demo")(path)
    DEMO.mkdir(exist_ok=True)
    for model in DEMO_MODELS:
        shutil.copyfile(ROOT / "runs" / "demo" / model / "result.json", DEMO / f"{model}.json")


PICTURES = {
    "antialias.png": Picture(
        _draw_antialias,
        (
            "benchmarks/antialias.py",
            "stn_jax/sampling/antialias.py",
            "stn_jax/sampling/pyramid.py",
        ),
    ),
    "before_after.png": Picture(
        _draw_demo,
        (
            "Makefile:demo",
            "experiments/classification/recipes.py",
            "experiments.report.figures:before_after",
        ),
    ),
    "invariance.png": Picture(
        _draw_invariance,
        ("experiments/results/invariance.json", "experiments.report.figures:errors_by_angle"),
    ),
    "rts_st_cnn.png": Picture(
        _left_by(
            "runs/table/before_after_RTS_st-cnn_affine.png",
            "python -m experiments.distorted_mnist table, as docs/experiments.md says, with --out "
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
    if module == "Makefile":
        recipe = (ROOT / "Makefile").read_text().partition(f"\n{function}:")[2]
        return recipe.partition("\n\n")[0].encode()
    return inspect.getsource(getattr(importlib.import_module(module), function)).encode()


def stale_pictures() -> list[str]:
    """Pictures that are missing, or whose inputs have changed since."""
    recorded: dict[str, Any] = read_json(INPUTS) if INPUTS.is_file() else {}
    return [
        name
        for name, picture in PICTURES.items()
        if not (IMAGES / name).is_file() or recorded.get(name) != inputs_of(picture)
    ]


def demo() -> str:
    """The caption of the picture of ``make demo``, with its errors."""
    plain, transformed = (
        RunResult.from_json(read_json(DEMO / f"{model}.json"), str(DEMO)) for model in DEMO_MODELS
    )
    low, high = transformed.interval
    return _filled(
        "*Digits that a spatial transformer found and enlarged, and in part turned. It learnt "
        "that from the class labels alone. With the same number of parameters, "
        f"{transformed.num_parameters / 1000:.0f},000, a network misclassified {plain.mean:.1f} % "
        f"of these digits ({_span(*plain.interval, digits=1)}) without a transformer and "
        f"{transformed.mean:.1f} % with one "
        f"({_span(low, high, digits=1)}). One seed, 95 % intervals; made by `make demo`.*"
    )


def accuracy() -> str:
    """A sentence on how exact the library is."""
    tables = read_json(results.BENCHMARKS / "accuracy.json")["tables"]
    same = tables["identity"]["rows"]
    warps, exact = (sum(row[key] for row in same) for key in ("warps", "bit for bit"))
    torch = _largest(tables["pytorch"]["rows"], "relative")
    scipy = _largest(tables["scipy"]["rows"], "2-D", "3-D")
    return _filled(
        f"Exact: the identity returns the same bits in {exact:,} of {warps:,} warps; in float64 "
        f"values and derivatives differ from PyTorch's by {_power(torch['float64'])} of their "
        f"size and values from SciPy's by {_power(scipy['float64'])}: "
        "[how exact](benchmarks/results/accuracy.txt)."
    )


def speed() -> str:
    """A sentence on speed: the range of PyTorch's time divided by ours."""
    on_cpu, on_gpu = (
        read_json(results.BENCHMARKS / f"{name}.json") for name in ("sampler", "sampler_h100")
    )
    return _filled(
        f"Fast, as PyTorch's time over ours: on two CPU cores {_in_words(on_cpu)}; on an "
        f"{_short(on_gpu['environment']['device'])} {_in_words(on_gpu)}. Every row, losses "
        "included: [benchmarks](benchmarks/README.md)."
    )


def _in_words(record: Any) -> str:
    return (
        f"{_beside_pytorch(record, 'forward')} forward, "
        f"{_beside_pytorch(record, 'forward+backward to θ')} to θ, "
        f"{_beside_pytorch(record, 'forward+backward to image and θ')} to image and θ"
    )


def _beside_pytorch(record: Any, which: str) -> str:
    """PyTorch's time divided by ours, its range over the shapes; on a GPU also compiled PyTorch."""
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
    """The largest number of some columns, by dtype."""
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
    "demo": demo,
    "accuracy": accuracy,
    "speed": speed,
}


def written(text: str) -> str:
    """The text of a README with its sections rewritten.

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
    """Writes stale sections and pictures; returns 2 if a picture needs a training first, else 0."""
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
    # Last, since drawing the demo's picture also copies its results.
    text = written(README.read_text())
    write_atomically(README, lambda path: path.write_text(text))
    return status


if __name__ == "__main__":
    sys.exit(main())
