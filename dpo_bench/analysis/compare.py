"""LossCurve compared at equal KL: `dpo_bench.analysis.matched` applied to a sweep's curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dpo_bench.analysis import matched
from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.curves import wide_kl_ranges
from dpo_bench.analysis.estimate import Estimate, finite
from dpo_bench.analysis.loss_curves import group_series
from dpo_bench.analysis.metrics import Metric
from dpo_bench.analysis.prompt_curves import (
    TOO_FEW,
    CurvesOnPrompts,
    read_curves,
    unmatched_curves,
)
from dpo_bench.analysis.results import SweepResults
from dpo_bench.errors import ConfigurationError

NO_COMMON_RANGE = (
    "There is no KL that the losses cover together with at least two strengths each: nothing is"
    " compared, because nothing is extrapolated."
)


@dataclass(frozen=True, slots=True)
class PairAtLevel:
    """Two series at one KL.

    Attributes:
        first: index of a series.
        second: index of the other.
        difference: figure of the first minus the second; missing when they cannot be compared.
        separated: whether they differ, corrected for all pairs at all levels.
        prompts: how many prompts would separate them, were the difference right; None when they
            are separated or when it cannot be said.
        reason: why they cannot be compared at this KL; empty when they can.
        p_value: of the pair by itself.
        adjusted: after Holm's correction for all pairs at all levels.
        seeds: how many training seeds would separate them; None likewise, and with one seed.
        shares: standard errors from prompts and from seeds; None where unknown.
    """

    first: int
    second: int
    difference: Estimate
    separated: bool
    prompts: int | None
    reason: str
    p_value: float | None = None
    adjusted: float | None = None
    seeds: int | None = None
    shares: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Level:
    """All series at one KL.

    Attributes:
        kl: nats.
        values: by index of series; those that cannot be read off at this KL are absent.
        reasons: why, by index of series.
        pairs: every pair of series.
        groups: the largest sets of which no two are separated, best first.
    """

    kl: float
    values: Mapping[int, Estimate]
    reasons: Mapping[int, str]
    pairs: tuple[PairAtLevel, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def best(self) -> int:
        """The index of the series with the largest figure."""
        return max(self.values, key=lambda index: self.values[index].value)

    @property
    def compared(self) -> tuple[PairAtLevel, ...]:
        """The pairs that have a difference."""
        return tuple(pair for pair in self.pairs if not pair.reason)


@dataclass(frozen=True, slots=True)
class MatchedComparison:
    """The comparison of a sweep's series by one measure.

    Attributes:
        measure: what was compared.
        low: smallest KL (nats) that all compared series cover.
        high: largest.
        levels: by ascending KL, strictly inside.
        prompts: number of prompts behind every figure.
        compared: how many series cover the range.
        total: how many series have finished trials.
    """

    measure: Metric
    low: float
    high: float
    levels: tuple[Level, ...]
    prompts: int
    compared: int
    total: int

    @property
    def coverage(self) -> str:
        """Which of the losses cover the range, as the beginning of a sentence."""
        if self.compared == self.total:
            return "All of these losses cover"
        return (
            f"{self.compared} of {self.total} losses, the most that have a range in common, cover"
        )

    @property
    def middle(self) -> Level:
        """The level that summaries speak of."""
        return self.levels[len(self.levels) // 2]


def compare_series(
    found: CurvesOnPrompts | str, measure: Metric | None = None
) -> MatchedComparison | str:
    """Compare a measure, or else the headline, at matched KL; a sentence where that cannot be."""
    if isinstance(found, str):
        return found
    measure = measure or found.measures[0]
    curves, weights = found.by_measure[measure.name], found.weights
    if len(curves) < 2:
        return TOO_FEW
    span = matched.common_range(most_overlapping(curves))
    if span is None or span[0] == span[1]:
        return NO_COMMON_RANGE
    at = matched.default_levels(*span)
    families = matched.compare_levels(curves, at, weights)
    levels = tuple(
        _level(curves, kl, weights, pairs) for kl, pairs in zip(at, families, strict=True)
    )
    if not any(level.compared for level in levels):
        return NO_COMMON_RANGE
    covering = max(len(level.values) for level in levels)
    return MatchedComparison(measure, *span, levels, len(found.prompts), covering, len(curves))


def most_overlapping(curves: matched.Curves) -> matched.Curves:
    """The curves of two points or more that span a KL together: all, or else the most that do.

    One loss that stays near the reference would otherwise keep all others from being compared. Of
    sets of the same size it is the one with the widest common range at one step, on the scale of
    sqrt(KL).
    """
    wide = {
        (step, name): ends
        for name, points in curves.items()
        for step, ends in wide_kl_ranges(points).items()
        if ends[0] < ends[1]
    }

    def members(at: int, start: float) -> list[str]:
        return [
            name for (step, name), (low, high) in wide.items() if step == at and low <= start < high
        ]

    def value(place: tuple[int, float]) -> tuple[int, float]:
        ends = [wide[place[0], name][1] for name in members(*place)]
        return len(ends), min(ends) ** 0.5 - place[1] ** 0.5

    places = sorted((step, low) for (step, _), (low, _) in wide.items())
    best = members(*max(places, key=value)) if places else []
    return {name: curves[name] for name in best} if len(best) > 1 else {}


def _level(
    curves: matched.Curves,
    kl: float,
    weights: Array | None,
    comparisons: Sequence[matched.Comparison],
) -> Level:
    values = matched.rewards_at(curves, kl, weights)
    return Level(
        kl=kl,
        values={int(name): estimate for name, estimate in values.items()},
        reasons={int(name): why for name, why in matched.not_comparable(curves, kl).items()},
        pairs=tuple(map(_pair, comparisons)),
        groups=tuple(tuple(map(int, group)) for group in matched.groups(values, comparisons)),
    )


def _pair(comparison: matched.Comparison) -> PairAtLevel:
    prompts = seeds = None
    if not comparison.separated and not comparison.reason:
        prompts = matched.prompts_to_separate(comparison)
        seeds = matched.seeds_to_separate(comparison)
    spread = comparison.spread
    return PairAtLevel(
        first=int(comparison.first),
        second=int(comparison.second),
        difference=comparison.difference,
        separated=comparison.separated,
        prompts=prompts,
        reason="not covered by both" if comparison.reason else "",
        p_value=finite(comparison.p_value),
        adjusted=finite(comparison.adjusted),
        seeds=seeds,
        shares=(spread.prompts, spread.seeds) if spread and spread.known else None,
    )


COLUMNS = ("loss", "against", "kl", "difference", "low", "high", "p", "verdict")


def comparison_frame(
    results: SweepResults,
    measure: Metric,
    *,
    baseline: str | None = None,
    kl: Sequence[float] | None = None,
    same_within: float | None = None,
) -> pd.DataFrame:
    """Losses compared by a metric at matched KL, a row per pair and KL.

    Args:
        results: a sweep's, or read from elsewhere.
        measure: reward or win rate.
        baseline: a loss, or the label of one of its variants: every other one is compared with it.
            None: every pair.
        kl: nats; None: three KLs inside the range that most losses cover together. Without any KL
            in the results their figures are compared as they are, and the column is missing.
        same_within: differences up to this size are no difference that matters.

    Returns:
        loss, against, kl (nats), difference (loss minus against), its own 95% interval (low, high),
        p (after Holm's correction over all rows) and verdict: ``better`` or ``worse`` where
        p < .05, ``same`` where the whole interval lies within ``same_within``, else ``open``. Where
        a KL is not covered by both the difference is missing and the verdict open: nothing is
        extrapolated.

    Raises:
        ConfigurationError: there is no such baseline, or nothing to compare by.
    """
    curves, weights, names = _curves_to_compare(results, measure)
    base = None if baseline is None else _find_baseline(baseline, results, names)
    levels = _levels(curves, kl, results.has_kl)
    found = matched.compare_levels(curves, levels, weights, base)
    rows = [
        (
            names[one.first],
            names[one.second],
            one.level if results.has_kl else float("nan"),
            one.difference.value,
            one.difference.low,
            one.difference.high,
            one.adjusted,
            verdict(one, same_within),
        )
        for part in found
        for one in part
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def verdict(comparison: matched.Comparison, same_within: float | None = None) -> str:
    """``better``, ``worse``, ``same`` or ``open``: what a comparison says of its first loss."""
    difference = comparison.difference
    if comparison.separated:
        return "better" if difference.value > 0 else "worse"
    margin = same_within or 0.0
    if difference.has_interval and -margin < difference.low and difference.high < margin:
        return "same"
    return "open"


def _curves_to_compare(
    results: SweepResults, measure: Metric
) -> tuple[matched.Curves, Array | None, dict[str, str]]:
    """Each loss's curve, the bootstrap's weights, and the labels of the losses."""
    series = group_series(results)
    names = {str(one.index): one.label for one in series}
    if not results.done:
        raise ConfigurationError("no trial has finished: there is nothing to compare.")
    if not results.has_kl:
        return (*unmatched_curves(results, series, measure), names)
    found = read_curves(results, series)
    if isinstance(found, str):
        raise ConfigurationError(found)
    if measure.name not in found.by_measure:
        known = ", ".join(one.name for one in found.measures)
        raise ConfigurationError(f"losses are not compared by {measure.name} here, but by {known}.")
    return found.by_measure[measure.name], found.weights, names


def _find_baseline(baseline: str, results: SweepResults, names: Mapping[str, str]) -> str:
    """The key of the curve of this label, or of the loss of this name where it has one curve."""
    for key, label in names.items():
        if label == baseline:
            return key
    variants = [label for label in names.values() if label.startswith(f"{baseline} (")]
    if variants:
        raise ConfigurationError(f"{baseline} has several variants: name one of {variants}.")
    raise ConfigurationError(
        f"there is no loss {baseline!r} in {results.name}: there are {', '.join(names.values())}."
    )


def _levels(curves: matched.Curves, kl: Sequence[float] | None, has_kl: bool) -> list[float]:
    if not has_kl:
        return [0.0]
    if kl is not None:
        return [float(one) for one in kl]
    ends = matched.common_range(most_overlapping(curves))
    if ends is None or ends[0] == ends[1]:
        raise ConfigurationError(f"{NO_COMMON_RANGE} Give the KLs to look at.")
    return matched.default_levels(*ends)
