"""Where more optimization begins to hurt: reward against the distance from the reference.

With d = sqrt(KL), the gain over the reference follows R(d) = d (alpha - beta ln d) where a proxy is
optimized (Gao et al. 2022, arXiv:2210.10760, for reinforcement learning; Rafailov et al. 2024,
arXiv:2406.02900, for direct alignment). It peaks at ln d = alpha/beta - 1, if beta > 0. Beside it
stand two curves with as many parameters: a quadratic in KL, a KL + b KL^2, which is what the latter
paper compares with, and one in d, a d + b d^2.

All are least-squares fits to the mean gain of each policy, each policy counting once, through the
origin: the reference gains nothing over itself. The peak is that of the first. It is looked for
between the smallest and largest KL that were measured; a fit that rises up to the end, or falls
from the beginning, has none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.points import Point, cells
from dpo_bench.analysis.two_way import Clustered, two_way


@dataclass(frozen=True)
class Fit:
    """Reward against KL of a series of policies.

    Attributes:
        alpha: reward per sqrt(nat).
        beta: reward per sqrt(nat) and unit of ln d; above 0 where the curve turns down.
        rmse: root mean square of the residuals, in units of reward.
        rmse_quadratic_kl: of the quadratic in KL.
        rmse_quadratic_distance: of the quadratic in d.
        peak: the KL of the largest reward, nats; None where there is no peak inside the range. Its
            interval is cut off at the range's ends: an interval that reaches an end is open there.
        open_low: whether the interval of the peak reaches the smallest KL measured.
        open_high: whether it reaches the largest.
        seeds: number of training seeds in the intervals; with one, prompts only.
        reason: why there is no peak; empty where there is one.
    """

    alpha: Estimate
    beta: Estimate
    rmse: float
    rmse_quadratic_kl: float
    rmse_quadratic_distance: float
    peak: Estimate | None
    open_low: bool
    open_high: bool
    seeds: int
    reason: str


def fit_overoptimization(
    points: Sequence[Point], reference_reward: ArrayLike, weights: Array
) -> Fit:
    """Fit the curves to one series of policies.

    Args:
        points: three or more, each a strength with all of its seeds; of one step of training, since
            half-trained policies reach less at the same KL.
        reference_reward: [prompts], mean reward of the reference's own responses.
        weights: [resamples, prompts] from `statistics.resample_weights`.

    Raises:
        ValueError: there are fewer than three points, all have the same KL, or the prompts differ.
    """
    base = np.asarray(reference_reward, dtype=np.float64)
    gains = [Point(one.kl, one.reward - base, one.seed_names) for one in points]
    if len(gains) < 3 or len({one.mean_kl for one in gains}) < 2:
        raise ValueError("the fit needs three policies or more, not all at the same KL")
    table = cells({"": gains})
    distance = np.sqrt(np.maximum([one.mean_kl for one in gains], 1e-12))
    low, high = float(distance.min()), float(distance.max())

    def figures(means: Array) -> Array:
        alpha, beta = _coefficients(means, len(gains))
        return np.stack([alpha, beta, _log_peak(alpha, beta, low, high)], axis=1)

    alpha, beta, peak = two_way(figures, table, weights)
    reason = _no_peak(peak.estimate.value, low, high)
    kl, gain = np.array([[one.mean_kl, one.reward.mean()] for one in gains]).T
    return Fit(
        alpha=alpha.estimate,
        beta=beta.estimate,
        rmse=_rmse(distance, -distance * np.log(distance), gain),
        rmse_quadratic_kl=_rmse(kl, kl**2, gain),
        rmse_quadratic_distance=_rmse(distance, kl, gain),
        peak=None if reason else _as_kl(peak, low, high),
        open_low=not peak.estimate.low > 2 * math.log(low),
        open_high=not peak.estimate.high < 2 * math.log(high),
        seeds=alpha.spread.count,
        reason=reason,
    )


def _coefficients(means: Array, policies: int) -> tuple[Array, Array]:
    """Alpha and beta [rows] from means [rows, 2 policies]: KLs, then gains."""
    distance = np.sqrt(np.maximum(means[:, :policies], 1e-12))
    return _least_squares(distance, -distance * np.log(distance), means[:, policies:])


def _least_squares(first: Array, second: Array, gain: Array) -> tuple[Array, Array]:
    """The coefficients [rows] of two columns [rows, policies] without a constant."""
    a, b, c = ((x * y).sum(axis=1) for x, y in ((first, first), (first, second), (second, second)))
    p, q = (first * gain).sum(axis=1), (second * gain).sum(axis=1)
    determinant = a * c - b * b
    return (c * p - b * q) / determinant, (a * q - b * p) / determinant


def _log_peak(alpha: Array, beta: Array, low: float, high: float) -> Array:
    """Where the fit is largest between two distances, as ln KL [rows]; an end where it is there."""

    def value(distance: float) -> Array:
        return np.asarray(distance * (alpha - beta * math.log(distance)))

    ends = np.where(value(high) >= value(low), math.log(high), math.log(low))
    ratio = np.divide(alpha, beta, out=np.full_like(alpha, np.inf), where=beta > 0)
    inside = np.clip(ratio - 1, math.log(low), math.log(high))
    return np.asarray(2 * np.where(beta > 0, inside, ends))


def _no_peak(peak: float, low: float, high: float) -> str:
    if 2 * math.log(low) < peak < 2 * math.log(high):
        return ""
    where = "rises up to" if peak >= 2 * math.log(high) else "falls from"
    end = high if peak >= 2 * math.log(high) else low
    return f"no peak inside the range: the fitted reward {where} KL {end**2:.3g}"


def _as_kl(peak: Clustered, low: float, high: float) -> Estimate:
    found = peak.estimate
    ends = (max(found.low, 2 * math.log(low)), min(found.high, 2 * math.log(high)))
    return Estimate(math.exp(found.value), math.exp(ends[0]), math.exp(ends[1]), found.n)


def _rmse(first: Array, second: Array, gain: Array) -> float:
    rows = first[None], second[None], gain[None]
    one, other = _least_squares(*rows)
    return float(np.sqrt(np.mean((one * first + other * second - gain) ** 2)))
