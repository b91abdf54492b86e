"""The section on length control: how much of a win rate is length."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.length_control import length_controlled
from dpo_bench.analysis.loss_curves import trial_label
from dpo_bench.analysis.matched_policies import MatchedPolicies
from dpo_bench.analysis.results import SweepResults
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, estimate_cell

RESAMPLES = 500
"""of the fits, each of which is solved anew for every resample"""


def length_section(
    results: SweepResults, prompts: pd.Index, policies: MatchedPolicies
) -> ReportSection | None:
    """The win rates of the policies that answered all prompts; None where none is known."""
    if not results.prompts_known or not len(prompts):
        return None
    weights = resample_weights(len(prompts), RESAMPLES, results.bootstrap_seed)
    rows = []
    for one, trial in policies.players:
        table = trial.samples[trial.samples["prompt_id"].isin(prompts)]
        counts = table.groupby("prompt_id").size()
        extra = _extra_length(results, table)
        if (
            extra is None
            or "win_reference" not in table
            or counts.nunique() != 1
            or len(counts) != len(prompts)
            or table["win_reference"].isna().any()
        ):
            continue
        table = table.assign(extra=extra).sort_values(["prompt_id", "sample"])
        extra = table["extra"].to_numpy(float)
        shape = (len(prompts), int(counts.iloc[0]))
        wins = table["win_reference"].to_numpy(float).reshape(shape)
        found = length_controlled(wins, extra.reshape(shape), weights)
        cells = (
            Cell(trial_label(one, trial, results.seeds)), estimate_cell(found.raw),
            estimate_cell(found.controlled), estimate_cell(found.extra_length, 1),
        )  # fmt: skip
        rows.append(Row(cells, one.index))
    if not rows:
        return None
    return written("length", rows, (policies.whose if results.has_kl else "",))


def _extra_length(results: SweepResults, table: pd.DataFrame) -> Array | None:
    """How much longer each response is than the reference's to its prompt; None: not known."""
    if "extra_length" in table:
        return table["extra_length"].to_numpy(float)
    own = results.reference.samples
    if own.empty or "tokens" not in table:
        return None
    lengths = own.groupby("prompt_id")["tokens"].mean()
    usual = lengths.reindex(table["prompt_id"]).to_numpy(float)
    return np.asarray(table["tokens"].to_numpy(float) - usual)
