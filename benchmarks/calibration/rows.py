"""What is counted: how often an interval holds the truth, or a family is wrongly separated."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from dpo_bench.analysis.estimate import Estimate


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        figure: what is estimated.
        setting: of the simulation.
        simulations: how many experiments were drawn.
        share: of the intervals that hold the truth, or of experiments with a false separation.
        low: smallest share that is accepted.
        high: largest.
        plain: the share for the resampling of prompts and seeds, or for one curve through the
            policies of all steps, where it was tried.
    """

    figure: str
    setting: str
    simulations: int
    share: float
    low: float
    high: float
    plain: float | None = None

    @property
    def error(self) -> float:
        """Standard error of the share at its nominal value of 95% (or 5%)."""
        return math.sqrt(0.95 * 0.05 / self.simulations)

    @property
    def holds(self) -> bool:
        """Whether the share lies in the accepted range, give or take two standard errors."""
        return self.low - 2 * self.error <= self.share <= self.high + 2 * self.error


def coverage(figure: str, setting: str, held: Iterable[bool], plain: Iterable[bool] = ()) -> Row:
    """A row from whether each interval held the truth: 93 to 97% is accepted."""
    found, other = list(held), list(plain)
    return Row(
        figure,
        setting,
        len(found),
        sum(found) / len(found),
        0.93,
        0.97,
        sum(other) / len(other) if other else None,
    )


def false_separations(
    figure: str, setting: str, wrong: Iterable[bool], plain: Iterable[bool] = ()
) -> Row:
    """A row from whether each experiment separated anything: at most 5% is accepted."""
    found, other = list(wrong), list(plain)
    beside = sum(other) / len(other) if other else None
    return Row(figure, setting, len(found), sum(found) / len(found), 0.0, 0.05, beside)


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether an interval holds a number."""
    return estimate.low <= truth <= estimate.high
