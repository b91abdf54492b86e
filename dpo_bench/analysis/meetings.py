"""Who met whom: each response of a trial with each opponent's response to the same prompt.

The opponents are the reference's sampled responses and the dataset's chosen one. Lengths are
compared response by response, not with a mean over the opponents: two opponents of 10 and 30 tokens
are not two of 20.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.length_control import Difficulty, length_term, prompt_difficulty
from dpo_bench.analysis.opponents import CHOSEN, REFERENCE
from dpo_bench.analysis.results import SweepResults, Trial

OPPONENTS = (REFERENCE, CHOSEN)


@dataclass(frozen=True, slots=True)
class Meetings:
    """A trial's comparisons with one opponent.

    Attributes:
        won: [prompt, m], outcome, ties a half; NaN where a judge gave none. Where only the share of
            beaten opponents is known, that share stands for each of them.
        longer: [prompt, m], how much longer the trial's response is: tokens against the reference,
            characters against the chosen response and in results from elsewhere.
    """

    won: Array
    longer: Array


def meetings(
    results: SweepResults, trial: Trial, prompts: pd.Index, opponent: str
) -> Meetings | None:
    """A trial's comparisons with an opponent on these prompts, in their order.

    Returns:
        None where outcomes or lengths are not known, or some prompt has another number of
        responses.
    """
    own = _by_prompt(trial.samples, prompts)
    if own is None:
        return None
    if opponent == CHOSEN:
        return _with_chosen(results, own, prompts)
    return _with_reference(results, own, prompts)


def shared_difficulty(found: list[Meetings]) -> Difficulty:
    """The prompts' difficulties over all trials that met one opponent, a row of means each."""
    wins = np.stack([_mean(one.won) for one in found])
    terms = [length_term(one.longer, ~np.isnan(one.won)).mean(axis=1) for one in found]
    return prompt_difficulty(wins, np.stack(terms))


def _mean(won: Array) -> Array:
    """Mean of each row's known values, NaN where none is known."""
    known = ~np.isnan(won)
    total, count = np.where(known, won, 0.0).sum(axis=1), known.sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(won), np.nan), where=count > 0))


def _by_prompt(table: pd.DataFrame, prompts: pd.Index) -> pd.DataFrame | None:
    """The rows of these prompts, by prompt and sample; None unless all have equally many."""
    if "prompt_id" not in table or "sample" not in table:
        return None
    rows = table[table["prompt_id"].isin(prompts)]
    counts = rows.groupby("prompt_id").size()
    if len(counts) != len(prompts) or counts.nunique() != 1:
        return None
    place = pd.Series(range(len(prompts)), index=prompts)
    return rows.assign(place=rows["prompt_id"].map(place)).sort_values(["place", "sample"])


def _column(table: pd.DataFrame, name: str, prompts: pd.Index) -> Array | None:
    """A column as [prompt, m]; None where it is missing or holds nothing."""
    if name not in table or table[name].isna().all():
        return None
    return table[name].to_numpy(np.float64).reshape(len(prompts), -1)


def _with_reference(results: SweepResults, own: pd.DataFrame, prompts: pd.Index) -> Meetings | None:
    wins = _column(own, "win_reference", prompts)
    given = _column(own, "extra_length", prompts)
    if wins is None or given is not None:
        return None if wins is None or given is None else Meetings(wins, given)
    theirs = _by_prompt(results.reference.samples, prompts)
    if theirs is None:
        return None
    tokens, lengths = (_column(table, "tokens", prompts) for table in (own, theirs))
    if tokens is None or lengths is None:
        return None
    rewards, rivals = (_column(table, "reward", prompts) for table in (own, theirs))
    if rewards is not None and rivals is not None:
        return _all_pairs((rewards, tokens), (rivals, lengths))
    return _judged(results, (wins, tokens), lengths, own["sample"].to_numpy(np.intp))


def _all_pairs(ours: tuple[Array, Array], theirs: tuple[Array, Array]) -> Meetings:
    """Everyone of a prompt against everyone, by reward; both are rewards and lengths [prompt, .].

    >>> one, two = np.array([[1.0]]), np.array([[1.0, 2.0]])
    >>> both = _all_pairs((one, 9 * one), (two, two))
    >>> both.won.tolist(), both.longer.tolist()
    ([[0.5, 0.0]], [[8.0, 7.0]])
    """
    (reward, length), (rival, other) = ours, theirs
    left, right = reward[:, :, None], rival[:, None, :]
    won = (left > right) + 0.5 * (left == right)
    longer = length[:, :, None] - other[:, None, :]
    return Meetings(won.reshape(len(reward), -1), longer.reshape(len(reward), -1))


def _judged(
    results: SweepResults, ours: tuple[Array, Array], lengths: Array, samples: Array
) -> Meetings:
    """By a judge the s-th response met a few of the reference's, the same of every policy."""
    evaluation = dict(results.experiment.get("evaluation") or {})
    each = int(evaluation.get("judge_opponents") or 1)
    won, tokens = ours
    numbers = samples.reshape(won.shape)[:, :, None] * each + np.arange(each)
    rows = np.arange(len(won))[:, None, None]
    met = lengths[rows, (numbers % lengths.shape[1]).astype(np.intp)]
    longer = tokens[:, :, None] - met
    share = np.broadcast_to(won[:, :, None], longer.shape)
    return Meetings(share.reshape(len(won), -1), longer.reshape(len(won), -1))


def _with_chosen(results: SweepResults, own: pd.DataFrame, prompts: pd.Index) -> Meetings | None:
    wins, table = _column(own, "win_chosen", prompts), results.reference.prompts
    if wins is None or "chosen" not in table or "response" not in own:
        return None
    lengths = table.set_index("prompt_id")["chosen"].str.len().reindex(prompts).astype(float)
    if lengths.isna().any():
        return None
    characters = own["response"].str.len().to_numpy(np.float64).reshape(wins.shape)
    theirs = np.asarray(lengths, dtype=np.float64)
    return Meetings(wins, characters - theirs[:, None])
