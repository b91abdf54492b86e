"""What is measured of a policy: titles, units and digits, the same wherever a figure appears."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain

from dpo_bench.analysis.measured import Measured
from dpo_bench.analysis.results import SweepResults


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of the results table.

    Attributes:
        name: its column.
        title: as a heading or an axis.
        unit: in words; empty for shares and rewards.
        decimals: shown after the point.
        about: what it means, in a sentence.
        needs_reward: whether it exists only where responses are scored.
    """

    name: str
    title: str
    unit: str
    decimals: int
    about: str
    needs_reward: bool = False

    @property
    def phrase(self) -> str:
        """The title inside a sentence."""
        return self.title[:1].lower() + self.title[1:]

    @property
    def axis(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def digits(self, measured: Measured) -> int:
        """Decimals for one figure: more than usual where its interval is narrow."""
        if measured.low is None or measured.high is None or measured.high <= measured.low:
            return self.decimals
        needed = math.ceil(-math.log10((measured.high - measured.low) / 2))
        return min(max(self.decimals, needed), self.decimals + 2)


REWARD = Metric(
    "reward",
    "Mean reward",
    "",
    3,
    "Mean reward of the policy's responses.",
    needs_reward=True,
)
WIN_RATE = Metric(
    "win_rate",
    "Win rate against the reference",
    "",
    3,
    (
        "Share of the reference's responses to the same prompt that the policy's response"
        " beats, ties a half."
    ),
    needs_reward=True,
)
WIN_RATE_CHOSEN = Metric(
    "win_rate_chosen",
    "Win rate against the chosen response",
    "",
    3,
    "The same against the dataset's chosen response.",
    needs_reward=True,
)
KL = Metric(
    "kl",
    "KL to the reference",
    "nats",
    2,
    "KL(policy || reference) per response, Rao-Blackwellised.",
)
KL_MONTE_CARLO = Metric(
    "kl_monte_carlo",
    "KL, plain Monte Carlo",
    "nats",
    2,
    "The same from the sampled log-ratios alone: noisier, printed as a check.",
)
FRONTIER_GAP = Metric(
    "frontier_gap",
    "Gap to the optimum",
    "",
    3,
    (
        "Optimal reward at this KL minus the policy's reward; missing where the frontier is"
        " not known."
    ),
    needs_reward=True,
)
ACCURACY = Metric(
    "preference_accuracy",
    "Preference accuracy",
    "",
    3,
    "Share of held-out pairs whose margin is above 0, half where it is 0.",
)
MARGIN = Metric(
    "margin",
    "Margin",
    "nats",
    2,
    "Chosen minus rejected log-ratio on held-out pairs.",
)
CHOSEN = Metric(
    "chosen_logratio",
    "Chosen log-ratio",
    "nats",
    2,
    (
        "Log-probability of the chosen response under the policy minus under the reference,"
        " held-out pairs."
    ),
)
REJECTED = Metric(
    "rejected_logratio",
    "Rejected log-ratio",
    "nats",
    2,
    "The same for the rejected response.",
)
TOKENS = Metric(
    "response_tokens",
    "Response length",
    "tokens",
    1,
    "Mean length of the policy's responses.",
)

DIAGNOSTICS = tuple(
    Metric(*row)
    for row in (
        ("kl_per_token", "KL per token", "nats per token", 4,
         "All responses' KL over all their tokens: longer responses lower it while KL rises."),
        ("kl_reverse", "Reverse KL", "nats", 2,
         "KL(reference || policy) per response of the reference."),
        ("length_drift", "Length drift", "tokens", 1,
         "Mean response length minus the reference's to the same prompts."),
        ("token_entropy", "Token entropy", "nats per token", 3,
         "Entropy of the next token at temperature 1."),
        ("repetition", "Repetition", "", 3, "Share of a response that repeats itself."),
        ("distinct_2", "Distinct 2-grams", "", 3,
         "Share of different 2-grams among the responses to one prompt."),
        ("degenerate", "Degenerate", "", 0, "1 where the stated rule flags the policy, else 0."),
        ("misordered", "Misordered pairs", "", 3, "Share of held-out pairs with a margin below 0."),
        ("displaced", "Displaced pairs", "", 3,
         "Share of held-out chosen responses that became less likely than under the reference."),
        ("brier", "Brier score", "", 3,
         "Squared error of the implicit reward's probabilities on held-out pairs."),
        ("calibration_error", "Calibration error", "", 3,
         "How far those probabilities are from the shares that come true."),
        ("judge_consistency", "Judge's consistency", "", 3,
         "Share of judged pairs on which both orders agree."),
    )
)  # fmt: skip
"""what else is measured of a policy: `dpo_bench.evaluation.compute` defines each"""

CONSISTENCY = next(one for one in DIAGNOSTICS if one.name == "judge_consistency")

IN_TABLE = (
    WIN_RATE,
    REWARD,
    KL,
    FRONTIER_GAP,
    ACCURACY,
    MARGIN,
    CHOSEN,
    REJECTED,
    TOKENS,
    WIN_RATE_CHOSEN,
    KL_MONTE_CARLO,
    CONSISTENCY,
)
IN_HEAT_MAP = (WIN_RATE, REWARD, KL, ACCURACY, CHOSEN, TOKENS)


def present(results: SweepResults, measures: tuple[Metric, ...]) -> tuple[Metric, ...]:
    """Those of the measures that some trial has, worded for how the sweep compares responses."""
    return tuple(
        _judged(measure) if results.judge else measure
        for measure in measures
        if any(trial.measured(measure.name).value is not None for trial in results.done)
    )


def _judged(measure: Metric) -> Metric:
    """A win rate that a judge gave says so."""
    if measure not in (WIN_RATE, WIN_RATE_CHOSEN):
        return measure
    opponent = measure.title.partition("against ")[2]
    return replace(
        measure,
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
    """Every measure that some trial has, those that this module does not know by their names."""
    known = present(results, all_measures())
    names = {name for trial in results.done for name in trial.metrics}
    strange = sorted(names - {measure.name for measure in all_measures()})
    further = (Metric(name, name.replace("_", " ").capitalize(), "", 3, "") for name in strange)
    return (*known, *present(results, tuple(further)))


def all_measures() -> tuple[Metric, ...]:
    """Every measure once."""
    return tuple(dict.fromkeys(chain(IN_TABLE, IN_HEAT_MAP, DIAGNOSTICS)))
