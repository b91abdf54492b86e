"""A further section of the report."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_bench.report.table_values import Table


@dataclass(frozen=True, slots=True)
class ReportSection:
    """One further section of the report.

    Attributes:
        key: its anchor.
        title: its heading.
        about: how to read it, in sentences.
        table: its figures.
    """

    key: str
    title: str
    about: str
    table: Table
