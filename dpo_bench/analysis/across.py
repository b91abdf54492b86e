"""The same losses judged over several worlds, data sets or models: one row per loss and KL.

Sweeps that differ in what they train on cannot be merged: their figures are of different things.
But within each of them a loss has a difference from the baseline, and the differences can be
averaged, each sweep counting alike. Two questions are kept apart.

*In these very sweeps*: the sweeps are strata, fixed, and only what is uncertain within each counts.
With standard errors s_w the mean over W sweeps has sqrt(sum s_w^2) / W, and Student's t with the
degrees of freedom of Satterthwaite (1946, Biometrics Bulletin 2, 110). Sweeps are taken to be
independent; where they share prompts or the like, what these do to all of them alike is not seen.

*In others like them*: the sweeps are a sample of worlds, and their differences scatter as worlds
do. Student's t with W - 1 degrees of freedom; two sweeps say too little to show it.

Differences are averaged in units of reward. The probability of improvement has no unit: the chance
that a run of the loss beats a run of the baseline at the same KL, ties counting a half, averaged
over sweeps (Agarwal et al. 2021, arXiv:2108.13264, section 4.3). Its interval is theirs: runs are
drawn anew within each loss of each sweep. It knows of nothing but runs, and where every run of a
loss beats every run of the baseline it has no width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.compare import (
    USUAL_BASELINE,
    common_range,
    curves_to_compare,
    default_levels,
    find_baseline,
    measure_named,
)
from dpo_bench.analysis.comparisons import (
    LARGEST_BIAS,
    LEVEL,
    Comparison,
    Family,
    Spread,
    compare_losses,
)
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.metrics import WIN_RATE, Metric
from dpo_bench.analysis.readings import Curve, Reading, curves_in_common
from dpo_bench.analysis.results import DEFAULT_RESAMPLES, SweepResults
from dpo_bench.analysis.run_variance import RunVariance
from dpo_bench.errors import ConfigurationError
from dpo_bench.wording import listing

COLUMNS = (
    "loss", "against", "kl", "sweeps", "difference", "low", "high", "low_others", "high_others",
    "better_in", "improvement", "improvement_low", "improvement_high", "p", "verdict",
)  # fmt: skip

FEWEST_FOR_OTHERS = 3
"""sweeps from which their scatter says something of others like them"""


@dataclass(frozen=True, eq=False)
class Stratum:
    """A loss against the baseline at one KL in one sweep.

    Attributes:
        difference: of the loss from the baseline, in units of the measure.
        variance: of the difference; NaN where nothing tells how sure it is.
        doubt: sum over the parts of the variance of their square over their degrees of freedom.
        bias_bound: what reading between policies may be off by.
        runs: [seeds], what each run of the loss reaches.
        baseline_runs: [seeds], what each run of the baseline reaches.
    """

    difference: float
    variance: float
    doubt: float
    bias_bound: float
    runs: Array
    baseline_runs: Array

    @property
    def repeated(self) -> bool:
        """Whether both losses were trained more than once."""
        return min(len(self.runs), len(self.baseline_runs)) > 1


def across_frame(
    sweeps: Sequence[SweepResults],
    *,
    baseline: str | None = None,
    kl: Sequence[float] | None = None,
    metric: str | None = None,
    seed: int = 0,
    resamples: int = DEFAULT_RESAMPLES,
) -> pd.DataFrame:
    """Losses against a baseline over several sweeps at matched KL, a row per loss and KL.

    Args:
        sweeps: two or more, of different worlds, data sets or models.
        baseline: a loss that all of them have; None: dpo.
        kl: nats; None: three KLs inside the range that the losses of every sweep cover.
        metric: ``reward`` or ``win_rate``; None: reward, or win rate where a sweep has none.
        seed: of the bootstrap.
        resamples: of the bootstrap.

    Returns:
        loss, against, kl (nats; NaN without KLs), sweeps (how many have both losses there),
        difference (mean over them), low, high (95%, for these sweeps), low_others, high_others
        (95%, for others like them; NaN with fewer than three), better_in (sweeps with a positive
        difference), improvement (probability of it) with its ends (NaN with one seed), p (Holm's,
        over all rows together), verdict. A row whose loss fewer than two sweeps cover is empty and
        open; with one seed in a sweep it is open, too, and p is of the policies at hand.

    Raises:
        ConfigurationError: there are fewer than two sweeps, one counts twice, they are not scored
            alike, one lacks the baseline or the measure, or they share no KL or loss.
    """
    _require_several(sweeps)
    measure = shared_measure(sweeps, metric)
    worlds = [World.of(one, measure, baseline or USUAL_BASELINE) for one in sweeps]
    levels = _levels(worlds, kl)
    judged = [one.judged(levels) for one in worlds]
    labels = _shared_labels(worlds)
    has_kl = sweeps[0].has_kl
    rows = [
        _row(_strata(judged, label, at), np.random.Generator(np.random.PCG64(seed)), resamples)
        | {"loss": label, "against": worlds[0].baseline, "kl": level if has_kl else math.nan}
        for label in labels
        for at, level in enumerate(levels)
    ]
    frame = pd.DataFrame(rows)
    frame["p"] = holm(frame["p"].to_numpy(float))
    frame["verdict"] = [_verdict(row) for row in frame.to_dict("records")]
    return frame[list(COLUMNS)]


def _require_several(sweeps: Sequence[SweepResults]) -> None:
    if len(sweeps) < 2:
        raise ConfigurationError("judging losses across sweeps takes two sweeps or more.")
    for one, other in itertools.combinations(sweeps, 2):
        if _same(one, other):
            raise ConfigurationError(
                f"{one.folder} and {other.folder} hold the same trials: they would count twice."
                " Merge them first (report A B --out DIR), or leave one out."
            )
    if len({one.has_kl for one in sweeps}) > 1:
        lacking = next(one.folder for one in sweeps if not one.has_kl)
        raise ConfigurationError(f"{lacking} has no KLs and others have: leave it out.")


def _same(one: SweepResults, other: SweepResults) -> bool:
    """Whether trials occur in both; ids of tables from elsewhere do not tell."""
    folders = [sweep.folder.resolve() for sweep in (one, other)]
    shared = {trial.id for trial in one.trials} & {trial.id for trial in other.trials}
    recorded = bool(one.conditions and other.conditions)
    alike = folders[0] == folders[1] and folders[0].exists()
    return one is other or alike or (recorded and bool(shared))


def shared_measure(sweeps: Sequence[SweepResults], metric: str | None) -> Metric:
    """The measure by which all sweeps can be judged.

    Raises:
        ConfigurationError: there is no such measure, or rewards of different kinds would be
            averaged.
    """
    measure = measure_named(metric, has_reward=all(one.has_reward for one in sweeps))
    scored = list(dict.fromkeys(one.scored_by for one in sweeps))
    if measure != WIN_RATE and len(scored) > 1:
        raise ConfigurationError(
            f"the sweeps are scored by {listing(scored)}: rewards of different kinds have different"
            f" units and no mean. Judge them by {WIN_RATE.name}."
        )
    return measure


@dataclass(frozen=True, eq=False)
class World:
    """A sweep before its losses are compared.

    Attributes:
        name: of it, for messages.
        curves: by key.
        keys: by a loss's label its curve's key.
        baseline: label of what the others are compared with.
        prompts_known: whether figures are known prompt by prompt, not only run by run.
        has_kl: whether KLs were measured.
    """

    name: str
    curves: Mapping[str, Curve]
    keys: Mapping[str, str]
    baseline: str
    prompts_known: bool
    has_kl: bool

    @classmethod
    def of(cls, results: SweepResults, measure: Metric, baseline: str) -> World:
        """Read the curves of a sweep.

        Raises:
            ConfigurationError: it lacks the measure or the baseline.
        """
        curves, known, names = curves_to_compare(results, measure)
        labels = {names[key]: key for key in curves}
        name = str(results.folder)
        key = find_baseline(baseline, {key: label for label, key in labels.items()}, name)
        return cls(name, curves_in_common(curves), labels, names[key], known, results.has_kl)

    def judged(self, levels: Sequence[float]) -> JudgedWorld:
        """Compare with the baseline; what is simulated for a family of its own is not needed."""
        family = compare_losses(
            self.curves,
            levels,
            baseline=self.keys[self.baseline],
            prompts_known=self.prompts_known,
            draws=1,
        )
        return JudgedWorld(self.keys, family)


@dataclass(frozen=True, eq=False)
class JudgedWorld:
    """A sweep whose losses have been compared.

    Attributes:
        keys: by a loss's label its curve's key.
        family: the comparisons with the baseline; its simulated values are of no use.
    """

    keys: Mapping[str, str]
    family: Family

    def stratum(self, label: str, at: int) -> Stratum | None:
        """A loss against the baseline at a level; None where they are not compared."""
        found = (one for one in self.family.comparisons[at] if one.first == self.keys.get(label))
        comparison = next(found, None)
        if comparison is None or comparison.spread is None:
            return None
        readings = self.family.readings[at]
        pair = readings[comparison.first], readings[comparison.second]
        return _stratum(comparison, comparison.spread, pair, self.family.variance)


def _strata(judged: Sequence[JudgedWorld], label: str, at: int) -> list[Stratum]:
    """Those of the sweeps that compare the loss at a level."""
    found = (one.stratum(label, at) for one in judged)
    return [one for one in found if one is not None]


def _stratum(
    comparison: Comparison, spread: Spread, pair: tuple[Reading, Reading], variance: RunVariance
) -> Stratum:
    unknown = math.isnan(spread.prompts) and math.isnan(spread.runs)
    return Stratum(
        comparison.difference.value,
        math.nan if unknown else spread.total**2,
        _doubt(spread, pair, variance),
        comparison.bias_bound,
        *(one.values.mean(axis=1) for one in pair),
    )


def _doubt(spread: Spread, pair: tuple[Reading, Reading], variance: RunVariance) -> float:
    """How unsure the variance is; that of reading between nodes is taken as known."""
    prompts = pair[0].values.shape[1]
    within = np.nansum([spread.prompts**2, spread.responses**2])
    found = float(within) ** 2 / (prompts - 1) if prompts > 1 else 0.0
    if math.isnan(spread.runs):
        return found
    parts = [variance.of_mean(one) for one in pair]
    freedoms = [max(one.freedom, 1e-9) for one in parts]
    if variance.shared:  # one estimate serves both losses: their errors add up
        return found + sum(one.total for one in parts) ** 2 / min(freedoms)
    return found + sum(one.total**2 / freedom for one, freedom in zip(parts, freedoms, strict=True))


def _levels(worlds: Sequence[World], kl: Sequence[float] | None) -> list[float]:
    if not worlds[0].has_kl:
        return [0.0]
    if kl is not None:
        return [float(one) for one in kl]
    ranges = [common_range(one.curves, one.keys[one.baseline]) for one in worlds]
    low = max(one[0] if one else math.inf for one in ranges)
    high = min(one[1] if one else -math.inf for one in ranges)
    if low >= high:
        where = [
            f"{one.name} {'none' if ends is None else f'{ends[0]:.3g} to {ends[1]:.3g}'}"
            for one, ends in zip(worlds, ranges, strict=True)
        ]
        raise ConfigurationError(
            "there is no KL that the losses of every sweep cover together with the baseline"
            f" ({'; '.join(where)}). Give the KLs to look at."
        )
    return default_levels(low, high)


def _shared_labels(worlds: Sequence[World]) -> list[str]:
    """The losses that two sweeps or more have, but for the baseline."""
    labels = [label for one in worlds for label in one.keys if label != one.baseline]
    shared = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if not shared:
        raise ConfigurationError(
            f"no two of the sweeps share a loss besides {worlds[0].baseline}: there is nothing to"
            " judge across them."
        )
    return shared


def _row(
    strata: Sequence[Stratum], generator: np.random.Generator, resamples: int
) -> dict[str, Any]:
    if len(strata) < 2:
        better_in = sum(one.difference > 0 for one in strata)
        empty: dict[str, Any] = dict.fromkeys(COLUMNS, math.nan)
        return empty | {"sweeps": len(strata), "better_in": better_in, "decidable": False}
    (here, p_value), others = stratified(strata), among_others(strata)
    better = improvement(strata, generator, resamples)
    bound = math.sqrt(sum(one.bias_bound**2 for one in strata)) / len(strata)
    return {
        "sweeps": len(strata),
        "difference": here.value,
        "low": here.low,
        "high": here.high,
        "low_others": others.low,
        "high_others": others.high,
        "better_in": sum(one.difference > 0 for one in strata),
        "improvement": better.value,
        "improvement_low": better.low,
        "improvement_high": better.high,
        "p": p_value,
        "decidable": all(one.repeated for one in strata)
        and bound <= LARGEST_BIAS * abs(here.value),
    }


def stratified(strata: Sequence[Stratum]) -> tuple[Estimate, float]:
    """The mean difference over these very sweeps, and the two-sided p-value of its being 0."""
    from scipy.special import stdtr, stdtrit

    value = math.fsum(one.difference for one in strata) / len(strata)
    total = math.fsum(one.variance for one in strata)
    doubt = math.fsum(one.doubt for one in strata)
    if math.isnan(total):
        return Estimate(value, n=len(strata)), math.nan
    error = math.sqrt(total) / len(strata)
    freedom = min(total**2 / doubt, 1e9) if doubt > 0 else 1e9  # from here on it is the normal one
    half = float(stdtrit(freedom, 0.975)) * error
    size = abs(value) / error if error > 0 else math.inf if value else 0.0
    found = Estimate(value, value - half, value + half, len(strata))
    return found, 2 * float(stdtr(freedom, -size))


def among_others(strata: Sequence[Stratum]) -> Estimate:
    """The mean difference over sweeps like these, of which these are a sample."""
    from scipy.special import stdtrit

    differences = np.array([one.difference for one in strata])
    count, value = len(differences), float(differences.mean())
    if count < FEWEST_FOR_OTHERS:
        return Estimate(value, n=count)
    error = float(differences.std(ddof=1)) / math.sqrt(count)
    half = float(stdtrit(count - 1, 0.975)) * error
    return Estimate(value, value - half, value + half, count)


def improvement(
    strata: Sequence[Stratum], generator: np.random.Generator, resamples: int = DEFAULT_RESAMPLES
) -> Estimate:
    """The chance that a run of the loss beats a run of the baseline, averaged over sweeps.

    Args:
        strata: of the sweeps.
        generator: draws the runs anew.
        resamples: how many times.
    """
    wins = [_wins(one.runs, one.baseline_runs) for one in strata]
    value = float(np.mean([one.mean() for one in wins]))
    if not all(one.repeated for one in strata):
        return Estimate(value, n=len(strata))
    drawn = np.mean([_resampled(one, generator, resamples) for one in wins], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(strata))


def _wins(first: Array, second: Array) -> Array:
    """Whether each run [seeds] beats each of the others [seeds], as [seeds, seeds]."""
    return np.asarray(0.5 + 0.5 * np.sign(first[:, None] - second))


def _resampled(wins: Array, generator: np.random.Generator, resamples: int) -> Array:
    """Mean wins [resamples] of runs that are drawn anew on either side."""
    rows, columns = (
        generator.multinomial(count, np.full(count, 1 / count), size=resamples) / count
        for count in wins.shape
    )
    return np.asarray(((rows @ wins) * columns).sum(axis=1))


def holm(p_values: Array) -> Array:
    """Holm's simultaneous p-values (1979, Scandinavian Journal of Statistics 6, 65).

    Args:
        p_values: [n]; NaN where nothing was tested, which stays so and does not count.

    >>> holm(np.array([0.04, 0.01, np.nan])).tolist()
    [0.04, 0.02, nan]
    """
    adjusted = np.full(len(p_values), math.nan)
    order = np.argsort(p_values)[: int((~np.isnan(p_values)).sum())]
    factors = len(order) - np.arange(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1)
    return adjusted


def _verdict(row: Mapping[Any, Any]) -> str:
    if row["decidable"] is not True or not row["p"] < LEVEL:
        return "open"
    return "better" if row["difference"] > 0 else "worse"
