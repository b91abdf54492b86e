"""The table of what a search has met."""

from __future__ import annotations

import io

from rich.console import Console

from dpo_bench.sweep.target_table import TargetTable


def drawn(table: TargetTable, rows: int, encoding: str = "utf-8") -> list[str]:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=60)
    found = table.render(rows)
    if found is None:
        return []
    console.print(found)
    stream.flush()
    stream.seek(0)
    return [line.rstrip() for line in stream.read().splitlines()]


def table(encoding: str = "utf-8") -> TargetTable:
    made = TargetTable(Console(file=io.TextIOWrapper(io.BytesIO(), encoding=encoding), width=60))
    made.seek(["dpo", "a [b]"], [8.0, 0.5])
    made.set("dpo", 0.5, met=True)
    made.set("a [b]", 8.0, met=False)
    return made


def test_a_row_per_loss_and_a_column_per_kl() -> None:
    rows = [line.split() for line in drawn(table(), 3)]
    assert rows == [
        ["KL", "(nats)", "0.5", "8"],
        ["dpo", "\u2713", "\u00b7"],
        ["a", "[b]", "\u00b7", "\u2717"],
    ]


def test_a_terminal_without_unicode_gets_plain_marks() -> None:
    rows = [line.split() for line in drawn(table("ascii"), 3, "ascii")]
    assert rows[1:] == [["dpo", "+", "."], ["a", "[b]", ".", "x"]]


def test_counts_take_a_single_line() -> None:
    assert drawn(table(), 2) == ["losses at KL 0.5: 1/2, 8: 0/2 (1 cannot)"]
    assert drawn(table(), 0) == []


def test_nothing_is_shown_where_nothing_is_sought() -> None:
    assert drawn(TargetTable(Console(file=io.StringIO())), 9) == []


def test_a_loss_that_nobody_announced_is_open_elsewhere() -> None:
    made = table()
    made.set("kto", 2.0, met=True)
    rows = [line.split() for line in drawn(made, 9)]
    assert rows[0] == ["KL", "(nats)", "0.5", "2", "8"]
    assert rows[3] == ["kto", "\u00b7", "\u2713", "\u00b7"]
