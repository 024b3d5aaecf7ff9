"""HTML of reports, from the templates beside this file; text is escaped by them."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from matplotlib.ticker import MaxNLocator

from experiments.report.figures import COLORS, Picture

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is None or name.endswith(".html"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)
_NARROW, _DARK = "(max-width: 40rem)", "(prefers-color-scheme: dark)"


def html_page(
    title: str, sections: Sequence[str], *, verdict: Sequence[str] = (), command: str = ""
) -> str:
    """A page that needs no other file.

    Args:
      title: Its heading.
      sections: HTML.
      verdict: Sentences that come first.
      command: The command that made it.
    """
    template = _TEMPLATES.get_template("page.html")
    return template.render(title=title, sections=sections, verdict=verdict, command=command)


def section(heading: str, body: str = "") -> str:
    """A heading and its HTML."""
    return _part("section", heading, body)


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return _TEMPLATES.from_string("<p>{{ text }}</p>").render(text=text)


def heading(text: str) -> str:
    """A heading within a section."""
    return _TEMPLATES.from_string("<h3>{{ text }}</h3>").render(text=text)


def html_list(items: Sequence[tuple[str, str]]) -> str:
    """A list of names, each with its plain text."""
    template = _TEMPLATES.from_string(
        "<ul>\n{% for name, text in items %}<li><strong>{{ name }}</strong>: {{ text }}</li>\n"
        "{% endfor %}</ul>"
    )
    return template.render(items=items)


def html_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], classes: Sequence[str]
) -> str:
    """A table of plain text; ``classes`` holds a CSS class for each column."""
    return _part("table", list(headings), rows, list(classes))


def html_figure(picture: Picture | bytes, alternative: str, explanation: str) -> str:
    """A picture inside the page, in the forms that it has, with its explanation."""
    if isinstance(picture, bytes):
        return _part("figure", [], _embedded(picture), True, alternative, explanation)
    forms = {
        f"{_NARROW} and {_DARK}": picture.narrow_dark,
        _NARROW: picture.narrow,
        _DARK: picture.dark,
    }
    sources = [(media, _embedded(data)) for media, data in forms.items() if data is not None]
    return _part("figure", sources, _embedded(picture.light), False, alternative, explanation)


class Dots(NamedTuple):
    """A row of a chart: a mean, its interval, and the value of each seed."""

    name: str
    mean: float
    interval: Sequence[float]
    each: Sequence[float]


def dot_chart(rows: Sequence[Dots], unit: str, explanation: str) -> str:
    """A chart of means with their intervals, on a scale from 0, as wide as the page."""
    values = [value for row in rows for value in (*row.interval, *row.each, row.mean)]
    ticks, percent = _scale(max(values))
    drawn = [
        {
            "name": row.name,
            "mean": row.mean,
            "low": row.interval[0],
            "high": row.interval[1],
            "each": row.each,
            "color": _css_color(number),
        }
        for number, row in enumerate(rows)
    ]
    return _part("dots", drawn, ticks, percent, unit, explanation)


def share_chart(rows: Mapping[str, Mapping[str, float]], unit: str, explanation: str) -> str:
    """A chart of bars, each of parts one after the other, on a scale from 0."""
    kinds = dict.fromkeys(kind for parts in rows.values() for kind in parts)
    colors = {kind: _css_color(number) for number, kind in enumerate(kinds)}
    ticks, percent = _scale(max(sum(parts.values()) for parts in rows.values()))
    drawn: dict[str, list[tuple[float, float, str]]] = {}
    for name, parts in rows.items():
        start, drawn[name] = 0.0, []
        for kind, length in parts.items():
            drawn[name].append((start, length, colors[kind]))
            start += length
    return _part("shares", drawn, colors, ticks, percent, unit, explanation)


def _scale(largest: float) -> tuple[list[float], Any]:
    """Ticks from 0 on, and the place of a value between the first and the last, for CSS."""
    ticks = [float(tick) for tick in MaxNLocator(5).tick_values(0, largest or 1.0) if tick >= 0]
    return ticks, lambda value: f"{100 * value / ticks[-1]:.2f}%"


def _css_color(number: int) -> str:
    return f"var(--series-{number % len(COLORS)})"


def _embedded(image: bytes) -> str:
    kind = "gif" if image.startswith(b"GIF") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _part(name: str, *given: Any) -> str:
    parts = _TEMPLATES.get_template("parts.html").module
    return str(getattr(parts, name)(*given))
