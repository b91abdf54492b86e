"""Losses compared in planned looks: each with more seeds than the one before, one family of them.

At every look the losses are read with the seeds of that look and tested at the chance of a false
verdict that the look may spend (`looks`). A comparison keeps the verdict of the first look that
decided it; one that no look decided is that of the last. So a loss of which nothing is open any
more needs no further seeds. All losses stay in the family of every look, so that its critical value
holds for whatever was decided before as well.

A p-value is put on one scale: that of a look at level a is multiplied by .05 / a, so that it is
below .05 exactly where that look decides. Bands have their look's own critical value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dpo_bench.analysis.comparisons import LEVEL, Comparison, Family, compare_losses
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import curves_in_common

Looks = Sequence[tuple[tuple[int, ...], float]]
"""The seeds of each look that was made, and the chance of a false verdict that it may spend."""
Pair = tuple[str, str, float]

WAITS = "the sweep goes on: its first planned look is still to come"


def compare_in_looks(
    curves: Curves,
    levels: Sequence[float],
    looks: Looks,
    *,
    baseline: str,
    **how: Any,
) -> Family:
    """Compare losses with a baseline at some KLs, look by look, as one family.

    Args:
        curves: each loss's policies with all their seeds; one that was decided at an early look may
            have fewer than others.
        levels: KLs, nats.
        looks: that were made, in their order; none: one look with all seeds.
        baseline: every other loss is compared with it.
        how: what `comparisons.compare_losses` takes besides.

    Returns:
        figures, readings and critical value of the last look; each comparison of the look that
        decided it.
    """
    given = looks or ((_all_seeds(curves), LEVEL),)
    families = [
        (
            compare_losses(curves_in_common(seen), levels, baseline=baseline, level=level, **how),
            level,
        )
        for seeds, level in given
        if baseline in (seen := with_seeds(curves, seeds))
    ]
    if not families:
        return compare_losses(curves_in_common(curves), levels, baseline=baseline, **how)
    found: dict[Pair, Comparison] = {}
    for family, level in families:
        for one in family.all:
            key = (one.first, one.second, one.kl)
            if key not in found or not is_settled(found[key]):
                found[key] = _on_one_scale(one, level)
    last = families[-1][0]
    kept = tuple(
        tuple(found[one.first, one.second, one.kl] for one in part) for part in last.comparisons
    )
    return replace(last, comparisons=kept)


def with_seeds(curves: Curves, seeds: Iterable[int]) -> dict[str, list[Point]]:
    """The policies of some seeds; losses that have none are left out."""
    wanted = set(seeds)
    found = {name: [_of(point, wanted) for point in points] for name, points in curves.items()}
    kept = {name: [one for one in points if one is not None] for name, points in found.items()}
    return {name: points for name, points in kept.items() if points}


def is_settled(one: Comparison) -> bool:
    """Whether nothing is open of it."""
    return one.verdict != "open"


def open_losses(family: Family) -> set[str]:
    """The losses with a comparison that is compared and still open."""
    return {one.first for one in family.all if one.compared and not is_settled(one)}


def nearness(family: Family) -> dict[str, float]:
    """How near each of these is to a decision: its largest |t| as a share of the critical value."""
    found: dict[str, float] = {}
    for one in family.all:
        if one.compared and not is_settled(one):
            half = (one.band.high - one.band.low) / 2
            near = abs(one.band.value) / half if half > 0 else 0.0
            found[one.first] = max(found.get(one.first, 0.0), min(near, 1.0))
    return found


def without_verdicts(family: Family) -> Family:
    """The same with every comparison open: before the first planned look nothing is said."""
    parts = tuple(
        tuple(_undecided(one) if one.compared else one for one in part)
        for part in family.comparisons
    )
    return replace(family, comparisons=parts)


def _undecided(one: Comparison) -> Comparison:
    return replace(one, verdict="open", policies="open", reason=WAITS)


def _all_seeds(curves: Curves) -> tuple[int, ...]:
    return tuple(
        sorted({seed for points in curves.values() for p in points for seed in p.seed_names})
    )


def _of(point: Point, seeds: set[int]) -> Point | None:
    rows = [row for row, name in enumerate(point.seed_names) if name in seeds]
    if len(rows) == len(point.seed_names):
        return point
    if not rows:
        return None
    names = [point.seed_names[row] for row in rows]
    return Point(point.kl[rows], point.reward[rows], names, point.step)


def _on_one_scale(one: Comparison, level: float) -> Comparison:
    if level == LEVEL or math.isnan(one.p_value):
        return one
    return replace(one, p_value=min(1.0, one.p_value / level * LEVEL))


def verdict_counts(family: Family) -> Mapping[str, int]:
    """How many comparisons have each verdict; those that are not compared count nowhere."""
    kinds = ("better", "worse", "same", "open")
    compared = [one for one in family.all if one.compared]
    return {kind: sum(one.verdict == kind for one in compared) for kind in kinds}
