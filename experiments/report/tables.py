"""Tables as plain text and as HTML: of errors, and of settings."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.report.markup import html_table
from experiments.report.records import RunResult

_NONE = "–"
# Columns with these headings hold words and are aligned on the left.
_WORDS = (
    "image",
    "run",
    "data",
    "set",
    "model",
    "recipe",
    "transform",
    "each seed",
    "verdict",
    "class",
    "taken for",
    "crop of",
    "finding",
    "evidence",
    "meaning",
    "what to try",
)


def error_table(results: Sequence[RunResult]) -> str:
    """The test errors as plain text: one row per run, in the given order.

    Args:
      results: Of the runs.

    Returns:
      Lines of equal width, the first one the headings.
    """
    return text_table(*_cells(results))


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as plain text; numbers are aligned on the right."""
    table = [headings, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    lines = []
    for row in table:
        padded = [
            cell.rjust(width) if _is_numeric(heading) else cell.ljust(width)
            for heading, cell, width in zip(headings, row, widths, strict=True)
        ]
        lines.append("  ".join(padded))
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def error_table_html(results: Sequence[RunResult], names: Sequence[str] | None = None) -> str:
    """The table of :func:`error_table` as HTML, with a first column of names if they are given."""
    headings, rows = _cells(results)
    if names is not None:
        headings = ["run", *headings]
        rows = [[name, *row] for name, row in zip(names, rows, strict=True)]
    return text_table_html(headings, rows)


def text_table_html(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The table of :func:`text_table` as HTML."""
    classes = ["number" if _is_numeric(heading) else "" for heading in headings]
    return html_table(headings, rows, classes)


def settings_table_html(names: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> str:
    """The runs' configurations as HTML: one row a setting, one column a run."""
    keys = list(dict.fromkeys(key for config in configs for key in config))
    rows = [
        [key, *(_setting(config[key]) if key in config else _NONE for config in configs)]
        for key in keys
    ]
    return html_table(["setting", *names], rows, [""] * (len(names) + 1))


def made_with(versions: Mapping[str, str], device: str) -> str:
    """The versions and the device of a result, in words."""
    return f"{', '.join(f'{name} {version}' for name, version in versions.items())} on {device}"


def format_duration(seconds: float) -> str:
    """Seconds in readable units: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _cells(results: Sequence[RunResult]) -> tuple[list[str], list[list[str]]]:
    """Headings, and one row of text a result."""
    rows = [_row(result) for result in results]
    # If all runs share the task, the page states it once, outside the table.
    tasks = {(result.dataset, result.distortion) for result in results}
    if len(tasks) > 1:
        rows = [
            {"data": f"{result.dataset}, {result.distortion}", **row}
            for result, row in zip(results, rows, strict=True)
        ]
    headings = list(rows[0]) if rows else ["model"]
    return headings, [list(row.values()) for row in rows]


def _row(result: RunResult) -> dict[str, str]:
    low, high = result.interval
    return {
        "model": result.model,
        "transform": _NONE if result.transform is None else result.transform,
        "test error %": f"{result.mean:.2f}",
        "95 % interval": f"{low:.2f} to {high:.2f}",
        "each seed": ", ".join(f"{error:.2f}" for error in result.test_errors),
        "parameters": f"{result.num_parameters:,}",
        "steps": f"{result.steps:,}",
        "time": format_duration(result.wall_time_s),
    }


def _is_numeric(heading: str) -> bool:
    return heading not in _WORDS


def _setting(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or _NONE
    return _NONE if value is None else str(value)
