"""What judging a sweep may take is said before it runs, and is no less than what it takes."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from dpo_bench.experiment.config import Evaluation, Experiment, LossGrid, Training
from dpo_bench.rewards.judge_text import question
from dpo_bench.sweep.judging import (
    count_questions,
    describe_cost,
    describe_questions,
    tokens_per_question,
)
from dpo_bench.sweep.preview import print_plan

OPTIONS = Evaluation(
    reward="judge:small",
    judge_base_url="http://localhost:1/v1",
    judge_key_variable="",
    prompts=8,
    samples_per_prompt=2,
    controls=32,
    judge_opponents=3,
    max_new_tokens=20,
)


def test_questions_are_counted_part_by_part() -> None:
    found = count_questions(OPTIONS, trials=5, evaluations=4)
    assert found.trials == 8 * 2 * 5 * 4 * (3 + 1) * 2
    assert found.controls == 8 * 4 * 2  # no more prompts than there are
    assert found.round_robin == 0
    everyone = OPTIONS.model_copy(update={"judge_round_robin": True})
    assert count_questions(everyone, trials=5).round_robin == 7 * 6 // 2 * 8 * 2
    text = describe_questions(everyone, 5, 1)
    assert text.startswith("judge small at http://localhost:1/v1: at most 1,040 questions: 640 of")
    assert "8 prompts x 2 samples x 5 trials x (3 of the reference's + the chosen one)" in text


def test_a_question_is_its_words_a_prompt_and_two_responses() -> None:
    text = question(OPTIONS.judge_criterion, "", "", "")
    code = text.partition("carry the code ")[2][:20]
    words = len(text.replace(code, "")) / 4 + 20 * text.count(code)
    assert words == 283.75  # 277 by SmolLM2's tokenizer
    assert tokens_per_question(OPTIONS, 10, 15) == words + 10 + 2 * 15
    assert tokens_per_question(OPTIONS, 10, 500) == words + 10 + 2 * 20


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        ({}, "the cost is not known: set evaluation.judge_price_input"),
        ({"judge_price_input": 2.0}, "the cost is not known"),
        ({"judge_price_input": 0.0, "judge_price_output": 0.0}, "at most about 0.00 US dollars"),
        # 5,000 questions of 283.75 + 10 + 2 x 15 tokens at 2, and of 16 at 10, dollars a million
        ({"judge_price_input": 2.0, "judge_price_output": 10.0}, "at most about 4.04 US dollars"),
    ],
)
def test_the_cost_is_given_where_prices_are(prices: dict[str, float], words: str) -> None:
    options = OPTIONS.model_copy(update=prices)
    text = describe_cost(options, 5000, 10, 15)
    assert words in text
    assert "estimate" in text


def planned(**settings: object) -> str:
    """What ``--dry-run`` prints for two trials."""
    experiment = Experiment(
        name="judged",
        policy="world:reviews",
        preferences="world:reviews",
        training=Training(steps=100),
        evaluation=OPTIONS.model_copy(update=settings),
        losses=(LossGrid.model_validate({"name": "dpo", "beta": (0.1, 0.3)}),),
    )
    output = io.StringIO()
    print_plan(experiment, 1, Console(file=output, width=200))
    return output.getvalue()


def test_few_tokens_are_counted_and_many_are_said_in_millions() -> None:
    """5,000 questions of 283.75 + 10 + 2 x 15 tokens, each answered in at most 16; and 100,000."""
    text = describe_cost(OPTIONS, 5000, 10, 15)
    assert text.startswith("About 1.62 million tokens read and at most 80,000 written;")
    assert "at most 0.10 million written" in describe_cost(OPTIONS, 6250, 10, 15)


def test_a_dry_run_says_what_the_judge_is_asked() -> None:
    text = planned(every=40)
    questions = 8 * 2 * 2 * 3 * (3 + 1) * 2  # at steps 40, 80 and 100
    assert f"at most {questions + 64:,} questions: {questions} of the trials" in text
    assert "x 3 evaluations x" in text
    assert " tokens read and at most " in text
    assert "questions" not in planned(reward="vader")
