"""One half of the prompts chooses, the other half reports: one rule for all that is chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Indices = NDArray[np.intp]


def halves(prompts: int, *, split: bool = True) -> tuple[Indices, Indices]:
    """The places of the prompts that choose, and of those that report.

    Every other prompt in their sorted order chooses, beginning with the first. Where they cannot be
    split all prompts do both.

    >>> [part.tolist() for part in halves(5)]
    [[0, 2, 4], [1, 3]]
    """
    everything = np.arange(prompts)
    return (everything[::2], everything[1::2]) if split else (everything, everything)


def split_prompts(prompts: pd.Index, everything: pd.Index) -> tuple[pd.Index, pd.Index]:
    """Of some prompts those that choose and those that report, by their places among all.

    So a choice that was made on fewer prompts, or on more, never meets those that report.

    Args:
        prompts: ids, sorted.
        everything: ids of all held-out prompts; where it does not hold the others, these alone
            count.
    """
    base = everything.unique().sort_values()
    if not prompts.isin(base).all():
        base = prompts
    choosing, _ = halves(len(base))
    chooses = prompts.isin(base[choosing])
    if chooses.sum() < 2 or (~chooses).sum() < 2:
        return prompts, prompts
    return prompts[chooses], prompts[~chooses]
