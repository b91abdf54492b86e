"""The section on length control: how much of a win rate is length."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.length_control import MANY, Difficulty, length_controlled
from dpo_bench.analysis.loss_curves import trial_label
from dpo_bench.analysis.matched_policies import MatchedPolicies
from dpo_bench.analysis.meetings import OPPONENTS, Meetings, meetings, shared_difficulty
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
    faced = [one for name in OPPONENTS if (one := _faced(results, prompts, name)) is not None]
    rows = [row for one in faced for row in one.rows(results, policies, weights)]
    if not rows:
        return None
    players = max(one.difficulty.players for one in faced)
    whose = policies.whose if results.has_kl else ""
    return written("length", rows, (whose, players, players < MANY))


@dataclass(frozen=True, slots=True)
class _Opponent:
    """An opponent and all that met it.

    Attributes:
        name: what it is called.
        met: comparisons by trial.
        difficulty: of the prompts, over these trials.
    """

    name: str
    met: Mapping[str, Meetings]
    difficulty: Difficulty

    def rows(
        self, results: SweepResults, policies: MatchedPolicies, weights: Array
    ) -> Iterator[Row]:
        """Those of the policies that are shown."""
        for one, trial in policies.players:
            if trial.id not in self.met:
                continue
            own = self.met[trial.id]
            fitted = length_controlled(own.won, own.longer, weights, self.difficulty)
            cells = (
                Cell(trial_label(one, trial, results.seeds)), Cell(self.name),
                estimate_cell(fitted.raw), estimate_cell(fitted.controlled),
                estimate_cell(fitted.extra_length, 1),
            )  # fmt: skip
            yield Row(cells, one.index)


def _faced(results: SweepResults, prompts: pd.Index, opponent: str) -> _Opponent | None:
    """The opponent as all trials met it; None where none did."""
    known = {one.id: meetings(results, one, prompts, opponent) for one in results.done}
    met = {name: one for name, one in known.items() if one is not None}
    return _Opponent(opponent, met, shared_difficulty(list(met.values()))) if met else None
