"""Sweeps' folders as a page, a Markdown file and figures; nothing is trained or sampled here."""

from dpo_bench.report.write import report_sweeps, write_report

__all__ = ["report_sweeps", "write_report"]
