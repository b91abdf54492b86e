"""What an experiment can see: the difference it would show, and what it takes to show a given one.

A difference is shown when its |t| exceeds the critical value c of its family. With a chance of 80%
that happens where it is at least (c + z) standard errors, z = .84 the normal quantile of 80%.

The variance of a difference of two losses at a KL is

    V = 2 / n (P + E / (m S)) + 2 R / S

with n prompts, m responses to each, S seeds; P the variance over prompts of what a loss does to a
prompt, E that of a response within a run, R that of runs (Miller 2024, arXiv:2411.00640, section 5,
has the first two). Prompts lower the first part alone, seeds the second and E, responses E alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from dpo_bench.analysis.comparisons import Comparison, Spread

POWER = 0.8
"""chance with which a difference is to be shown"""

PROMPTS = (32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
RESPONSES = (1, 2, 4, 8)
SEEDS = (2, 3, 4, 5, 6, 8, 10, 15, 20)
"""mixes that are looked at"""


@dataclass(frozen=True, slots=True)
class Components:
    """Variance components of a loss's figure at a KL, in its unit squared.

    Attributes:
        prompts: P, of what a loss does to a prompt.
        responses: E, of a response within a run.
        runs: R, of runs.
        source: where they come from, in words.
    """

    prompts: float
    responses: float
    runs: float
    source: str = ""

    def variance(self, prompts: int, responses: int, seeds: int) -> float:
        """Of the difference of two losses."""
        within = self.prompts + self.responses / (responses * seeds)
        return 2 * within / prompts + 2 * self.runs / seeds


DEFAULT = Components(0.0034, 0.04, 0.00024, "defaults: the quickstart's rewards, from -1 to 1")
"""What the quickstart with three seeds shows (``--pilot`` prints a sweep's own)."""


@dataclass(frozen=True, slots=True)
class Mix:
    """A number of prompts, responses to each and seeds, with what they can show and cost.

    Attributes:
        prompts: held-out prompts.
        responses: to each of them, of every policy.
        seeds: training runs of every setting.
        shown: the difference that is shown with a chance of `POWER`.
        seconds: of all trials.
    """

    prompts: int
    responses: int
    seeds: int
    shown: float
    seconds: float


def detectable_difference(comparisons: Sequence[Comparison], critical: float) -> float:
    """The difference that a comparison's design shows with a chance of 80%; NaN with one seed."""
    errors = [
        one.spread.total
        for one in comparisons
        if one.spread and one.spread.seeds > 1 and not math.isnan(one.difference.low)
    ]
    return (critical + _quantile(POWER)) * median(errors) if errors else math.nan


def components_of(
    spreads: Sequence[Spread], prompts: int, responses: int, source: str
) -> Components | None:
    """The components behind the comparisons of a sweep; None with one seed.

    Args:
        spreads: of differences of two losses.
        prompts: n of that sweep.
        responses: m.
        source: its name.
    """
    known = [one for one in spreads if one.seeds > 1 and prompts > 1]
    if not known:
        return None
    seeds = known[0].seeds

    def half(values: Iterator[float]) -> float:
        return median(values) / 2

    return Components(
        prompts=half(one.prompts**2 for one in known) * prompts,
        responses=half(one.responses**2 for one in known) * prompts * responses * seeds,
        runs=half(one.runs**2 for one in known) * seeds,
        source=source,
    )


def critical_value(comparisons: int) -> float:
    """|t| that the largest of so many independent comparisons exceeds with 5% (Sidak 1967).

    >>> round(critical_value(1), 2), round(critical_value(9), 2)
    (1.96, 2.77)
    """
    return _quantile(0.5 + 0.5 * 0.95 ** (1 / max(comparisons, 1)))


def mixes(
    components: Components,
    difference: float,
    comparisons: int,
    seconds: Callable[[int, int, int], float],
) -> list[Mix]:
    """The mixes that show a difference with a chance of 80%, the cheapest first.

    Args:
        components: of the variance.
        difference: to be shown, in units of the measure.
        comparisons: how many are made at once.
        seconds: what all trials take with so many prompts, responses and seeds.
    """
    found = [
        Mix(*one, shown(components, comparisons, *one), seconds(*one))
        for one in itertools.product(PROMPTS, RESPONSES, SEEDS)
    ]
    return sorted((one for one in found if one.shown <= difference), key=lambda one: one.seconds)


def shown(
    components: Components, comparisons: int, prompts: int, responses: int, seeds: int
) -> float:
    """The difference that a mix shows with a chance of 80%, among so many comparisons."""
    reach = critical_value(comparisons) + _quantile(POWER)
    return reach * math.sqrt(components.variance(prompts, responses, seeds))


def _quantile(share: float) -> float:
    from scipy.special import ndtri

    return float(ndtri(share))
