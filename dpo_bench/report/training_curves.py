"""The training curves of all trials, small enough for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.report.theme import rank_shade
from dpo_bench.wording import rounded

COLUMNS = (
    ("margin", "Margin (nats)"),
    ("loss", "Loss"),
    ("accuracy", "Accuracy on the step's pairs"),
    ("chosen_logratio", "Chosen log-ratio (nats)"),
    ("rejected_logratio", "Rejected log-ratio (nats)"),
    ("gradient_norm", "Gradient norm"),
)
_BUDGET = 30_000
"""values that the training curves of all trials together may take in the page"""


def training_data(series: Sequence[LossCurve], places: dict[str, int]) -> dict[str, Any]:
    """What the page's script draws the training curves from, a panel per series.

    With very many trials only every so many logged steps are kept (``every``), evenly.

    Args:
        series: the curves.
        places: index of each trial in the page's list of trials, by id.
    """
    logged = [
        (one, setting, trial)
        for one in series
        for setting in one.points
        for trial in setting.trials
        if len(trial.training_log)
    ]
    known = [
        column for column in COLUMNS if any(column[0] in trial.training_log for *_, trial in logged)
    ]
    rows = sum(len(trial.training_log) for *_, trial in logged)
    every = -(-rows * len(known) // _BUDGET) or 1
    lines = [
        {
            "trial": places[trial.id],
            "series": one.index,
            "shade": rank_shade(setting.rank, max(len(one.settings), len(one.explored))),
            "failed": not trial.done,
        }
        | _curves(_thinned(trial.training_log, every), [name for name, _ in known])
        for one, setting, trial in logged
    ]
    return {"lines": lines, "columns": known, "every": every}


def _thinned(table: pd.DataFrame, every: int) -> pd.DataFrame:
    """Every so many rows, the last one always."""
    last = len(table) - 1
    return table.iloc[sorted({*range(0, len(table), every), last})]


def _curves(table: pd.DataFrame, names: Sequence[str]) -> dict[str, list[Any]]:
    """Steps and values of one trial; a value that is not finite is None."""
    values = {
        name: [rounded(float(value), 4) for value in table[name]] for name in names if name in table
    }
    return {"step": [int(step) for step in table["step"]]} | values
