"""Values of training that a loss is tuned over, and what that bought.

The option (a learning rate, a number of steps, a combination) is chosen on one half of the held-out
prompts by its mean figure over the compared KLs that all of the loss's options cover, or, where
there is none, over its settings. Everything that is compared then is read on the other half: the
best of several looks better than it is on whatever chose it.

What tuning bought is the chosen option minus the first, which is the one that would have been taken
without tuning, on the half that reports. The expected best of n options tried at random is that of
Dodge et al. 2019 (arXiv:1909.03004, equations 5 and 6), from the figures that chose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.comparisons import error_of_mean
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.halves import split_prompts
from dpo_bench.analysis.kl_axis import ROUND
from dpo_bench.analysis.looks import with_seeds
from dpo_bench.analysis.loss_curves import GridPoint, LossCurve, grid_points
from dpo_bench.analysis.metrics import Metric
from dpo_bench.analysis.points import Point
from dpo_bench.analysis.prompt_curves import held_out, primary_name, trained_points
from dpo_bench.analysis.readings import Reading, curves_in_common
from dpo_bench.analysis.results import SweepResults, read_trials

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several options.

    Attributes:
        chosen: its place.
        figures: of each option; NaN for one without policies.
        kls: at which these are means, nats; empty where they are means over settings.
    """

    chosen: int
    figures: tuple[float, ...]
    kls: tuple[float, ...]


def choose(options: Sequence[Sequence[Point]], kls: Sequence[float]) -> Choice:
    """Choose the option with the highest mean figure; the first of equal ones.

    Args:
        options: of each its policies after training, on the prompts that choose.
        kls: at which losses are compared, nats.
    """
    readings = read_options(options, kls)
    common = common_kls(options, readings, kls)
    figures = tuple(
        float(np.mean(by_prompt(points, found, common))) if points else float("nan")
        for points, found in zip(options, readings, strict=True)
    )
    known = [-np.inf if np.isnan(one) else one for one in figures]
    return Choice(int(np.argmax(known)) if known else 0, figures, common)


Readings = Mapping[float, Reading]


def read_options(options: Sequence[Sequence[Point]], kls: Sequence[float]) -> list[Readings]:
    """Each option read at the KLs that it covers."""
    given = {str(place): points for place, points in enumerate(options) if points}
    curves = curves_in_common(given) if given else {}
    found: list[Readings] = []
    for place in range(len(options)):
        tried = {kl: curves[str(place)].read(kl) for kl in kls} if str(place) in curves else {}
        found.append({kl: one for kl, one in tried.items() if isinstance(one, Reading)})
    return found


def common_kls(
    options: Sequence[Sequence[Point]], readings: Sequence[Readings], kls: Sequence[float]
) -> tuple[float, ...]:
    """The KLs that all options with policies cover."""
    own = [found for points, found in zip(options, readings, strict=True) if points]
    return tuple(kl for kl in kls if own and all(kl in found for found in own))


def by_prompt(points: Sequence[Point], found: Readings, kls: Sequence[float]) -> Array:
    """An option's figure [prompts]: its mean over KLs, or else over settings, and over seeds."""
    parts = [found[kl].values.mean(axis=0) for kl in kls]
    return np.asarray(np.mean(parts or [p.reward.mean(axis=0) for p in points], axis=0))


def compared_kls(results: SweepResults) -> tuple[float, ...]:
    """The KLs (nats) that the experiment compares at, or the round ones."""
    stated = dict(results.experiment.get("comparison") or {}).get("kl")
    return tuple(map(float, stated or ROUND)) if results.has_kl else ()


def choose_settings(
    results: SweepResults,
    options: Sequence[Sequence[GridPoint]],
    kls: Sequence[float] | None = None,
) -> Choice:
    """Choose among groups of a loss's settings, by the primary measure on the half that chooses.

    Args:
        results: the sweep.
        options: groups of settings.
        kls: at which losses are compared, nats; None: as the experiment says.
    """
    measure = primary_name(results)
    if measure is None or not results.done:
        return Choice(0, (), ())
    points, choosing, _ = _in_halves(results, options, measure)
    wanted = compared_kls(results) if kls is None or not results.has_kl else kls
    return choose([_on(own, choosing) for own in points], wanted)


def choose_of_folder(folder: Path, paths: Sequence[Sequence[str]], kls: Sequence[float]) -> int:
    """The same among groups of a folder's trials, given by their ids: the place of the best."""
    return choose_paths(read_trials(folder, [one for path in paths for one in path]), paths, kls)


def choose_paths(
    results: SweepResults, paths: Sequence[Sequence[str]], kls: Sequence[float] | None = None
) -> int:
    """The same among groups of a sweep's trials."""
    by_id = {trial.id: trial for trial in results.trials}
    groups = [[by_id[one] for one in path if one in by_id] for path in paths]
    names = sorted({name for group in groups for one in group for name in one.settings})
    return choose_settings(results, [grid_points(group, names) for group in groups], kls).chosen


def expected_best(figures: Sequence[float]) -> list[float]:
    """The expected highest of n figures drawn with replacement, for n from 1 to their number.

    >>> expected_best([0.0, 1.0])
    [0.5, 0.75]
    """
    values = sorted(one for one in figures if not math.isnan(one))
    count = len(values)
    below = np.arange(count + 1) / max(count, 1)
    return [float(np.array(values) @ np.diff(below**n)) for n in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class TunedLoss:
    """What tuning a loss bought.

    Attributes:
        index: of its series.
        labels: of its options.
        chosen: place of the one that was chosen; the first is the one without tuning.
        kls: at which figures are means, nats; empty where they are means over settings.
        chose: figure of each option on the half of the prompts that chose; NaN without policies.
        figures: of each on the other half, with 95% intervals.
        gain: the chosen one's minus the first one's there; missing where either has none.
        expected: best of n options tried at random, from the half that chose.
    """

    index: int
    labels: tuple[str, ...]
    chosen: int
    kls: tuple[float, ...]
    chose: tuple[float, ...]
    figures: tuple[Estimate, ...]
    gain: Estimate
    expected: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Whether losses come in another order when each is tuned, at one KL.

    Attributes:
        kl: nats.
        losses: how many can be read there, with the first option of each and with the chosen one.
        pairs: of them.
        swapped: those of which the other loss is ahead.
        correlation: Kendall's rank correlation of the two orders.
    """

    kl: float
    losses: int
    pairs: int
    swapped: int
    correlation: float


def tuned_losses(results: SweepResults, series: Sequence[LossCurve]) -> list[TunedLoss]:
    """What tuning bought, of every loss that was tuned."""
    measure = primary_name(results)
    if measure is None:
        return []
    return [_tuned(results, one, measure) for one in series if len(one.options) > 1]


def _tuned(results: SweepResults, series: LossCurve, measure: Metric) -> TunedLoss:
    options = [one.settings for one in series.options]
    points, choosing, reporting = _in_halves(results, options, measure)
    kls = compared_kls(results)
    chose = choose([_on(own, choosing) for own in points], kls)
    rest = [_on(own, reporting) for own in points]
    readings = read_options(rest, kls)
    common = common_kls(rest, readings, kls)
    known = results.prompts_known
    parts = [
        by_prompt(own, found, common) if own else None
        for own, found in zip(rest, readings, strict=True)
    ]
    first, best = parts[0], parts[series.chosen]
    gain = Estimate.missing()
    if first is not None and best is not None:
        apart = _runs([(rest[place], readings[place]) for place in (series.chosen, 0)], common)
        gain = _estimate(best - first, apart, known)
    return TunedLoss(
        series.index,
        tuple(one.label for one in series.options),
        series.chosen,
        common,
        chose.figures,
        tuple(
            Estimate.missing() if part is None else _estimate(part, _runs([pair], common), known)
            for part, pair in zip(parts, zip(rest, readings, strict=True), strict=True)
        ),
        gain,
        tuple(expected_best(chose.figures)),
    )


def _runs(
    given: Sequence[tuple[Sequence[Point], Readings]], kls: Sequence[float]
) -> tuple[float, float]:
    """Variance over seeds of a mean figure, or of a difference of two, and its freedom."""
    by_seed = [_by_seed(points, found, kls) for points, found in given]
    seeds = sorted(set.intersection(*(set(one) for one in by_seed)))
    if len(seeds) < 2:
        return 0.0, math.inf
    first, *second = by_seed
    values = [first[seed] - sum(one[seed] for one in second) for seed in seeds]
    return float(np.var(values, ddof=1)) / len(seeds), len(seeds) - 1.0


def _by_seed(points: Sequence[Point], found: Readings, kls: Sequence[float]) -> dict[int, float]:
    """A mean figure by seed, of the seeds that all KLs or settings have."""
    tables = [(found[kl].seed_names, found[kl].values) for kl in kls]
    tables = tables or [(one.seed_names, one.reward) for one in points]
    seeds = set.intersection(*(set(names) for names, _ in tables))
    return {
        seed: float(np.mean([values[names.index(seed)].mean() for names, values in tables]))
        for seed in seeds
    }


def _estimate(values: Array, runs: tuple[float, float], known: bool) -> Estimate:
    """A mean over prompts; the interval holds prompts and, with several seeds, runs."""
    count = len(values) if known else 0
    value = float(values.mean())
    if not count and not runs[0]:
        return Estimate(value)
    total, width = error_of_mean(values, runs, 0.0, count)
    half = width * math.sqrt(total)
    return Estimate(value, value - half, value + half, count)


def order_changes(results: SweepResults, series: Sequence[LossCurve]) -> list[Order]:
    """Whether tuning changes the order of losses, at each compared KL that two of them cover."""
    measure = primary_name(results)
    shown = [one for one in series if one.on_curve]
    if measure is None or not any(len(one.options) > 1 for one in shown):
        return []
    groups = [one.options[0].settings if one.options else one.settings for one in shown]
    groups += [one.settings for one in shown]
    points, _, reporting = _in_halves(results, groups, measure, pair=False)
    rest = [_on(own, reporting) for own in points]
    kls, count = compared_kls(results), len(shown)
    first, tuned = read_options(rest[:count], kls), read_options(rest[count:], kls)
    found = []
    for kl in kls:
        pairs = [
            (float(one[kl].values.mean()), float(other[kl].values.mean()))
            for one, other in zip(first, tuned, strict=True)
            if kl in one and kl in other
        ]
        if len(pairs) > 1:
            found.append(_order(kl, pairs))
    return found


def _order(kl: float, values: Sequence[tuple[float, float]]) -> Order:
    pairs = list(itertools.combinations(values, 2))
    swapped = sum((a[0] - b[0]) * (a[1] - b[1]) < 0 for a, b in pairs)
    return Order(kl, len(values), len(pairs), swapped, 1 - 2 * swapped / len(pairs))


def _in_halves(
    results: SweepResults,
    options: Sequence[Sequence[GridPoint]],
    measure: Metric,
    *,
    pair: bool = True,
) -> tuple[list[list[Point]], Mask, Mask]:
    """Settings as points, and which of their prompts choose and which report.

    Args:
        results: the sweep.
        options: groups of settings.
        measure: what is read.
        pair: leave to each group only the seeds that all of them have, where there are such.
    """
    points, prompts = trained_points(results, options, measure)
    if pair:
        own = [{name for one in group for name in one.seed_names} for group in points if group]
        shared = set.intersection(*own) if own else set()
        if shared:
            kept = with_seeds({str(place): group for place, group in enumerate(points)}, shared)
            points = [kept.get(str(place), []) for place in range(len(points))]
    if not results.prompts_known:
        everything = np.ones(len(prompts), dtype=bool)
        return points, everything, everything
    chooses, reports = split_prompts(prompts, held_out(results))
    return points, prompts.isin(chooses), prompts.isin(reports)


def _on(points: Sequence[Point], prompts: Mask) -> list[Point]:
    return [Point(p.kl[:, prompts], p.reward[:, prompts], p.seed_names, p.step) for p in points]
