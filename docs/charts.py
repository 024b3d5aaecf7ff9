"""The chart of each page of results, as HTML: the figures beside the paper's, or beside the peers'.

A chart is drawn from the record of a result alone, in the colours of the reader's theme.
"""

import base64
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from docs import figures as drawn
from experiments.birds.records import BirdsResult
from experiments.classification.recipe_comparison import RecipesResult
from experiments.colocalisation.records import ColocalisationResult
from experiments.invariance.report import InvarianceResult
from experiments.report import figures
from experiments.report.markup import Mark, Row, dot_chart
from experiments.report.records import TableCell, TableEntry
from experiments.stability.obvious import ObviousResult
from experiments.stability.report import StabilityResult

OURS, PAPER = "stn_jax", "paper"
_ERRORS = (
    "Test error: the mean over seeds with its 95 % interval; rings are the seeds, a diamond is the "
    "published error. The scale is logarithmic."
)


def errors(cells: Sequence[TableCell]) -> str:
    """Errors of a table, set by set, beside the published ones."""
    rows = []
    for name, of_set in itertools.groupby(cells, lambda cell: cell.distortion):
        rows.append(Row(f"Set {name}"))
        for cell in of_set:
            marks = [] if cell.paper is None else [Mark(PAPER, cell.paper)]
            if isinstance(cell, TableEntry):
                marks.append(Mark(OURS, cell.mean, cell.interval, cell.test_errors))
            rows += [Row(cell.name, marks)] if marks else []
    return dot_chart(rows, "%", _ERRORS, reference=PAPER, logarithmic=True)


def birds(record: BirdsResult) -> str:
    """Accuracies of the models."""
    rows = []
    for row in record.rows:
        paper = [] if row.paper is None else [Mark(PAPER, row.paper)]
        ours = Mark(OURS, row.accuracy, row.interval, row.accuracies)
        rows.append(Row(row.model, [*paper, ours]))
    explanation = (
        "Accuracy on test images: the mean over seeds with its 95 % interval; rings are the seeds."
    )
    return dot_chart(rows, "%", explanation, reference=PAPER)


def colocalisation(record: ColocalisationResult) -> str:
    """The share of canvases found, class by class."""
    rows = []
    for name, of_set in itertools.groupby(record.rows, lambda row: row.set):
        rows.append(Row(f"Set {name}"))
        for row in of_set:
            marks = [Mark(OURS, row.mean, row.interval, row.correct)]
            if row.paper is not None:
                low, high = row.paper
                marks.insert(0, Mark(PAPER, low if low == high else None, row.paper))
            rows.append(Row(f"digit {', '.join(map(str, row.digits))}", marks))
    explanation = (
        "Canvases where the crop overlaps the digit's box by half or more, with 95 % intervals. "
        "The paper gives the range over its classes: a wide bar, or a diamond."
    )
    return dot_chart(rows, "%", explanation, reference=PAPER)


def invariance(record: InvarianceResult) -> str:
    """Error against the angle of the test images, as a picture."""
    draw = lambda: drawn.invariance(record)  # noqa: E731
    return _picture(
        figures.picture(draw, lambda: figures.resized(draw(), 4.4)),
        "Test error against the angle of the test digits: a line for each model, the mean over "
        "seeds, and their range.",
    )


def stability(record: StabilityResult) -> str:
    """Errors of each recipe, seed by seed."""
    names = {"plain": "one optimizer for all", "kit": "with the training kit"}
    rows = [
        Row(names.get(row.recipe, row.recipe), [Mark("mean", row.mean, each=row.test_errors)])
        for row in record.rows
    ]
    explanation = (
        "Test error: the mean over seeds, and each seed as a ring. The scale is logarithmic."
    )
    return dot_chart(rows, "%", explanation, logarithmic=True)


_HEADS = {"–": "no head", "plain": "plain head", "scaled": "scaled head"}


def obvious(record: ObviousResult) -> str:
    """Failures of each kind of training, by head."""
    rows: list[Row] = []
    kind = lambda row: f"{row.framework}, {row.optimizer}"  # noqa: E731
    for title, of_kind in itertools.groupby(record.rows, kind):
        rows.append(Row(title))
        for transform, own in itertools.groupby(of_kind, lambda row: row.transform):
            marks = [Mark(_HEADS[row.head], 100 * row.failed / row.seeds) for row in own]
            rows.append(Row("no transformer" if transform == "none" else transform, marks))
    return dot_chart(rows, "%", "The share of seeds that failed.")


def recipes(record: RecipesResult) -> str:
    """Errors after as many images, by recipe."""
    rows: list[Row] = []
    places = dict.fromkeys((row.distortion, row.model) for row in record.rows)
    for place in places:
        rows.append(Row(" ".join(place)))
        own = [row for row in record.rows if (row.distortion, row.model) == place]
        for images in sorted({row.images for row in own}):
            marks = [Mark(row.recipe, row.error) for row in own if row.images == images]
            rows.append(Row(f"{images / 1000:,.0f},000 images", marks))
    explanation = (
        "Error on held-out images after a training on so many images. The scale is logarithmic."
    )
    return dot_chart(rows, "%", explanation, logarithmic=True)


# Benchmarks, from the rows of a file.
_Rows = Sequence[dict[str, Any]]
_TIMES = (
    "Each peer's time over ours, the median over rounds: right of the line at 1 we are faster. The "
    "scale is logarithmic."
)


def ratios(rows: _Rows, group: Sequence[str], name: Sequence[str]) -> str:
    """Times of all peers over ours."""
    found: list[Row] = []
    for title, of_group in itertools.groupby(rows, lambda row: _labels(row, group)):
        found.append(Row(title))
        for row in of_group:
            marks = [Mark(peer, each["median"]) for peer, each in row["ratios"].items()]
            found.append(Row(_labels(row, name), marks))
    # A peer keeps its colour, whichever row it stands in first.
    peers = sorted({mark.series for row in found for mark in row.marks})
    found = [
        row._replace(marks=sorted(row.marks, key=lambda m: peers.index(m.series))) for row in found
    ]
    return dot_chart(found, "×", _TIMES, logarithmic=True, level=1.0)


def multiples(rows: _Rows) -> str:
    """Families of transforms as multiples of the affine warp."""
    found: list[Row] = []
    for row in rows:
        if "multiples" in row:
            found.append(Row(_labels(row, ("shape", "pass"))))
            for name, spread in row["multiples"].items():
                found.append(Row(name, [_spread(OURS, spread)]))
    explanation = (
        "The time of a warp over that of the affine one, with the middle half of the rounds. The "
        "scale is logarithmic."
    )
    return dot_chart(found, "×", explanation, logarithmic=True, level=1.0)


def seconds(
    rows: _Rows, group: Sequence[str], name: Sequence[str], what: str, *, unit: str = "ms"
) -> str:
    """Times of what a row compares, in milliseconds."""
    found: list[Row] = []
    for title, of_group in itertools.groupby(rows, lambda row: _labels(row, group)):
        found.append(Row(title))
        for row in of_group:
            marks = [_spread(each, spread, 1e3) for each, spread in row["seconds"].items()]
            found.append(Row(_labels(row, name), marks))
    return dot_chart(found, unit, f"{what} The scale is logarithmic.", logarithmic=True)


def compilations(rows: _Rows) -> str:
    """Times to trace and to compile; imports are in the table."""
    own = [row for row in rows if row["pass"] != "import"]
    what = "Times to trace, and to trace and compile, with the middle half of the rounds."
    return seconds(sorted(own, key=lambda row: row["pass"]), ("pass",), ("what",), what)


def costs(rows: _Rows) -> str:
    """Models without and with a transformer."""
    named = [
        row
        | {"seconds": dict(zip(("plain", "with a transformer"), _pair(row), strict=True))}
        | {"name": f"{row['model']}, {row['with a transformer']}"}
        for row in rows
    ]
    what = "Times without and with a spatial transformer, with the middle half of the rounds."
    return seconds(sorted(named, key=lambda row: row["what"]), ("what",), ("name",), what)


def _pair(row: dict[str, Any]) -> Iterable[Any]:
    return (row["seconds"][row[key]] for key in ("model", "with a transformer"))


def slopes(rows: _Rows) -> str:
    """Slopes of logarithms, by quantity and pass."""
    found = []
    for quantity, own in itertools.groupby(rows, lambda row: row["quantity"]):
        marks = [Mark(row["pass"], max(row["slope"], 0.0)) for row in own]
        found.append(Row(quantity, marks))
    explanation = (
        "How time grows with a quantity: the slope of its logarithm. 1, the line, is proportional; "
        "0 is free."
    )
    return dot_chart(found, "", explanation, level=1.0)


def rates(rows: _Rows, group: Sequence[str], ours: str) -> str:
    """Images a second of what each row compares."""
    found: list[Row] = []
    for row in rows:
        found.append(Row(_labels(row, group)))
        for name, rate in row["images_per_second"].items():
            series = OURS if name == ours else "others"
            found.append(Row(name, [Mark(series, rate)]))
    what = "Images a second. The scale is logarithmic."
    return dot_chart(found, "images/s", what, logarithmic=True)


def registrations(rows: _Rows) -> str:
    """Errors of registrations, by contender."""
    found = [
        Row(row["pairs"], [Mark(name, error) for name, error in row["median_error"].items()])
        for row in rows
    ]
    explanation = "The median error over pairs. The scale is logarithmic."
    return dot_chart(found, "pixels", explanation, logarithmic=True)


def positions(rows: _Rows) -> str:
    """Errors of sampled positions, by library."""
    found: list[Row] = []
    for title, own in itertools.groupby(rows, lambda row: f"{row['width']} pixels wide"):
        found.append(Row(title))
        for row in own:
            names = ("warp", "grid_sample", "PyTorch")
            marks = [Mark(name, row[name]) for name in names if row[name] is not None]
            found.append(Row(_labels(row, ("alignment", "theta")), marks))
    explanation = (
        "The largest error of a sampled position, against float64. The scale is logarithmic, with "
        "0 on its left."
    )
    return dot_chart(found, "pixels", explanation, logarithmic=True)


def printed(text: str, explanation: str, unit: str) -> str:
    """The table that a command printed: a row for each line, a mark for each column."""
    _, header, *lines = text.rstrip().splitlines()
    _, *columns = re.split(r"\s{2,}", header.strip())
    rows = []
    for line in lines:
        name, *cells = re.split(r"\s{2,}", line.strip())
        pairs = zip(columns, cells, strict=True)
        marks = [Mark(each, float(cell.rstrip("%"))) for each, cell in pairs if cell != "–"]
        rows.append(Row(name, marks))
    return dot_chart(rows, unit, explanation)


def _spread(series: str, spread: dict[str, float], factor: float = 1.0) -> Mark:
    low, high = (factor * spread[each] for each in ("first_quartile", "third_quartile"))
    return Mark(series, factor * spread["median"], (low, high))


def _labels(row: dict[str, Any], names: Sequence[str]) -> str:
    """The values that tell a row from others; a number gets its name."""
    values = [(name, row[name]) for name in names]
    return ", ".join(each if isinstance(each, str) else f"{name} {each}" for name, each in values)


def _picture(picture: figures.Picture, explanation: str) -> str:
    """A picture in the theme of the page, and in a narrow form for a narrow one."""
    both = {"light": (picture.light, picture.narrow), "dark": (picture.dark, picture.narrow_dark)}
    parts = []
    for theme, (wide, narrow) in both.items():
        assert wide is not None
        assert narrow is not None
        wide_data, narrow_data = (base64.b64encode(each).decode() for each in (wide, narrow))
        parts.append(
            f'<picture class="only-{theme}"><source media="(max-width: 40rem)" '
            f'srcset="data:image/png;base64,{narrow_data}"><img alt="{explanation}" '
            f'src="data:image/png;base64,{wide_data}"></picture>'
        )
    return f"<figure>{''.join(parts)}<figcaption>{explanation}</figcaption></figure>"
