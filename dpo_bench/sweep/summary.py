"""What the terminal shows when a sweep is over."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dpo_bench.analysis.lost_verdicts import MOST_LOST
from dpo_bench.analysis.moved import unmoved_in_words
from dpo_bench.analysis.results import SUMMARY
from dpo_bench.storage import read_bytes
from dpo_bench.sweep.doubts import doubts
from dpo_bench.sweep.run import SweepOutcome
from dpo_bench.terminal import say
from dpo_bench.wording import counted

if TYPE_CHECKING:
    import pandas as pd

Cell = Callable[[Mapping[Hashable, Any], str, int], str]
"""Shows a figure of a row with so many decimals."""
MOST_CAUSES = 10
"""Of failed trials, shown in the terminal."""
WIDTH_FOR_INTERVALS = 110
"""Columns of a terminal in which every interval stands on the line of its value."""


def print_outcome(outcome: SweepOutcome, console: Console) -> None:
    """Print what the report begins with, the results, a row per trial, and where the report is."""
    results = outcome.table
    for sentence in _opening(outcome.report.parent / SUMMARY):
        say(console, sentence)
    judged = outcome.experiment.has("judge")
    print_doubts(outcome.folder / "reference", console, judged=judged)
    measured = {
        heading: name
        for heading, name in (("win rate", "win_rate"), ("reward", "reward"))
        if results[name].notna().any()
    }
    narrow = console.width < WIDTH_FOR_INTERVALS
    console.print(_results(outcome, measured, _value if narrow else _interval))
    for line in _causes(results):
        say(console, line)
    if stopped := int((results["status"] == "stopped").sum()):
        console.print(
            f"{counted(stopped, 'trial')} stopped early: no failure, but too far from the reference"
            " to matter to the search.",
            markup=False,
            soft_wrap=True,
        )
    for remark in _remarks(outcome, bool(measured), narrow=narrow):
        say(console, remark)
    console.print(f"report: {outcome.report}", markup=False, soft_wrap=True)


def _results(outcome: SweepOutcome, measured: Mapping[str, str], cell: Cell) -> Table:
    """The results, a row per trial."""
    results = outcome.table
    table = Table(
        title=f"{len(results)} trials, {outcome.computed} computed now", title_justify="left"
    )
    tunes = results["learning_rate"].nunique() > 1
    for heading in ("loss", "strength", *(["learning rate"] if tunes else []), "seed"):
        table.add_column(heading, no_wrap=heading != "loss", overflow="fold")
    for heading in (*measured, "KL (nats)", "accuracy"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in results.to_dict("records"):
        numbers = [row["beta"], *([row["learning_rate"]] if tunes else [])]
        cells = [escape(row["loss"]), *map(_setting, numbers), str(row["seed"])]
        if row["status"] != "done":
            color = "red" if row["status"] == "failed" else "yellow"
            table.add_row(*cells, f"[{color}]{row['status']}[/]")
            continue
        kl, accuracy = cell(row, "kl", 2), cell(row, "preference_accuracy", 2)
        extra = [cell(row, name, 2) for name in measured.values()]
        table.add_row(*cells, *extra, kl, accuracy)
    return table


def _causes(results: pd.DataFrame) -> Iterator[str]:
    """Why trials failed, each cause once, in a line of its own that no column cuts."""
    failed = results[results["status"] == "failed"]
    for number, (cause, rows) in enumerate(failed.groupby("error", sort=False)):
        if number == MOST_CAUSES:
            yield "Further causes are in results.csv and in the report."
            return
        first = rows.iloc[0]
        value = _setting(first["beta"])
        label = f"{first['loss']}{value and f' {value}'}, seed {first['seed']}"
        more = f" and {counted(len(rows) - 1, 'other trial')}" if len(rows) > 1 else ""
        yield f"failed: {label}{more}: {cause}"


def _opening(file: Path) -> list[str]:
    """The sentences that the report begins with."""
    return read_bytes(file).decode("utf-8").splitlines() if file.is_file() else []


def print_doubts(reference: Path, console: Console, *, judged: bool) -> None:
    """Print what the controls say against the figures that follow; see `doubts`."""
    for doubt in doubts(reference, judged=judged):
        say(console, f"warning: {doubt}")


def _remarks(outcome: SweepOutcome, measured: bool, *, narrow: bool) -> Iterator[str]:
    """What a reader of the table must know."""
    results = outcome.table
    done = results[results["status"] == "done"]
    if narrow:
        yield "The 95% intervals are in results.csv; a wider terminal shows them."
    if not measured and outcome.experiment.evaluation.reward == "none":
        yield (
            "No reward was given, so there is no win rate and no mean reward: "
            "--reward vader or --reward module:function adds them."
        )
    if warm := int(done["judge_own_temperature"].sum()):
        yield (
            f"{warm:,} of the judge's answers were given at its own temperature, because it refuses"
            " 0: another run may get other verdicts."
        )
    if many := int((done["judge_lost_share"] > MOST_LOST).sum()):
        yield (
            f"warning: of {counted(many, 'trial')} the judge gave no verdict on more than"
            f" {100 * MOST_LOST:g}% of the pairs: 'Verdicts lost' in the report counts them."
        )
    rate = outcome.experiment.training.learning_rate
    if still := unmoved_in_words(done["kl"].dropna().tolist(), rate):
        yield f"warning: {still}"


def _setting(number: float) -> str:
    return "" if math.isnan(number) else f"{number:g}"


def _value(row: Mapping[Hashable, Any], name: str, digits: int) -> str:
    return f"{row[name]:.{digits}f}"


def _interval(row: Mapping[Hashable, Any], name: str, digits: int) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if math.isnan(low) or math.isnan(high):  # a single prompt has none
        return _value(row, name, digits)
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("[", "\\[", 1)
