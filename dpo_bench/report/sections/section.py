"""A further section of the report, and how its figures are written."""

from __future__ import annotations

from dataclasses import dataclass

from dpo_bench.report.table_values import Cell, Table
from dpo_bench.wording import interval, number


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


def estimate_cell(found: object, decimals: int = 3) -> Cell:
    """A figure with its interval."""
    value, low, high = (float(getattr(found, end)) for end in ("value", "low", "high"))
    return Cell(number(value, decimals), interval(low, high, decimals), value)
