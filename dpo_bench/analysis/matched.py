"""Losses compared at the same KL to the reference, which equal strengths do not give.

How a loss's reward is read off at a KL is told in `curves`, how the intervals hold prompts and
training seeds in `clustered`, how families of comparisons are corrected in `separation`. All is
paired: the same resampled prompts, and the same seeds, for every loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.curves import (
    cells,
    common_range,
    default_levels,
    not_comparable,
    read,
    read_levels,
    wide_kl_ranges,
)
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.separation import (
    Comparison,
    corrected,
    groups,
    holm,
    prompts_to_separate,
    seeds_to_separate,
)
from dpo_bench.analysis.two_way import Clustered, Spread, intervals

__all__ = [
    "Area",
    "Comparison",
    "Curves",
    "Point",
    "areas",
    "common_range",
    "compare",
    "compare_levels",
    "corrected",
    "default_levels",
    "groups",
    "interpolate_at",
    "not_comparable",
    "prompts_to_separate",
    "regret_at",
    "rewards_at",
    "seeds_to_separate",
]

_NODES = 24
"""nodes of the Gauss-Legendre rule of an area, in sqrt(KL)"""

_AT_ONCE = 1024
"""pairs whose resamples are held in memory together: 16 MB at 2,000 resamples"""

_Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Area:
    """Two losses over a range of KL.

    Attributes:
        first: name of a loss.
        second: name of the other.
        low: where the range begins, nats.
        high: where it ends.
        area: the integral over KL of the first's reward minus the second's, reward x nats.
        mean: the same over the width of the range: the mean difference, in units of reward.
        spread: the parts of the mean's uncertainty.
        p_value: of the area being 0.
        adjusted: after Holm's correction over the areas that were asked for together.
    """

    first: str
    second: str
    low: float
    high: float
    area: Estimate
    mean: Estimate
    spread: Spread
    p_value: float
    adjusted: float


def interpolate_at(curves: Curves, level: float, weights: Array | None) -> dict[str, Clustered]:
    """The reward of each loss at a KL; without the losses that `not_comparable` names.

    Args:
        curves: for each loss the points of its grid.
        level: KL, nats.
        weights: [resamples, clusters] from `bootstrap.resample_weights`; None where only means of
            whole runs are known.

    Raises:
        ValueError: the points do not all have the clusters of ``weights``.
    """
    usable = _usable(curves, level)
    if not usable:
        return {}
    found = intervals(lambda means: read(usable, means, level), cells(usable), weights)
    return dict(zip(usable, found, strict=True))


def rewards_at(curves: Curves, level: float, weights: Array | None) -> dict[str, Estimate]:
    """`interpolate_at` without the parts of the uncertainty."""
    return {name: one.estimate for name, one in interpolate_at(curves, level, weights).items()}


def regret_at(
    curves: Curves, frontier: Frontier, level: float, weights: Array | None
) -> dict[str, Clustered]:
    """How much better the optimal policy at a KL is than each loss there.

    Frontier and losses are re-estimated in every resample, over the same prompts.

    Args:
        curves: for each loss the points of its grid, over the frontier's prompts in its order.
        frontier: of the reference.
        level: KL, nats.
        weights: [resamples, clusters] from `bootstrap.resample_weights`; None where only means of
            whole runs are known.

    Returns:
        the optimal reward minus each loss's, without the losses that `not_comparable` names; empty
        where the level is outside the frontier's valid range.

    Raises:
        ValueError: the points do not all have the clusters of ``weights`` and of the frontier.
    """
    usable = _usable(curves, level)
    if not usable or not frontier.covers(level):
        return {}
    own = cells(usable)
    if own.shape[1] != len(frontier.kl):
        raise ValueError(f"the frontier has {len(frontier.kl)} prompts, the losses {own.shape[1]}")
    ideal = np.broadcast_to(frontier.columns, (len(own), *frontier.columns.shape))
    width = own.shape[2]

    def gaps(means: Array) -> Array:
        best = frontier.read(np.ascontiguousarray(means[:, width:]), level)
        return best[:, None] - read(usable, means[:, :width], level)

    found = intervals(gaps, np.concatenate([own, ideal], axis=2), weights)
    return dict(zip(usable, found, strict=True))


def compare(
    curves: Curves, level: float, weights: Array | None, baseline: str | None = None
) -> list[Comparison]:
    """Every pair of losses at one KL, in the order of ``curves``, corrected as one family.

    Args:
        curves: for each loss the points of its grid.
        level: KL, nats.
        baseline: compare with this loss alone: each other one minus it.
        weights: [resamples, clusters] from `bootstrap.resample_weights`; None where only means of
            whole runs are known.

    Raises:
        ValueError: the points do not all have the clusters of ``weights``.
    """
    usable = _usable(curves, level)
    pairs = _pairs(usable, baseline)
    known = dict(zip(pairs, _differences(usable, pairs, [level], [1.0], weights), strict=True))
    reasons = not_comparable(curves, level)
    found = []
    for first, second in _pairs(curves, baseline):
        if one := known.get((first, second)):
            found.append(Comparison(first, second, level, one.estimate, one.spread, one.p_value))
        else:
            why = [f"{name} {reasons[name]}" for name in (first, second) if name in reasons]
            found.append(
                Comparison(first, second, level, Estimate.missing(), reason="; ".join(why))
            )
    return corrected(found)


def _pairs(names: Iterable[str], baseline: str | None) -> _Pairs:
    if baseline is None:
        return list(itertools.combinations(names, 2))
    return [(name, baseline) for name in names if name != baseline] if baseline in names else []


def compare_levels(
    curves: Curves, levels: Sequence[float], weights: Array | None, baseline: str | None = None
) -> list[list[Comparison]]:
    """`compare` at several KLs (nats), corrected as one family: all pairs at all levels."""
    found = [compare(curves, level, weights, baseline) for level in levels]
    together = iter(corrected([one for part in found for one in part]))
    return [[next(together) for _ in part] for part in found]


def areas(curves: Curves, weights: Array | None) -> list[Area]:
    """The area between every pair of curves over the KLs that all of them span.

    Only curves of two nodes or more take part. The range is taken as it is found, in every
    resample.

    Args:
        curves: for each loss the points of its grid.
        weights: [resamples, clusters] from `bootstrap.resample_weights`; None where only means of
            whole runs are known.

    Returns:
        the pairs, in the order of ``curves``; empty where there is no common range.

    Raises:
        ValueError: the points do not all have the clusters of ``weights``.
    """
    wide = {name: points for name, points in curves.items() if _has_width(points)}
    ends = common_range(wide)
    if ends is None or ends[0] == ends[1]:
        return []
    low, high = ends
    pairs = list(itertools.combinations(wide, 2))
    nodes, shares = np.polynomial.legendre.leggauss(_NODES)
    roots = np.sqrt(low) + (np.sqrt(high) - np.sqrt(low)) * (nodes + 1) / 2
    shares = shares * roots / (shares * roots).sum()  # dKL = 2 sqrt(KL) d sqrt(KL)
    found = _differences(wide, pairs, list(roots**2), list(shares), weights)
    adjusted, _ = holm([one.p_value for one in found])
    return [
        Area(
            *pair,
            low,
            high,
            _scaled(one.estimate, high - low),
            one.estimate,
            one.spread,
            one.p_value,
            float(corrected_value),
        )
        for pair, one, corrected_value in zip(pairs, found, adjusted, strict=True)
    ]


def _differences(
    curves: Curves, pairs: _Pairs, levels: list[float], shares: list[float], weights: Array | None
) -> list[Clustered]:
    """A weighted mean over levels of the difference of each pair."""
    place = {name: index for index, name in enumerate(curves)}

    def of(part: _Pairs) -> Callable[[Array], Array]:
        left, right = ([place[pair[side]] for pair in part] for side in (0, 1))

        def differences(means: Array) -> Array:
            total: Array = np.einsum("l,lrc->rc", shares, read_levels(curves, means, levels))
            return total[:, left] - total[:, right]

        return differences

    parts = [pairs[start : start + _AT_ONCE] for start in range(0, len(pairs), _AT_ONCE)]
    return [one for part in parts for one in intervals(of(part), cells(curves), weights)]


def _usable(curves: Curves, level: float) -> Curves:
    reasons = not_comparable(curves, level)
    return {name: points for name, points in curves.items() if name not in reasons}


def _has_width(points: Sequence[Point]) -> bool:
    return any(low < high for low, high in wide_kl_ranges(points).values())


def _scaled(estimate: Estimate, factor: float) -> Estimate:
    return replace(
        estimate,
        value=estimate.value * factor,
        low=estimate.low * factor,
        high=estimate.high * factor,
    )
