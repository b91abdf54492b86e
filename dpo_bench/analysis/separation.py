"""Which losses are told apart, when many are compared at once, and what would tell others apart.

A family of m comparisons that are all null separates at least one by chance far more often than a
single one does. Holm's step-down correction (1979, Scandinavian Journal of Statistics 6, 65-70)
keeps the chance of any false separation at 5%, however the comparisons depend on each other: the
i-th smallest p-value is multiplied by m - i + 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.two_way import Spread, tail

LEVEL = 0.05
"""chance of any false separation within a family"""

_MOST = 10**6
"""times as many prompts, or so many seeds, that are still named"""


@dataclass(frozen=True)
class Comparison:
    """Two losses at one KL.

    Attributes:
        first: name of a loss.
        second: name of the other.
        level: the KL, nats.
        difference: reward of the first minus reward of the second; missing when not comparable.
            Its interval is the pair's own, not corrected for the family.
        spread: the parts of its uncertainty; None when not comparable.
        p_value: of the pair by itself; NaN when not comparable.
        adjusted: the p-value after Holm's correction over the family; NaN before it.
        threshold: the p-value below which the pair is separated in its family, NaN before.
        family: the number of comparisons corrected for; 0 before.
        reason: why they cannot be compared at this KL; empty when they can.
    """

    first: str
    second: str
    level: float
    difference: Estimate
    spread: Spread | None = None
    p_value: float = math.nan
    adjusted: float = math.nan
    threshold: float = math.nan
    family: int = 0
    reason: str = ""

    @property
    def seeds(self) -> int:
        """The fewest training seeds behind the figures that are compared; 0 when none are."""
        return self.spread.count if self.spread else 0

    @property
    def separated(self) -> bool:
        """Whether the two differ, with the family's chance of any false separation at 5%."""
        return self.adjusted < LEVEL


def holm(p_values: ArrayLike) -> tuple[Array, Array]:
    """Adjusted p-values, and the threshold that each p-value has to stay below.

    Args:
        p_values: [m], without NaN.

    Returns:
        the adjusted p-values [m] and the thresholds [m], `LEVEL` / (m - rank + 1). A small p-value
        behind a larger one that failed stays unseparated: the adjusted values never fall.

    Raises:
        ValueError: a p-value is missing or outside 0 to 1.

    >>> adjusted, threshold = holm([0.03, 0.01, 0.04])
    >>> adjusted.round(6).tolist(), threshold.round(6).tolist()
    ([0.06, 0.03, 0.06], [0.025, 0.016667, 0.05])
    """
    values = np.asarray(p_values, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError("p-values must be [m], each between 0 and 1")
    order = np.argsort(values, kind="stable")
    left = np.arange(len(values), 0, -1)
    adjusted, threshold = np.empty_like(values), np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(values[order] * left), 1)
    threshold[order] = LEVEL / left
    return adjusted, threshold


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons, corrected as one family: give all pairs at a level, or at all levels.

    Those that could not be compared count for nothing. An earlier correction is replaced.
    """
    tested = [one for one in comparisons if not math.isnan(one.p_value)]
    figures = zip(*holm([one.p_value for one in tested]), strict=True)
    return [
        replace(one, adjusted=float(found[0]), threshold=float(found[1]), family=len(tested))
        if not math.isnan(one.p_value) and (found := next(figures))
        else replace(one, adjusted=math.nan, threshold=math.nan, family=len(tested))
        for one in comparisons
    ]


def groups(
    rewards: Mapping[str, Estimate], comparisons: Iterable[Comparison]
) -> list[tuple[str, ...]]:
    """The largest sets of losses of which no two are separated, best first.

    A loss may be in several: "not separated" does not carry over from pair to pair.

    Args:
        rewards: of each loss at one KL, from `matched.rewards_at`.
        comparisons: of every pair of them at that KL, corrected.

    Raises:
        ValueError: a pair was not compared.
    """
    apart = {frozenset((one.first, one.second)): one.separated for one in comparisons}
    order = sorted(rewards, key=lambda name: -rewards[name].value)
    missing = [pair for pair in itertools.combinations(order, 2) if frozenset(pair) not in apart]
    if missing:
        raise ValueError(f"{missing[0][0]} and {missing[0][1]} were not compared")
    alike = {
        name: {other for other in order if other != name and not apart[frozenset((name, other))]}
        for name in order
    }
    found = _cliques(alike, set(), set(order), set())
    ranks = sorted(sorted(order.index(name) for name in names) for names in found)
    return [tuple(order[rank] for rank in group) for group in ranks]


def prompts_to_separate(comparison: Comparison) -> int | None:
    """The number of prompts that would just separate a pair, were its difference right.

    More prompts lower what prompts and responses add to the uncertainty, not what seeds add. The
    pair's rank in its family is taken as it is (without a family the threshold is 5%).

    Returns:
        the number, at most the present one where the pair is separated; None where there is no
        difference or no interval, or where no number is enough and it takes more seeds.
    """
    from scipy.optimize import brentq

    spread, difference = comparison.spread, comparison.difference
    if not spread or not math.isfinite(difference.low) or difference.value == 0:
        return None
    if not difference.n:  # the prompts behind it are not known
        return None
    within, distance = spread.facing, abs(difference.value)

    def excess(log: float) -> float:
        more = math.exp(log)
        between = (
            math.sqrt(max(spread.between**2 - spread.responses**2, 0) + spread.responses**2 / more)
            if spread.known
            else 0.0
        )
        found = tail(distance, between, within / math.sqrt(more), spread.count, difference.n)
        return math.log(max(found, 1e-300) / _threshold(comparison))

    low, high = -math.log(difference.n / 2), math.log(_MOST)
    if excess(high) > 0:
        return None
    root = low if excess(low) < 0 else float(brentq(excess, low, high, xtol=1e-4))
    return math.ceil(round(difference.n * math.exp(root), 6))


def seeds_to_separate(comparison: Comparison) -> int | None:
    """The number of training seeds that would just separate a pair, were its difference right.

    More seeds lower what seeds and responses add to the uncertainty, not what prompts add.

    Returns:
        the number, at least 2; None with one seed, whose variance is unknown, where there is no
        difference, or where no number is enough and it takes more prompts.
    """
    spread, difference = comparison.spread, comparison.difference
    if not spread or not spread.known or difference.value == 0:
        return None
    within, distance = spread.facing, abs(difference.value)

    def enough(seeds: int) -> bool:
        between = spread.between * math.sqrt(spread.count / seeds)
        found = tail(distance, between, within, seeds, difference.n)
        return found < _threshold(comparison)

    high = 2
    while not enough(high):
        high *= 2
        if high > _MOST:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _threshold(comparison: Comparison) -> float:
    return LEVEL if math.isnan(comparison.threshold) else comparison.threshold


def _cliques(
    alike: Mapping[str, set[str]], chosen: set[str], left: set[str], done: set[str]
) -> list[set[str]]:
    """The maximal sets of mutually alike names that contain ``chosen`` (Bron and Kerbosch 1973)."""
    if not left and not done:
        return [chosen] if chosen else []
    pivot = max(left | done, key=lambda name: len(alike[name] & left))
    found: list[set[str]] = []
    for name in left - alike[pivot]:
        near = alike[name]
        found += _cliques(alike, chosen | {name}, left & near, done & near)
        left, done = left - {name}, done | {name}
    return found
