"""Published beside reproduced, as people read it: in a terminal, as plain text, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from dpo_bench.reproduce.record import CODES, PROVENANCE, PublishedRow, Reproduced, Reproducible

if TYPE_CHECKING:
    from rich.console import Console

BLANK = "\u2013"
HEADER = ("series", "x", "published", "reproduced", "tolerance", "verdict")
LISTING = ("name", "shows", "source", "cost", "kind")


def figure_text(value: float | None) -> str:
    """A figure with as many digits as its size calls for.

    >>> figure_text(0.4484408), figure_text(1e-17), figure_text(18000.0)
    ('0.4484', '1e-17', '18000')
    """
    if value is None:
        return BLANK
    if value == 0 or 1e-4 <= abs(value) < 1e5:
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 100 else f"{value:g}"
    return f"{value:.0e}"


def published_text(row: PublishedRow) -> str:
    """The paper's figure with the mark of where it comes from, never an eye-read one unmarked."""
    if row.published is not None:
        about = "≈ " if row.provenance == "eye" else ""
        mark = f" [{row.provenance}]" if row.provenance else ""
        return f"{about}{figure_text(row.published)}{mark}"
    if row.rerun is not None:
        return f"{BLANK} (rerun {figure_text(row.rerun)})"
    return BLANK


def verdict_text(row: PublishedRow) -> str:
    """ok, FAILS, or a dash where nothing is claimed; before it the row's note."""
    word = {True: "ok", False: "FAILS", None: "" if row.note else BLANK}[row.ok]
    return ": ".join(part for part in (row.note, word) if part)


def cells(row: PublishedRow) -> tuple[str, ...]:
    """A row's cells below `HEADER`."""
    x = figure_text(row.x) if isinstance(row.x, float | int) else row.x
    return (
        row.series,
        x,
        published_text(row),
        figure_text(row.reproduced),
        BLANK if row.tolerance is None else f"{row.tolerance:g}",
        verdict_text(row),
    )


def summary(outcome: Reproduced) -> str:
    """How many verdicts there are and how many fail."""
    judged = [row for row in outcome.rows if row.ok is not None]
    without = len(outcome.rows) - len(judged)
    words = [row.note for row in outcome.rows if row.ok is None and row.note in CODES]
    if words:
        counts = ", ".join(f"{word} {words.count(word)}" for word in CODES)
        return f"Verdicts on {len(words)} claims of the authors: {counts}."
    if not judged:
        return "No row has a verdict: nothing of ours, or nothing published, to compare."
    more = f"; {without} rows without a verdict" if without else ""
    return f"{len(judged) - len(outcome.failed)} of {len(judged)} within tolerance{more}."


def marks(rows: Iterable[PublishedRow]) -> list[str]:
    """What the marks that occur mean, a line each."""
    used = {row.provenance for row in rows if row.published is not None or row.rerun is not None}
    return [f"[{mark}] {meaning}" for mark, meaning in PROVENANCE.items() if mark in used]


def print_table(
    console: Console, header: Sequence[str], rows: Sequence[Sequence[str]], title: str = ""
) -> None:
    """A table: drawn in a terminal, aligned plain text anywhere else."""
    if not console.is_terminal:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = [title] if title else []
        for line in (header, *rows):
            padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            lines.append("  ".join(padded).rstrip())
        print("\n".join(lines))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD)
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
    console.print(table)


def _style(cell: str) -> str:
    return {"ok": "green", "holds": "green", "FAILS": "bold red", "fails": "yellow"}.get(cell, "")


def print_outcome(console: Console, experiment: Reproducible, outcome: Reproduced) -> None:
    """One experiment, published beside reproduced."""
    title = f"{experiment.title}\n{experiment.source}"
    print_table(console, HEADER, [cells(row) for row in outcome.rows], title)
    for line in ("", outcome.text, "", *marks(outcome.rows), summary(outcome), ""):
        console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_listing(console: Console, experiments: Iterable[Reproducible]) -> None:
    """What can be reproduced, with source and cost."""
    rows = [(e.name, e.title, e.source, e.cost, e.kind) for e in experiments]
    print_table(console, LISTING, rows)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in escaped)


def markdown_section(experiment: Reproducible, outcome: Reproduced, seconds: float) -> str:
    """One experiment as a section of a report."""
    parts = [
        f"## {experiment.name}",
        f"{experiment.title[0].upper()}{experiment.title[1:]}. {experiment.source}.",
        f"**{summary(outcome)}** {seconds:.1f} s.",
        outcome.text,
        f"![{experiment.name}](figures/{experiment.name}.png)",
        markdown_table(HEADER, [cells(row) for row in outcome.rows]),
        "  \n".join(marks(outcome.rows)),
    ]
    return "\n\n".join(part for part in parts if part)


def as_json(outcomes: Iterable[Reproduced]) -> list[dict[str, Any]]:
    """The rows of all outcomes for programs."""
    return [row.as_dict() for outcome in outcomes for row in outcome.rows]
