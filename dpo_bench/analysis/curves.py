"""A loss's reward as a function of the KL to the reference, read off and never extrapolated.

The points of a curve are a loss's policies of one length of training, one for each strength, in
order of their mean KL. Points whose sqrt(KL) differ by at most `NEAR` are averaged into one node:
as a pair they would say nothing of the slope. Between two nodes the reward is read off a straight
line in sqrt(KL), never beyond the ends.

A loss whose policies were also measured along training has a curve for each of these steps. What is
read at a KL is the mean over the steps at which all losses that are compared span it: the same
steps for each. One curve through the policies of all steps, as figures of papers pool them, will
not do: half-way through a learning-rate schedule a policy reaches less at the same KL than one that
is trained to the end, so that a pooled curve rises and falls with what happens to lie next to the
KL that is read, and losses that do not differ are told apart (in `reports/calibration`).

Reward grows with sqrt(KL) close to the reference (Gao et al. 2022, arXiv:2210.10760), so that the
line is exact for reward = a sqrt(KL), where one in KL is .018 too low on average and .030 at worst
(a = .6, strengths a factor of 3 apart). On the optimal curve of a reward that saturates it is .013
and .025 too low against .022 and .038, on d (.75 - .25 ln d), d = sqrt(KL), .008 and .013 against
.020 and .034. These errors are in no interval; they point the same way for all losses.

Every resample of prompts moves both rewards and KLs, and each resampled curve is read at the
level. Where a resampled curve ends just short of it, its last piece is extrapolated by half its
length at most: held flat instead, the interval is too narrow near the ends (coverage 92-93%);
extrapolated without a limit it explodes where two nodes have almost the same KL.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.points import Curves, Point, by_step

NEAR = 0.1
"""difference of sqrt(KL), sqrt(nats), up to which points are averaged into a node"""

_EXTRAPOLATED = 0.5
"""share of its length by which a resampled curve's last piece may be extrapolated"""


_Span = tuple[float, float]


def nodes(points: Sequence[Point]) -> list[list[int]]:
    """Points of one step by node, each with its points' indices, in order of KL.

    A node begins with the lowest point left and takes those within `NEAR` of it.
    """
    order = sorted(range(len(points)), key=lambda index: points[index].mean_kl)
    found: list[list[int]] = []
    start = -math.inf
    for index in order:
        root = math.sqrt(max(points[index].mean_kl, 0.0))
        if root - start > NEAR:
            found.append([])
            start = root
        found[-1].append(index)
    return found


def outline(points: Sequence[Point]) -> dict[int, list[tuple[float, float]]]:
    """KL (nats) and reward of the nodes of each step, in order: straight between in sqrt(KL)."""
    found = {}
    for step, indices in by_step(points).items():
        own = [points[index] for index in indices]
        found[step] = [
            (
                float(np.mean([own[index].mean_kl for index in one])),
                float(np.mean([own[index].reward.mean() for index in one])),
            )
            for one in nodes(own)
        ]
    return found


def kl_ranges(points: Sequence[Point]) -> dict[int, _Span]:
    """The KLs (nats) of the first and last node of each step."""
    levels = {step: [kl for kl, _ in line] for step, line in outline(points).items()}
    return {step: (min(kls), max(kls)) for step, kls in levels.items()}


def wide_kl_ranges(points: Sequence[Point]) -> dict[int, _Span]:
    """`kl_ranges` of the steps that have two points or more."""
    counts = {step: len(indices) for step, indices in by_step(points).items()}
    return {step: ends for step, ends in kl_ranges(points).items() if counts[step] > 1}


def common_range(curves: Curves) -> tuple[float, float] | None:
    """The KLs (nats) that every loss with two points or more spans; None when there are none.

    Of several steps' ranges those that overlap are one; of what is apart the widest in sqrt(KL).
    """
    wide = [found for points in curves.values() if (found := wide_kl_ranges(points))]
    if not wide:
        return None
    shared = set.intersection(*(set(found) for found in wide))
    ranges = [
        (max(found[step][0] for found in wide), min(found[step][1] for found in wide))
        for step in shared
    ]
    joined: list[_Span] = []
    for low, high in sorted(one for one in ranges if one[0] <= one[1]):
        if joined and low <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], high))
        else:
            joined.append((low, high))
    return max(joined, key=lambda ends: math.sqrt(ends[1]) - math.sqrt(ends[0]), default=None)


def comparable(curves: Curves, level: float) -> tuple[list[str], list[int]]:
    """The losses that are compared at a KL (nats), and the steps that all of them span it at.

    They are the losses of the step that has the most, the later step where two have as many.
    """
    covering: dict[int, list[str]] = {}
    for name, points in curves.items():
        for step, ends in kl_ranges(points).items():
            if _covers(ends, level):
                covering.setdefault(step, []).append(name)
    if not covering:
        return [], []
    _, _, names = max((len(names), step, names) for step, names in covering.items())
    return names, sorted(step for step, found in covering.items() if set(names) <= set(found))


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
    names, steps = comparable(curves, level)
    return {name: _reason(points, steps) for name, points in curves.items() if name not in names}


def cells(curves: Curves) -> Array:
    """KLs, then rewards, of all points [seeds, clusters, 2 points], for `clustered.two_way`.

    Raises:
        ValueError: the points differ in their number of prompts.
    """
    points = [point for grid in curves.values() for point in grid]
    if len({point.kl.shape[1] for point in points}) > 1:
        raise ValueError("the points differ in their number of prompts: they cannot be paired")
    names = sorted({name for point in points for name in point.seed_names})
    table = np.full((len(names), points[0].kl.shape[1], 2 * len(points)), np.nan)
    for index, point in enumerate(points):
        rows = [names.index(name) for name in point.seed_names]
        table[rows, :, index] = point.kl
        table[rows, :, len(points) + index] = point.reward
    return table


def read(curves: Curves, means: Array, level: float) -> Array:
    """The reward [rows, losses] of each curve at a KL (nats), from means [rows, 2 points]."""
    return np.asarray(read_levels(curves, means, [level])[0])


def read_levels(curves: Curves, means: Array, levels: Sequence[float]) -> Array:
    """`read` at several KLs at once: [levels, rows, losses].

    Raises:
        ValueError: the curves do not all span one of the KLs at the same step.
    """
    steps = [_steps(curves, level) for level in levels]
    ends = list(itertools.accumulate(len(points) for points in curves.values()))
    kl, reward = means[:, : ends[-1]], means[:, ends[-1] :]
    found = np.zeros((len(levels), len(means), len(curves)))
    for column, (end, points) in enumerate(zip(ends, curves.values(), strict=True)):
        for step, indices in by_step(points).items():
            at = [index for index, used in enumerate(steps) if step in used]
            first = end - len(points)
            own = [[first + indices[i] for i in one] for one in nodes([points[i] for i in indices])]
            values = _along(_merged(kl, own), _merged(reward, own), [levels[i] for i in at])
            for index, value in zip(at, values, strict=True):
                found[index, :, column] += value / len(steps[index])
    return found


def _steps(curves: Curves, level: float) -> list[int]:
    names, steps = comparable(curves, level)
    if len(names) < len(curves):
        raise ValueError(f"not all of {', '.join(curves)} span KL {level:.3g} at the same step")
    return steps


def _merged(means: Array, own: Sequence[Sequence[int]]) -> Array:
    """The means of each node's columns [rows, nodes]."""
    if all(len(one) == 1 for one in own):
        return means[:, [one[0] for one in own]]
    return np.stack([means[:, one].mean(axis=1) for one in own], axis=1)


def _covers(ends: _Span, level: float) -> bool:
    return ends[0] <= level <= ends[1] or math.isclose(level, ends[0], rel_tol=1e-9)


def _reason(points: Sequence[Point], steps: Sequence[int]) -> str:
    """Why points do not take part, where others do at these steps."""
    found = kl_ranges(points)
    if not found:
        return "has no point"
    shared_steps = [step for step in steps if step in found]
    shared = [found[step] for step in shared_steps or found]
    low, high = min(one[0] for one in shared), max(one[1] for one in shared)
    if low == high:
        return f"has one point only, at KL {low:.3g}"
    elsewhere = "" if shared_steps else " at other steps"
    return f"spans KL {low:.3g} to {high:.3g}{elsewhere}"


def _along(kl: Array, reward: Array, levels: Sequence[float]) -> Array:
    """The reward [levels, rows] of curves [rows, nodes] in any order."""
    if not levels:
        return np.empty((0, len(kl)))
    if kl.shape[1] == 1:
        return np.repeat(reward.T, len(levels), axis=0)
    order = np.argsort(kl, axis=1, kind="stable")
    root = np.sqrt(np.maximum(np.take_along_axis(kl, order, axis=1), 0))
    reward = np.take_along_axis(reward, order, axis=1)
    return np.stack([_between(root, reward, math.sqrt(max(level, 0.0))) for level in levels])


def _between(root: Array, reward: Array, wanted: float) -> Array:
    """The reward [rows] at one sqrt(KL), of curves [rows, nodes] in order."""
    rows = np.arange(len(root))
    left = np.clip((root < wanted).sum(axis=1) - 1, 0, root.shape[1] - 2)
    width = root[rows, left + 1] - root[rows, left]
    share = np.divide(
        wanted - root[rows, left], width, out=np.full_like(width, 0.5), where=width > 0
    )
    share = np.clip(share, -_EXTRAPOLATED, 1 + _EXTRAPOLATED)
    return np.asarray(reward[rows, left] * (1 - share) + reward[rows, left + 1] * share)
