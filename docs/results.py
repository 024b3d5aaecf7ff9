"""The page of results, written from the files that the experiments and benchmarks leave.

Nothing on it is typed but the words around the tables: each file of ``experiments/results`` and
``benchmarks/results`` becomes a section, with its protocol, seeds, intervals and versions.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import report as benchmarks
from experiments.birds import report as birds
from experiments.birds.records import BirdsResult
from experiments.classification.recipe_comparison import (
    RecipesResult,
    errors_by_recipe,
    images_needed,
)
from experiments.colocalisation.records import ColocalisationResult
from experiments.engine.files import read_json
from experiments.engine.records import Record as TypedRecord
from experiments.invariance.report import InvarianceResult
from experiments.invariance.report import table as invariance_rows
from experiments.report import comparison
from experiments.report.records import TableCell, cell_from_json
from experiments.stability.obvious import ObviousResult
from experiments.stability.obvious import table as obvious_rows
from experiments.stability.report import StabilityResult

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments" / "results"
BENCHMARKS = ROOT / "benchmarks" / "results"
Record = Mapping[str, Any]

# Titles and what is to be known beforehand; a file without one is shown under its own name.
_EXPERIMENTS = {
    "distorted_mnist": (
        "Distorted MNIST",
        "Classifiers without and with a spatial transformer, all of one size, on distortions of "
        "the real "
        "digits, beside the paper's errors. How long they were trained stands below; the paper's "
        "numbers "
        "are of 150,000 steps of 256 images.",
    ),
    "distorted_mnist_short": (
        "Distorted MNIST on two CPU cores",
        "The same table with a thirteenth of those images, in 90 minutes on a busy "
        "machine of two cores; the batch size was chosen on held-out images of set R.",
    ),
    "cluttered_mnist": (
        "Cluttered MNIST",
        "A digit somewhere on 60×60 pixels among pieces of others.",
    ),
    "mnist_addition": (
        "MNIST addition",
        "The sum of two digits, one in each channel; chance is an error of 90 %.",
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
        "[a tutorial](tutorials/pooling.md) draws it.",
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
_HEAD = """\
# Results

What the experiments and benchmarks have measured so far, each table made from the file that the
command left in the repository. Where ours is worse than the paper's, or slower than a peer, it says
so. Figures come with the protocol, the seeds, the interval and the versions they were measured
with.
"""


# Files that hold another record than the cells of a table.
_KINDS: dict[str, type[TypedRecord]] = {
    "invariance": InvarianceResult,
    "stability": StabilityResult,
    "obvious": ObviousResult,
    "recipes": RecipesResult,
    "colocalisation": ColocalisationResult,
    "birds_drawn": BirdsResult,
}


def read(name: str) -> Any:
    """The record of an experiment, or the cells of a table."""
    path = EXPERIMENTS / f"{name}.json"
    data = read_json(path)
    if name in _KINDS:
        return _KINDS[name].from_json(data, path)
    return [cell_from_json(entry, str(path)) for entry in data]


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def matrix_table(entries: Sequence[TableCell]) -> str:
    """Models × sets: the error, its interval, and the paper's error."""
    return comparison.comparison_markdown(entries).split("\n\n", 1)[0]


def order_sentence(entries: Sequence[TableCell]) -> str:
    """How many pairs of models have the paper's order."""
    return next(
        line for line in comparison.comparison_markdown(entries).split("\n\n") if "Order:" in line
    )


def invariance_table(record: InvarianceResult) -> str:
    """Mean errors at a few angles."""
    return markdown_table(*invariance_rows(record))


def stability_table(record: StabilityResult) -> str:
    """Failures and errors by recipe."""
    names = {"plain": "one optimizer for all", "kit": _kit(record)}
    rows = []
    for row in record.rows:
        found = dict.fromkeys(name for each in row.findings.values() for name in each)
        failed = f"{row.failed} of {row.seeds}" + (f" ({', '.join(found)})" if found else "")
        numbers = [f"{row.mean:.2f}", f"{row.worst:.2f}"]
        rows.append([names.get(row.recipe, row.recipe), failed, *numbers])
    return markdown_table(["recipe", "seeds that failed", "mean test error %", "worst"], rows)


def obvious_table(record: ObviousResult) -> str:
    """Failures, accuracies and distances by family, optimizer and head."""
    return markdown_table(*obvious_rows(record.rows))


def recipes_tables(record: RecipesResult) -> str:
    """The errors of each training, and the images that each recipe needs."""
    tables = errors_by_recipe(record.rows), images_needed(record.rows, record.settings["recipes"])
    return "\n\n".join(markdown_table(*table) for table in tables)


def _kit(record: StabilityResult) -> str:
    kit = record.settings["kit"]
    return (
        f"localization at {kit['localization_rate']:g} of the rate, still for "
        f"{kit['localization_frozen_steps']} steps, penalty {kit['identity_penalty']:g}"
    )


def colocalisation_table(record: ColocalisationResult) -> str:
    """The share of canvases found, beside the range of the paper's classes; then all classes."""
    rows = []
    several = record.sets if len(record.rows) > len(record.sets) else ()
    for row in [*record.rows, *several]:
        low, high = row.interval
        paper = (
            "–" if row.paper is None else " to ".join(f"{e:g}" for e in dict.fromkeys(row.paper))
        )
        digits = ", ".join(map(str, row.digits)) if len(row.digits) < 10 else "all"
        share = f"{row.mean:.1f} ({low:.1f}–{high:.1f})"
        rows.append([row.set, digits, share, paper, f"{row.canvases:,}"])
    return markdown_table(["set", "digits", "found %", "paper %", "canvases"], rows)


def birds_tables(record: BirdsResult) -> str:
    """Accuracies, and the content of the crops."""
    return "\n\n".join(markdown_table(*table) for table in birds.tables(record))


def protocol(record: Record) -> str:
    """The settings, seeds and versions of a record that is not a list of cells, as a table."""
    settings = record.get("settings", {})
    several = {name: each for name, each in settings.items() if isinstance(each, Mapping)}
    columns = several or {"setting": settings}
    keys = dict.fromkeys(key for each in columns.values() for key in each)
    rows = [[f"`{key}`", *(_word(each.get(key)) for each in columns.values())] for key in keys]
    about = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    seeds = f"Seeds {_word(record['seeds'])}. " if "seeds" in record else ""
    table = markdown_table(["", *columns], rows)
    interval = f"Interval: {record['interval_method']}.\n\n" if "interval_method" in record else ""
    return (
        f"{interval}{seeds}Data: {record['dataset']}. Run with {about} on {record['device']}.\n\n"
        f":::{{dropdown}} Settings\n{table}\n:::"
    )


def _word(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def plain_table(record: Record) -> str:
    """The rows of a record of unknown kind, by what they have in common."""
    rows = record["rows"]
    keys = [key for key in rows[0] if all(key in row for row in rows)]
    return markdown_table(keys, [[_word(row[key]) for key in keys] for row in rows])


_TABLES: dict[str, Callable[[Any], str]] = {
    "invariance": invariance_table,
    "stability": stability_table,
    "obvious": obvious_table,
    "recipes": recipes_tables,
    "colocalisation": colocalisation_table,
    "birds_drawn": birds_tables,
}


def experiment_section(path: Path) -> str:
    """A section: what was done, the table, and how.

    Raises:
      ValueError: If the file holds neither cells nor rows and is of no known name.
    """
    title, text = _EXPERIMENTS.get(path.stem, (path.stem.replace("_", " ").capitalize(), ""))
    record = read_json(path)
    source = f"From `experiments/results/{path.name}`."
    if isinstance(record, list) and all("distortion" in entry for entry in record):
        body = comparison.comparison_markdown(
            [cell_from_json(entry, str(path)) for entry in record]
        )
    elif path.stem in _TABLES:
        typed = _KINDS[path.stem].from_json(record, path)
        body = f"{_TABLES[path.stem](typed)}\n\n{protocol(record)}"
    elif isinstance(record, dict) and record.get("rows"):
        body = plain_table(record)
    else:
        raise ValueError(
            f"{path.name} holds neither cells of a table nor rows; give it a table in _TABLES of "
            "docs/results.py."
        )
    return "\n\n".join(filter(None, [f"### {title}", text, body, source]))


def accuracy_section(path: Path) -> str:
    """Every table of how exact the library is, with its verdict."""
    record = read_json(path)
    versions = ", ".join(f"{name} {each}" for name, each in record["environment"].items() if each)
    parts = ["### How exact", f"Measured with {versions}. From `benchmarks/results/{path.name}`."]
    for table in record["tables"].values():
        headings = list(table["rows"][0])
        rows = [[_small(row[key]) for key in headings] for row in table["rows"]]
        parts.append(
            f"**{table['title']}**\n\n{table['verdict']}.\n\n"
            f":::{{dropdown}} All rows\n{markdown_table(headings, rows)}\n:::"
        )
    return "\n\n".join(parts)


def _small(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def benchmark_section(path: Path) -> str:
    """A benchmark's tables and the rows in which ours is slower."""
    return f"{benchmarks.section(read_json(path))}\n\nFrom `benchmarks/results/{path.name}`."


def text_section(path: Path) -> str:
    """What a command printed."""
    return f"### {path.stem.capitalize()}\n\n```text\n{path.read_text().rstrip()}\n```"


def page() -> str:
    """The page in Markdown."""
    known = list(_EXPERIMENTS)
    files = sorted(
        EXPERIMENTS.glob("*.json"),
        key=lambda path: (known.index(path.stem) if path.stem in known else len(known), path.stem),
    )
    parts = [_HEAD, "## Experiments", *map(experiment_section, files)]
    parts += ["## Accuracy", accuracy_section(BENCHMARKS / "accuracy.json")]
    texts = [path for path in sorted(BENCHMARKS.glob("*.txt")) if path.stem != "accuracy"]
    parts += map(text_section, texts)
    speed = [path for path in sorted(BENCHMARKS.glob("*.json")) if path.stem != "accuracy"]
    parts += [
        "## Speed",
        "Beside its peers, in one process and on the same arrays; the method stands in "
        "`benchmarks/README.md`. Ratios are the peer's time over ours, so that above 1 we are "
        "faster, with the middle half of the rounds in brackets.",
        *map(benchmark_section, speed),
    ]
    return "\n\n".join(parts) + "\n"


def write(path: Path) -> None:
    """Writes the page, unless it is there already, so that Sphinx sees what has changed."""
    text = page()
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)
