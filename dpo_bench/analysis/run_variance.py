"""How far runs differ that differ in nothing but the seed, estimated over all settings together.

Three seeds say little of their own variance: on 2 degrees of freedom an interval is 2.2 times
as wide as one that knows it. But a sweep has many settings (a loss at a strength), all of them
trained with the same seeds. A run's mean, after the loss's curve over the KL that the run itself
has and after the mean of its setting, is taken apart as a nested analysis of variance does (Searle,
Casella and McCulloch 1992, chapter 3):

    residual = what the seed does to every loss + to this loss at all strengths + to this run

The first part cancels in differences, because losses are compared by the same seeds. The second
stays whole when a loss is read between two strengths, the third is averaged with them. The
variances of the third part are small samples, one of each setting, and drawn towards a common one,
as far as they scatter no more than chance makes variances scatter (Smyth 2004, Statistical
Applications in Genetics and Molecular Biology 3, 3: "moderated" variances). Where they agree the
pooled variance has the degrees of freedom of all settings together; where they truly differ each
keeps its own. A run's mean also holds the noise of its sampled responses; what is left when it is
taken off is the variance of runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.points import Point
from dpo_bench.analysis.readings import (
    ROUNDING,
    SMALLEST,
    Curve,
    Reading,
    distances,
    mean_line,
    noise_of_mean,
)

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


@dataclass(frozen=True, slots=True)
class MeanSquare:
    """A variance estimate and its degrees of freedom; 0 and 0 where there is none."""

    value: float
    freedom: float

    def doubt(self, share: float = 1.0) -> float:
        """What it adds to the variance of a sum of mean squares, but for the factor 2."""
        return (share * self.value) ** 2 / self.freedom if self.freedom > 0 else 0.0


@dataclass(frozen=True)
class RunVariance:
    """Run-to-run variance of every setting, by loss.

    Attributes:
        own: [strengths] by loss, variance of a run's mean that it shares with no other run;
            moderated. NaN with one seed.
        responses: likewise, the part of it that the noise of sampled responses makes.
        freedom: likewise, degrees of freedom of ``own``.
        loss: by loss, mean square of what a seed does to it at all strengths: its variance, and
            that of ``own`` over the number of strengths; moderated.
        seed: mean square of what a seed does to all losses: its variance, and ``loss`` over their
            number.
        losses: number of losses.
        shared: whether the settings' variances agree, so that all have the pooled one.
    """

    own: Mapping[str, Array]
    responses: Mapping[str, Array]
    freedom: Mapping[str, Array]
    loss: Mapping[str, MeanSquare]
    seed: MeanSquare
    losses: int
    shared: bool

    @property
    def common(self) -> float:
        """Variance of what a seed does to all losses."""
        of_losses = sum(one.value for one in self.loss.values()) / max(len(self.loss), 1)
        return max(self.seed.value - of_losses / self.losses, 0.0)

    def known(self, reading: Reading) -> bool:
        """Whether there are two runs of any setting to learn from."""
        return bool(np.isfinite(self._of(self.own, reading)))

    def with_common(self, runs: float, freedom: float, seeds: int) -> tuple[float, float]:
        """Variance that runs give a mean over seeds that is no difference, and its freedom.

        Args:
            runs: what `of_mean` gives.
            freedom: degrees of freedom of that.
            seeds: in the mean.
        """
        total = runs + self.common / seeds
        doubt = self.seed.doubt(1 / seeds) if self.common else 0.0
        doubt += MeanSquare(runs, freedom).doubt()
        return total, total**2 / doubt if doubt > 0 else math.inf

    def of_mean(self, reading: Reading) -> ReadingVariance:
        """What runs and responses make of a reading's mean over seeds, in a difference."""
        own, responses, freedom = (
            self._of(one, reading) for one in (self.own, self.responses, self.freedom)
        )
        strengths = len(self.own[reading.loss])
        if strengths == 1:  # what is the run's own and what is the loss's are one and the same
            total, doubt = own, MeanSquare(own, freedom).doubt()
        else:
            rest = max(reading.concentration - 1 / strengths, 0.0)
            square = self.loss.get(reading.loss, MeanSquare(0.0, 0.0))
            loss = max(square.value, own / strengths)
            total = loss + rest * own
            doubt = MeanSquare(loss, square.freedom or freedom).doubt()
            doubt += MeanSquare(own, freedom).doubt(rest)
        seeds, kept = len(reading.seed_names), max(reading.concentration, 1 / strengths)
        return ReadingVariance(
            total=total / seeds,
            in_total=kept * responses / seeds,
            responses=reading.concentration * responses / seeds,
            freedom=total**2 / doubt if doubt > 0 else freedom,
        )

    @staticmethod
    def _of(values: Mapping[str, Array], reading: Reading) -> float:
        return float(reading.shares @ values[reading.loss])


def run_variance(curves: Mapping[str, Curve]) -> RunVariance:
    """Estimate it from all trained policies of a comparison."""
    cells = {name: _cells(curve) for name, curve in curves.items()}
    effects = {name: _seed_effects(found) for name, found in cells.items()}
    common, loss, seed = _of_seeds(effects)
    variance, freedom = _own(cells, effects, common)
    moderated, posterior, shared = moderate(variance, freedom)
    responses = np.array([cell.responses for found in cells.values() for cell in found])
    ends = np.cumsum([len(found) for found in cells.values()])[:-1]
    by_loss = [
        dict(zip(curves, np.split(column, ends), strict=True))
        for column in (moderated, responses, posterior)
    ]
    return RunVariance(by_loss[0], by_loss[1], by_loss[2], loss, seed, len(curves), shared)


@dataclass(frozen=True, eq=False)
class _Cell:
    """A setting: what its run means are beside the loss's curve, and what responses add to one."""

    seeds: tuple[int, ...]
    means: Array
    responses: float
    scale: float


def _cells(curve: Curve) -> list[_Cell]:
    line = mean_line(curve)
    return [_cell(curve, point, _slope(line, point)) for point in curve.points]


def _cell(curve: Curve, point: Point, slope: float) -> _Cell:
    place = distances(point)
    left = point.reward.mean(axis=1) - curve.common.at(place) - slope * (place - place.mean())
    scale = float(np.abs(point.reward).max())
    return _Cell(point.seed_names, left - left.mean(), _responses(curve, point, slope), scale)


def _slope(line: tuple[Array, Array], point: Point) -> float:
    """The loss's own slope by d at a setting, beside the common curve's."""
    place, left = line
    if len(place) < 2:
        return 0.0
    steepness = np.gradient(left, place)
    return float(np.interp(distances(point).mean(), place, steepness))


def _responses(curve: Curve, point: Point, slope: float) -> float:
    """Variance that sampled responses give the mean of a run."""
    place = np.maximum(distances(point), SMALLEST)
    by_kl = (curve.common.slope(place) + slope) / (2 * place)
    return noise_of_mean(point.reward - by_kl[:, None] * point.kl)


def _seed_effects(cells: Sequence[_Cell]) -> dict[int, float]:
    """What each seed does to a loss at all of its strengths; empty with one seed."""
    found: dict[int, list[float]] = {}
    for cell in cells:
        if len(cell.seeds) > 1:
            for name, mean in zip(cell.seeds, cell.means, strict=True):
                found.setdefault(name, []).append(float(mean))
    return {name: float(np.mean(means)) for name, means in found.items()}


def _own(
    cells: Mapping[str, Sequence[_Cell]],
    effects: Mapping[str, Mapping[int, float]],
    common: Mapping[int, float],
) -> tuple[Array, Array]:
    """Variance [settings] of what is a run's own, and its degrees of freedom."""
    losses = sum(len(one) > 1 for one in effects.values())
    variance, freedom = [], []
    for name, found in cells.items():
        repeated = sum(len(cell.seeds) > 1 for cell in found)
        # with one strength, what is its run's own and what is the loss's are one and the same
        taken, of = (effects[name], repeated) if repeated > 1 else (common, losses)
        for cell in found:
            free = (len(cell.seeds) - 1) * (1 - 1 / of if of > 1 else 1.0)
            rest = cell.means - np.array(
                [taken.get(seed, 0.0) if of > 1 else 0.0 for seed in cell.seeds]
            )
            squares = float(((rest - rest.mean()) ** 2).sum())
            freedom.append(free)
            variance.append(_unless_rounding(squares / free, cell) if free else math.nan)
    return np.array(variance), np.array(freedom)


def _unless_rounding(variance: float, cell: _Cell) -> float:
    """A variance, 0 where it is no more than the rounding of the figures behind it."""
    return variance if variance > (ROUNDING * cell.scale) ** 2 else 0.0


def _of_seeds(
    effects: Mapping[str, Mapping[int, float]],
) -> tuple[dict[int, float], dict[str, MeanSquare], MeanSquare]:
    """What a seed does to all losses, and mean squares of what it does to each and to all."""
    repeated = {loss: one for loss, one in effects.items() if len(one) > 1}
    names = sorted({seed for one in repeated.values() for seed in one})
    if len(names) < 2:
        return {}, {}, MeanSquare(0.0, 0.0)
    common = {
        name: float(np.mean([one[name] for one in repeated.values() if name in one]))
        for name in names
    }
    seed = MeanSquare(float(np.var(list(common.values()), ddof=1)), len(names) - 1.0)
    if len(repeated) < 2:
        return common, {}, seed
    freedom = np.array([(len(one) - 1) * (1 - 1 / len(repeated)) for one in repeated.values()])
    rest = [
        np.array([value - common[name] for name, value in one.items()]) for one in repeated.values()
    ]
    squares = np.array([float(((one - one.mean()) ** 2).sum()) for one in rest])
    value, posterior, _ = moderate(squares / freedom, freedom)
    found = zip(repeated, value, posterior, strict=True)
    return common, {loss: MeanSquare(float(v), float(f)) for loss, v, f in found}, seed


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
