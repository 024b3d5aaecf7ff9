"""One self-contained HTML page, and the picture files beside it."""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.files import write_atomically
from experiments.report import animation, figures, tables, verdicts
from experiments.report.markup import (
    Mark,
    Row,
    dot_chart,
    heading,
    html_figure,
    html_list,
    html_page,
    paragraph,
    section,
    share_chart,
)
from experiments.report.records import RunResult
from experiments.report.runs import Pictures, RunFolder, read_run, run_names

CURVES = (
    "The loss of the training batches, on a logarithmic scale; and the error in percent of "
    "training batches and, with dots, of validation, on a scale that is logarithmic above 1 %. "
    "One colour is one run, one line is one seed."
)
_ERRORS = (
    "Test error in percent: a dot is the mean over the seeds, the bar its 95 % interval, a ring "
    "one seed."
)
_TIMES = (
    "The time of the trainings of each run. What the first line of metrics of a training took "
    "longer than its others is counted as start and compilation; measuring held-out images counts "
    "as steps."
)
_NARROW_COLUMNS = 5
_PLAIN = (
    "Test images as the network sees them, with the true class → the class that it predicts at "
    "the end of training; wrong predictions are red. This model has no spatial transformer."
)
BEFORE_AFTER = (
    "Top: test images as the network sees them, and in orange the region that the spatial "
    "transformer reads at the end of training; the thick side becomes the top of the output, and "
    "the dot its top-left corner. Bottom: what the transformer passes on; where it reads two "
    "regions, a row for each, named in its colour. Two channels are red and cyan. Over each: the "
    "true class → the predicted one, red where they differ."
)
_VOLUMES = (
    "Top: test volumes, flattened along their depth. Bottom: what the spatial transformer passes "
    "on at the end of training, flattened too, as the classifier sees it; where it reads two "
    "regions, a row for each. They are regions of space, and not drawn. Over each: the true class "
    "→ the predicted one, red where they differ."
)
_ANIMATION = (
    "The regions that the transformer reads, at steps of the training. The caption counts the "
    "training batches and gives the transform's parameters for the first image. The network is "
    "told the class and nothing else; it finds the "
    "region by itself."
)


def build_report(
    out: Path,
    runs: Sequence[Path],
    title: str = "Spatial transformer experiments",
    *,
    names: Sequence[str] | None = None,
    opening: Sequence[str] = (),
    verdict: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Writes the report of some finished runs.

    Beside ``report.html``, which holds all its pictures and needs no other file, it writes
    ``training_curves.png``, ``errors.png`` and, for runs with pictures, ``before_after.png`` and
    ``theta.gif``; where several runs have them, the run's name is added, as in
    ``before_after_cnn.png``. Each file appears whole or not at all.

    Args:
      out: Folder to write to; made if it does not exist.
      runs: Run folders, in the order in which they are shown.
      title: Heading of the page.
      names: Names of the runs; by default their models, and the settings in which they differ.
      opening: Sections of HTML that come first.
      verdict: Sentences at the top; by default they compare the runs' test errors.
      command: The command that made the runs.

    Returns:
      The path of ``report.html``.

    Raises:
      ValueError: If ``runs`` is empty, there are not as many ``names``, or a file of a run is
        missing or broken; names the file.
    """
    if not runs:
        raise ValueError("runs must name at least one run folder; got none.")
    if names is not None and len(names) != len(runs):
        raise ValueError(f"names must be one for each of {len(runs)} runs; got {list(names)}.")
    read = [read_run(Path(folder)) for folder in runs]
    results = [run.result for run in read]
    named, names = names, run_names(results) if names is None else names
    logged = {name: run.metrics for name, run in zip(names, read, strict=True)}
    curves = training_picture(logged)
    files = {
        "training_curves.png": curves.light,
        "errors.png": figures.png(figures.error_plot(results, names)),
    }
    dots = [
        Row(name, [Mark(name, result.mean, result.interval, result.test_errors)])
        for name, result in zip(names, results, strict=True)
    ]
    found = verdicts.diagnoses(names, read)
    sections = [
        *opening,
        section("Test errors", dot_chart(dots, "%", _ERRORS)),
        tables.error_table_html(results, named),
        section("Protocol of the test errors", _protocols(names, results)),
        section("Training"),
        html_figure(curves, "Loss and error during training", CURVES),
    ]
    if found:
        body = tables.text_table_html(*verdicts.diagnosis_table(found))
        sections.append(section("Diagnosis of the spatial transformers", body))
    sections += time_sections(names, read)
    followed = [
        (name, run, run.pictures) for name, run in zip(names, read, strict=True) if run.pictures
    ]
    animated = [name for name, _, pictures in followed if pictures.regions]
    if followed:
        sections.append(section("Test images, transformed images and predictions"))
    for name, run, pictures in followed:
        sections.append(heading(name))
        picture = before_after_picture(pictures)
        files[_file_name("before_after", name, ".png", alone=len(followed) == 1)] = picture.light
        sections.append(html_figure(picture, f"Test images, {name}", explanation(pictures)))
        if pictures.regions:
            gif = animation.theta_animation(pictures, total_steps=run.result.steps)
            files[_file_name("theta", name, ".gif", alone=len(animated) == 1)] = gif
            sections.append(html_figure(gif, f"Regions during training, {name}", _ANIMATION))
    settings = tables.settings_table_html(names, [run.config for run in read])
    sections.append(section("Settings", settings))

    out.mkdir(parents=True, exist_ok=True)
    for file_name, content in files.items():
        write_file(out / file_name, content)
    sentences = [*(verdict or verdicts.of_runs(names, results)), *verdicts.of_diagnoses(found)]
    report = out / "report.html"
    page = html_page(title, sections, verdict=sentences, command=command)
    write_file(report, page.encode())
    return report


def build_page(
    out: Path,
    title: str,
    sections: Sequence[str],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]] | None,
    settings: Mapping[str, Any],
    *,
    verdict: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Writes the report of an experiment: report.html and, with metrics, training_curves.png.

    Args:
      out: Folder to write to.
      title: Heading of the page.
      sections: HTML that comes first.
      metrics: The lines of metrics of each training, by name; ``None`` draws no curves.
      settings: Of the experiment.
      verdict: Sentences at the top.
      command: The command that made it.

    Returns:
      The path of ``report.html``.
    """
    last = []
    if metrics is not None:
        curves = training_picture(metrics)
        write_file(out / "training_curves.png", curves.light)
        picture = html_figure(curves, "Loss and error during training", CURVES)
        last.append(section("Training", picture))
    last.append(section("Settings", tables.settings_table_html(["value"], [settings])))
    report = out / "report.html"
    page = html_page(title, [*sections, *last], verdict=verdict, command=command)
    write_file(report, page.encode())
    return report


def training_picture(logged: Mapping[str, Sequence[Mapping[str, Any]]]) -> figures.Picture:
    """The curves of some trainings, for pages of both widths."""
    draw = functools.partial(figures.training_curves, logged)
    return figures.picture(draw, functools.partial(draw, narrow=True))


def before_after_picture(pictures: Pictures) -> figures.Picture:
    """The inputs and the outputs of a spatial transformer, for pages of both widths."""
    return figures.picture(
        lambda: figures.before_after(pictures),
        lambda: figures.before_after(pictures.first(_NARROW_COLUMNS)),
    )


def time_sections(names: Sequence[str], runs: Sequence[RunFolder]) -> list[str]:
    """A section on the time that each part of the runs took, if their metrics tell it."""
    spent = {name: verdicts.time_spent(run) for name, run in zip(names, runs, strict=True)}
    known = {name: parts for name, parts in spent.items() if parts}
    if not known:
        return []
    chart = share_chart(
        {name: {k: v / 60 for k, v in parts.items()} for name, parts in known.items()},
        "min",
        _TIMES,
    )
    table = tables.text_table_html(*verdicts.time_table(known, dict(zip(names, runs, strict=True))))
    return [section("Time by part of a run", chart), table]


def explanation(pictures: Pictures) -> str:
    """The text under the pictures of a run."""
    if pictures.regions is None:
        return _PLAIN
    return BEFORE_AFTER if pictures.regions.transform.ndim == 2 else _VOLUMES


def _protocols(names: Sequence[str], results: Sequence[RunResult]) -> str:
    """The data, training and test of the runs; one paragraph if they are the same for all."""
    protocols = list(map(_protocol, results))
    if len(set(protocols)) == 1:
        return paragraph(protocols[0])
    return html_list(list(zip(names, protocols, strict=True)))


def _protocol(result: RunResult) -> str:
    seeds = ", ".join(map(str, result.seeds))
    return (
        f"Data: {result.dataset}, distortion {result.distortion}. Training: "
        f"{result.steps:,} steps of {result.batch_size} images for each of the seeds "
        f"{seeds}. Test: {result.test_images:,} images; the error is the percentage of wrong "
        f"classes, its mean is over the seeds. Interval: {result.interval_method}. "
        f"Run with {tables.made_with(result.versions, result.device)}."
    )


def _file_name(stem: str, run: str, suffix: str, *, alone: bool) -> str:
    """A picture's file name, with the run's name unless there is only one picture."""
    if alone:
        return stem + suffix
    return f"{stem}_{re.sub(r'[^a-zA-Z0-9-]+', '_', run).strip('_')}{suffix}"


def write_file(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, even if the program is killed."""
    write_atomically(path, lambda partial: partial.write_bytes(content))
