"""How far runs differ that differ in nothing but the seed, estimated over all settings together.

Three seeds say little of their own variance: on 2 degrees of freedom an interval is 2.2 times as
wide as one that knows it. A sweep has many settings (a loss at a strength), and each is a small
sample of the same kind of variation. Their variances are estimated apart and drawn towards a common
one, as far as they scatter no more than chance makes variances scatter (Smyth 2004, Statistical
Applications in Genetics and Molecular Biology 3, 3: "moderated" variances). Where they agree the
pooled variance has the degrees of freedom of all settings together; where they truly differ each
keeps its own.

What is counted are residuals of the run means: after the loss's curve over the KL that the run
itself has, after the mean of its setting, and after what a seed has in common in all settings. That
part cancels in differences, because every loss is trained with the same seeds. A run mean also
holds the noise of its sampled responses; what is left when it is taken off is the variance of runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.points import Point
from dpo_bench.analysis.readings import Curve, Reading, distances, mean_line

_AGREE = 1e-5
"""variance of log variances, beyond chance, below which they are one and the same"""


@dataclass(frozen=True)
class ReadingVariance:
    """Of a reading's mean over seeds.

    Attributes:
        total: variance of runs and, as a run holds them, of responses.
        in_total: of it, the responses' part.
        responses: variance that responses give the reading.
        freedom: degrees of freedom of ``total``.
    """

    total: float
    in_total: float
    responses: float
    freedom: float

    @property
    def runs(self) -> float:
        """Of the runs alone, never below 0."""
        return max(self.total - self.in_total, 0.0)


@dataclass(frozen=True)
class RunVariance:
    """Run-to-run variance of every setting, by loss.

    Attributes:
        total: [strengths] by loss, variance of a run mean about its setting, what its seed has in
            common with others taken off; moderated. NaN with one seed.
        responses: likewise, the part of it that the noise of sampled responses makes.
        freedom: likewise, degrees of freedom of ``total``.
        common: variance of what a seed has in common in all settings.
        common_spread: the variance that it was estimated from, with the noise of a seed's mean run.
        correlation: of the runs of one loss and seed, 0 to 1: a reading between two strengths
            averages what is their own, and keeps what they have in common.
        shared: whether the settings' variances agree, so that all have the pooled one.
    """

    total: Mapping[str, Array]
    responses: Mapping[str, Array]
    freedom: Mapping[str, Array]
    common: float
    common_spread: float
    correlation: float
    shared: bool

    def known(self, reading: Reading) -> bool:
        """Whether there are two runs of any setting to learn from."""
        return bool(np.isfinite(self._of(self.total, reading)))

    def with_common(self, own: float, freedom: float, seeds: int) -> tuple[float, float]:
        """Variance that runs give a mean over seeds that is no difference, and its freedom.

        Args:
            own: of the runs' own.
            freedom: degrees of freedom of that.
            seeds: in the mean.
        """
        total = own + self.common / seeds
        doubt = (self.common_spread / seeds) ** 2 / max(seeds - 1, 1) if self.common else 0.0
        doubt += own**2 / max(freedom, 1e-9)
        return total, total**2 / doubt if doubt > 0 else math.inf

    def of_mean(self, reading: Reading) -> ReadingVariance:
        """What runs and responses make of a reading's mean over seeds."""
        seeds = len(reading.seed_names)
        total, responses = (self._of(one, reading) for one in (self.total, self.responses))
        own = reading.concentration
        kept = self.correlation + (1 - self.correlation) * own
        return ReadingVariance(
            total=kept * total / seeds,
            in_total=kept * responses / seeds,
            responses=own * responses / seeds,
            freedom=self._of(self.freedom, reading),
        )

    @staticmethod
    def _of(values: Mapping[str, Array], reading: Reading) -> float:
        return float(reading.shares @ values[reading.loss])


_Residuals = tuple[float, float, list[Array], Array]


def run_variance(curves: Mapping[str, Curve]) -> RunVariance:
    """Estimate it from all trained policies of a comparison."""
    cells = [_cell(curve, index) for curve in curves.values() for index in range(len(curve.points))]
    owners = [name for name, curve in curves.items() for _ in curve.points]
    common, spread, rest, freedom = _without_common([(cell.seeds, cell.means) for cell in cells])
    squares = np.array([(own**2).sum() for own in rest])
    variance = np.divide(squares, freedom, out=np.full(len(cells), np.nan), where=freedom > 0)
    responses = np.array([cell.responses for cell in cells])
    moderated, posterior, shared = moderate(variance, freedom)
    ends = np.cumsum([len(curve.points) for curve in curves.values()])[:-1]
    by_loss = [
        dict(zip(curves, np.split(column, ends), strict=True))
        for column in (moderated, responses, posterior)
    ]
    runs = [(owner, cell.seeds, own) for owner, cell, own in zip(owners, cells, rest, strict=True)]
    correlation = _correlation(runs, float(np.mean(responses)))
    return RunVariance(by_loss[0], by_loss[1], by_loss[2], common, spread, correlation, shared)


@dataclass(frozen=True, eq=False)
class _Cell:
    """A setting: what its run means are beside the loss's curve, and what responses add to one."""

    seeds: tuple[int, ...]
    means: Array
    responses: float


def _cell(curve: Curve, index: int) -> _Cell:
    point = curve.points[index]
    place = distances(point)
    slope = _slope(curve, point)
    left = point.reward.mean(axis=1) - curve.common.at(place) - slope * (place - place.mean())
    return _Cell(point.seed_names, left - left.mean(), _responses(curve, point, slope))


def _slope(curve: Curve, point: Point) -> float:
    """The loss's own slope by d at a setting, beside the common curve's."""
    place, left = mean_line(curve)
    if len(place) < 2:
        return 0.0
    steepness = np.gradient(left, place)
    return float(np.interp(distances(point).mean(), place, steepness))


def _responses(curve: Curve, point: Point, slope: float) -> float:
    """Variance that sampled responses give the mean of a run."""
    seeds, prompts = point.reward.shape
    if seeds < 2 or prompts < 2:
        return 0.0
    place = np.maximum(distances(point), 0.05)
    by_kl = (curve.common.slope(place) + slope) / (2 * place)
    own = point.reward - by_kl[:, None] * point.kl
    rest = own - own.mean(axis=0) - own.mean(axis=1, keepdims=True) + own.mean()
    return float((rest**2).sum() / ((seeds - 1) * (prompts - 1)) / prompts)


def _without_common(cells: Sequence[tuple[tuple[int, ...], Array]]) -> _Residuals:
    """What all cells of a seed share is taken off.

    Returns:
        its variance, what that was estimated from, residuals by cell, and their freedom by cell.
    """
    by_seed: dict[int, list[float]] = {}
    for names, means in cells:
        if len(names) > 1:
            for name, mean in zip(names, means, strict=True):
                by_seed.setdefault(name, []).append(float(mean))
    repeated = sum(len(names) > 1 for names, _ in cells)
    lost = 1 / repeated if repeated > 1 else 0.0
    effect = {name: float(np.mean(found)) if lost else 0.0 for name, found in by_seed.items()}
    freedom = np.array([(len(names) - 1) * (1 - lost) for names, _ in cells])
    rest = []
    for names, means in cells:
        own = means - np.array([effect.get(name, 0.0) for name in names])
        rest.append(own - own.mean())
    if not lost or len(effect) < 2:
        return 0.0, 0.0, rest, freedom
    pooled = sum(float((own**2).sum()) for own in rest) / float(freedom.sum())
    spread = float(np.var(list(effect.values()), ddof=1))
    return max(spread - lost * pooled, 0.0), spread, rest, freedom


def _correlation(runs: Sequence[tuple[str, tuple[int, ...], Array]], responses: float) -> float:
    """Of two runs of one loss and seed at different strengths, responses taken off; 0 to 1.

    From the products of all such pairs beside the squares of the runs themselves.
    """
    by_run: dict[tuple[str, int], list[float]] = {}
    for loss, names, own in runs:
        for name, value in zip(names, own, strict=True):
            by_run.setdefault((loss, name), []).append(float(value))
    products = pairs = squares = count = 0.0
    for values in by_run.values():
        total, square = sum(values), sum(value**2 for value in values)
        products += total**2 - square
        pairs += len(values) * (len(values) - 1)
        squares += square
        count += len(values)
    size = squares / count - responses if count else 0.0
    if not pairs or size <= 0:
        return 1.0
    return min(max(products / pairs / size, 0.0), 1.0)


def moderate(variances: ArrayLike, freedom: ArrayLike) -> tuple[Array, Array, bool]:
    """Variances of small samples drawn towards a common one, by empirical Bayes (Smyth 2004).

    Args:
        variances: [n], NaN where there is none.
        freedom: [n], degrees of freedom of each.

    Returns:
        the moderated variances [n] (the common one where there is none), their degrees of freedom
        [n], and whether they all are the pooled variance. NaN and 0 where none is known.

    >>> moderate([1.0, 1.1, 0.9, float("nan")], [2, 2, 2, 0])[0].round(3).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    from scipy.special import digamma, polygamma

    given, count = np.asarray(variances, dtype=np.float64), np.asarray(freedom, dtype=np.float64)
    known = np.isfinite(given) & (count > 0)
    if not known.any():
        return np.full(len(given), np.nan), np.zeros(len(given)), True
    own, parts = given[known], count[known]
    pooled, together = float((own * parts).sum() / parts.sum()), float(parts.sum())
    logs = np.log(np.maximum(own, 1e-12 * pooled + 1e-300)) - digamma(parts / 2) + np.log(parts / 2)
    excess = float(np.var(logs, ddof=1) - polygamma(1, parts / 2).mean()) if len(own) > 1 else 0.0
    if excess < _AGREE:
        return np.full(len(given), pooled), np.full(len(given), together), True
    prior = 2 * _inverse_trigamma(excess)
    center = math.exp(float(logs.mean()) + float(digamma(prior / 2)) - math.log(prior / 2))
    weight = np.where(known, count, 0.0)
    value = (prior * center + weight * np.where(known, given, 0.0)) / (prior + weight)
    return value, np.minimum(prior + weight, together), False


def _inverse_trigamma(value: float) -> float:
    from scipy.optimize import brentq
    from scipy.special import polygamma

    root = brentq(lambda log: float(polygamma(1, math.exp(log))) - value, -12, 12)
    return math.exp(float(root))
