"""Intervals over prompts and training seeds of figures that are no means: a fitted curve, a peak.

A figure rests on cells: seed s, prompt p. Its error has three parts, as in a two-way layout with
random effects (Searle, Casella and McCulloch 1992, chapter 4): prompts (variance A/n), seeds (B/S)
and what is left, the sampled responses (E/(nS)).

- Prompts and responses: the bootstrap of `bootstrap`, over means over the seeds. Half its width is
  the least that an interval can have.
- Seeds: the spread of the seeds' own figures, which contains B and E, known with S - 1 degrees of
  freedom; E, which the first part has, is taken off. A figure that is no mean is replaced by its
  secant plane over one standard error.

The two add as variances. With u the seeds' share of the sum V, the interval is the figure
± t(df) sqrt(V), 1/df = g(u)/(S - 1) + (1 - u)^2/(n - 1). Satterthwaite's (1946, Biometrics Bulletin
2, 110) g is u^2. It takes the *estimated* share for the true one: where few seeds happen to agree
it sees many degrees of freedom. Here g = 1 - (1 - u^1.5)^k with k = max(1.5, 8/(S - 1)^2), which is
larger.

With one seed the variance between seeds is unknown: the interval is over prompts alone. Losses are
compared by `comparisons`, which learns of seeds from all runs of a sweep.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_bench.analysis.bootstrap import Array, Statistic, bootstrap_each, evaluated
from dpo_bench.analysis.estimate import Estimate

_Present = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class SeedSpread:
    """Where the uncertainty of a figure comes from: standard errors, in its unit.

    Attributes:
        between: of the seeds, what responses make of their differences taken off; NaN with one.
        total: of the seeds' own figures, seeds and responses; NaN with one seed.
        count: number of training seeds behind the figure, the fewest of its parts.
    """

    between: float
    total: float
    count: int


@dataclass(frozen=True, slots=True)
class Clustered:
    """A figure with an interval over prompts and seeds.

    Attributes:
        estimate: its 95% interval holds both where there are several seeds, else prompts only.
        spread: what seeds add.
    """

    estimate: Estimate
    spread: SeedSpread


def two_way(
    statistic: Statistic, cells: ArrayLike, weights: Array, level: float = 0.95
) -> list[Clustered]:
    """Statistics of means over prompts and seeds, each with its interval and spread.

    Args:
        statistic: means [rows, k] -> [rows, j].
        cells: [seeds, clusters, k], a cluster being a prompt; a column may lack some seeds, all of
            whose clusters are then NaN. A seed is the same in every column: they are paired.
        weights: [resamples, clusters] from `bootstrap.resample_weights`.
        level: of the intervals.

    Raises:
        ValueError: a column has no seed or a seed only some of its clusters, or see
            `bootstrap.bootstrap_each`.
    """
    table = np.asarray(cells, dtype=np.float64)
    if table.ndim != 3 or not table.size:
        raise ValueError(f"cells must be [seeds, clusters, k], not {list(table.shape)}")
    held = np.isfinite(table)
    present: _Present = np.asarray(held.all(axis=1))
    if (held.any(axis=1) != present).any() or not present.any(axis=0).all():
        raise ValueError("a seed lacks some of its prompts, or a column all of its seeds")
    counts = present.sum(axis=0)
    means = np.where(held, table, 0.0).sum(axis=0) / counts
    estimates = bootstrap_each(statistic, means, weights, level)
    gradient = _secants(statistic, means, table, present)
    spreads = _spreads(gradient, table, means, present)
    return [_clustered(*found, level) for found in zip(estimates, spreads, strict=True)]


def degrees_of_freedom(share: float, seeds: int, clusters: int) -> float:
    """Degrees of freedom of an interval of which the seeds' part has this share of the variance.

    Args:
        share: as estimated, 0 to 1.
        seeds: number of seeds, at least 2.
        clusters: number of prompts, at least 2.

    >>> [round(degrees_of_freedom(share, 3, 256), 1) for share in (0.0, 0.2, 1.0)]
    [255.0, 11.4, 2.0]
    """
    sharpness = max(1.5, 8 / (seeds - 1) ** 2)
    part = 1 - (1 - share**1.5) ** sharpness
    return float(1 / (part / (seeds - 1) + (1 - share) ** 2 / (clusters - 1)))


def _secants(statistic: Statistic, means: Array, cells: Array, present: _Present) -> Array:
    """Slopes [j, k] at the overall means over ± one standard error of each column.

    Slopes over a point's own uncertainty, not at the point: at a kink of a curve they are what
    counts.
    """
    center = means.mean(axis=0)
    own = np.where(present[:, None, :], cells - center, 0.0)
    variance = (
        means.var(axis=0) / len(means)
        + (own.mean(axis=1) ** 2).sum(axis=0) / present.sum(axis=0) ** 2
    )
    step = np.maximum(np.sqrt(variance), 1e-6 * np.maximum(np.abs(center), 1e-3))
    rows = np.concatenate([center + np.diag(step), center - np.diag(step)])
    values = evaluated(statistic, rows)
    upper, lower = values[: len(step)], values[len(step) :]
    return np.ascontiguousarray(((upper - lower) / (2 * step[:, None])).T)


def _spreads(gradient: Array, cells: Array, means: Array, present: _Present) -> list[SeedSpread]:
    """The variance components of each statistic [j], by the two-way analysis of variance."""
    clusters, counts = len(means), present.sum(axis=0)
    pairs = max(clusters * (clusters - 1), 1)
    # a column without influence, up to rounding, does not decide how many seeds there are
    influence = np.abs(gradient) > 1e-9 * np.abs(gradient).max(axis=1, keepdims=True)
    fewest = np.where(influence, counts, counts.max()).min(axis=1)
    scale = 1 / np.sqrt(np.maximum(counts * (counts - 1), 1))
    active = influence.any(axis=0) & (counts > 1)
    own = np.where(present[:, None, :], cells - means, 0.0)[:, :, active] * scale[active]
    each = np.einsum("jk,sck->scj", gradient[:, active], own)
    seed = each.mean(axis=1)
    total = (seed**2).sum(axis=0)
    rest = ((each - seed[:, None, :]) ** 2).sum(axis=(0, 1)) / pairs
    return [_spread(*found) for found in zip(total, rest, fewest, strict=True)]


def _spread(total: float, rest: float, seeds: int) -> SeedSpread:
    if seeds < 2:
        return SeedSpread(math.nan, math.nan, 1)
    return SeedSpread(math.sqrt(max(total - rest, 0.0)), math.sqrt(total), int(seeds))


def _clustered(estimate: Estimate, spread: SeedSpread, level: float) -> Clustered:
    """A prompts' interval, widened by what the seeds add."""
    if math.isnan(estimate.low) or spread.count < 2:
        return Clustered(estimate, spread)
    value, clusters = estimate.value, estimate.n
    lower, upper = (
        _half(max(half, 0.0) / _quantile(level, clusters - 1), spread, clusters, level)
        for half in (value - estimate.low, estimate.high - value)
    )
    return Clustered(Estimate(value, value - lower, value + upper, clusters), spread)


def _half(within: float, spread: SeedSpread, clusters: int, level: float) -> float:
    variance = spread.between**2 + within**2
    if variance == 0:
        return 0.0
    share = min(spread.total**2 / variance, 1.0)
    freedom = degrees_of_freedom(share, spread.count, clusters)
    return max(
        _quantile(level, freedom) * math.sqrt(variance), _quantile(level, clusters - 1) * within
    )


def _quantile(level: float, freedom: float) -> float:
    from scipy import special

    return float(special.stdtrit(freedom, 0.5 + level / 2))
