"""THE table of metrics: what is measured of a policy, and everything that is said of it.

A metric is an entry of `METRICS`: its column in the results, its title, unit and digits wherever it
is printed, what it means and who defined it. Where it is a mean over responses or held-out pairs
the entry also computes it, so that a new one is written here and nowhere else: the evaluator, the
results table, the report, the page and ``docs/metrics.md`` follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from dpo_bench.analysis.estimate import Estimate

if TYPE_CHECKING:
    import pandas as pd

    from dpo_bench.analysis.results import SweepResults

Need = Literal["", "reward", "comparison", "judge", "scale", "request"]
"""What a metric needs beside a policy: nothing, rewards of responses, comparisons with opponents
(by a reward or a judge), a judge, a loss whose strength scales an implicit reward, to be asked
for."""


@dataclass(frozen=True, slots=True)
class FromRows:
    """How a metric is computed from a table: a value per row, or a ratio of sums.

    Attributes:
        table: ``samples``, a row per response, or ``heldout``, a row per held-out pair.
        column: a column that this needs; without any value in it the metric is missing.
        value: of each row; the metric is the mean over prompts of each prompt's mean.
        over: a column: the metric is instead the sum of `column` over the sum of this one.
        wins: whether the values are shares of wins, whose mean has the interval of a win rate.
    """

    table: Literal["samples", "heldout"]
    column: str
    value: Callable[[pd.DataFrame], pd.Series[float]] | None = None
    over: str = ""
    wins: bool = False

    def values(self, table: pd.DataFrame) -> pd.Series[float]:
        """The value of each row."""
        return table[self.column] if self.value is None else self.value(table)


@dataclass(frozen=True, slots=True)
class Metric:
    """One entry of the table.

    Attributes:
        name: its column in the results.
        title: as a heading or an axis.
        unit: in words; empty for shares and rewards.
        decimals: shown after the point.
        about: what it means, in a sentence or two.
        source: who defined it; empty for a plain count or mean.
        needs: without what it is missing.
        rows: how it is computed; None where `dpo_bench.evaluation.compute` does.
        in_table: whether the report's table of trials has a column for it.
        in_heat_map: whether it is drawn by loss and strength.
    """

    name: str
    title: str
    unit: str
    decimals: int
    about: str
    source: str = ""
    needs: Need = ""
    rows: FromRows | None = None
    in_table: bool = False
    in_heat_map: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is a share of comparisons, from 0 to 1."""
        return self.name in ("win_rate", "win_rate_chosen", "preference_accuracy")

    @property
    def phrase(self) -> str:
        """The title inside a sentence."""
        return self.title[:1].lower() + self.title[1:]

    @property
    def axis(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def digits(self, estimate: Estimate) -> int:
        """Decimals for one figure: more than usual where its interval is narrow."""
        if not estimate.has_interval or estimate.high <= estimate.low:
            return self.decimals
        needed = math.ceil(-math.log10((estimate.high - estimate.low) / 2))
        return min(max(self.decimals, needed), self.decimals + 2)


def _responses(column: str, *, over: str = "") -> FromRows:
    return FromRows("samples", column, over=over)


def _wins(column: str) -> FromRows:
    return FromRows("samples", column, wins=True)


def _pairs(
    column: str, value: Callable[[pd.DataFrame], pd.Series[float]] | None = None
) -> FromRows:
    return FromRows("heldout", column, value)


METRICS = (
    Metric(
        "win_rate",
        "Win rate against the reference",
        "",
        3,
        "Share of the reference's responses to the same prompt that the policy's response beats,"
        " ties a half.",
        needs="comparison",
        rows=_wins("win_reference"),
        in_table=True,
        in_heat_map=True,
    ),
    Metric(
        "reward",
        "Mean reward",
        "",
        3,
        "Mean reward of the policy's responses.",
        needs="reward",
        rows=_responses("reward"),
        in_table=True,
        in_heat_map=True,
    ),
    Metric(
        "kl",
        "KL to the reference",
        "nats",
        2,
        "KL(policy || reference) per response, Rao-Blackwellised.",
        source="Amini et al. 2025, arXiv:2504.10637",
        rows=_responses("kl"),
        in_table=True,
        in_heat_map=True,
    ),
    Metric(
        "frontier_gap",
        "Gap to the optimum",
        "",
        3,
        "Optimal reward at this KL minus the policy's reward; missing where the frontier is not"
        " known.",
        needs="reward",
        in_table=True,
    ),
    Metric(
        "preference_accuracy",
        "Preference accuracy",
        "",
        3,
        "Share of held-out pairs whose margin is above 0, half where it is 0.",
        rows=_pairs("margin", lambda pairs: (pairs["margin"] > 0) + 0.5 * (pairs["margin"] == 0)),
        in_table=True,
        in_heat_map=True,
    ),
    Metric(
        "margin",
        "Margin",
        "nats",
        2,
        "Chosen minus rejected log-ratio on held-out pairs.",
        rows=_pairs("margin"),
        in_table=True,
    ),
    Metric(
        "chosen_logratio",
        "Chosen log-ratio",
        "nats",
        2,
        "Log-probability of the chosen response under the policy minus under the reference,"
        " held-out pairs.",
        rows=_pairs("chosen_logratio"),
        in_table=True,
        in_heat_map=True,
    ),
    Metric(
        "rejected_logratio",
        "Rejected log-ratio",
        "nats",
        2,
        "The same for the rejected response.",
        rows=_pairs("rejected_logratio"),
        in_table=True,
    ),
    Metric(
        "response_tokens",
        "Response length",
        "tokens",
        1,
        "Mean length of the policy's responses.",
        rows=_responses("tokens"),
        in_table=True,
        in_heat_map=True,
    ),
    Metric(
        "win_rate_chosen",
        "Win rate against the chosen response",
        "",
        3,
        "The same against the dataset's chosen response.",
        needs="comparison",
        rows=_wins("win_chosen"),
        in_table=True,
    ),
    Metric(
        "kl_monte_carlo",
        "KL, plain Monte Carlo",
        "nats",
        2,
        "The same from the sampled log-ratios alone: noisier, printed as a check.",
        rows=_responses("kl_monte_carlo"),
        in_table=True,
    ),
    Metric(
        "judge_consistency",
        "Judge's consistency",
        "",
        3,
        "Share of judged pairs on which both orders agree.",
        needs="judge",
        rows=_responses("judge_agreed"),
        in_table=True,
    ),
    Metric(
        "kl_per_token",
        "KL per token",
        "nats per token",
        4,
        "All responses' KL over all their tokens: longer responses lower it while KL rises."
        " It is no divergence of whole responses, and policies are never matched by it.",
        rows=_responses("kl", over="kl_tokens"),
    ),
    Metric(
        "kl_reverse",
        "Reverse KL",
        "nats",
        2,
        "KL(reference || policy) per response of the reference.",
        needs="request",
        rows=_responses("kl_reverse"),
    ),
    Metric(
        "length_drift",
        "Length drift",
        "tokens",
        1,
        "Mean response length minus the reference's to the same prompts.",
    ),
    Metric(
        "token_entropy",
        "Token entropy",
        "nats per token",
        3,
        "Entropy of the next token at temperature 1.",
        rows=_responses("entropy", over="kl_tokens"),
    ),
    Metric(
        "repetition",
        "Repetition",
        "",
        3,
        "Share of a response that repeats itself.",
        rows=_responses("repetition"),
    ),
    Metric(
        "distinct_2",
        "Distinct 2-grams",
        "",
        3,
        "Share of different 2-grams among the responses to one prompt.",
        source="Li et al. 2016, arXiv:1510.03055",
    ),
    Metric(
        "degenerate",
        "Degenerate",
        "",
        0,
        "1 where the stated rule flags the policy, else 0.",
    ),
    Metric(
        "misordered",
        "Misordered pairs",
        "",
        3,
        "Share of held-out pairs with a margin below 0.",
        rows=_pairs("margin", lambda pairs: (pairs["margin"] < 0).astype(float)),
    ),
    Metric(
        "displaced",
        "Displaced pairs",
        "",
        3,
        "Share of held-out chosen responses that became less likely than under the reference.",
        source="Razin et al. 2024, arXiv:2410.08847",
        rows=_pairs("chosen_logratio", lambda pairs: (pairs["chosen_logratio"] < 0).astype(float)),
    ),
    Metric(
        "brier",
        "Brier score",
        "",
        3,
        "Squared error of the implicit reward's probabilities on held-out pairs.",
        source="Rafailov et al. 2023, arXiv:2305.18290, section 4",
        needs="scale",
    ),
    Metric(
        "calibration_error",
        "Calibration error",
        "",
        3,
        "How far those probabilities are from the shares that come true.",
        source="Guo et al. 2017, arXiv:1706.04599",
        needs="scale",
    ),
)
"""Every metric once, in the order in which tables show them."""

BY_NAME = {metric.name: metric for metric in METRICS}
REWARD, WIN_RATE, WIN_RATE_CHOSEN = (
    BY_NAME[name] for name in ("reward", "win_rate", "win_rate_chosen")
)
KL, FRONTIER_GAP = BY_NAME["kl"], BY_NAME["frontier_gap"]
ACCURACY, CONSISTENCY = BY_NAME["preference_accuracy"], BY_NAME["judge_consistency"]
CHOSEN, REJECTED = BY_NAME["chosen_logratio"], BY_NAME["rejected_logratio"]

IN_TABLE = tuple(metric for metric in METRICS if metric.in_table)
IN_HEAT_MAP = tuple(metric for metric in METRICS if metric.in_heat_map)


def present(results: SweepResults, metrics: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Those of the metrics that some trial has, worded for how the sweep compares responses."""
    return tuple(
        _judged(metric) if results.judge else metric
        for metric in metrics
        if results.has(metric.name)
    )


def _judged(metric: Metric) -> Metric:
    """A win rate that a judge gave says so."""
    if metric not in (WIN_RATE, WIN_RATE_CHOSEN):
        return metric
    opponent = metric.title.partition("against ")[2]
    return replace(
        metric,
        title=f"Judge's win rate against {opponent}",
        about=(
            f"Share of comparisons with {opponent} to the same prompt that the judge decides for"
            " the policy's response in both orders, ties and disagreements a half."
        ),
    )


def ranking(results: SweepResults) -> Metric:
    """What tells a loss's best policy: reward, a judge's win rate, or held-out accuracy."""
    if results.has_reward:
        return REWARD
    (found,) = present(results, (WIN_RATE,)) or (ACCURACY,)
    return found


def headline(results: SweepResults) -> tuple[Metric, ...]:
    """What is drawn against KL: reward and win rate, or accuracy where nothing is scored."""
    return present(results, (REWARD, WIN_RATE) if results.has_wins else (ACCURACY,))


def explored(results: SweepResults) -> tuple[Metric, ...]:
    """Every metric that some trial has, also those that this table does not know."""
    known = present(results, METRICS)
    names = {name for trial in results.done for name in trial.metrics}
    strange = sorted(names - set(BY_NAME))
    further = (Metric(name, name.replace("_", " ").capitalize(), "", 3, "") for name in strange)
    return (*known, *present(results, tuple(further)))
