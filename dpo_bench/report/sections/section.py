"""A further section of the report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dpo_bench.report.table_values import Row, Table
from dpo_bench.report.templating import Words


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


def written(
    key: str, rows: Iterable[Row], about: Sequence[Any] = (), columns: Sequence[Any] = ()
) -> ReportSection:
    """A section with the words of ``templates/words/sections.j2``.

    Args:
        key: names the macro of its title and text, and with ``_columns`` that of its columns.
        rows: of its table; without any it has no table.
        about: what the macro of its text reads.
        columns: what the macro of its columns reads.
    """
    words, shown = Words("sections"), tuple(rows)
    ((title, text),) = words.notes(key, *about)
    table = Table(tuple(words.notes(f"{key}_columns", *columns)) if shown else (), shown)
    return ReportSection(key, title, text, table)
