"""Verdicts that a judge did not give: how many, about whose responses, against whom.

A pair of responses is lost when either of its two questions has no verdict. Losing pairs at random
costs precision; losing those of one policy more often than another's biases what is compared, since
judges fail where texts are long, odd or offensive.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.estimate import finite

OPPONENTS = ("reference", "chosen")
"""Whom every policy's responses meet: the reference's, and the dataset's chosen one."""
LOST_COLUMNS = (
    *(f"judge_lost_{opponent}" for opponent in OPPONENTS),
    *("judge_lost_share", "judge_lost_prompts", "judge_dropped_prompts"),
)
"""Of the results: pairs lost against each, their share of all pairs, prompts of which any was lost,
and prompts without any verdict against the reference."""
MOST_LOST = 0.05
"""Share of a policy's pairs that may be lost before it is warned of."""
UNLIKELY = 0.05
"""Chance of a false warning, over all policies, that one loses more or less than the others."""


@dataclass(frozen=True, slots=True)
class LostVerdicts:
    """What was lost of one policy's pairs with one opponent.

    Attributes:
        pairs: that were judged, or were to be.
        lost: pairs without a verdict.
        prompts: prompts of which any pair was lost.
        dropped: prompts of which all were: they are missing from the mean and, against the
            reference, from all comparisons of losses.
    """

    pairs: int
    lost: int
    prompts: int
    dropped: int


def count_lost(prompts: ArrayLike, wins: ArrayLike) -> LostVerdicts:
    """Count the pairs without a verdict.

    >>> count_lost([0, 0, 1, 2], [1.0, float("nan"), float("nan"), 0.5])
    LostVerdicts(pairs=4, lost=2, prompts=2, dropped=1)

    Args:
        prompts: [pairs], the prompt of each.
        wins: [pairs], NaN where a verdict is missing.
    """
    lost = np.isnan(np.asarray(wins, dtype=np.float64))
    _, index = np.unique(np.asarray(prompts), return_inverse=True)
    missing, met = np.bincount(index, weights=lost), np.bincount(index)
    return LostVerdicts(
        pairs=len(lost),
        lost=int(lost.sum()),
        prompts=int((missing > 0).sum()),
        dropped=int((missing == met).sum()),
    )


def lost_columns(notes: Mapping[str, Any]) -> dict[str, float | None]:
    """`LOST_COLUMNS` from an evaluation's notes on lost verdicts; None where there are none.

    Args:
        notes: ``by_opponent``, of each the fields of `LostVerdicts`, and ``prompts``, of which any
            pair was lost, whoever the opponent; empty without a judge.
    """
    if not notes:
        return dict.fromkeys(LOST_COLUMNS)
    found = {opponent: notes["by_opponent"][opponent] for opponent in OPPONENTS}
    pairs = sum(one["pairs"] for one in found.values())
    counts = [found[opponent]["lost"] for opponent in OPPONENTS]
    share = sum(counts) / pairs if pairs else None
    rest = (share, notes["prompts"], found["reference"]["dropped"])
    return dict(zip(LOST_COLUMNS, (*counts, *rest), strict=True))


def unlike_the_others(touched: Sequence[int], prompts: int) -> list[bool]:
    """Which policies lost verdicts on more or on fewer prompts than the others.

    Each against the median of the others, by Fisher's exact test at a level that is divided by the
    number of policies. Prompts are counted, not pairs, since a prompt's pairs are lost together;
    that all policies answered the same prompts makes the test the stricter.

    Args:
        touched: [policies], prompts of which any pair was lost.
        prompts: how many all of them answered.
    """
    from scipy import stats

    if len(touched) < 2:
        return [False] * len(touched)
    found = []
    for place, own in enumerate(touched):
        others = round(median([*touched[:place], *touched[place + 1 :]]))
        table = np.array([[own, prompts - own], [others, prompts - others]])
        found.append(float(stats.fisher_exact(table).pvalue) < UNLIKELY / len(touched))
    return found


def is_too_large(share: Any) -> bool:
    """Whether a policy lost a larger share of its pairs than passes without a warning."""
    known = finite(share)
    return known is not None and known > MOST_LOST
