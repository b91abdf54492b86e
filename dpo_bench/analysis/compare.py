"""A sweep's losses compared at equal KL: `comparisons` applied to its curves, by one plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import mode
from typing import Any, Literal

import numpy as np
import pandas as pd

from dpo_bench.analysis.comparisons import Comparison, Family
from dpo_bench.analysis.detectable import detectable_difference
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.kl_axis import ROUND
from dpo_bench.analysis.looks import compare_in_looks, without_verdicts
from dpo_bench.analysis.loss_curves import LossCurve
from dpo_bench.analysis.metrics import REWARD, WIN_RATE, Metric
from dpo_bench.analysis.points import Curves
from dpo_bench.analysis.prompt_curves import (
    TOO_FEW,
    CurvesOnPrompts,
    awaits_look,
    looks_made,
    read_curves,
    unmatched_curves,
)
from dpo_bench.analysis.readings import NEAR, Curve, Reading, covered_range, curves_in_common
from dpo_bench.analysis.results import SweepResults
from dpo_bench.analysis.series import group_series
from dpo_bench.errors import ConfigurationError
from dpo_bench.wording import listing

NO_COMMON_RANGE = (
    "There is no KL that the losses cover together with at least two strengths each: nothing is"
    " compared, because nothing is extrapolated."
)
NO_BASELINE_YET = "The search has not come to a curve of the baseline: nothing is compared yet."
USUAL_BASELINE = "dpo"
"""what losses are compared with where no baseline is named and it is among them"""
RESTS_ON = 0.05
"""share of a reading's variance from which it rests on a strength"""
LEVELS = 3
"""KLs that are compared where none are named and no round one is covered by most losses"""
MOST = 2 / 3
"""share of the losses that the best covered KL has, that another KL must have to be compared"""


@dataclass(frozen=True, slots=True)
class Choices:
    """What a reader wants compared instead of what the experiment says; None: as it says.

    Attributes:
        measure: as in `Plan`.
        baseline: likewise.
        kl: likewise.
        same_within: likewise.
    """

    measure: str | None = None
    baseline: str | None = None
    kl: tuple[float, ...] | None = None
    same_within: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compared, and against what.

    Attributes:
        measure: name of the primary measure; empty for the reward, or else the win rate.
        baseline: a loss or the label of a variant; empty for DPO, or else the first loss.
        kl: nats; empty for those of `ROUND` that most losses cover, or else `LEVELS` in between.
        same_within: differences up to this size do not matter; None: nothing is called the same.
        planned: whether all this stood in the experiment before its first trial.
    """

    measure: str = ""
    baseline: str = ""
    kl: tuple[float, ...] = ()
    same_within: float | None = None
    planned: bool = False

    @classmethod
    def of(cls, results: SweepResults) -> Plan:
        """The plan that the experiment states in ``[comparison]``."""
        stated: Mapping[str, Any] = dict(results.experiment.get("comparison") or {})
        return cls(
            str(stated.get("measure") or ""),
            str(stated.get("baseline") or ""),
            tuple(map(float, stated.get("kl") or ())),
            stated.get("same_within"),
            any(stated.values()) and stated == dict(results.plan),
        )

    def changed(self, choices: Choices) -> Plan:
        """The plan with what was chosen put in its place: that was chosen afterwards."""
        given = {name: value for name, value in asdict(choices).items() if value is not None}
        changed = replace(self, **given)
        return changed if changed == self else replace(changed, planned=False)


@dataclass(frozen=True, slots=True)
class Level:
    """All losses at one KL.

    Attributes:
        kl: nats.
        values: by index of series; those that cannot be read off at this KL are absent.
        reasons: why, by index of series.
        pairs: every loss against the baseline; names are indices of series as text.
        brackets: by index of series the KLs (nats) between whose policies it is read.
        bias_bounds: by index of series, what that reading may be off by.
        doubts: by index of series, why the policies that it rests on are doubtful.
        detectable: the difference that would have been shown with a chance of 80%; NaN where no
            loss is compared or runs were not repeated.
    """

    kl: float
    values: Mapping[int, Estimate]
    reasons: Mapping[int, str]
    pairs: tuple[Comparison, ...]
    brackets: Mapping[int, tuple[float, float]]
    bias_bounds: Mapping[int, float]
    doubts: Mapping[int, str]
    detectable: float

    @property
    def compared(self) -> tuple[Comparison, ...]:
        """The pairs that have a difference."""
        return tuple(pair for pair in self.pairs if pair.compared)


@dataclass(frozen=True, slots=True)
class MatchedComparison:
    """The comparison of a sweep's losses with the baseline by one measure.

    Attributes:
        measure: what was compared.
        primary: whether it is the one that verdicts are about; others are descriptive.
        plan: what was asked.
        baseline: index of the series that the others are compared with.
        low: smallest KL (nats) that all compared series cover.
        high: largest.
        levels: by ascending KL.
        family: everything that was worked out.
        prompts: number of prompts behind every figure, 0 where they are not known.
        seeds: number of runs behind most figures; fewer where a seed does not cover a KL.
        total: how many series have finished trials.
    """

    measure: Metric
    primary: bool
    plan: Plan
    baseline: int
    low: float
    high: float
    levels: tuple[Level, ...]
    family: Family
    prompts: int
    seeds: int
    total: int

    @property
    def everywhere(self) -> int:
        """How many series have a figure at every level."""
        return len(set.intersection(*(set(level.values) for level in self.levels)))

    @property
    def repeated(self) -> bool:
        """Whether runs were repeated, so that something can be said of losses."""
        return self.seeds > 1

    @property
    def middle(self) -> Level:
        """The level at which whole policies stand for their losses."""
        return self.levels[len(self.levels) // 2]

    def of(self, index: int) -> list[Comparison]:
        """A loss's comparisons with the baseline, by level; those without a difference too."""
        return [pair for level in self.levels for pair in level.pairs if pair.first == str(index)]


def compare_series(
    found: CurvesOnPrompts | str,
    series: Sequence[LossCurve],
    plan: Plan,
    measure: Metric | None = None,
) -> MatchedComparison | str:
    """Compare the losses by the plan's measure, or another; a sentence where that cannot be."""
    if isinstance(found, str):
        return found
    primary = primary_measure(found, plan)
    measure = measure or primary
    curves = curves_in_common(found.by_measure[measure.name])
    if len(curves) < 2:
        return TOO_FEW
    try:
        baseline = _baseline(plan, series, curves)
    except ConfigurationError:
        if found.waits:
            return NO_BASELINE_YET
        raise
    ends = common_range(curves, baseline)
    levels = sorted(plan.kl) or round_levels(curves, baseline)
    levels = levels or ([] if ends is None else default_levels(*ends))
    if not levels:
        return NO_COMMON_RANGE
    family = compare_in_looks(
        found.by_measure[measure.name],
        levels,
        found.looks,
        baseline=baseline,
        same_within=plan.same_within if measure == primary else None,
        prompts_known=found.prompts_known,
        seed=found.seed,
        share=measure.is_share,
    )
    if found.waits:
        family = without_verdicts(family)
    if not any(one.compared for one in family.all):
        return NO_COMMON_RANGE
    low, high = ends or (min(levels), max(levels))
    return MatchedComparison(
        measure,
        measure == primary,
        plan,
        int(baseline),
        low,
        high,
        tuple(_level(family, at, found) for at in range(len(levels))),
        family,
        len(found.prompts) if found.prompts_known else 0,
        mode(one.spread.seeds for one in family.all if one.spread),
        len(curves),
    )


def measure_named(metric: str | None, *, has_reward: bool) -> Metric:
    """What losses are compared by: ``reward`` or ``win_rate``; None: reward where there is one.

    Raises:
        ConfigurationError: there is no such metric.
    """
    known = {one.name: one for one in (REWARD, WIN_RATE)}
    name = metric or (REWARD if has_reward else WIN_RATE).name
    if name not in known:
        raise ConfigurationError(f"losses are compared by {' or '.join(known)}, not {name}.")
    return known[name]


def primary_measure(found: CurvesOnPrompts, plan: Plan) -> Metric:
    """The measure that verdicts are about.

    Raises:
        ConfigurationError: the plan names one by which these results cannot be compared.
    """
    if not plan.measure:
        return found.measures[0]
    for one in found.measures:
        if one.name == plan.measure:
            return one
    known = " or ".join(one.name for one in found.measures)
    raise ConfigurationError(f"losses are compared by {known} here, not by {plan.measure}.")


def _baseline(plan: Plan, series: Sequence[LossCurve], curves: Mapping[str, Curve]) -> str:
    """The key of the curve that others are compared with."""
    names = {str(one.index): one for one in series if str(one.index) in curves}
    if plan.baseline:
        return find_baseline(plan.baseline, {key: one.label for key, one in names.items()})
    usual = (key for key, one in names.items() if one.loss == USUAL_BASELINE)
    return next(usual, next(iter(names)))


def common_range(curves: Mapping[str, Curve], baseline: str) -> tuple[float, float] | None:
    """The KLs (nats) that most losses span together with the baseline; None without any.

    Of sets of losses of the same size it is the one with the widest range in sqrt(KL). One loss
    that stays near the reference would otherwise keep all others from being compared.
    """
    ranges = {name: ends for name, curve in curves.items() if (ends := covered_range(curve))}
    own = ranges.pop(baseline, None)
    if own is None:
        return None
    starts = sorted({own[0], *(low for low, _ in ranges.values() if own[0] <= low < own[1])})

    def shared(start: float) -> tuple[int, float, float]:
        ends = [high for low, high in ranges.values() if low <= start < high]
        end = min([*ends, own[1]])
        return len(ends), math.sqrt(end) - math.sqrt(start), end

    start = max(starts, key=lambda one: shared(one)[:2])
    count, _, end = shared(start)
    return (start, end) if count else None


def round_levels(curves: Mapping[str, Curve], baseline: str) -> list[float]:
    """The KLs of `ROUND` that the baseline and most losses cover; fewer than two are none."""
    covered = {
        kl: sum(isinstance(curve.read(kl), Reading) for curve in curves.values()) - 1
        for kl in ROUND
        if isinstance(curves[baseline].read(kl), Reading)
    }
    most = max(covered.values(), default=0)
    found = [kl for kl, count in covered.items() if count >= max(MOST * most, 1)]
    return found if len(found) > 1 else []


def default_levels(low: float, high: float, count: int = LEVELS) -> list[float]:
    """KLs strictly inside a range, evenly in sqrt(KL), nats; one where they would be alike.

    >>> default_levels(0.0, 4.0)
    [0.25, 1.0, 2.25]
    """
    if math.sqrt(high) - math.sqrt(low) < NEAR:
        return [((math.sqrt(low) + math.sqrt(high)) / 2) ** 2]
    roots = np.linspace(math.sqrt(low), math.sqrt(high), count + 2)[1:-1]
    return [float(root) ** 2 for root in roots]


def _level(family: Family, at: int, found: CurvesOnPrompts) -> Level:
    readings = family.readings[at]
    return Level(
        kl=family.levels[at],
        values={int(name): one for name, one in family.values[at].items()},
        reasons={int(name): why for name, why in family.reasons[at].items()},
        pairs=family.comparisons[at],
        brackets={int(name): one.bracket for name, one in readings.items()},
        bias_bounds={int(name): one.bias_bound for name, one in readings.items()},
        doubts={
            int(name): listing(sorted(why))
            for name, one in readings.items()
            if (why := _doubts(found.doubts.get(name, ()), one.shares))
        },
        detectable=detectable_difference(family.comparisons[at], family.critical),
    )


def _doubts(doubts: Sequence[str], shares: Iterable[float]) -> set[str]:
    """Why the strengths that a reading rests on are doubtful."""
    return {why for why, share in zip(doubts, shares, strict=False) if why and share > RESTS_ON}


def band_levels(low: float, high: float, count: int = 25) -> list[float]:
    """KLs over a whole range, ends included, evenly in sqrt(KL), nats."""
    roots = np.linspace(math.sqrt(low), math.sqrt(high), count)
    return [low, *(float(root) ** 2 for root in roots[1:-1]), high]


COLUMNS = ("loss", "against", "kl", "difference", "low", "high", "p", "verdict")
DETAILS = (
    "at_least", "at_most", "policies", "bias_bound", "se_prompts", "se_responses", "se_runs",
    "se_interpolation", "reason",
)  # fmt: skip


def comparison_frame(
    results: SweepResults,
    measure: Metric,
    *,
    baseline: str | None = None,
    kl: Sequence[float] | Literal["band"] | None = None,
    same_within: float | None = None,
    details: bool = False,
) -> pd.DataFrame:
    """Losses compared by a metric at matched KL, a row per pair and KL.

    Args:
        results: a sweep's, or read from elsewhere.
        measure: reward or win rate.
        baseline: a loss, or the label of one of its variants: every other one is compared with it.
            None: every pair.
        kl: nats; None: those of .25, .5, 1, 2, 4, 8 and 16 that most losses cover, or else three
            inside the range that they cover together; ``band``: 25 over all of that range, which
            make one simultaneous band. Without any KL in the results their
            figures are compared as they are, and the column is missing.
        same_within: differences up to this size are no difference that matters.
        details: with the further columns below.

    Returns:
        loss, against, kl (nats), difference (loss minus against), its own 95% interval (low, high),
        p (over all rows together), verdict. In detail also at_least and at_most (the smallest and
        largest size of the difference in a band that holds for all rows at once), policies (the
        verdict on the policies at hand, over prompts alone where there is one seed), bias_bound
        (what reading between policies may be off by), se_... (standard errors by source), and
        reason (why there is no difference, or no verdict although p is small).

        The verdict is ``better`` or ``worse`` where p < .05, ``same`` where the band at 90% lies
        within ``same_within``, else ``open``. With one seed it is open: it takes a second run to
        know of losses. Where a KL is not covered by both the difference is missing and the verdict
        open: nothing is extrapolated. Where a search added seeds in planned looks, p and verdict
        are those of the first look that decided the comparison (`looks`).

    Raises:
        ConfigurationError: there is no such baseline, or nothing to compare by.
    """
    given, known, names = curves_to_compare(results, measure)
    base = None if baseline is None else find_baseline(baseline, names, results.name)
    curves = curves_in_common(given)
    levels = _levels(curves, kl, base, has_kl=results.has_kl)
    family = compare_in_looks(
        given,
        levels,
        looks_made(results),
        baseline=base,
        same_within=same_within,
        prompts_known=known,
        seed=results.bootstrap_seed,
        share=measure.is_share,
    )
    if awaits_look(results):
        family = without_verdicts(family)
    rows = [_row(one, names, has_kl=results.has_kl) for one in family.all]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, *DETAILS])
    return frame if details else frame[list(COLUMNS)]


def _row(one: Comparison, names: Mapping[str, str], *, has_kl: bool) -> tuple[Any, ...]:
    parts = (math.nan,) * 4
    if one.spread:
        spread = one.spread
        parts = (spread.prompts, spread.responses, spread.runs, spread.interpolation)
    return (
        names[one.first],
        names[one.second],
        one.kl if has_kl else math.nan,
        one.difference.value,
        one.difference.low,
        one.difference.high,
        one.p_value,
        one.verdict,
        one.at_least,
        one.at_most,
        one.policies,
        one.bias_bound,
        *parts,
        one.reason,
    )


def curves_to_compare(
    results: SweepResults, measure: Metric
) -> tuple[Curves, bool, dict[str, str]]:
    """Each loss's curve, whether prompts are known, and the labels of the losses."""
    series = group_series(results)
    names = {str(one.index): one.label for one in series if one.on_curve}
    if not results.done:
        raise ConfigurationError("no trial has finished: there is nothing to compare.")
    if not results.has_kl:
        return unmatched_curves(series, measure), results.prompts_known, names
    found = read_curves(results, series)
    if isinstance(found, str):
        raise ConfigurationError(found)
    if measure.name not in found.by_measure:
        known = ", ".join(one.name for one in found.measures)
        raise ConfigurationError(f"losses are not compared by {measure.name} here, but by {known}.")
    return found.by_measure[measure.name], found.prompts_known, names


def find_baseline(baseline: str, names: Mapping[str, str], where: str = "this sweep") -> str:
    """The key of the curve of this label, or of the loss of this name where it has one curve."""
    for key, label in names.items():
        if label == baseline:
            return key
    variants = [label for label in names.values() if label.startswith(f"{baseline} (")]
    if variants:
        raise ConfigurationError(f"{baseline} has several variants: name one of {variants}.")
    raise ConfigurationError(
        f"there is no loss {baseline!r} in {where}: there are {', '.join(names.values())}."
    )


def _levels(
    curves: Mapping[str, Curve],
    kl: Sequence[float] | Literal["band"] | None,
    baseline: str | None,
    *,
    has_kl: bool,
) -> list[float]:
    if not has_kl:
        return [0.0]
    if kl is not None and kl != "band":
        return [float(one) for one in kl]
    tried = [baseline] if baseline is not None else list(curves)
    if kl is None and (levels := round_levels(curves, tried[0])):
        return levels
    ends = [found for one in tried if (found := common_range(curves, one))]
    if not ends:
        raise ConfigurationError(f"{NO_COMMON_RANGE} Give the KLs to look at.")
    return band_levels(*ends[0]) if kl == "band" else default_levels(*ends[0])
