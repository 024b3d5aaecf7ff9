"""The table of calls of other libraries and the same calls here, for the page on conventions."""

from typing import Any

from docs.translated_calls import TRANSLATIONS


def zero_outside(warped: tuple[Any, Any]) -> Any:
    """Pads like Pillow and SimpleITK: the border's pixels up to the image's edge, then 0."""
    values, coverage = warped
    return values * coverage.mask[..., None]


def table() -> str:
    """The translations as Markdown, a table for each library."""
    parts = []
    for library in dict.fromkeys(row.library for row in TRANSLATIONS):
        lines = [f"**{library}**", "", "| there | here |", "|---|---|"]
        lines += [
            f"| `{_escaped(row.theirs)}` | `{_escaped(row.ours)}` |"
            for row in TRANSLATIONS
            if row.library == library
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _escaped(code: str) -> str:
    """Code for a cell of a Markdown table, with escaped bars."""
    return code.replace("|", "\\|")
