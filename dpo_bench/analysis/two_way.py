"""Intervals over prompts and training seeds at once, with the share of each in the uncertainty.

A figure rests on cells: seed s, prompt p. Its error has three parts, as in a two-way layout with
random effects (Searle, Casella and McCulloch 1992, chapter 4): prompts (variance A/n), seeds (B/S)
and what is left, the sampled responses (E/(nS)). Prompts are many and seeds are few, so that each
needs a method of its own:

- Prompts: the bootstrap of `statistics`, over means over the seeds.
- Seeds: the spread of the seeds' own figures, which contains B and E, known with S - 1 degrees of
  freedom. A figure that is no mean is replaced by its secant plane over one standard error.

The two add as variances. With u the seeds' share of the sum V, the interval is the figure
± t(df) sqrt(V), 1/df = g(u)/(S - 1) + (1 - u)^2/(n - 1). Satterthwaite's (1946, Biometrics Bulletin
2, 110) g is u^2. It takes the *estimated* share for the true one: where few seeds happen to agree
it sees many degrees of freedom. Here g = 1 - (1 - u^1.5)^k with k = max(1.5, 8/(S - 1)^2), which is
larger. Coverage of nominal 95% intervals over all true shares of the seeds, by numerical
integration, n large; the last line is what the resampling of seeds amounts to at best:

    S               2             3             5             10
    this            94.4 - 97.1   95.0 - 96.1   95.0 - 95.7   95.0 - 95.5
    Satterthwaite   87.2 - 95.1   92.2 - 95.0   94.2 - 95.0   94.8 - 95.0
    1.96 sqrt(V)    70.2 - 95.0   81.2 - 95.0   87.9 - 95.0   91.8 - 95.0

P-values must hold far into the tail, where Holm's correction needs them; there a t distribution
with estimated degrees of freedom is wrong by orders of magnitude. They are Behrens and Fisher's:
the tail of the sum of a Student's t with S - 1 degrees of freedom for the seeds and one with n - 1
for the prompts. They never separate too often, and with few seeds do so too rarely.

With one seed the variance between seeds is unknown: interval and p-value are over prompts alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dpo_bench.analysis.bootstrap import Array, Statistic, bootstrap_each, evaluated
from dpo_bench.analysis.estimate import Estimate

_Present = NDArray[np.bool_]

_NODES = 241
"""nodes of the integral over a chi-square: the trapezoid rule converges geometrically there"""


@dataclass(frozen=True, slots=True)
class Spread:
    """Where the uncertainty of a figure comes from: standard errors, in its unit.

    Attributes:
        prompts: what endless seeds would leave. With one seed: of prompts and responses together.
        seeds: what endless prompts would leave; 0 when the seeds differ no more than sampled
            responses make them; NaN with one seed.
        responses: of the sampled responses, which more prompts or more seeds lower alike; NaN with
            one seed.
        between: of the seeds' own figures, as they differ: seeds and responses; NaN with one seed.
        facing: as ``prompts``, taken from the half of the bootstrap's interval that faces 0, which
            is the wider one where the figures are skewed that way; NaN without an interval.
        count: number of training seeds behind the figure, the fewest of its parts.
    """

    prompts: float
    seeds: float
    responses: float
    between: float
    facing: float
    count: int

    @property
    def known(self) -> bool:
        """Whether there are seeds enough, two, to know of their variance."""
        return self.count > 1


@dataclass(frozen=True, slots=True)
class Clustered:
    """A figure with an interval over prompts and seeds.

    Attributes:
        estimate: its 95% interval holds both where there are several seeds, else prompts only.
        spread: the parts of its uncertainty.
        p_value: two-sided, of the figure being 0; NaN without an interval.
    """

    estimate: Estimate
    spread: Spread
    p_value: float


def two_way(
    statistic: Statistic, cells: ArrayLike, weights: Array, level: float = 0.95
) -> list[Clustered]:
    """Statistics of means over prompts and seeds, each with its interval, spread and p-value.

    Args:
        statistic: means [rows, k] -> [rows, j].
        cells: [seeds, clusters, k], a cluster being a prompt; a column may lack some seeds, all of
            whose clusters are then NaN. A seed is the same in every column: they are paired.
        weights: [resamples, clusters] from `statistics.resample_weights`.
        level: of the intervals.

    Raises:
        ValueError: a column has no seed or a seed only some of its clusters, or see
            `statistics.bootstrap_each`.
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


def over_runs(statistic: Statistic, cells: ArrayLike, level: float = 0.95) -> list[Clustered]:
    """`two_way` of runs of which nothing is known prompt by prompt: Student's t over seeds.

    Args:
        statistic: as for `two_way`.
        cells: [seeds, 1, k]: the mean of each run.
        level: of the intervals.

    Returns:
        each with n = 0, because the prompts behind it are not known; with one seed no interval.
    """
    nothing = two_way(statistic, cells, np.ones((1, 1)), level)
    return [_by_seeds(one.estimate.value, one.spread, level) for one in nothing]


def intervals(
    statistic: Statistic, cells: ArrayLike, weights: Array | None, level: float = 0.95
) -> list[Clustered]:
    """`two_way` where prompts are known (``weights`` are given), else `over_runs`."""
    if weights is None:
        return over_runs(statistic, cells, level)
    return two_way(statistic, cells, weights, level)


def tail(distance: float, between: float, within: float, seeds: int, clusters: int) -> float:
    """Two-sided probability that a between T(seeds - 1) + within T(clusters - 1) goes so far.

    Given the chi-square of the first it is one Student's t, over which is integrated.

    Args:
        distance: at least 0.
        between: standard error over seeds; not used with one seed.
        within: standard error over clusters.
        seeds: number of seeds.
        clusters: number of prompts, at least 2.

    >>> round(tail(2.262157, 0.0, 1.0, 1, 10), 6), round(tail(2.920, 1.0, 0.0, 3, 10**6), 2)
    (0.05, 0.1)
    """
    from scipy import special

    if math.isnan(distance):
        return math.nan
    if seeds < 2 or between == 0:
        if within == 0:
            return float(distance == 0)
        return 2 * float(special.stdtr(clusters - 1, -distance / within))
    freedom = seeds - 1
    reach = 12 * math.sqrt(2 / freedom)
    log = np.linspace(-max(56 / freedom, reach), min(4.5, reach), _NODES)
    density = np.exp(0.5 * freedom * (log - np.exp(log) + 1))
    scale = np.sqrt(between**2 * np.exp(-log) + within**2)
    chances = special.stdtr(clusters - 1, -distance / scale)
    return float(min(1.0, 2 * (density * chances).sum() / density.sum()))


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


def _spreads(gradient: Array, cells: Array, means: Array, present: _Present) -> list[Spread]:
    """The variance components of each statistic [j], by the two-way analysis of variance."""
    clusters, counts = len(means), present.sum(axis=0)
    pairs = max(clusters * (clusters - 1), 1)
    per_prompt = np.einsum("jk,ck->cj", gradient, means - means.mean(axis=0))
    prompts = (per_prompt**2).sum(axis=0) / pairs
    # a column without influence, up to rounding, does not decide how many seeds there are
    influence = np.abs(gradient) > 1e-9 * np.abs(gradient).max(axis=1, keepdims=True)
    fewest = np.where(influence, counts, counts.max()).min(axis=1)
    if not (fewest > 1).any():
        return [_one_seed(variance) for variance in prompts]
    scale = 1 / np.sqrt(np.maximum(counts * (counts - 1), 1))
    active = influence.any(axis=0) & (counts > 1)
    own = np.where(present[:, None, :], cells - means, 0.0)[:, :, active] * scale[active]
    each = np.einsum("jk,sck->scj", gradient[:, active], own)
    seed = each.mean(axis=1)
    between = (seed**2).sum(axis=0)
    rest = ((each - seed[:, None, :]) ** 2).sum(axis=(0, 1)) / pairs
    return [
        _several_seeds(*found) if found[3] > 1 else _one_seed(found[0])
        for found in zip(prompts, between, rest, fewest, strict=True)
    ]


def _one_seed(prompts: float) -> Spread:
    return Spread(math.sqrt(prompts), math.nan, math.nan, math.nan, math.nan, 1)


def _several_seeds(prompts: float, between: float, rest: float, seeds: int) -> Spread:
    return Spread(
        prompts=math.sqrt(max(prompts - rest, 0.0)),
        seeds=math.sqrt(max(between - rest, 0.0)),
        responses=math.sqrt(rest),
        between=math.sqrt(between),
        facing=math.nan,
        count=int(seeds),
    )


def _clustered(estimate: Estimate, spread: Spread, level: float) -> Clustered:
    """A prompts' interval, widened by what the seeds add."""
    if math.isnan(estimate.low):
        return Clustered(estimate, spread, math.nan)
    value, clusters = estimate.value, estimate.n
    lower, upper = (
        _within(half, spread) / _quantile(level, clusters - 1)
        for half in (value - estimate.low, estimate.high - value)
    )
    spread = replace(spread, facing=lower if value > 0 else upper)
    p_value = tail(abs(value), spread.between, spread.facing, spread.count, clusters)
    if spread.known:
        lower, upper = (_half(one, spread, clusters, level) for one in (lower, upper))
        estimate = Estimate(value, value - lower, value + upper, clusters)
    return Clustered(estimate, spread, p_value)


def _by_seeds(value: float, spread: Spread, level: float) -> Clustered:
    if not spread.known:
        return Clustered(Estimate(value), spread, math.nan)
    from scipy import special

    freedom = spread.count - 1
    half = _quantile(level, freedom) * spread.between
    p_value = float(value == 0)
    if spread.between > 0:
        p_value = 2 * float(special.stdtr(freedom, -abs(value) / spread.between))
    return Clustered(Estimate(value, value - half, value + half), spread, p_value)


def _within(half: float, spread: Spread) -> float:
    """The part of half an interval that is due to the prompts themselves."""
    if not spread.known:
        return max(half, 0.0)
    total = math.hypot(spread.prompts, spread.responses)
    return max(half, 0.0) * spread.prompts / total if total > 0 else 0.0


def _half(within: float, spread: Spread, clusters: int, level: float) -> float:
    total = spread.between**2 + within**2
    if total == 0:
        return 0.0
    freedom = degrees_of_freedom(spread.between**2 / total, spread.count, clusters)
    return _quantile(level, freedom) * math.sqrt(total)


def _quantile(level: float, freedom: float) -> float:
    from scipy import special

    return float(special.stdtrit(freedom, 0.5 + level / 2))
