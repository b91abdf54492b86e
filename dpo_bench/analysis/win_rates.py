"""Win rates with intervals that hold near 0 and 1, on few prompts, and where all prompts agree.

A bootstrap cannot know of what it has not seen: where a policy won on every prompt its interval is
[1, 1], and where it lost on two of 64 the interval is too narrow. There the interval is Wilson's
(1927, JASA 22, 209-212), for a sample of the effective size that the spread between prompts tells:
of the common ways to do so for clustered proportions the one whose coverage is best in the
comparison of Franco et al. 2019 (J. Survey Statistics and Methodology 7, 334-364).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array, bootstrap_mean
from dpo_bench.analysis.estimate import Estimate

NEAR_AN_END = 0.1
"""Shares closer than this to 0 or 1 have Wilson's interval."""
FEW = 30
"""So have those that fewer prompts than this tell from the nearer end."""
UNSEEN = 2.0
"""Prompts, beside those that were seen to win (or lose), whose responses are taken to be alike."""


def wilson(share: float, effective_n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share.

    >>> low, high = wilson(1.0, 96.0)
    >>> round(low, 3), high
    (0.962, 1.0)

    Args:
        share: observed, 0 to 1.
        effective_n: independent draws that would be as informative, see `effective_n`; above 0.
        level: of the interval.

    Raises:
        ValueError: the share is none, or there is no draw.
    """
    from scipy import special

    if not 0 <= share <= 1 or not effective_n > 0:
        raise ValueError(f"a share of {share} in {effective_n} draws has no interval")
    square = float(special.ndtri(0.5 + level / 2)) ** 2 / effective_n
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    # an end that is 0 or 1 by algebra is so by rounding, too
    return (
        0.0 if share == 0 else max(0.0, middle - half),
        1.0 if share == 1 else min(1.0, middle + half),
    )


def effective_n(values: ArrayLike) -> float:
    """How many independent wins and losses tell as much of their share as these prompts do.

    The number of prompts over the design effect: the variance between prompts over that of single
    wins and losses. It is 1 where a prompt's responses all win or all lose, 1/m where its m
    responses differ as those of different prompts do, and smaller still where each is the share of
    many opponents.

    Few wins tell it badly: that two responses that won belong to two prompts is no proof that
    responses to one prompt differ. So it is averaged with the worst case, 1, which weighs as much
    as `UNSEEN` prompts beside those that are not at the nearer end. Without any spread it is 1.

    >>> effective_n([1.0, 1.0, 1.0])
    3.0

    Args:
        values: [prompts], the share of each prompt's responses (or opponents) that won.

    Raises:
        ValueError: there is no prompt, or a value is missing or outside 0 to 1.
    """
    shares = np.asarray(values, dtype=np.float64)
    if shares.ndim != 1 or not len(shares) or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError("win rates must be [prompts], each between 0 and 1")
    prompts, mean = len(shares), float(shares.mean())
    if np.ptp(shares) == 0:
        return float(prompts)
    design = float(shares.var(ddof=1)) / (mean * (1 - mean))
    seen = _seen(shares)
    return prompts * (seen + UNSEEN) / (seen * design + UNSEEN)


def win_rate(values: ArrayLike, weights: Array, level: float = 0.95) -> Estimate:
    """The mean share of wins over prompts with its interval.

    The bootstrap's (`bootstrap_mean`), or Wilson's where the share is within `NEAR_AN_END` of 0 or
    1, where fewer than `FEW` prompts are not at the nearer of these ends, or where all prompts are
    alike. The latter takes Student's quantile for the normal one (Korn and
    Graubard 1998, Survey Methodology 24, 193-201). Coverage of both, by simulation:
    ``benchmarks/calibration/win_rates.py``.

    Args:
        values: [prompts], the share of each prompt's responses that won, ties a half.
        weights: [resamples, prompts] from `resample_weights`.
        level: of the interval.

    Raises:
        ValueError: a value is missing or outside 0 to 1, or the shapes do not fit.
    """
    from scipy import special

    found = bootstrap_mean(values, weights, level)
    near = min(found.value, 1 - found.value) < NEAR_AN_END or found.high <= found.low
    if found.n < 2 or not (near or _seen(np.asarray(values)) < FEW):
        return found
    normal = float(special.ndtri(0.5 + level / 2))
    student = float(special.stdtrit(found.n - 1, 0.5 + level / 2))
    low, high = wilson(found.value, effective_n(values) * (normal / student) ** 2, level)
    return Estimate(found.value, low, high, found.n)


def _seen(shares: Array) -> int:
    """How many prompts are not at the end, 0 or 1, that is nearer to their mean."""
    return int((shares != round(float(shares.mean()))).sum())
