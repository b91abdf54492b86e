"""A sweep's folder as a page, a Markdown file and figures; nothing is trained or sampled here."""

from dpo_bench.report.write import write_report

__all__ = ["write_report"]
