"""The round robin: every policy's responses against every other's and the reference's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.bradley_terry import Strength, round_robin
from dpo_bench.analysis.loss_curves import LossCurve, trial_label
from dpo_bench.analysis.matched_policies import MatchedPolicies
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.opponents import OPPONENTS, REFERENCE, read_opponents
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.report.sections.section import ReportSection, written
from dpo_bench.report.table_values import Cell, Row, estimate_cell
from dpo_bench.wording import number

Players = Mapping[str, tuple[LossCurve, Trial]]
Wins = dict[tuple[str, str], Array]
"""Of each pair, once: [prompt], the share of responses with which the first beats the second."""

_RESAMPLES = 500
_ROUND = 64
"""losses that play a round robin; the pairs of more are not fitted, and the section says so"""


def strengths_section(
    results: SweepResults, prompts: pd.Index, policies: MatchedPolicies
) -> ReportSection | None:
    """Bradley-Terry strengths by rewards, or by what a judge said where it judged a round robin."""
    players = policies.players
    if len(players) < 2 or not results.has_wins or results.reference.samples.empty:
        return None
    if len(players) > _ROUND:
        return written("strengths", (), (0, "", "", len(players), _ROUND))
    by_name = {str(one.index): (one, trial) for one, trial in players}
    wins = (
        _by_reward(results, prompts, by_name) if results.has_reward else _judged(results, by_name)
    )
    if not wins:
        return None
    count = len(next(iter(wins.values())))
    weights = resample_weights(count, _RESAMPLES, results.bootstrap_seed)
    found = round_robin([REFERENCE, *by_name], wins, weights)
    rows = _strength_rows(found, by_name, results)
    about = (count, results.judge, policies.whose, len(players), _ROUND)
    return written("strengths", rows, about)


def _by_reward(results: SweepResults, prompts: pd.Index, players: Players) -> Wins:
    """Shares of all pairs of responses to each prompt."""
    rewards = {REFERENCE: _rewards(results.reference.samples, prompts)}
    rewards |= {name: _rewards(trial.samples, prompts) for name, (_, trial) in players.items()}
    return {
        (first, second): _shares(rewards[first], rewards[second])
        for first, second in itertools.combinations(rewards, 2)
    }


def _judged(results: SweepResults, players: Players) -> Wins:
    """Verdicts on the prompts for which none failed; none where no round robin was judged."""
    file = results.folder / OPPONENTS
    if results.sources or not file.is_file():
        return {}
    names, wins = read_opponents(file)
    trials = {name: trial.id for name, (_, trial) in players.items()} | {REFERENCE: REFERENCE}
    if not set(trials.values()) <= set(names):
        return {}
    places = [names.index(one) for one in trials.values()]
    ours = wins[np.ix_(places, places)]
    ours = ours[:, :, ~np.isnan(ours).any(axis=(0, 1))]
    if not ours.shape[2]:
        return {}
    pairs = itertools.combinations(enumerate(trials), 2)
    return {(first, second): ours[i, j] for (i, first), (j, second) in pairs}


def _strength_rows(
    found: Sequence[Strength], players: Players, results: SweepResults
) -> Iterator[Row]:
    for one in found:
        strength = estimate_cell(one.strength)
        if one.name not in players:
            yield Row((Cell(REFERENCE), Cell(number(0.0, KL.decimals)), strength))
            continue
        series, trial = players[one.name]
        kl = Cell(number(trial.value(KL.name), KL.decimals))
        label = Cell(trial_label(series, trial, results.seeds))
        yield Row((label, kl, strength), series.index)


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
