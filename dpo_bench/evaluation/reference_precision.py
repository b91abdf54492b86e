"""How many responses of the reference the figures of a policy need.

They are the opponents of every policy. A policy's win rate is the mean over prompts of the share of
the K opponents that its responses beat, so that its squared standard error over P prompts is
(A + B/K) / P: A is the variance of that share between prompts, policies' own responses included,
and B the variance of winning between the opponents of one prompt. Both can be estimated from any
two samples of rewards. For the reference itself, with S responses of its own to a prompt and
rewards without ties, A = 1/(12 S) and B = (S + 1)/(12 S): K opponents make the standard error
sqrt(1 + (S + 1)/K) times what any number of them would. With the 2 responses of the default that is
1.32 for 4, 1.17 for 8, 1.09 for 16, 1.05 for 32 and 1.02 for 64.

The intervals of a report hold for any K, as prompts are resampled with their opponents; and two
policies meet the same opponents, of whose noise most cancels in their difference. What gets shorter
with fewer is the optimal frontier, which ends at a KL of ln K - 1.2 at the latest: 1.6 nats for 16,
3.0 for 64; and the best-of-n curve, which ends at n = K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dpo_bench.analysis.bootstrap import win_fraction
from dpo_bench.rewards.judge import Judge

if TYPE_CHECKING:
    from dpo_bench.analysis.bootstrap import Array
    from dpo_bench.experiment.config import Evaluation
    from dpo_bench.rewards.base import Reward

FEWEST = 4
"""Responses of the first round, and the fewest that an experiment may ask for."""


def rounds(most: int) -> Iterator[range]:
    """The samples that each round adds, until there are 4, 8, 16 ..., at most so many.

    >>> list(rounds(20))
    [range(0, 4), range(4, 8), range(8, 16), range(16, 20)]
    """
    done, aim = 0, FEWEST
    while done < most:
        yield range(done, min(aim, most))
        done, aim = aim, 2 * aim


def opponents_needed(options: Evaluation, scorer: Reward | Judge | None) -> int | None:
    """How many opponents are ever met, where that is known beforehand; None: as many as there are.

    Args:
        options: with the most that there may be.
        scorer: a judge is shown some; without any scorer nothing is compared.
    """
    if scorer is not None and not isinstance(scorer, Judge):
        return None
    met = 0 if scorer is None else options.samples_per_prompt * options.judge_opponents
    return min(options.reference_samples, max(FEWEST, met))


def excess_error(own: Array, opponents: Array) -> float:
    """How much larger a win rate's standard error is than with any number of opponents.

    Args:
        own: rewards of responses that meet the opponents, shape [prompt, sample].
        opponents: rewards of the opponents, shape [prompt, opponent].

    Returns:
        the excess, as a share; infinite where the opponents are all that is seen to vary.
    """
    won = np.stack([win_fraction(own, one[:, None]).mean(axis=1) for one in opponents.T], axis=1)
    count = won.shape[1]
    if len(won) == 1:
        return math.inf
    whole = float(won.mean(axis=1).var(ddof=1))
    theirs = float(won.var(axis=1, ddof=1).mean()) / count
    if theirs == 0:
        return 0.0
    return math.inf if whole <= theirs else math.sqrt(whole / (whole - theirs)) - 1
