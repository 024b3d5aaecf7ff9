"""One self-contained HTML page, and the picture files beside it."""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.engine.files import write_atomically
from experiments.report import animation, figures, tables
from experiments.report.records import RunResult
from experiments.report.runs import Pictures, read_run, run_names

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem 1rem 4rem; background: #fff; color: #1c1c1c;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { line-height: 1.2; font-size: 1.8rem; margin: 1rem 0; }
h2 { line-height: 1.25; font-size: 1.3rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .3rem; }
p, li { max-width: 46rem; }
figure { margin: 1rem 0; }
.scroll { overflow-x: auto; }
img { display: block; height: auto; min-width: 36rem; max-width: max(100%, 36rem); }
figcaption { color: #555; font-size: .92rem; margin-top: .4rem; max-width: 46rem; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #ddd; text-align: left;
  vertical-align: top; }
th { border-bottom: 2px solid #999; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
th.number, td.number { text-align: right; white-space: nowrap; }
"""

CURVES = (
    "Left: the loss of the training batches, on a logarithmic scale. Right: the error in percent, "
    "faint for training batches, with dots for validation; the scale is logarithmic above 1 %. "
    "One colour is one run, one line is one seed."
)
_ERRORS = "A dot is the mean over the seeds, the bar its 95 % interval, a ring one seed."
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
    "The same during training. The caption counts the training batches and gives the transform's "
    "parameters for the first image. The network is told the class and nothing else; it finds the "
    "region by itself."
)


def build_report(
    out: Path,
    runs: Sequence[Path],
    title: str = "Spatial transformer experiments",
    *,
    names: Sequence[str] | None = None,
    opening: Sequence[str] = (),
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
    files = {
        "training_curves.png": figures.png(
            figures.training_curves(
                {name: run.metrics for name, run in zip(names, read, strict=True)}
            )
        ),
        "errors.png": figures.png(figures.error_plot(results, names)),
    }
    sections = [
        *opening,
        section("Test errors", tables.error_table_html(results, named)),
        html_figure(files["errors.png"], "Dot plot of the test errors", _ERRORS),
        section("How they were measured", _protocols(names, results)),
        section("Training"),
        html_figure(files["training_curves.png"], "Loss and error during training", CURVES),
    ]
    followed = [
        (name, run, run.pictures) for name, run in zip(names, read, strict=True) if run.pictures
    ]
    animated = [name for name, _, pictures in followed if pictures.regions]
    if followed:
        sections.append(section("What the networks see"))
    for name, run, pictures in followed:
        sections.append(f"<h3>{html.escape(name)}</h3>")
        picture = figures.png(figures.before_after(pictures))
        files[_file_name("before_after", name, ".png", alone=len(followed) == 1)] = picture
        sections.append(html_figure(picture, f"Test images, {name}", explanation(pictures)))
        if pictures.regions:
            picture = animation.theta_animation(pictures, total_steps=run.result.steps)
            files[_file_name("theta", name, ".gif", alone=len(animated) == 1)] = picture
            sections.append(html_figure(picture, f"Regions during training, {name}", _ANIMATION))
    settings = tables.settings_table_html(names, [run.config for run in read])
    sections.append(section("Settings", settings))

    out.mkdir(parents=True, exist_ok=True)
    for file_name, content in files.items():
        write_file(out / file_name, content)
    report = out / "report.html"
    write_file(report, html_page(title, sections).encode())
    return report


def build_page(
    out: Path,
    title: str,
    sections: Sequence[str],
    metrics: Mapping[str, Sequence[Mapping[str, Any]]] | None,
    settings: Mapping[str, Any],
) -> Path:
    """Writes the report of an experiment: report.html and, with metrics, training_curves.png.

    Args:
      out: Folder to write to.
      title: Heading of the page.
      sections: HTML that comes first.
      metrics: The lines of metrics of each training, by name; ``None`` draws no curves.
      settings: Of the experiment.

    Returns:
      The path of ``report.html``.
    """
    last = []
    if metrics is not None:
        curves = figures.png(figures.training_curves(metrics))
        write_file(out / "training_curves.png", curves)
        picture = html_figure(curves, "Loss and error during training", CURVES)
        last.append(section("Training", picture))
    last.append(section("Settings", tables.settings_table_html(["value"], [settings])))
    report = out / "report.html"
    write_file(report, html_page(title, [*sections, *last]).encode())
    return report


def explanation(pictures: Pictures) -> str:
    """The text under the pictures of a run."""
    if pictures.regions is None:
        return _PLAIN
    return BEFORE_AFTER if pictures.regions.transform.ndim == 2 else _VOLUMES


def html_page(title: str, sections: Sequence[str]) -> str:
    """A page with its style."""
    heading = html.escape(title)
    body = "\n".join(sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{heading}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{heading}</h1>
{body}
</body>
</html>
"""


def section(heading: str, body: str = "") -> str:
    """A heading and its text."""
    return f"<h2>{html.escape(heading)}</h2>\n{body}"


def html_figure(image: bytes, alternative: str, explanation: str) -> str:
    """A picture inside the page, with its explanation."""
    kind = "gif" if image.startswith(b"GIF") else "png"
    data = base64.b64encode(image).decode()
    return (
        f'<figure><div class="scroll"><img alt="{html.escape(alternative)}" '
        f'src="data:image/{kind};base64,{data}"></div>\n'
        f"<figcaption>{html.escape(explanation)}</figcaption></figure>"
    )


def _protocols(names: Sequence[str], results: Sequence[RunResult]) -> str:
    """The data, training and test of the runs; one paragraph if they are the same for all."""
    protocols = [html.escape(_protocol(result)) for result in results]
    if len(set(protocols)) == 1:
        return f"<p>{protocols[0]}</p>"
    items = [
        f"<li><strong>{html.escape(name)}</strong>: {protocol}</li>"
        for name, protocol in zip(names, protocols, strict=True)
    ]
    return "<ul>\n" + "\n".join(items) + "\n</ul>"


def _protocol(result: RunResult) -> str:
    seeds = ", ".join(map(str, result.seeds))
    return (
        f"Data: {result.dataset}, distortion {result.distortion}. Training: "
        f"{result.steps:,} steps of {result.batch_size} images for each of the seeds "
        f"{seeds}. Test: {result.test_images:,} images; the error is the percentage of wrong "
        f"classes, its mean is over the seeds. Interval (95 %): {result.interval_method}. "
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
