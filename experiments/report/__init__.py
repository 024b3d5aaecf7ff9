"""A report of finished runs: tables, figures, the θ animation and one self-contained page."""

from experiments.report.page import build_report
from experiments.report.tables import error_table, text_table

__all__ = ["build_report", "error_table", "text_table"]
