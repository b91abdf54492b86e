"""What the terminal shows when a sweep is over."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpo_bench.sweep.run import Outcome

if TYPE_CHECKING:
    import pandas as pd


def print_outcome(outcome: Outcome, console: Console) -> None:
    """Print the results, a row per trial, and where the report is."""
    results = outcome.results
    measured = {
        heading: name
        for heading, name in (("win rate", "win_rate"), ("reward", "reward"))
        if results[name].notna().any()
    }
    table = Table(
        title=f"{len(results)} trials, {outcome.computed} computed now", title_justify="left"
    )
    for heading in ("loss", "strength", "seed"):
        table.add_column(heading)
    for heading in (*measured, "KL (nats)", "accuracy"):
        table.add_column(heading, justify="right")
    for row in results.to_dict("records"):
        strength = "" if row["beta"] != row["beta"] else f"{row['beta']:g}"
        cells = [escape(row["loss"]), strength, str(row["seed"])]
        if row["status"] == "failed":
            table.add_row(*cells, f"[red]failed: {escape(str(row['error']))}")
            continue
        kl, accuracy = _interval(row, "kl", 2), _interval(row, "preference_accuracy", 2)
        extra = [_interval(row, name, 2) for name in measured.values()]
        table.add_row(*cells, *extra, kl, accuracy)
    console.print(table)
    if not measured:
        console.print(
            "No reward was given, so there is no win rate and no mean reward: "
            "--reward vader or --reward module:function adds them."
        )
    for name, value in _failing_controls(results).items():
        console.print(
            f"Control {name!r} gave {value:.3g}: the same response does not always get the same "
            "reward, so neither rewards nor win rates can be trusted."
        )
    console.print(f"report: {outcome.report}", markup=False, soft_wrap=True)


def _failing_controls(results: pd.DataFrame) -> dict[str, float]:
    """Controls with a right outcome that missed it; see `evaluation.controls`."""
    right = {"self": 0.5}
    if results["reward"].notna().any():  # a judge's orders may disagree: then it is a tie
        right["order"] = 1.0
    found = {name: results[f"control_{name}"].dropna() for name in right}
    return {
        name: float(column.iloc[0])
        for name, column in found.items()
        if len(column) and column.iloc[0] != right[name]
    }


def _interval(row: Mapping[Hashable, Any], name: str, digits: int) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("[", "\\[", 1)
