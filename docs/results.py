"""The pages of results, written from the files that the experiments and benchmarks leave.

Nothing on them is typed but the words around charts and tables: each file of
``experiments/results`` and ``benchmarks/results`` becomes a page of ``docs/results``, with its
protocol, seeds, intervals and versions, and a line of the index.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from benchmarks import report as benchmarks
from docs import charts, verdicts
from docs import result_tables as tables
from experiments.birds.records import BirdsResult
from experiments.classification.recipe_comparison import RecipesResult
from experiments.colocalisation.records import ColocalisationResult
from experiments.engine.files import read_json
from experiments.engine.records import Record as TypedRecord
from experiments.invariance.report import InvarianceResult
from experiments.report import comparison
from experiments.report.records import cell_from_json
from experiments.report.tables import markdown_table
from experiments.stability.obvious import ObviousResult
from experiments.stability.report import StabilityResult

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments" / "results"
BENCHMARKS = ROOT / "benchmarks" / "results"
_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=False,  # The pages are Markdown; charts are escaped where they are made.
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)

# Titles and what is to be known beforehand; a file without one is shown under its own name.
_EXPERIMENTS = {
    "distorted_mnist": (
        "Distorted MNIST",
        "Classifiers without and with a spatial transformer, all of one size, on distortions of "
        "the real digits, beside the paper's errors. How long they were trained stands below; the "
        "paper's numbers are of 150,000 steps of 256 images.",
    ),
    "distorted_mnist_short": (
        "Distorted MNIST on two CPU cores",
        "The same table with a thirteenth of those images, in 90 minutes on a busy "
        "machine of two cores; the batch size was chosen on held-out images of set R.",
    ),
    "distorted_mnist_smooth": (
        "Distorted MNIST by the default recipe",
        "Trained by `--recipe smooth` on one core of a CPU each: fully connected models for 30,000 "
        "steps of 128 images, a tenth of the paper's images, convolutional ones for 12,000.",
    ),
    "cluttered_mnist": (
        "Cluttered MNIST",
        "A digit somewhere on 60×60 pixels among pieces of others.",
    ),
    "mnist_addition": (
        "MNIST addition",
        "The sum of two digits, one in each channel; chance is an error of 90 %. Trained for "
        "30,000 steps of 128 images, a tenth of the paper's, on one core of a CPU each.",
    ),
    "mnist_addition_short": (
        "MNIST addition without a warm-up",
        "The same for 10,000 steps of Adam whose rate is highest at the first step. The spline "
        "hardly learns; [why](../tutorials/stability.md#a-weak-signal).",
    ),
    "volumes": (
        "Digits in volumes",
        "Solid digits somewhere in 60³ voxels, read by a three-dimensional transformer; the paper "
        "gives no numbers.",
    ),
    "traffic_signs": (
        "Traffic signs",
        "The German traffic signs (GTSRB), photographs reduced to 32×32 pixels, without, with one "
        "and with two transformers. The numbers beside ours are published ones, of long schedules "
        "on 48×48 pixels; a human's error is 1.16 %.",
    ),
    "traffic_signs_smooth": (
        "Traffic signs by the default recipe",
        "The same for 10,000 steps of 64 images by `--recipe smooth`, 16 passes over the training "
        "photographs, without a transformer, with one and with two.",
    ),
    "birds_drawn": (
        "Drawn birds",
        "Small birds whose class is told by a sign on the head and one on the body, in the folders "
        "of CUB-200-2011. On the whole image, at the resolution of a crop, a sign is one or two "
        "pixels wide. How often parts lie in crops is measured by their places, which no training "
        "sees.",
    ),
    "colocalisation": (
        "Co-localisation",
        "The digit that many canvases share, found without labels of where it is: the share of "
        "canvases, in percent, where the crop overlaps the digit's box by half or more.",
    ),
    "invariance": (
        "Invariance to rotation",
        "Test error against the angle by which all test digits are turned; "
        "[a tutorial](../tutorials/pooling.md) draws it.",
    ),
    "stability": (
        "Stability of training",
        "The same ST-CNN at a high rate, seed by seed, with one optimizer for all and with the "
        "training kit of `stn_jax.nn`.",
    ),
    "obvious": (
        "The obvious code",
        "The model of PyTorch's tutorial: two convolutions before theta, upright digits, a free "
        "family, one rate for all. From each seed with the plain head and with the scaled one, the "
        "default of `RegressionHead`. A seed has failed if it reads far fewer digits right than "
        "the median without a transformer (– below), or if its theta has left the image.",
    ),
    "recipes": (
        "Recipes",
        "Ways to train, compared by the errors on held-out images: Adam along a cosine, which made "
        "most tables here, and Adam along a line, alone, with decoupled weight decay and with "
        "smoothed labels, the default. The second table has how many times fewer images each needs "
        "for the error of the longest training of the first. The seconds were taken beside other "
        "work, and do not compare.",
    ),
}


class Page(NamedTuple):
    """A page of results.

    Attributes:
      name: Its file, without the ending.
      title: Its heading.
      text: What is to be known beforehand.
      verdict: Sentences for the index, which also stand on top.
      chart: HTML.
      body: Tables and protocol, in Markdown.
      source: The file that it is made from.
    """

    name: str
    title: str
    text: str
    verdict: list[str]
    chart: str
    body: str
    source: str


class Section(NamedTuple):
    """Pages that stand together in the index."""

    text: str
    pages: list[Page]


class Kind(NamedTuple):
    """How a record that is no list of cells is shown.

    Attributes:
      record: Its type.
      verdict, chart, table: Make a sentence, HTML and Markdown of it.
    """

    record: type[TypedRecord]
    verdict: Callable[[Any], str]
    chart: Callable[[Any], str]
    table: Callable[[Any], str]


_KINDS = {
    "invariance": Kind(
        InvarianceResult, verdicts.invariance, charts.invariance, tables.invariance_table
    ),
    "stability": Kind(
        StabilityResult, verdicts.stability, charts.stability, tables.stability_table
    ),
    "obvious": Kind(ObviousResult, verdicts.obvious, charts.obvious, tables.obvious_table),
    "recipes": Kind(RecipesResult, verdicts.recipes, charts.recipes, tables.recipes_tables),
    "colocalisation": Kind(
        ColocalisationResult,
        verdicts.colocalisation,
        charts.colocalisation,
        tables.colocalisation_table,
    ),
    "birds_drawn": Kind(BirdsResult, verdicts.birds, charts.birds, tables.birds_tables),
}
_Rows = list[dict[str, Any]]
# By benchmark: the sentence and the chart of its rows.
_SPEED: Mapping[str, tuple[Callable[[_Rows], str], Callable[[_Rows], str]]] = {
    "sampler": (
        verdicts.beside_peers,
        functools.partial(charts.ratios, group=("shape", "dtype"), name=("pass",)),
    ),
    "transforms": (verdicts.multiples, charts.multiples),
    "train_step": (
        verdicts.beside_peers,
        functools.partial(charts.ratios, group=("model",), name=("steps per dispatch",)),
    ),
    "seeds": (
        verdicts.beside_peers,
        functools.partial(charts.ratios, group=("model",), name=("seeds",)),
    ),
    "cost": (verdicts.costs, charts.costs),
    "compile": (verdicts.compilations, charts.compilations),
    "scaling": (verdicts.slopes, charts.slopes),
    "pipeline": (
        verdicts.rates,
        functools.partial(charts.rates, group=("images",), ours="together"),
    ),
    "augmentation": (
        verdicts.rates,
        functools.partial(charts.rates, group=("what", "shape"), ours=charts.OURS),
    ),
    "registration": (verdicts.registrations, charts.registrations),
}
# Of what commands print: the title, the explanation of the chart, and the unit.
_PRINTED = {
    "alignment": (
        "Alignment by linearized slopes",
        "The share of starts that end within half a pixel of the truth, by their distance from it "
        "in pixels, with the exact slope and with those of linear fits.",
        "%",
    ),
    "antialias": (
        "Antialiasing",
        "How close a smaller image is to one of 8×8 samples a pixel: PSNR, where 99 stands for "
        "equal.",
        "dB",
    ),
    "composition": (
        "Composition",
        "What it costs to make transforms anew and to chain them, beside the version before "
        "transforms knew how they were made.",
        "",
    ),
}


def read(name: str) -> Any:
    """The record of an experiment, or the cells of a table."""
    path = EXPERIMENTS / f"{name}.json"
    data = read_json(path)
    if name in _KINDS:
        return _KINDS[name].record.from_json(data, path)
    return [cell_from_json(entry, str(path)) for entry in data]


def experiment_page(path: Path) -> Page:
    """What was done, the chart, the table, and how.

    Raises:
      ValueError: If the file holds neither cells nor rows and is of no known name.
    """
    title, text = _EXPERIMENTS.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
    make = functools.partial(Page, path.stem, title, text)
    source = f"experiments/results/{path.name}"
    record = read_json(path)
    if isinstance(record, list) and all("distortion" in entry for entry in record):
        cells = [cell_from_json(entry, str(path)) for entry in record]
        body = comparison.comparison_markdown(cells)
        return make(verdicts.cells(cells), charts.errors(cells), body, source)
    if path.stem in _KINDS:
        kind = _KINDS[path.stem]
        typed = kind.record.from_json(record, path)
        body = f"{kind.table(typed)}\n\n{tables.protocol(record)}"
        return make([kind.verdict(typed)], kind.chart(typed), body, source)
    if isinstance(record, dict) and record.get("rows"):
        return make([], "", tables.plain_table(record), source)
    raise ValueError(
        f"{path.name} holds neither cells of a table nor rows; give it an entry in _KINDS of "
        "docs/results.py."
    )


def accuracy_page(path: Path) -> Page:
    """Every table of how exact the library is, with its verdict."""
    record = read_json(path)
    versions = ", ".join(f"{name} {each}" for name, each in record["environment"].items() if each)
    said = [f"{table['verdict']}." for table in record["tables"].values()]
    parts = [f"Measured with {versions}."]
    for table in record["tables"].values():
        rows = markdown_table(*tables.all_columns(table["rows"]))
        parts.append(f"## {table['title']}\n\n{table['verdict']}.\n\n{rows}")
    chart = charts.positions(record["tables"]["positions"]["rows"])
    source = f"benchmarks/results/{path.name}"
    return Page("accuracy", "How exact", "", said[:1], chart, "\n\n".join(parts), source)


def benchmark_page(path: Path) -> Page:
    """A benchmark's chart, its tables, and the rows in which ours is slower."""
    record = read_json(path)
    verdict, chart = _SPEED[record["benchmark"]]
    rows, body = (
        record["rows"],
        f"{benchmarks.circumstances(record)}\n\n{benchmarks.tables(record)}",
    )
    source = f"benchmarks/results/{path.name}"
    title = benchmarks.title(record)
    return Page(path.stem, title, "", [verdict(rows)], chart(rows), body, source)


def printed_page(path: Path) -> Page:
    """What a command printed, with a chart if it is a table."""
    text = path.read_text().rstrip()
    title, about, unit = _PRINTED.get(path.stem, (path.stem.capitalize(), "", ""))
    chart = charts.printed(text, about, unit) if unit else ""
    body = f"```text\n{text}\n```"
    source = f"benchmarks/results/{path.name}"
    return Page(path.stem, title, "" if chart else about, [about], chart, body, source)


def sections() -> dict[str, Section]:
    """All pages, in the order of the index."""
    files = sorted(EXPERIMENTS.glob("*.json"), key=lambda path: (_place(path.stem), path.stem))
    order = list(_SPEED)
    speed = [path for path in BENCHMARKS.glob("*.json") if path.stem != "accuracy"]
    speed.sort(key=lambda path: (order.index(read_json(path)["benchmark"]), path.stem))
    texts = [path for path in sorted(BENCHMARKS.glob("*.txt")) if path.stem != "accuracy"]
    exact = [accuracy_page(BENCHMARKS / "accuracy.json"), *map(printed_page, texts)]
    return {
        "Experiments": Section(
            "Figures come with the protocol, the seeds, the interval and the versions they were "
            "measured with.",
            list(map(experiment_page, files)),
        ),
        "Exactness": Section("Beside PyTorch, OpenCV, SciPy and exact arithmetic.", exact),
        "Speed": Section(
            "Beside its peers, in one process and on the same arrays; the method stands in "
            "`benchmarks/README.md`. Ratios are the peer's time over ours, so that above 1 we are "
            "faster, with the middle half of the rounds in brackets.",
            list(map(benchmark_page, speed)),
        ),
    }


def _place(name: str) -> int:
    """The place of an experiment in the index: that of the longest title's name it begins with."""
    known = [number for number, each in enumerate(_EXPERIMENTS) if name.startswith(each)]
    return max(known, default=len(_EXPERIMENTS))


def pages() -> Iterator[tuple[str, str]]:
    """The name and the Markdown of every page; the first is the index."""
    every = sections()
    yield "index", _TEMPLATES.get_template("results.jinja").render(sections=every)
    for section in every.values():
        for page in section.pages:
            yield page.name, _TEMPLATES.get_template("result.jinja").render(page=page)


def write(folder: Path) -> None:
    """Writes the pages that have changed, so that Sphinx sees which, and removes others."""
    folder.mkdir(exist_ok=True)
    folder.with_suffix(".md").unlink(missing_ok=True)  # The one page of earlier versions.
    made = {folder / f"{name}.md": text for name, text in pages()}
    for path in set(folder.glob("*.md")) - made.keys():
        path.unlink()
    for path, text in made.items():
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
