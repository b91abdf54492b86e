"""How far each loss stays below the optimal frontier, at the KLs at which losses are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from dpo_bench.analysis.compare import MatchedComparison, Plan, compare_series, default_levels
from dpo_bench.analysis.comparisons import loss_value
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.metrics import REWARD
from dpo_bench.analysis.prompt_curves import CurvesOnPrompts, read_curves
from dpo_bench.analysis.readings import Curve, Reading, covered_range, curves_in_common
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.run_variance import RunVariance, run_variance
from dpo_bench.analysis.series import group_series


@dataclass(frozen=True, slots=True)
class RegretAtLevel:
    """All series against the optimum at one KL.

    Attributes:
        kl: nats.
        optimum: the optimal policy's mean reward; None where the frontier is not known.
        gaps: optimal reward minus the loss's, by index of series; empty likewise.
    """

    kl: float
    optimum: float | None
    gaps: Mapping[int, Estimate]


def frontier_regret(
    results: SweepResults, curves: CurvesOnPrompts | str, comparison: MatchedComparison | str
) -> tuple[RegretAtLevel, ...]:
    """The gaps at the comparison's levels, or where there is one loss alone at levels of its own.

    Empty where no level lies in the frontier's range: neither curve nor frontier is continued.
    """
    if isinstance(curves, str) or REWARD not in curves.measures:
        return ()
    own = curves.by_measure[REWARD.name]
    if not isinstance(comparison, str):
        levels = [level.kl for level in comparison.levels]
    elif len(own) == 1 and (ends := covered_range(next(iter(curves_in_common(own).values())))):
        levels = default_levels(*ends)
    else:
        return ()
    return _at_levels(results, curves, levels)


def _at_levels(
    results: SweepResults, curves: CurvesOnPrompts, levels: Sequence[float]
) -> tuple[RegretAtLevel, ...]:
    frontier = results.frontier_on(curves.prompts)
    if frontier is None or not any(map(frontier.covers, levels)):
        return ()
    own = curves_in_common(curves.by_measure[REWARD.name])
    variance = run_variance(own)
    return tuple(_at(own, variance, frontier, kl) for kl in levels)


def _at(
    own: Mapping[str, Curve], variance: RunVariance, frontier: Frontier, kl: float
) -> RegretAtLevel:
    if not frontier.covers(kl):
        return RegretAtLevel(kl, None, {})
    found = regret_at(own, variance, frontier, kl)
    gaps = {int(name): gap for name, gap in found.items()}
    return RegretAtLevel(kl, frontier.reward_at(kl), gaps)


def regret_at(
    own: Mapping[str, Curve], variance: RunVariance, frontier: Frontier, kl: float
) -> dict[str, Estimate]:
    """The optimal reward at a KL (nats) minus each loss's, by loss; those without one are absent.

    Raises:
        ValueError: the KL is outside the frontier's range, or the prompts differ in number.
    """
    ideal = frontier.values_at(kl)
    readings = [one for curve in own.values() if isinstance(one := curve.read(kl), Reading)]
    return {
        one.loss: loss_value(replace(one, values=ideal - one.values), variance) for one in readings
    }


def regret_frame(results: SweepResults, kl: Sequence[float] | None = None) -> pd.DataFrame:
    """The optimal policy's reward minus each loss's, a row per loss and KL.

    Args:
        results: of a sweep with a reward.
        kl: nats; None: the KLs at which the losses are compared.

    Returns:
        loss, kl, optimum (mean reward of the best policy of that KL), regret, low, high (95%), n
        (prompts). Rows where the loss does not cover the KL, or where the optimum is not known, are
        left out.
    """
    series = group_series(results)
    curves = read_curves(results, series)
    if isinstance(curves, str) or REWARD not in curves.measures:
        found: tuple[RegretAtLevel, ...] = ()
    elif kl is None:
        found = frontier_regret(results, curves, compare_series(curves, series, Plan.of(results)))
    else:
        found = _at_levels(results, curves, [float(one) for one in kl])
    rows = [
        (one.label, level.kl, level.optimum, gap.value, gap.low, gap.high, gap.n)
        for level in found
        for one in series
        if (gap := level.gaps.get(one.index))
    ]
    columns = ["loss", "kl", "optimum", "regret", "low", "high", "n"]
    return pd.DataFrame(rows, columns=columns)
