"""The tables of results, in Markdown, from the records that experiments leave."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.birds import report as birds
from experiments.birds.records import BirdsResult
from experiments.classification.recipe_comparison import (
    RecipesResult,
    errors_by_recipe,
    images_needed,
)
from experiments.colocalisation.records import ColocalisationResult
from experiments.invariance.report import InvarianceResult
from experiments.invariance.report import table as invariance_rows
from experiments.report.tables import markdown_table
from experiments.stability.obvious import ObviousResult
from experiments.stability.obvious import table as obvious_rows
from experiments.stability.report import StabilityResult

Record = Mapping[str, Any]


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


def all_columns(rows: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of rows that have the same keys."""
    headings = list(rows[0])
    return headings, [[_small(row[key]) for key in headings] for row in rows]


def _small(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def plain_table(record: Record) -> str:
    """The rows of a record of unknown kind, by what they have in common."""
    rows = record["rows"]
    keys = [key for key in rows[0] if all(key in row for row in rows)]
    return markdown_table(keys, [[_word(row[key]) for key in keys] for row in rows])
