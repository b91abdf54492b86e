"""Losses compared at the same KL to the reference, which equal strengths do not give.

Each loss has a curve: the reward of its policies, one for each strength, in order of their mean KL.
Between two neighbours the reward is read off a straight line in sqrt(KL), never beyond the ends.
Reward grows with sqrt(KL) close to the reference (Gao et al. 2022, arXiv:2210.10760), so that the
line is exact for reward = a sqrt(KL), where one in KL is .018 too low on average and .030 at worst
(a = .6, strengths a factor of 3 apart). On the optimal curve of a reward that saturates it is .013
and .025 too low against .022 and .038, on d (.75 - .25 ln d), d = sqrt(KL), .008 and .013 against
.020 and .034. These errors are in no interval; they point the same way for all losses.

Every resample of prompts moves both rewards and KLs, and each resampled curve is read at the
level. Where a resampled curve ends just short of it, its last piece is prolonged by half its length
at most: held flat instead, the interval is too narrow near the ends (coverage 92-93%); prolonged
without a limit it explodes where two strengths have almost the same KL.

Intervals are over prompts. They do not contain the spread over training seeds: with several seeds a
policy's rewards and KLs are averaged over them, prompt by prompt, before anything else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.evaluation.statistics import Array, Estimate, bootstrap_each

_PROLONGED = 0.5
"""share of its length by which a resampled curve's last piece may be prolonged"""


@dataclass(frozen=True, eq=False, init=False)
class Point:
    """A policy, or one per seed, trained with one loss at one strength.

    Given as [clusters] or [seeds, clusters], kept as [seeds, clusters]: a cluster is a prompt, its
    value the mean over that prompt's samples, and all points have the same prompts in one order.

    Attributes:
        kl: KL(policy || reference), nats per sequence.
        reward: mean reward, or another figure to compare, such as the win rate.

    Raises:
        ValueError: the shapes differ, or a value is missing or infinite.
    """

    kl: Array
    reward: Array

    def __init__(self, kl: ArrayLike, reward: ArrayLike) -> None:
        tables = [np.atleast_2d(np.asarray(one, dtype=np.float64)) for one in (kl, reward)]
        if tables[0].shape != tables[1].shape or tables[0].ndim != 2 or not tables[0].size:
            raise ValueError(
                "kl and reward must both be [clusters] or [seeds, clusters],"
                f" not {list(tables[0].shape)} and {list(tables[1].shape)}"
            )
        if not all(np.isfinite(table).all() for table in tables):
            raise ValueError("a KL or reward is missing or infinite: leave the point out")
        object.__setattr__(self, "kl", tables[0])
        object.__setattr__(self, "reward", tables[1])

    @property
    def seeds(self) -> int:
        """Number of training seeds averaged over."""
        return len(self.kl)

    @property
    def mean_kl(self) -> float:
        """Mean KL over prompts and seeds, nats."""
        return float(self.kl.mean())


Curves = Mapping[str, Sequence[Point]]
"""For each loss the points of its grid, in any order."""


@dataclass(frozen=True)
class Comparison:
    """Two losses at one KL.

    Attributes:
        first: name of a loss.
        second: name of the other.
        level: the KL, nats.
        difference: reward of the first minus reward of the second; missing when not comparable.
        seeds: the fewest training seeds behind a point of either.
        reason: why they cannot be compared at this KL; empty when they can.
    """

    first: str
    second: str
    level: float
    difference: Estimate
    seeds: int
    reason: str = ""

    @property
    def separated(self) -> bool:
        """Whether the interval of the difference excludes 0."""
        return self.difference.excludes(0.0)


def common_range(curves: Curves) -> tuple[float, float] | None:
    """The KLs (nats) that every loss with two points or more spans; None when there are none."""
    spans = [[point.mean_kl for point in points] for points in curves.values() if len(points) > 1]
    if not spans:
        return None
    low, high = max(min(span) for span in spans), min(max(span) for span in spans)
    return (low, high) if low <= high else None


def default_levels(low: float, high: float, count: int = 3) -> list[float]:
    """KLs strictly inside a range, evenly in sqrt(KL), nats.

    >>> default_levels(0.0, 4.0)
    [0.25, 1.0, 2.25]
    """
    if not 0 <= low <= high:
        raise ValueError(f"KLs from {low} to {high} nats are no range")
    if low == high:
        return [low]
    roots = np.linspace(math.sqrt(low), math.sqrt(high), count + 2)[1:-1]
    return [float(root) ** 2 for root in roots]


def not_comparable(curves: Curves, level: float) -> dict[str, str]:
    """The losses that have no reward at a KL (nats), each with the reason."""
    reasons = {name: _reason(points, level) for name, points in curves.items()}
    return {name: reason for name, reason in reasons.items() if reason}


def rewards_at(curves: Curves, level: float, weights: Array) -> dict[str, Estimate]:
    """The reward of each loss at a KL; without the losses that `not_comparable` names.

    Args:
        curves: for each loss the points of its grid.
        level: KL, nats.
        weights: [resamples, clusters] from `statistics.resample_weights`.

    Raises:
        ValueError: the points do not all have the clusters of ``weights``.
    """
    usable = _usable(curves, level)
    if not usable:
        return {}
    estimates = bootstrap_each(lambda means: _read(usable, means, level), _columns(usable), weights)
    return dict(zip(usable, estimates, strict=True))


def compare(curves: Curves, level: float, weights: Array) -> list[Comparison]:
    """Every pair of losses at one KL, in the order of ``curves``.

    The interval (95%, for each pair by itself) is paired: both losses are read off over the same
    resampled prompts.

    Args:
        curves: for each loss the points of its grid.
        level: KL, nats.
        weights: [resamples, clusters] from `statistics.resample_weights`.

    Raises:
        ValueError: the points do not all have the clusters of ``weights``.
    """
    usable = _usable(curves, level)
    pairs = list(itertools.combinations(usable, 2))
    estimates: list[Estimate] = []
    if pairs:
        place = {name: index for index, name in enumerate(usable)}
        left, right = ([place[pair[side]] for pair in pairs] for side in (0, 1))

        def differences(means: Array) -> Array:
            rewards = _read(usable, means, level)
            return rewards[:, left] - rewards[:, right]

        estimates = bootstrap_each(differences, _columns(usable), weights)
    known = dict(zip(pairs, estimates, strict=True))
    reasons = not_comparable(curves, level)
    return [
        Comparison(
            first=first,
            second=second,
            level=level,
            difference=known.get((first, second), Estimate.missing()),
            seeds=min((point.seeds for point in (*curves[first], *curves[second])), default=0),
            reason="; ".join(
                f"{name} {reasons[name]}" for name in (first, second) if name in reasons
            ),
        )
        for first, second in itertools.combinations(curves, 2)
    ]


def groups(
    rewards: Mapping[str, Estimate], comparisons: Iterable[Comparison]
) -> list[tuple[str, ...]]:
    """The largest sets of losses of which no two are separated, best first.

    A loss may be in several: "not separated" does not carry over from pair to pair.

    Args:
        rewards: of each loss at one KL, from `rewards_at`.
        comparisons: of every pair of them at that KL, from `compare`.

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


def prompts_to_separate(difference: Estimate) -> int | None:
    """The number of prompts at which the interval would just exclude 0, were the difference right.

    An interval narrows as 1/sqrt(n), so n x (half width / difference)^2, with the half that faces
    0. None where there is no difference or no interval.

    >>> prompts_to_separate(Estimate(0.1, -0.1, 0.3, n=256))
    1024
    """
    value, low, high = difference.value, difference.low, difference.high
    half = value - low if value > 0 else high - value
    if value == 0 or not math.isfinite(half):
        return None
    return math.ceil(round(difference.n * (half / abs(value)) ** 2, 6))


def _reason(points: Sequence[Point], level: float) -> str:
    span = [point.mean_kl for point in points]
    if not span:
        return "has no point"
    if min(span) <= level <= max(span) or math.isclose(level, span[0], rel_tol=1e-9):
        return ""
    if len(span) == 1:
        return f"has one point only, at KL {span[0]:.3g}"
    return f"spans KL {min(span):.3g} to {max(span):.3g}"


def _usable(curves: Curves, level: float) -> dict[str, Sequence[Point]]:
    return {name: points for name, points in curves.items() if not _reason(points, level)}


def _columns(curves: Curves) -> Array:
    """[clusters, 2 points]: the KLs, then the rewards of all curves, averaged over seeds."""
    points = [point for grid in curves.values() for point in grid]
    if len({point.kl.shape[1] for point in points}) > 1:
        raise ValueError("the points differ in their number of prompts: they cannot be paired")
    return np.stack(
        [point.kl.mean(axis=0) for point in points]
        + [point.reward.mean(axis=0) for point in points],
        axis=1,
    )


def _read(curves: Curves, means: Array, level: float) -> Array:
    """The reward [rows, losses] of each curve at the level, from means [rows, 2 points]."""
    ends = list(itertools.accumulate(len(points) for points in curves.values()))
    kl, reward = means[:, : ends[-1]], means[:, ends[-1] :]
    spans = [
        slice(end - len(points), end) for end, points in zip(ends, curves.values(), strict=True)
    ]
    return np.stack([_along(kl[:, span], reward[:, span], level) for span in spans], axis=1)


def _along(kl: Array, reward: Array, level: float) -> Array:
    """The reward [rows] at the level, of curves [rows, points] in any order."""
    if kl.shape[1] == 1:
        return reward[:, 0]
    order = np.argsort(kl, axis=1, kind="stable")
    root = np.sqrt(np.maximum(np.take_along_axis(kl, order, axis=1), 0))
    reward = np.take_along_axis(reward, order, axis=1)
    wanted, rows = math.sqrt(max(level, 0.0)), np.arange(len(kl))
    left = np.clip((root < wanted).sum(axis=1) - 1, 0, kl.shape[1] - 2)
    width = root[rows, left + 1] - root[rows, left]
    share = np.divide(
        wanted - root[rows, left], width, out=np.full_like(width, 0.5), where=width > 0
    )
    share = np.clip(share, -_PROLONGED, 1 + _PROLONGED)
    return np.asarray(reward[rows, left] * (1 - share) + reward[rows, left + 1] * share)


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
