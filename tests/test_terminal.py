"""Nothing that comes from data, a plug-in or the command line is obeyed by the terminal."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from dpo_bench.terminal import MOST_CHARACTERS, Terminal, complaint

HOSTILE = "a\x1b[31mb\x1b]0;title\x07c\x9b2Jd\u202ee\rf\x08g"
SENT = ("\x1b", "\x07", "\x9b", "\u202e", "\r", "\x08")


def printed(*what: object, **options: object) -> str:
    out = io.StringIO()
    Terminal(file=out, width=200).print(*what, **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_control_characters_are_shown_in_lines_and_in_tables() -> None:
    table = Table("x", title=escape(HOSTILE))
    table.add_row(escape(HOSTILE))
    for text in (printed(HOSTILE, markup=False), printed(table)):
        assert not any(mark in text for mark in SENT), repr(text)
        assert "[31mb" in text


def test_a_terminal_still_gets_its_colors_and_bars() -> None:
    out = io.StringIO()
    terminal = Terminal(file=out, force_terminal=True, width=80, color_system="standard")
    terminal.print("[red]red[/]")
    assert "\x1b[31mred" in out.getvalue()
    with Progress(console=terminal) as progress:
        progress.add_task(escape(HOSTILE), total=2)
    assert "\x1b]0;title" not in out.getvalue()
    assert "\x9b2J" not in out.getvalue()


@given(st.text())
def test_a_complaint_is_printable_and_of_a_readable_length(text: str) -> None:
    shown = complaint(text)
    assert all(mark.isprintable() or mark in "\t\n" or not mark.isascii() for mark in shown)
    assert not any(mark in shown for mark in SENT)
    assert all(len(line) <= MOST_CHARACTERS + 1 for line in shown.splitlines())


@pytest.mark.parametrize("length", [10, MOST_CHARACTERS, 5 * MOST_CHARACTERS])
def test_of_a_long_line_the_ends_stay(length: int) -> None:
    shown = complaint("first" + "x" * length + "last")
    assert shown.startswith("first")
    assert shown.endswith("last")
