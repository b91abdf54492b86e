"""What is counted, and the bound that each count must meet."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dpo_bench.analysis.estimate import Estimate


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        figure: what is estimated or decided.
        setting: of the simulation.
        count: how many were counted: intervals, or experiments.
        experiments: how many independent experiments these come from.
        share: of the intervals that hold the truth, of experiments with a false verdict, of
            differences that are found.
        low: smallest share that is accepted.
        high: largest.
        about: what else was seen, in words.
    """

    figure: str
    setting: str
    count: int
    experiments: int
    share: float
    low: float
    high: float
    about: str = ""

    @property
    def error(self) -> float:
        """Standard error of the share where it meets its bound, by the independent experiments."""
        bound = min(max(self.share, self.low), self.high)
        return math.sqrt(max(bound * (1 - bound), 0.0025) / self.experiments)

    @property
    def holds(self) -> bool:
        """Whether the share lies in the accepted range, give or take two standard errors."""
        return self.low - 2 * self.error <= self.share <= self.high + 2 * self.error


def coverage(
    figure: str,
    setting: str,
    held: Iterable[bool],
    experiments: int = 0,
    *,
    high: float = 0.97,
    about: str = "",
) -> Row:
    """A row from whether each interval held the truth: 93 to 97% is accepted.

    Args:
        figure: what is estimated.
        setting: of the simulation.
        held: of every interval.
        experiments: independent ones; 0 where every interval is one.
        high: 1 where discrete answers make an interval hold more.
        about: what else was seen.
    """
    found = list(held)
    count = len(found)
    return Row(figure, setting, count, experiments or count, sum(found) / count, 0.93, high, about)


def false_verdicts(figure: str, setting: str, wrong: Iterable[bool], about: str = "") -> Row:
    """A row from whether each experiment had a false verdict: at most 5% is accepted."""
    found = list(wrong)
    return Row(figure, setting, len(found), len(found), sum(found) / len(found), 0.0, 0.05, about)


def at_least(figure: str, setting: str, found: Iterable[bool], least: float, about: str) -> Row:
    """A row from how often something was found that is there."""
    shown = list(found)
    return Row(figure, setting, len(shown), len(shown), sum(shown) / len(shown), least, 1.0, about)


def at_most(figure: str, setting: str, found: Iterable[bool], most: float, about: str) -> Row:
    """A row from how often something happened that should not."""
    seen = list(found)
    return Row(figure, setting, len(seen), len(seen), sum(seen) / len(seen), 0.0, most, about)


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether an interval holds a number."""
    return estimate.low <= truth <= estimate.high
