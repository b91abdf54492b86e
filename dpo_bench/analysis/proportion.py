"""Intervals of shares, which stay inside 0 to 1 and keep a width where every answer is the same."""

from __future__ import annotations

import math

from dpo_bench.analysis.estimate import Estimate


def wilson(share: float, variance: float, prompts: int, width: float = 1.959964) -> Estimate:
    """The score interval of a share (Wilson 1927, JASA 22, 209) at the size that its variance has.

    A share of so many independent answers has the variance p (1 - p) / n. Answers to one prompt are
    alike, so that n is taken from the variance that was estimated over prompts and runs: n = p (1 -
    p) / variance. Where that says nothing, because all answers are the same, it is the number of
    prompts.

    Args:
        share: 0 to 1.
        variance: of its estimate.
        prompts: number of prompts, or of runs where these are all that is known.
        width: quantile of the error: normal, or Student's.

    >>> found = wilson(1.0, 0.0, 32)
    >>> round(found.low, 3), found.high
    (0.893, 1.0)
    """
    spread = share * (1 - share)
    count = spread / variance if spread > 0 and variance > 0 else float(prompts)
    center = (share + width**2 / (2 * count)) / (1 + width**2 / count)
    half = width * math.sqrt(spread / count + width**2 / (4 * count**2)) / (1 + width**2 / count)
    return Estimate(share, max(center - half, 0.0), min(center + half, 1.0), prompts)
