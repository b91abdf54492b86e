"""What judging a sweep may take, worked out before anything is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import comb
from typing import TYPE_CHECKING

from dpo_bench.analysis.judge_costs import dollars
from dpo_bench.rewards.judge_text import question

if TYPE_CHECKING:
    from dpo_bench.experiment.config import Evaluation

ORDERS = 2
CONTROL_PAIRS = 4
"""Of each controlled prompt: order, null, neutral, injection; see `rewards.sanity_checks`."""
CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions to a judge, each pair in both orders.

    An upper bound: equal questions are asked once, and those answered before are not asked again.

    Attributes:
        trials: each response against some of the reference's and against the chosen one.
        controls: of the judge itself.
        round_robin: every trial, the reference and the chosen responses against each other.
    """

    trials: int
    controls: int
    round_robin: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.trials + self.controls + self.round_robin


def count_questions(options: Evaluation, trials: int, evaluations: int = 1) -> Questions:
    """The questions of a sweep.

    Args:
        options: the evaluation's settings.
        trials: how many trials are planned.
        evaluations: of each trial, those along training included.
    """
    responses = options.prompts * options.samples_per_prompt * trials * evaluations
    players = comb(trials + 2, 2) if options.judge_round_robin else 0
    return Questions(
        trials=responses * (options.judge_opponents + 1) * ORDERS,
        controls=min(options.controls, options.prompts) * CONTROL_PAIRS * ORDERS,
        round_robin=players * options.prompts * ORDERS,
    )


def tokens_per_question(options: Evaluation, prompt: float, response: float) -> float:
    """Tokens that the judge reads for one verdict.

    Args:
        options: the evaluation's settings.
        prompt: mean tokens of a prompt.
        response: mean tokens of a response, at most ``max_new_tokens``.
    """
    words = question(options.judge_criterion, "", "", "")
    # The codes of the fences are no words: tokenizers make a token of nearly each character. With
    # SmolLM2's the question that is shipped has 277 tokens, and 284 are expected here.
    codes = sum(map(len, re.findall(r"\b[0-9a-f]{20}\b", words)))
    own = codes + (len(words) - codes) / CHARACTERS_PER_TOKEN
    return own + prompt + 2 * min(response, options.max_new_tokens)


def describe_questions(options: Evaluation, trials: int, evaluations: int) -> str:
    """Number of questions and where they come from, in a sentence."""
    found = count_questions(options, trials, evaluations)
    often = f" x {evaluations} evaluations" if evaluations > 1 else ""
    rivals = f"{options.judge_opponents} of the reference's + the chosen one"
    responses = f"{options.prompts} prompts x {options.samples_per_prompt} samples"
    product = f"{responses} x {trials} trials{often} x ({rivals}) x {ORDERS} orders"
    parts = [f"{found.trials:,} of the trials ({product})", f"{found.controls:,} of the controls"]
    if found.round_robin:
        parts.append(f"{found.round_robin:,} of the round robin")
    model = options.reward.partition(":")[2]
    return (
        f"judge {model} at {options.judge_base_url}: at most {found.total:,} questions: "
        f"{', '.join(parts)}; equal ones and those answered before are not asked again."
    )


def describe_cost(options: Evaluation, questions: int, prompt: float, response: float) -> str:
    """Tokens of so many questions and, where prices are set, what they cost; in a sentence."""
    read = questions * tokens_per_question(options, prompt, response)
    written = questions * options.judge_max_tokens
    cost = dollars(read, written, (options.judge_price_input, options.judge_price_output))
    money = (
        "the cost is not known: set evaluation.judge_price_input and judge_price_output"
        if cost is None
        else f"at the prices given at most about {cost:,.2f} US dollars"
    )
    return (
        f"About {_millions(read)} tokens read and at most {_millions(written)} written; {money} "
        "(an estimate from lengths, good to a factor of two; the report counts what was used)."
    )


def _millions(tokens: float) -> str:
    return f"{tokens / 1e6:,.2f} million" if tokens >= 1e5 else f"{tokens:,.0f}"
