"""Looking again after more seeds, without more false verdicts: how much of the 5% each look has.

Who stops as soon as something is decided, and otherwise adds seeds, has several chances of a false
verdict. When the looks are planned beforehand, each is given a part of the 5%, by how much of the
planned seeds it has: of the chance alpha ln(1 + (e - 1) t) is spent at the share t (Lan and DeMets
1983, Biometrika 70, 659, their second function, after Pocock). Each look is tested at what is newly
spent. That the looks have most of their data in common is not made use of, so that the total stays
below 5%.

At every look the losses are read with the seeds of that look and tested at the chance of a false
verdict that the look may spend. A comparison keeps the verdict of the first look that decided it;
one that no look decided is that of the last. So a loss of which nothing is open any more needs no
further seeds. All losses stay in the family of every look, so that its critical value holds for
whatever was decided before as well.

A p-value is put on one scale: that of a look at level a is multiplied by .05 / a, so that it is
below .05 exactly where that look decides. Bands have their look's own critical value.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from dpo_bench.analysis.comparisons import LEVEL, Comparison, Family, compare_losses
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import curves_in_common

Look = tuple[tuple[int, ...], float]
"""A planned look: the seeds that it has, and the chance of a false verdict that it may spend."""

WAITS = "the sweep goes on: its first planned look is still to come"


def levels_of_looks(seeds: Sequence[int]) -> list[float]:
    """The chance of a false verdict that each planned look has.

    Args:
        seeds: that each look has, rising; the last is the most that will be run.

    Raises:
        ValueError: they do not rise, or there is none.

    >>> [round(level, 4) for level in levels_of_looks([3, 6, 10])]
    [0.0208, 0.0146, 0.0146]
    >>> levels_of_looks([5])
    [0.05]
    """
    if not seeds or list(seeds) != sorted(set(seeds)) or seeds[0] < 1:
        raise ValueError(f"looks at {list(seeds)} seeds do not rise")
    spent = [LEVEL * math.log(1 + (math.e - 1) * count / seeds[-1]) for count in seeds]
    return [now - before for now, before in zip(spent, [0.0, *spent], strict=False)]


def compare_in_looks(
    curves: Curves,
    levels: Sequence[float],
    looks: Sequence[Look],
    *,
    baseline: str | None,
    **how: Any,
) -> Family:
    """Compare losses with a baseline at some KLs, look by look, as one family.

    Args:
        curves: each loss's policies with all their seeds; one that was decided at an early look may
            have fewer than others.
        levels: KLs, nats.
        looks: that were made, in their order; none: one look with all seeds.
        baseline: every other loss is compared with it; None: all pairs.
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
        if (seen := with_seeds(curves, seeds)) and (baseline is None or baseline in seen)
    ]
    if not families:
        return compare_losses(curves_in_common(curves), levels, baseline=baseline, **how)
    found: dict[tuple[str, str, float], Comparison] = {}
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
