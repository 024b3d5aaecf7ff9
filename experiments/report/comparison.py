"""A table of errors beside published ones: as text, as Markdown, and as a page."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.report import figures, tables, verdicts
from experiments.report.markup import (
    html_figure,
    html_page,
    html_table,
    paragraph,
    section,
)
from experiments.report.page import (
    BEFORE_AFTER,
    CURVES,
    before_after_picture,
    explanation,
    time_sections,
    training_picture,
    write_file,
)
from experiments.report.records import TableCell, TableEntry, Verdict
from experiments.report.runs import RunFolder, run_names

# The sign between an error and the paper's, in a table of models × sets.
_SIGNS: dict[Verdict, str] = {"at or below": "≤", "within the interval": "≈", "above": ">"}
# The paper's errors have one decimal and a binomial standard error of 0.1 points, so their
# difference has 0.14. Two models count as different from twice that on.
_APART = 0.3
_PENDING = "…"
_NONE = "–"
_LEGEND = (
    "Test error in percent: the mean over seeds and its 95 % interval. Then the paper's error: "
    "≤ ours is at or below it, ≈ our interval reaches down to it, > our interval lies above it."
)
_SAMPLES = "Test images of each set; none shows them undistorted."


def verdict(mean: float, interval: Sequence[float], paper: float) -> Verdict:
    """Compares an error with the published one."""
    if mean <= paper:
        return "at or below"
    return "within the interval" if interval[0] <= paper else "above"


def order(entries: Sequence[TableCell]) -> tuple[int, list[str]]:
    """Compares the order of the models with the published order.

    Args:
      entries: The cells; those without a verdict are ignored.

    Returns:
      The number of pairs of models on one set whose published errors differ by 0.3 points or more,
      and a description of each of these pairs whose order is reversed here.
    """
    judged = [(e.paper, e) for e in _finished(entries) if e.verdict and e.paper is not None]
    pairs = [
        sorted(pair, key=lambda each: each[0])
        for pair in itertools.combinations(judged, 2)
        if pair[0][1].distortion == pair[1][1].distortion
        and abs(pair[0][0] - pair[1][0]) > _APART - 0.01
    ]
    swapped = [
        f"{low.distortion}: {low.name} {low.mean:.2f} (paper {less:.1f}), "
        f"{high.name} {high.mean:.2f} ({more:.1f})"
        for (less, low), (more, high) in pairs
        if low.mean >= high.mean
    ]
    return len(pairs), swapped


def comparison_text(entries: Sequence[TableCell]) -> str:
    """A table with a row for each cell, then the settings and the versions."""
    return "\n".join([tables.text_table(*_rows(entries)), "", *_protocol(entries)])


def comparison_markdown(entries: Sequence[TableCell]) -> str:
    """A table of models × sets, then the settings and the versions, for a README."""
    table = tables.markdown_table(*_matrix(entries))
    return "\n\n".join([table, _LEGEND, *_protocol(entries)])


def in_words(entries: Sequence[TableCell]) -> list[str]:
    """Sentences on the table: how far it is, how it compares, and the best model of each set."""
    done = _finished(entries)
    sentences = []
    if len(done) < len(entries):
        sentences.append(f"{len(done)} of {len(entries)} cells are done.")
    judged = [entry for entry in done if entry.verdict]
    if judged:
        counts = {name: sum(e.verdict == name for e in judged) for name in _SIGNS}
        sentences.append(
            f"Beside the paper's errors, of {len(judged)} cells: "
            f"{counts['at or below']} at or below, "
            f"{counts['within the interval']} above but with an interval that reaches down to it, "
            f"{counts['above']} above."
        )
    for name in dict.fromkeys(entry.distortion for entry in done):
        best, *others = sorted(
            (entry for entry in done if entry.distortion == name), key=lambda entry: entry.mean
        )
        if not others:
            continue
        near = [other.name for other in others if other.interval[0] <= best.interval[1]]
        sentences.append(
            f"{name}: {best.name} errs least, {best.mean:.2f} %"
            + (f"; its 95 % interval overlaps that of {', '.join(near)}." if near else ".")
        )
    return sentences


def build_comparison(
    out: Path,
    entries: Sequence[TableCell],
    runs: Mapping[str, Sequence[RunFolder]],
    samples: figures.Picture,
    title: str,
    *,
    closing: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Writes ``report.html`` and its pictures.

    Args:
      out: Folder to write to.
      entries: The cells.
      runs: The runs of each distortion.
      samples: Distorted images.
      title: Heading of the page.
      closing: Sections of HTML that come last.
      command: The command that made the runs.

    Returns:
      The path of ``report.html``.
    """
    headings, rows = _matrix(entries)
    protocol = "\n".join(map(paragraph, [_LEGEND, *_protocol(entries)]))
    sections = [
        section("Errors beside the paper's", html_table(headings, rows, [""] * len(headings))),
        protocol,
        section("Test errors and published errors", tables.text_table_html(*_rows(entries))),
        section("Distorted images of each set"),
        html_figure(samples, "Images of each set", _SAMPLES),
        section("Training"),
    ]
    write_file(out / "distortions.png", samples.light)
    for name, of_set in runs.items():
        names = run_names([run.result for run in of_set])
        curves = {label: run.metrics for label, run in zip(names, of_set, strict=True)}
        picture = training_picture(curves)
        write_file(out / f"training_curves_{name}.png", picture.light)
        sections.append(html_figure(picture, f"Training curves, {name}", f"Set {name}. {CURVES}"))
    all_runs = [run for of_set in runs.values() for run in of_set]
    all_names = run_names([run.result for run in all_runs])
    found = verdicts.diagnoses(all_names, all_runs)
    wrong = [each for each in found if each.findings]
    if wrong:
        table = tables.text_table_html(*verdicts.diagnosis_table(wrong))
        sections.append(section("Diagnosis of the spatial transformers", table))
    sections += time_sections(all_names, all_runs)
    # If a cell has several runs, show the picture of the last one.
    looking = {
        (run.result.distortion, run.result.model, run.result.transform or ""): run.pictures
        for of_set in runs.values()
        for run in of_set
        if run.pictures and run.pictures.regions
    }
    texts = dict.fromkeys(map(explanation, looking.values())) or [BEFORE_AFTER]
    paragraphs = "\n".join(map(paragraph, texts))
    sections.append(section("Test images, transformed images and predictions", paragraphs))
    for cell, pictures in looking.items():
        picture, name = before_after_picture(pictures), " ".join(cell)
        write_file(out / f"before_after_{name.replace(' ', '_')}.png", picture.light)
        sections.append(html_figure(picture, f"Test images, {name}", name))
    report = out / "report.html"
    said = [*in_words(entries), *verdicts.of_diagnoses(found)]
    page = html_page(title, [*sections, *closing], verdict=said, command=command)
    write_file(report, page.encode())
    return report


def _rows(entries: Sequence[TableCell]) -> tuple[list[str], list[list[str]]]:
    """Headings, and one row of text for each cell."""
    headings = ["set", "model", "transform", "paper %", "error %", "95 % interval", "verdict"]
    rows = []
    for entry in entries:
        place = [entry.distortion, entry.model, entry.transform or _NONE]
        row = [*place, _as_published(entry.paper), _PENDING, _PENDING, _NONE, "", "", _PENDING]
        if isinstance(entry, TableEntry):
            row[4:] = [
                _number(entry.mean, 2),
                f"{entry.interval[0]:.2f} to {entry.interval[1]:.2f}",
                entry.verdict or _NONE,
                ", ".join(_number(error, 2) for error in entry.test_errors),
                ", ".join(_number(error, 2) for error in entry.validation_errors),
                f"{entry.num_parameters:,}",
            ]
        rows.append(row)
    return [*headings, "each seed", "validation %", "parameters"], rows


def _matrix(entries: Sequence[TableCell]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table of models × sets."""
    sets = list(dict.fromkeys(entry.distortion for entry in entries))
    models = dict.fromkeys((entry.model, entry.transform) for entry in entries)
    by_place = {(e.distortion, e.model, e.transform): e for e in entries}
    rows = [
        [" ".join(filter(None, model)), *(_cell(by_place.get((name, *model))) for name in sets)]
        for model in models
    ]
    return ["model", *sets], rows


def _cell(entry: TableCell | None) -> str:
    if entry is None:  # No training of this model on this set belongs to the table.
        return _NONE
    if not isinstance(entry, TableEntry):
        return _PENDING if entry.paper is None else f"{_PENDING} {_as_published(entry.paper)}"
    low, high = entry.interval
    ours = f"{entry.mean:.2f} ({low:.2f}–{high:.2f})"
    if entry.paper is None:
        return ours
    sign = "|" if entry.verdict is None else _SIGNS[entry.verdict]
    return f"{ours} {sign} {_as_published(entry.paper)}"


def _as_published(error: float | None) -> str:
    """A published number: with one decimal, or with two if it has two."""
    return _number(error, 1 if error is None or round(error, 1) == error else 2)


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _finished(entries: Sequence[TableCell]) -> list[TableEntry]:
    return [entry for entry in entries if isinstance(entry, TableEntry)]


def _protocol(entries: Sequence[TableCell]) -> list[str]:
    """Sentences on the data, the training, the intervals and the versions of the finished cells."""
    done = _finished(entries)
    if not done:
        return ["Nothing is done yet."]
    kinds = dict.fromkeys(map(_how, done))
    environments = dict.fromkeys(tables.made_with(e.versions, e.device) for e in done)
    hashes = dict.fromkeys(f"{e.distortion} {e.test_sha256[:16]}" for e in done)
    lines = [f"Data and training: {'; or '.join(kinds)}."]
    if any(e.verdict is None and e.paper is not None for e in done):
        lines.append("The published numbers are of another data set: no verdict.")
    if all(entry.paper is None for entry in entries):
        lines.append("The paper gives no number for any of these.")
    pairs, swapped = order(done)
    if pairs:
        lines.append(
            f"Order: of {pairs} pairs of models of one set that the paper's numbers set apart by "
            f"{_APART} points or more, {pairs - len(swapped)} stand the same way"
            + (f"; not so {'; '.join(swapped)}." if swapped else ".")
        )
    pending = len(entries) - len(done)
    if pending:
        lines.append(f"Pending: {pending} of {len(entries)} cells.")
    return [
        *lines,
        f"Interval: {done[0].interval_method}.",
        f"Distorted test sets, first digits of SHA-256: {', '.join(hashes)}.",
        f"Run with {'; or '.join(environments)}.",
    ]


def _how(entry: TableEntry) -> str:
    """The data and the training of a cell."""
    width = entry.settings["width"]
    return (
        f"{entry.dataset}, {entry.test_images:,} images to measure on; recipe "
        f"{entry.settings['recipe']} from a rate of {entry.settings['learning_rate']:g}, "
        f"{entry.steps:,} steps of {entry.batch_size} images; seeds "
        f"{', '.join(map(str, entry.seeds))}" + (f"; width {width:g}" if width != 1 else "")
    )
