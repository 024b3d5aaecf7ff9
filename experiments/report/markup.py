"""HTML of reports, from the templates beside this file; text is escaped by them."""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
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
_TEMPLATES.filters["css"] = "{:.2f}%".format
# Letters of a scale's labels that a narrow page has room for, and labels if they are longer.
_MOST_DIGITS, _MOST_TICKS = 24, 7
# A unit of so many letters stands at the end of the scale, a longer one above the chart.
_SHORT_UNIT = 2
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


class Mark(NamedTuple):
    """What a chart shows on a row: a value, its interval, and the values that it is the mean of.

    Marks of one series have one colour. Without a value the interval alone is shown.
    """

    series: str
    value: float | None
    interval: Sequence[float] = ()
    each: Sequence[float] = ()


class Row(NamedTuple):
    """A row of a chart; without marks it is the heading of those that follow."""

    name: str
    marks: Sequence[Mark] = ()


def dot_chart(
    rows: Sequence[Row],
    unit: str,
    explanation: str,
    *,
    reference: str = "",
    logarithmic: bool = False,
    level: float | None = None,
) -> str:
    """A chart of values with their intervals, as wide as the page.

    Args:
      rows: From top to bottom.
      unit: Of the values.
      explanation: Stands below.
      reference: The series that the others are compared with; its values are diamonds.
      logarithmic: Whether the scale is logarithmic, with a place for 0 on its left; otherwise it
        begins at 0.
      level: A value that is marked throughout, such as 1 where values are ratios.
    """
    marks = [mark for row in rows for mark in row.marks]
    values = [
        float(value)
        for mark in marks
        for value in (*mark.interval, *mark.each, mark.value)
        if value is not None
    ]
    values += [] if level is None else [level]
    ticks, percent = (_log_scale if logarithmic else _scale)(values)
    series = dict.fromkeys(mark.series for mark in marks if mark.series != reference)
    colors = {name: _css_color(number) for number, name in enumerate(series)}
    shapes = dict.fromkeys(series, "dot")
    if reference in {mark.series for mark in marks}:
        colors[reference], shapes[reference] = "var(--chart-text)", "diamond"
    drawn = [
        {
            "name": row.name,
            "tall": any(len(mark.each) > 1 for mark in row.marks),
            "marks": [_drawn(mark, percent, colors, shapes, unit) for mark in row.marks],
        }
        for row in rows
    ]
    several = max(len(row.marks) for row in rows) > 1
    keys = [(name, shapes[name], color) for name, color in colors.items()] if several else []
    at = None if level is None else percent(float(level))
    return _part("dots", drawn, keys, _placed(ticks, percent, unit), at, _above(unit), explanation)


def _drawn(
    mark: Mark,
    percent: Callable[[float], float],
    colors: Mapping[str, str],
    shapes: Mapping[str, str],
    unit: str,
) -> dict[str, Any]:
    """A mark as its template wants it: places along the scale, and what is said of it."""
    drawn: dict[str, Any] = {"color": colors[mark.series], "shape": shapes[mark.series]}
    drawn["place"] = None if mark.value is None else percent(float(mark.value))
    drawn["each"] = [percent(float(value)) for value in mark.each] if len(mark.each) > 1 else []
    drawn["said"] = f"{mark.series}: {mark.value:.3g} {unit}" if mark.value is not None else ""
    if mark.interval:
        low, high = (percent(float(value)) for value in mark.interval)
        drawn |= {"low": low, "width": high - low}
    return drawn


def share_chart(rows: Mapping[str, Mapping[str, float]], unit: str, explanation: str) -> str:
    """A chart of bars, each of parts one after the other, on a scale from 0."""
    kinds = dict.fromkeys(kind for parts in rows.values() for kind in parts)
    colors = {kind: _css_color(number) for number, kind in enumerate(kinds)}
    ticks, percent = _scale([sum(parts.values()) for parts in rows.values()])
    drawn: dict[str, list[tuple[float, float, str]]] = {}
    for name, parts in rows.items():
        start, drawn[name] = 0.0, []
        for kind, length in parts.items():
            drawn[name].append((percent(start), percent(length), colors[kind]))
            start += length
    placed = _placed(ticks, percent, unit)
    return _part("shares", drawn, colors, placed, _above(unit), explanation)


def _placed(
    ticks: Sequence[float], percent: Callable[[float], float], unit: str
) -> list[tuple[float, str]]:
    """Ticks as places and text; a short unit stands at the last one."""
    placed = [(percent(tick), f"{tick:g}") for tick in ticks]
    if not _above(unit):
        placed[-1] = placed[-1][0], f"{placed[-1][1]} {unit}".rstrip()
    return placed


def _above(unit: str) -> str:
    return unit if len(unit) > _SHORT_UNIT else ""


def _scale(values: Sequence[float]) -> tuple[list[float], Callable[[float], float]]:
    """Ticks from 0 on, and the place of a value between the first and the last, for CSS."""
    found = MaxNLocator(5).tick_values(0, max(values) or 1.0)
    ticks = [float(tick) for tick in found if tick >= 0]
    return ticks, lambda value: 100 * value / ticks[-1]


def _log_scale(values: Sequence[float]) -> tuple[list[float], Callable[[float], float]]:
    """Ticks along powers of ten, with 0 on the left if it is a value, and the place of a value."""
    positive = [value for value in values if value > 0] or [1.0]
    ticks = _covering(positive, (1, 2, 5))
    if sum(len(f"{tick:g}") for tick in ticks) > _MOST_DIGITS:
        powers = _covering(positive, (1,))
        stride = math.ceil((len(powers) - 1) / (_MOST_TICKS - 1))
        number = math.ceil((len(powers) - 1) / stride)
        ticks = [powers[0] * 10.0 ** (stride * index) for index in range(number + 1)]
    zero = 0.1 if min(values) <= 0 else 0.0
    span = math.log10(ticks[-1] / ticks[0])

    def percent(value: float) -> float:
        if value <= 0:
            return 0.0
        return 100 * (zero + (1 - zero) * math.log10(value / ticks[0]) / span)

    return ([0.0] if zero else []) + ticks, percent


def _covering(values: Sequence[float], steps: Sequence[int]) -> list[float]:
    """The multiples of powers of ten from the last below all values to the first above them."""
    powers = range(math.floor(math.log10(min(values))) - 1, math.ceil(math.log10(max(values))) + 2)
    every = [step * 10.0**power for power in powers for step in steps]
    first = max(index for index, tick in enumerate(every) if tick <= min(values))
    last = min(index for index, tick in enumerate(every) if tick >= max(values))
    return every[first : max(last, first + 1) + 1]


def _css_color(number: int) -> str:
    return f"var(--series-{number % len(COLORS)})"


def _embedded(image: bytes) -> str:
    kind = "gif" if image.startswith(b"GIF") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _part(name: str, *given: Any) -> str:
    parts = _TEMPLATES.get_template("parts.html").module
    return str(getattr(parts, name)(*given))
