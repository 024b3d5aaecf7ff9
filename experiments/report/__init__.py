"""A report of finished runs: tables, figures, the θ animation and one self-contained page."""

from experiments.report.comparison import (
    build_comparison,
    comparison_markdown,
    comparison_text,
    order,
    verdict,
)
from experiments.report.page import build_report
from experiments.report.tables import error_table, text_table

__all__ = [
    "build_comparison",
    "build_report",
    "comparison_markdown",
    "comparison_text",
    "error_table",
    "order",
    "text_table",
    "verdict",
]
