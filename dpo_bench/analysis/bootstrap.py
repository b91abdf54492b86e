"""Estimates with intervals: one bootstrap over prompts, used for every figure of the project.

A cluster is a prompt and its value the mean over that prompt's samples: samples of one prompt are
alike and must not be counted as independent. The same resampled prompts (`resample_weights`) serve
every policy, so that differences are paired.

The interval is the bias-corrected and accelerated one (BCa; Efron 1987, JASA 82, 171-185), its
level widened for small n (Hesterberg 2015, arXiv:1411.5279, "expanded percentile"): resampling n
clusters understates the spread by sqrt((n - 1)/n), and the normal quantile is below Student's. It
stays inside the range of the data (a win rate never exceeds 1) and needs nothing but the statistic.
Coverage of the 95% interval of a mean, in percent of 24,000 simulated data sets (standard error
.15), beside that of plain percentiles:

    values                  n = 64   plain     n = 256   plain
    normal                  95.0     94.3      94.8      94.7
    Laplace                 93.9     94.2      94.5      94.7
    exponential             94.3     93.2      94.8      94.6
    gamma, shape .5         94.0     92.5      94.5      94.1
    log-normal, sigma 1     91.8     90.3      93.4      93.0
    proportion .5           96.7     95.9      95.8      95.5
    proportion .8           95.6     93.5      95.0      94.5
    proportion .9           96.7     94.4      95.5      94.5
    proportion .95          95.1     83.7      95.2      94.2

Only tails as heavy as the log-normal's need more than 64 prompts. Where all values are equal the
interval has no width, whatever n is: resampling cannot know of what it has not seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_bench.analysis.estimate import Estimate

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Weighted means [resamples, k] -> the statistic of each resample [resamples]."""


def resample_weights(clusters: int, resamples: int, seed: int) -> Array:
    """How often each bootstrap resample draws each cluster, as a share of its draws.

    Drawn as integers, so that the same arguments give the same bytes on every machine.

    Args:
        clusters: number of clusters (prompts), at least 1.
        resamples: number of resamples, at least 1.
        seed: of the generator (PCG64).

    Returns:
        [resamples, clusters]; every row sums to 1.

    Raises:
        ValueError: when there is nothing to draw.
    """
    if clusters < 1 or resamples < 1:
        raise ValueError(f"cannot draw {resamples} resamples of {clusters} clusters")
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = generator.integers(0, clusters, size=(resamples, clusters))
    rows = np.arange(resamples)[:, None] * clusters
    counts = np.bincount((drawn + rows).ravel(), minlength=resamples * clusters)
    return counts.reshape(resamples, clusters) / clusters


def bootstrap_mean(values: ArrayLike, weights: Array, level: float = 0.95) -> Estimate:
    """The mean over clusters with its interval.

    Args:
        values: [clusters], each the mean of one cluster.
        weights: [resamples, clusters] from `resample_weights`.
        level: of the interval.

    Raises:
        ValueError: a value is missing or infinite, or the shapes do not fit.
    """
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise ValueError(f"values must have shape [clusters], not {list(column.shape)}")
    return bootstrap(lambda means: means[:, 0], column[:, None], weights, level)


def bootstrap(
    statistic: Statistic, values: ArrayLike, weights: Array, level: float = 0.95
) -> Estimate:
    """A function of means over clusters (a ratio, a difference, a point on a curve).

    Args:
        statistic: means [resamples, k] -> [resamples]; evaluated on the means of all clusters, of
            every resample, and with each cluster left out in turn.
        values: [clusters, k].
        weights: [resamples, clusters] from `resample_weights`.
        level: of the interval.

    Raises:
        ValueError: a value is missing or infinite, the shapes do not fit, or the statistic is not
            finite in some resample.
    """
    return bootstrap_each(lambda means: statistic(means)[:, None], values, weights, level)[0]


def bootstrap_each(
    statistic: Statistic, values: ArrayLike, weights: Array, level: float = 0.95
) -> list[Estimate]:
    """Several statistics over the same resamples: `bootstrap` of [resamples, k] -> [resamples, j].

    Returns:
        The j estimates, each with an interval of its own at ``level`` (not simultaneous).
    """
    table = _checked(values, weights)
    value = evaluated(statistic, table.mean(axis=0, keepdims=True))[0]
    if len(table) == 1:
        return [Estimate(float(one), math.nan, math.nan, 1) for one in value]
    # einsum: unlike a matrix product its bytes depend on neither the BLAS nor its threads
    replicates = evaluated(statistic, np.einsum("bc,ck->bk", weights, table))
    left_out = evaluated(statistic, (table.sum(axis=0) - table) / (len(table) - 1))
    return _estimates(value, replicates, left_out, level)


def bootstrap_weighted(statistic: Statistic, weights: Array, level: float = 0.95) -> list[Estimate]:
    """Statistics that are no functions of means: a fit to the prompts, each with its weight.

    Args:
        statistic: weights [rows, clusters] -> [rows, j]; a row sums to 1 and a cluster with weight
            w counts as w x clusters clusters.
        weights: [resamples, clusters] from `resample_weights`.
        level: of the intervals.

    Raises:
        ValueError: the statistic is not finite in some resample.
    """
    clusters = weights.shape[1]
    value = evaluated(statistic, np.full((1, clusters), 1 / clusters))[0]
    if clusters == 1:
        return [Estimate(float(one), math.nan, math.nan, 1) for one in value]
    left_out = evaluated(statistic, (1 - np.eye(clusters)) / (clusters - 1))
    return _estimates(value, evaluated(statistic, weights), left_out, level)


def cluster_means(values: ArrayLike, clusters: ArrayLike) -> Array:
    """The mean of the values of each cluster, in the order of the sorted cluster names.

    Args:
        values: [rows].
        clusters: [rows], the cluster (prompt) of each row: integers or strings.

    Raises:
        ValueError: the lengths differ or there are no rows.
    """
    column, names = np.asarray(values, dtype=np.float64), np.asarray(clusters)
    if column.ndim != 1 or column.shape != names.shape or not len(column):
        raise ValueError(
            f"values {list(column.shape)} and clusters {list(names.shape)} must both be [rows]"
        )
    _, index, counts = np.unique(names, return_inverse=True, return_counts=True)
    return np.bincount(index, weights=column) / counts


def win_fraction(policy_rewards: ArrayLike, opponent_rewards: ArrayLike) -> Array:
    """Share of a prompt's opponents that each policy sample beats, ties counted half.

    The mean over a prompt's samples is the share over all pairs of that prompt.

    Args:
        policy_rewards: [prompts, m].
        opponent_rewards: [prompts, k], of the same prompts.

    Returns:
        [prompts, m], between 0 and 1.

    Raises:
        ValueError: a reward is missing (NaN), or the shapes do not fit.
    """
    policy = np.asarray(policy_rewards, dtype=np.float64)
    opponent = np.asarray(opponent_rewards, dtype=np.float64)
    if policy.ndim != 2 or opponent.ndim != 2 or len(policy) != len(opponent):
        raise ValueError(
            f"rewards must be [prompts, m] and [prompts, k] of the same prompts,"
            f" not {list(policy.shape)} and {list(opponent.shape)}"
        )
    if not opponent.shape[1]:
        raise ValueError("there is no opponent to compare with")
    for name, rewards in (("policy", policy), ("opponent", opponent)):
        if np.isnan(rewards).any():
            raise ValueError(f"{np.isnan(rewards).sum()} {name} rewards are missing (NaN)")
    left, right = policy[:, :, None], opponent[:, None, :]
    return np.asarray((left > right).mean(axis=2) + 0.5 * (left == right).mean(axis=2))


def _checked(values: ArrayLike, weights: Array) -> Array:
    table = np.ascontiguousarray(values, dtype=np.float64)  # the order of sums is part of the bytes
    if table.ndim != 2 or weights.ndim != 2 or not len(table) or weights.shape[1] != len(table):
        raise ValueError(
            f"values {list(table.shape)} and weights {list(weights.shape)} must be"
            " [clusters, k] and [resamples, clusters]"
        )
    unusable = ~np.isfinite(table).all(axis=1)
    if unusable.any():
        raise ValueError(
            f"{unusable.sum()} of {len(table)} clusters have a missing or infinite value,"
            f" the first is number {int(unusable.argmax()) + 1}: leave them out before, and say so"
        )
    return table


def evaluated(statistic: Statistic, means: Array) -> Array:
    """The statistic of each row [rows, ...].

    Raises:
        ValueError: it is not finite in some row.
    """
    result = np.asarray(statistic(means), dtype=np.float64)
    lost = ~np.isfinite(result).all(axis=tuple(range(1, result.ndim)))
    if lost.any():
        raise ValueError(f"the statistic is not finite in {lost.sum()} of {len(means)} resamples")
    return result


def _estimates(value: Array, replicates: Array, left_out: Array, level: float) -> list[Estimate]:
    low, high = _interval(value, replicates, left_out, level)
    return [
        Estimate(float(a), float(b), float(c), len(left_out))
        for a, b, c in zip(value, low, high, strict=True)
    ]


def _interval(
    value: Array, replicates: Array, left_out: Array, level: float
) -> tuple[Array, Array]:
    """BCa ends [j] from the estimate [j], its replicates [resamples, j] and jackknife [n, j]."""
    from scipy import special

    clusters = len(left_out)
    # replicates equal to the estimate, as a proportion has them, count half, whatever the rounding
    slack = 1e-9 * np.ptp(replicates, axis=0)
    below = (replicates < value - slack).mean(axis=0)
    tied = (np.abs(replicates - value) <= slack).mean(axis=0)
    edge = 0.5 / len(replicates)
    bias = special.ndtri(np.clip(below + 0.5 * tied, edge, 1 - edge))
    deviation = left_out.mean(axis=0) - left_out
    scale = 6 * (deviation**2).sum(axis=0) ** 1.5
    skew = (deviation**3).sum(axis=0)
    acceleration = np.divide(skew, scale, out=np.zeros_like(skew), where=scale > 0)
    quantile = math.sqrt(clusters / (clusters - 1)) * float(
        special.stdtrit(clusters - 1, 0.5 + level / 2)
    )
    ordered = np.sort(replicates, axis=0)
    ends = []
    for z in (bias - quantile, bias + quantile):
        stretched = z / np.maximum(1 - acceleration * z, 1e-3)
        ends.append(_quantiles(ordered, special.ndtr(bias + stretched)))
    return ends[0], ends[1]


def _quantiles(ordered: Array, levels: Array) -> Array:
    """The quantile of each sorted column [resamples, j] at that column's own level [j]."""
    position = levels * (len(ordered) - 1)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, len(ordered) - 1)
    column: Any = np.arange(ordered.shape[1])
    share = position - lower
    return np.asarray(ordered[lower, column] * (1 - share) + ordered[upper, column] * share)
