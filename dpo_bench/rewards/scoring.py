"""A policy's responses against opponents: by the numbers of a reward, or by a judge's preferences.

Either way a response gets the share of its opponents that it beats. Only a reward also gives it a
number of its own: under a judge there is no mean reward, and so no frontier; both stay missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dpo_bench.analysis.bootstrap import Array, win_fraction
from dpo_bench.analysis.lost_verdicts import count_lost
from dpo_bench.progress import Progress, quiet
from dpo_bench.rewards.judge import Judge

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from dpo_bench.rewards.base import Prompt, Reward

COLUMNS = ("reward", "win_reference", "win_chosen", "judge_agreed")


class Scoring(Protocol):
    """Fills in what became of each response."""

    def score(self, table: pd.DataFrame, progress: Progress = quiet) -> dict[str, Any]:
        """Set `COLUMNS` of a table of responses, ordered by prompt and sample.

        Returns:
            what scoring or judging took, for ``evaluation.json``.

        Raises:
            DataError: the reward fails on a response.
            TrialError: the judge fails on too many.
        """


class NoScoring:
    """Nothing scores the responses."""

    def score(self, table: pd.DataFrame, progress: Progress = quiet) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        """Everything is missing."""
        table[list(COLUMNS)] = np.nan
        return {}


@dataclass(frozen=True)
class RewardScoring:
    """By a reward: each response against all of the reference's.

    Attributes:
        reward: gives the numbers.
        prompts: what is answered, [prompt].
        opponents: rewards of the reference's responses, shape [prompt, reference_samples].
        chosen: rewards of the dataset's chosen responses, shape [prompt].
    """

    reward: Reward
    prompts: Sequence[Prompt]
    opponents: Array
    chosen: Array

    def score(self, table: pd.DataFrame, progress: Progress = quiet) -> dict[str, Any]:
        """Score the responses and compare."""
        prompts = [self.prompts[index] for index in table["prompt_id"]]
        table["reward"] = self.reward.score(
            prompts, table["response"], lambda done, total: progress("rewards", done, total)
        )
        own = table["reward"].to_numpy().reshape(len(self.chosen), -1)
        table["win_reference"] = win_fraction(own, self.opponents).ravel()
        table["win_chosen"] = win_fraction(own, self.chosen[:, None]).ravel()
        table["judge_agreed"] = np.nan
        cut = self.reward.truncated(prompts, list(table["response"]))
        return {"reward_truncated": cut}


@dataclass(frozen=True)
class JudgeScoring:
    """By a judge: each response against a few of the reference's, and the chosen one.

    Attributes:
        judge: is asked.
        prompts: what is answered, [prompt].
        opponents: texts of the reference's responses, [prompt][reference_samples].
        chosen: texts of the dataset's chosen responses, [prompt].
        opponents_each: how many of the reference's responses each one meets; the s-th sample of
            every policy meets the same.
    """

    judge: Judge
    prompts: Sequence[Prompt]
    opponents: Sequence[Sequence[str]]
    chosen: Sequence[str]
    opponents_each: int

    def score(self, table: pd.DataFrame, progress: Progress = quiet) -> dict[str, Any]:
        """Judge the responses; without a verdict a share is missing."""
        each = self.opponents_each
        prompts = [self.prompts[index].transcript for index in table["prompt_id"]]
        responses = list(table["response"])
        rivals = [
            self.opponents[prompt][(sample * each + number) % len(self.opponents[prompt])]
            for prompt, sample in zip(table["prompt_id"], table["sample"], strict=True)
            for number in range(each)
        ]
        against = self.judge.compare(
            [*np.repeat(np.array(prompts, dtype=object), each), *prompts],
            [*np.repeat(np.array(responses, dtype=object), each), *responses],
            [*rivals, *(self.chosen[prompt] for prompt in table["prompt_id"])],
            progress,
        )
        meetings = len(rivals)
        table["reward"] = np.nan
        table["win_reference"] = _mean_known(against.wins[:meetings].reshape(-1, each))
        table["win_chosen"] = against.wins[meetings:]
        agreed = np.column_stack(
            [against.agreed[:meetings].reshape(-1, each), against.agreed[meetings:]]
        )
        table["judge_agreed"] = _mean_known(agreed)
        lost = self._lost(table["prompt_id"].to_numpy(), against.wins)
        return {"judge": asdict(against.cost), "lost_verdicts": lost}

    def _lost(self, prompts: NDArray[np.int64], wins: Array) -> dict[str, Any]:
        """Pairs without a verdict by opponent, and the prompts that have one.

        Args:
            prompts: of each response.
            wins: of the pairs with the reference's responses, then with the chosen ones.
        """
        met = np.concatenate([np.repeat(prompts, self.opponents_each), prompts])
        first = len(met) - len(prompts)
        parts = {"reference": slice(None, first), "chosen": slice(first, None)}
        return {
            "by_opponent": {
                name: asdict(count_lost(met[part], wins[part])) for name, part in parts.items()
            },
            "prompts": count_lost(met, wins).prompts,
        }


def _mean_known(values: Array) -> Array:
    """Mean of each row's known values, NaN where none is known."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0.0).sum(axis=1)
    count = known.sum(axis=1)
    return np.asarray(np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0))
