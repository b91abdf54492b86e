"""The round robin: responses of the policies at the compared KL against each other's.

Policies that went further from the reference win more, whatever their loss: a ranking of policies
at several KLs would be one of KLs. So those near the compared KL play, or nobody.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.bradley_terry import Strength, round_robin
from dpo_bench.analysis.kl_axis import is_near, position
from dpo_bench.analysis.loss_curves import LossCurve, trial_label
from dpo_bench.analysis.matched_policies import MatchedPolicies
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.opponents import OPPONENTS, read_opponents
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, estimate_cell
from dpo_bench.wording import number

Players = Mapping[str, tuple[LossCurve, Trial]]
"""By a name: a policy and its loss."""
Wins = dict[tuple[str, str], Array]
"""Of each pair, once: [prompt], the share of responses with which the first beats the second."""

_RESAMPLES = 500
_ROUND = 64
"""losses that play a round robin; the pairs of more are not fitted, and the section says so"""


def strengths_section(
    results: SweepResults, prompts: pd.Index, policies: MatchedPolicies
) -> ReportSection | None:
    """Bradley-Terry strengths by rewards, or by what a judge said where it judged a round robin.

    None where it cannot be had at any KL; without a table where too few policies are at the
    compared one, or too many.
    """
    nearest = [near for one, _ in policies.settings if (near := _nearest(one, policies.kl))]
    if len(nearest) < 2 or not results.has_wins or results.reference.samples.empty:
        return None
    if not results.has_reward and not _file_of(results):
        return None
    near_kl = [one for one in nearest if is_near(_kl(one[1]), policies.kl)]
    kls = [_named(one, results) for one in nearest]
    if not 2 <= len(near_kl) <= _ROUND:
        return written("strengths", (), (0, 0, "", policies.kl, len(near_kl), kls, _ROUND))
    players = {str(one.index): (one, trial) for one, trial in near_kl}
    wins, lost = (
        (_by_reward(prompts, players), 0) if results.has_reward else _judged(results, players)
    )
    if not wins:
        return None
    count = len(next(iter(wins.values())))
    weights = resample_weights(count, _RESAMPLES, results.bootstrap_seed)
    found = round_robin(list(players), wins, weights)
    absent = [_named(one, results) for one in nearest if one not in near_kl]
    about = (count, lost, results.judge, policies.kl, len(near_kl), absent, _ROUND)
    return written("strengths", _strength_rows(found, players, results), about)


def _nearest(series: LossCurve, kl: float) -> tuple[LossCurve, Trial] | None:
    """The loss's policy whose KL is nearest to one (nats), of all strengths and seeds."""
    known = [trial for trial in series.on_curve if trial.value(KL.name) is not None]
    if not known:
        return None
    return series, min(known, key=lambda trial: abs(position(_kl(trial)) - position(kl)))


def _kl(trial: Trial) -> float:
    return float(trial.value(KL.name) or 0.0)


def _named(player: tuple[LossCurve, Trial], results: SweepResults) -> tuple[str, float]:
    series, trial = player
    return trial_label(series, trial, results.seeds), _kl(trial)


def _file_of(results: SweepResults) -> bool:
    """Whether a judge judged a round robin of this sweep."""
    return not results.sources and (results.folder / OPPONENTS).is_file()


def _by_reward(prompts: pd.Index, players: Players) -> Wins:
    """Shares of all pairs of responses to each prompt."""
    rewards = {name: _rewards(trial.samples, prompts) for name, (_, trial) in players.items()}
    return {
        (first, second): _shares(rewards[first], rewards[second])
        for first, second in itertools.combinations(rewards, 2)
    }


def _judged(results: SweepResults, players: Players) -> tuple[Wins, int]:
    """Verdicts on the prompts for which none is missing, and how many prompts that leaves out."""
    names, wins = read_opponents(results.folder / OPPONENTS)
    trials = {name: trial.id for name, (_, trial) in players.items()}
    if not set(trials.values()) <= set(names):
        return {}, 0
    places = [names.index(one) for one in trials.values()]
    ours = wins[np.ix_(places, places)]
    missing = np.isnan(ours).any(axis=(0, 1))
    ours = ours[:, :, ~missing]
    if not ours.shape[2]:
        return {}, 0
    pairs = itertools.combinations(enumerate(trials), 2)
    found = {(first, second): ours[i, j] for (i, first), (j, second) in pairs}
    return found, int(missing.sum())


def _strength_rows(
    found: Sequence[Strength], players: Players, results: SweepResults
) -> Iterator[Row]:
    for one in found:
        series, trial = players[one.name]
        kl = Cell(number(_kl(trial), KL.decimals), value=_kl(trial))
        label = Cell(trial_label(series, trial, results.seeds))
        yield Row((label, kl, estimate_cell(one.strength)), series.index)


def _rewards(samples: pd.DataFrame, prompts: pd.Index) -> list[Array]:
    grouped = samples.dropna(subset=["reward"]).groupby("prompt_id")["reward"]
    by_prompt = {key: values.to_numpy(float) for key, values in grouped}
    return [by_prompt[key] for key in prompts]


def _shares(first: Sequence[Array], second: Sequence[Array]) -> Array:
    """Share of pairs of responses to each prompt that the first wins, ties a half."""
    return np.array([
        np.mean((a[:, None] > b) + 0.5 * (a[:, None] == b))
        for a, b in zip(first, second, strict=True)
    ])  # fmt: skip
