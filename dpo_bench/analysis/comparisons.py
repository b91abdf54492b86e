"""Losses compared at equal KL: differences, what they are uncertain by, and a verdict on each.

The variance of a difference has three parts, each estimated by itself and none below 0:

- prompts and sampled responses: the spread over prompts of the difference, averaged over seeds;
- runs: `run_variance`, over all settings of the sweep, what responses make of it taken off, because
  the first part has them already;
- reading between the nodes of a curve: `readings`.

A family is everything that is asked at once: all pairs, or every loss against a baseline, at all
compared KLs. One critical value serves it, so that the chance of any false verdict is 5%: the 95%
quantile of the largest |t| when no two losses differ. It is simulated (Westfall and Young 1993;
Romano and Wolf 2005, Econometrica 73, 1237): prompts keep their differences and get random signs,
which keeps their tails and how comparisons hang together; runs and readings are drawn from normal
distributions; and each draw is divided by a standard error of its own, in which the runs' variance
is as uncertain as its degrees of freedom say. The band difference ± critical value x standard error
holds all true differences at once with 95%.

Verdicts: *better* or *worse* where the band leaves 0 out; *same* where the band at 90% lies within
the margin given (two one-sided tests at 5%, Schuirmann 1987); else *open*. Where what reading
between nodes may be off by is more than half of the difference, it stays open. With one seed runs
are not repeated and nothing is said of losses; of the policies at hand it is.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.readings import Curve, Reading, read_all
from dpo_bench.analysis.run_variance import ReadingVariance, RunVariance, run_variance
from dpo_bench.analysis.win_rates import wilson

LEVEL = 0.05
"""chance of any false verdict within a family"""

DRAWS = 4000
"""of the simulation that gives critical values"""

LARGEST_BIAS = 0.5
"""share of a difference that the bound on its reading's error may be, for a verdict"""

_AT_ONCE = 2**22
"""signs that are held in memory together"""


@dataclass(frozen=True, slots=True)
class Spread:
    """What a figure is uncertain by: standard errors, in its unit.

    Attributes:
        prompts: of the prompts; with one seed, of prompts and responses together. NaN where figures
            are not known prompt by prompt.
        responses: of the sampled responses; NaN with one seed.
        runs: of the training runs, which more seeds lower; NaN with one seed.
        interpolation: of reading between the KLs of policies.
        seeds: number of runs behind each figure, the fewest.
    """

    prompts: float
    responses: float
    runs: float
    interpolation: float
    seeds: int

    @property
    def total(self) -> float:
        """Standard error of all parts that are known."""
        parts = (self.prompts, self.responses, self.runs, self.interpolation)
        return math.sqrt(sum(one**2 for one in parts if not math.isnan(one)))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two losses at one KL.

    Attributes:
        first: name of a loss.
        second: name of the other.
        kl: nats.
        difference: first minus second, with its own 95% interval; missing when not comparable.
        band: the same with the interval that holds for the whole family at once.
        p_value: of the family: the chance of so large a |t| anywhere in it when no losses differ.
        spread: the parts of its uncertainty; None when not comparable.
        bias_bound: what reading between policies may be off by; NaN when not comparable.
        verdict: of the losses: better, worse, same or open.
        policies: of the policies at hand, over prompts alone; differs from the verdict with one
            seed.
        reason: why they are not compared, or why the verdict is open although the band says
            otherwise; empty else.
    """

    first: str
    second: str
    kl: float
    difference: Estimate
    band: Estimate
    p_value: float = math.nan
    spread: Spread | None = None
    bias_bound: float = math.nan
    verdict: str = "open"
    policies: str = "open"
    reason: str = ""

    @property
    def compared(self) -> bool:
        """Whether there is a difference."""
        return self.spread is not None

    @property
    def decided(self) -> bool:
        """Whether the losses differ."""
        return self.verdict in ("better", "worse")

    @property
    def at_least(self) -> float:
        """The smallest size that the band leaves to the difference; 0 where it holds 0."""
        low, high = self.band.low, self.band.high
        return math.nan if math.isnan(low) else max(low, -high, 0.0)

    @property
    def at_most(self) -> float:
        """The largest."""
        low, high = self.band.low, self.band.high
        return math.nan if math.isnan(low) else max(abs(low), abs(high))


@dataclass(frozen=True)
class Family:
    """Comparisons that were asked together.

    Attributes:
        levels: the KLs, nats.
        comparisons: by level, every pair in one order.
        values: by level, each loss's figure there with a 95% interval.
        readings: by level and loss.
        reasons: by level and loss, why it has no figure there.
        critical: the value that the largest |t| exceeds with 5%; NaN when nothing is compared.
        variance: of the runs.
    """

    levels: tuple[float, ...]
    comparisons: tuple[tuple[Comparison, ...], ...]
    values: tuple[Mapping[str, Estimate], ...]
    readings: tuple[Mapping[str, Reading], ...]
    reasons: tuple[Mapping[str, str], ...]
    critical: float
    variance: RunVariance

    @property
    def all(self) -> tuple[Comparison, ...]:
        """The comparisons of all levels."""
        return tuple(itertools.chain.from_iterable(self.comparisons))


def compare_losses(
    curves: Mapping[str, Curve],
    levels: Sequence[float],
    *,
    baseline: str | None = None,
    same_within: float | None = None,
    prompts_known: bool = True,
    seed: int = 0,
    draws: int = DRAWS,
    share: bool = False,
    level: float = LEVEL,
) -> Family:
    """Compare losses at some KLs, as one family.

    Args:
        curves: from `readings.curves_in_common`.
        levels: KLs, nats.
        baseline: compare every other loss with this one; None: all pairs.
        same_within: differences up to this size do not matter.
        prompts_known: False where a run's mean is all that is known of it.
        seed: of the simulation.
        draws: of the simulation.
        share: whether figures are shares, whose own intervals stay between 0 and 1.
        level: chance of any false verdict; less where this is one of several planned looks.
    """
    variance = run_variance(curves)
    found, reasons = read_all(curves, levels)
    places: dict[tuple[str, int], Reading] = {
        (one.loss, level): one for level, part in enumerate(found) for one in part
    }
    wanted = [
        (first, second, level)
        for level in range(len(levels))
        for first, second in _pairs(list(curves), baseline)
        if (first, level) in places and (second, level) in places
    ]
    table = _side_by_side(list(places.values()), variance, prompts_known)
    order: dict[tuple[str, int], int] = {key: row for row, key in enumerate(places)}
    left = [order[first, level] for first, _, level in wanted]
    right = [order[second, level] for _, second, level in wanted]
    tested = _tested(table, np.array([left, right], dtype=np.intp), seed, draws, level)
    known = {
        (first, second, level): _comparison(
            (places[first, level], places[second, level]), tested, index, same_within
        )
        for index, (first, second, level) in enumerate(wanted)
    }
    comparisons = tuple(
        tuple(
            known.get((first, second, level))
            or _missing(first, second, levels[level], reasons[level])
            for first, second in _pairs(list(curves), baseline)
        )
        for level in range(len(levels))
    )
    return Family(
        tuple(levels),
        comparisons,
        tuple(
            {one.loss: loss_value(one, variance, prompts_known, share) for one in part}
            for part in found
        ),
        tuple({one.loss: one for one in part} for part in found),
        tuple(reasons),
        tested.critical,
        variance,
    )


def loss_value(
    reading: Reading, variance: RunVariance, prompts_known: bool = True, share: bool = False
) -> Estimate:
    """What a loss reaches at a KL: its 95% interval holds prompts, responses, runs and reading.

    With one seed the interval is of the policies at hand.
    """
    runs, freedom = 0.0, math.inf
    if variance.known(reading) and len(reading.seed_names) > 1:
        own = variance.of_mean(reading)
        runs, freedom = variance.with_common(own.runs, own.freedom, len(reading.seed_names))
    by_prompt = reading.values.mean(axis=0)
    if not prompts_known and not runs:
        return Estimate(float(by_prompt.mean()))
    prompts = len(by_prompt) if prompts_known else 0
    total, width = error_of_mean(by_prompt, (runs, freedom), reading.interpolation**2, prompts)
    value, half = float(by_prompt.mean()), width * math.sqrt(total)
    if share:
        return _share(value, total, width, prompts, prompts or len(reading.seed_names))
    return Estimate(value, value - half, value + half, prompts)


def error_of_mean(
    by_prompt: Array, runs: tuple[float, float], interpolation: float, prompts: int
) -> tuple[float, float]:
    """Variance of a mean over prompts, and Student's quantile of its 95% interval.

    The freedom is that of a sum of variances (Satterthwaite 1946).

    Args:
        by_prompt: [prompts], averaged over seeds.
        runs: variance that runs add, and its degrees of freedom.
        interpolation: variance that reading between policies adds, taken as known.
        prompts: their number; 0 where they are not known.
    """
    from scipy.special import stdtrit

    within = float(by_prompt.var(ddof=1) / prompts) if prompts > 1 else 0.0
    total = within + runs[0] + interpolation
    doubt = within**2 / max(prompts - 1, 1) + runs[0] ** 2 / max(runs[1], 1e-9)
    return total, float(stdtrit(min(total**2 / doubt, 1e9), 0.975)) if doubt > 0 else 1.96


def _share(value: float, variance: float, width: float, prompts: int, least: int) -> Estimate:
    """A share with Wilson's interval at the size that its variance has, all alike: ``least``."""
    spread = value * (1 - value)
    count = spread / variance if spread > 0 and variance > 0 else float(least)
    low, high = wilson(min(max(value, 0.0), 1.0), count * (1.96 / width) ** 2)
    return Estimate(value, low, high, prompts)


def _pairs(names: list[str], baseline: str | None) -> list[tuple[str, str]]:
    if baseline is None:
        return list(itertools.combinations(names, 2))
    return [(name, baseline) for name in names if name != baseline]


@dataclass(frozen=True, eq=False)
class _Table:
    """All readings of a family side by side.

    Attributes:
        readings: [r].
        variance: of the runs.
        means: [r].
        centered: [prompts, r], each prompt's mean over seeds minus the reading's.
        total: [r], variance of the reading that runs make, with the responses that are in a run.
        in_total: [r], of it, the responses' part; both 0 with one seed.
        responses: [r], what responses make of the reading.
        freedom: [r], of ``total``.
        interpolation: [r], variance of the reading between nodes.
        repeated: whether runs were repeated.
        prompts: how many prompts are known, 0 for none.
    """

    readings: list[Reading]
    variance: RunVariance
    means: Array
    centered: Array
    total: Array
    in_total: Array
    responses: Array
    freedom: Array
    interpolation: Array
    repeated: bool
    prompts: int

    @property
    def runs(self) -> Array:
        """Variance of each reading [r] that runs alone make."""
        return np.maximum(self.total - self.in_total, 0)


def _side_by_side(readings: list[Reading], variance: RunVariance, prompts_known: bool) -> _Table:
    by_prompt = [one.values.mean(axis=0) for one in readings] or [np.zeros(1)]
    table = np.stack(by_prompt, axis=1)
    repeated = all(len(one.seed_names) > 1 and variance.known(one) for one in readings)
    nothing = ReadingVariance(0.0, 0.0, 0.0, 1.0)
    parts = [variance.of_mean(one) if repeated else nothing for one in readings]
    return _Table(
        readings,
        variance,
        means=table.mean(axis=0),
        centered=table - table.mean(axis=0),
        total=np.array([one.total for one in parts]),
        in_total=np.array([one.in_total for one in parts]),
        responses=np.array([one.responses for one in parts]),
        freedom=np.array([one.freedom for one in parts]),
        interpolation=np.array([one.interpolation**2 for one in readings]),
        repeated=repeated,
        prompts=len(table) if prompts_known else 0,
    )


@dataclass(frozen=True, eq=False)
class _Tested:
    """Differences [c] with their standard errors, own and common critical values."""

    difference: Array
    prompts: Array
    responses: Array
    runs: Array
    interpolation: Array
    own: Array
    p_value: Array
    critical: float
    critical_one_sided: float
    level: float
    count: int
    repeated: bool

    @property
    def error(self) -> Array:
        """Standard errors [c]."""
        return np.sqrt(self.prompts + self.runs + self.interpolation)


def _tested(table: _Table, ends: Array, seed: int, draws: int, level: float) -> _Tested:
    """Differences of the readings at ``ends`` [2, c] and the distribution of their largest |t|."""
    first, second = ends
    difference = table.means[first] - table.means[second]
    gaps = table.centered[:, first] - table.centered[:, second]
    count = table.prompts
    squares = (gaps**2).sum(axis=0)
    prompts = squares / (count * (count - 1)) if count > 1 else np.zeros(len(first))
    apart = _unshared(table, first, second)
    runs = table.runs[first] + table.runs[second] + apart
    interpolation = table.interpolation[first] + table.interpolation[second]
    sizes = _simulated(table, (first, second), (squares, apart), seed, draws)
    error = np.sqrt(prompts + runs + interpolation)
    size = np.divide(np.abs(difference), error, out=np.zeros_like(error), where=error > 0)
    size = np.where((error == 0) & (difference != 0), math.inf, size)
    largest = sizes.max(axis=1) if sizes.size else np.zeros(0)
    beyond = (largest[:, None] >= size).sum(axis=0) if sizes.size else np.zeros(len(first))
    responses = table.responses[first] + table.responses[second]
    return _Tested(
        difference,
        prompts,
        np.minimum(responses, prompts),
        runs,
        interpolation,
        np.quantile(sizes, 1 - LEVEL, axis=0) if sizes.size else np.zeros(0),
        (beyond + 1) / (draws + 1),
        float(np.quantile(largest, 1 - level)) if sizes.size else math.nan,
        float(np.quantile(largest, 1 - 2 * level)) if sizes.size else math.nan,
        level,
        count,
        table.repeated,
    )


def _unshared(table: _Table, first: Array, second: Array) -> Array:
    """Variance that what seeds share leaves in a difference: none where they are paired."""
    names = [one.seed_names for one in table.readings]
    found = []
    for a, b in zip(first, second, strict=True):
        both = len(set(names[a]) & set(names[b]))
        left = 1 / len(names[a]) + 1 / len(names[b]) - 2 * both / (len(names[a]) * len(names[b]))
        found.append(table.variance.common * left if table.repeated else 0.0)
    return np.array(found)


def _simulated(
    table: _Table, ends: tuple[Array, Array], known: tuple[Array, Array], seed: int, draws: int
) -> Array:
    """|t| of each comparison [draws, c] when no two losses differ."""
    first, second = ends
    squares, apart = known
    if not len(first):
        return np.zeros((0, 0))
    generator = np.random.Generator(np.random.PCG64(seed))
    shift = _run_noise(table, generator, draws)
    chi = _chi_squares(table, generator, draws)
    count = table.prompts
    moved = shift[:, first] - shift[:, second]
    moved += np.sqrt(apart) * generator.standard_normal((draws, 1))
    within = np.zeros(1)
    if count > 1:
        signed = _signed(table.centered, generator, draws)
        gap = signed[:, first] - signed[:, second]
        within = (squares / count - gap**2) / (count - 1)
        moved += gap
    total = np.maximum(table.total * chi - table.in_total, 0)
    fixed = table.interpolation[first] + table.interpolation[second] + apart
    error = np.sqrt(np.maximum(within + total[:, first] + total[:, second] + fixed, 0))
    sizes = np.divide(np.abs(moved), error, out=np.zeros_like(moved), where=error > 0)
    return np.asarray(sizes)


def _signed(centered: Array, generator: np.random.Generator, draws: int) -> Array:
    """Means over prompts [draws, r] with random signs."""
    count = len(centered)
    size = max(1, _AT_ONCE // count)
    parts = []
    for start in range(0, draws, size):
        rows = min(size, draws - start)
        signs = 2.0 * generator.integers(0, 2, size=(rows, count), dtype=np.int8) - 1
        parts.append(signs @ centered / count)
    return np.concatenate(parts)


def _run_noise(table: _Table, generator: np.random.Generator, draws: int) -> Array:
    """What runs and reading between nodes do to each reading [draws, r].

    Readings of one loss that rest on the same runs share their noise.
    """
    noise = np.zeros((draws, len(table.readings)))
    by_loss: dict[str, list[int]] = {}
    for row, reading in enumerate(table.readings):
        by_loss.setdefault(reading.loss, []).append(row)
    for rows in by_loss.values():
        shares = np.stack([table.readings[row].shares for row in rows])
        shares /= np.sqrt((shares**2).sum(axis=1, keepdims=True))
        drawn = generator.standard_normal((draws, shares.shape[1])) @ shares.T
        noise[:, rows] = drawn * np.sqrt(table.runs[rows])
    between = np.sqrt(table.interpolation) * generator.standard_normal(noise.shape)
    return np.asarray(noise + between)


def _chi_squares(table: _Table, generator: np.random.Generator, draws: int) -> Array:
    """How far estimated run variances are from the true ones, as factors [draws, r]."""
    losses = list(dict.fromkeys(one.loss for one in table.readings))
    row_of = [losses.index(one.loss) for one in table.readings]
    freedom = np.array([table.freedom[row_of.index(place)] for place in range(len(losses))])
    freedom = np.maximum(freedom, 1e-3)
    if table.variance.shared:
        return np.asarray(generator.chisquare(freedom[0], (draws, 1)) / freedom[0])
    drawn = generator.chisquare(freedom, (draws, len(losses))) / freedom
    return np.asarray(drawn[:, row_of])


def _comparison(
    pair: tuple[Reading, Reading], tested: _Tested, index: int, same_within: float | None
) -> Comparison:
    first, second = pair
    value, error = float(tested.difference[index]), float(tested.error[index])
    if not tested.count and not tested.repeated:
        return Comparison(
            first.loss,
            second.loss,
            first.kl,
            Estimate(value),
            Estimate(value),
            spread=_spread(pair, tested, index),
            bias_bound=_bound(pair),
            reason=ONE_RUN,
        )
    own, band, narrow = (
        Estimate(value, value - width * error, value + width * error, tested.count)
        for width in (float(tested.own[index]), tested.critical, tested.critical_one_sided)
    )
    decided = float(tested.p_value[index]) < tested.level
    said = _verdict(value, decided, narrow, same_within)
    bound, reason = _bound(pair), ""
    if said in ("better", "worse") and bound > LARGEST_BIAS * abs(value):
        said, reason = "open", WIDE_BRACKET
    if said != "open" and not tested.repeated:
        reason = ONE_SEED
    return Comparison(
        first.loss,
        second.loss,
        first.kl,
        own,
        band,
        float(tested.p_value[index]),
        _spread(pair, tested, index),
        bound,
        said if tested.repeated else "open",
        said,
        reason,
    )


ONE_SEED = "one seed: these policies differ, of the losses nothing is known"
ONE_RUN = "one run each, of which only the mean is known"
WIDE_BRACKET = "the policies lie too far from this KL"


def _verdict(value: float, decided: bool, narrow: Estimate, same_within: float | None) -> str:
    if decided:
        return "better" if value > 0 else "worse"
    margin = same_within or 0.0
    return "same" if -margin < narrow.low and narrow.high < margin else "open"


def _bound(pair: tuple[Reading, Reading]) -> float:
    return math.hypot(pair[0].bias_bound, pair[1].bias_bound)


def _spread(pair: tuple[Reading, Reading], tested: _Tested, index: int) -> Spread:
    prompts, responses = float(tested.prompts[index]), float(tested.responses[index])
    repeated = tested.repeated
    return Spread(
        math.sqrt(prompts - (responses if repeated else 0.0)) if tested.count else math.nan,
        math.sqrt(responses) if repeated and tested.count else math.nan,
        math.sqrt(float(tested.runs[index])) if repeated else math.nan,
        math.sqrt(float(tested.interpolation[index])),
        min(len(one.seed_names) for one in pair),
    )


def _missing(first: str, second: str, kl: float, reasons: Mapping[str, str]) -> Comparison:
    why = "; ".join(f"{name} {reasons[name]}" for name in (first, second) if name in reasons)
    return Comparison(first, second, kl, Estimate.missing(), Estimate.missing(), reason=why)
