"""Losses judged over several sweeps, as a table for the terminal and for a repository."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpo_bench.analysis.metrics import KL
from dpo_bench.report.markdown import markdown_templates
from dpo_bench.storage import write_atomic, write_csv
from dpo_bench.wording import MISSING, interval, number, one_line

TABLE, TEXT = "across.csv", "across.md"
HEADER = (
    "loss", "KL", "sweeps", "difference", "in these sweeps", "in others like them", "better in",
    "improvement", "its interval", "p", "verdict",
)  # fmt: skip


def cells(frame: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    """The rows of `analysis.across.across_frame` as text, in the order of `HEADER`."""
    for row in frame.to_dict("records"):
        yield (
            one_line(str(row["loss"])),
            number(row["kl"], KL.decimals),
            str(row["sweeps"]),
            number(row["difference"]),
            interval(row["low"], row["high"]) or MISSING,
            interval(row["low_others"], row["high_others"]) or MISSING,
            str(row["better_in"]),
            number(row["improvement"], 2),
            interval(row["improvement_low"], row["improvement_high"], 2) or MISSING,
            number(row["p"]),
            str(row["verdict"]),
        )


def print_across(frame: pd.DataFrame, console: Any) -> None:
    """Show the table in a terminal."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(f"against {one_line(str(frame['against'].iloc[0]))}"))
    for title in HEADER:
        table.add_column(title)
    for row in cells(frame):
        table.add_row(*map(Text, row))
    console.print(table)


def write_across(frame: pd.DataFrame, names: Sequence[str], folder: Path) -> Path:
    """Write the table as CSV and Markdown; returns the latter's path.

    Args:
        frame: from `analysis.across.across_frame`.
        names: of the sweeps.
        folder: where both files go.
    """
    template = markdown_templates().get_template("across.md.j2")
    text = template.render(
        header=HEADER,
        rows=list(cells(frame)),
        against=str(frame["against"].iloc[0]),
        names=names,
    )
    write_csv(folder / TABLE, frame)
    write_atomic(folder / TEXT, text)
    return folder / TEXT
