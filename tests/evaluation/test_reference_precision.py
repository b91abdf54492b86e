"""How many opponents a policy needs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dpo_bench.evaluation.reference_precision import excess_error, opponents_needed, rounds
from dpo_bench.experiment.config import Evaluation


@pytest.mark.parametrize(("own", "opponents"), [(1, 4), (2, 8), (2, 16), (4, 64)])
def test_the_excess_is_that_of_uniform_rewards(own: int, opponents: int) -> None:
    """For exchangeable rewards without ties it is known: sqrt(1 + (S + 1)/K) - 1."""
    random = np.random.default_rng(0)
    found = excess_error(random.random((20000, own)), random.random((20000, opponents)))
    assert found == pytest.approx(math.sqrt(1 + (own + 1) / opponents) - 1, rel=0.06)


def test_the_excess_is_what_more_opponents_take_away() -> None:
    """The spread of win rates over repeated draws of prompts, of few opponents and of very many."""
    random = np.random.default_rng(1)
    prompts, own, few, many, repeats = 5, 2, 4, 200, 20000

    def spread(opponents: int) -> float:
        level = random.normal(0, 0.4, (repeats, prompts, 1, 1))
        mine = level + random.normal(0.3, 1, (repeats, prompts, own, 1))
        theirs = random.normal(0, 1, (repeats, prompts, 1, opponents))
        return float((mine > theirs).mean(axis=(1, 2, 3)).std())

    measured = spread(few) / spread(many) - 1
    level = random.normal(0, 0.4, (20000, 1))
    mine = level + random.normal(0.3, 1, (20000, own))
    found = excess_error(mine, random.normal(0, 1, (20000, few)))
    assert found == pytest.approx(measured, abs=0.05)


def test_opponents_that_are_all_alike_add_nothing() -> None:
    assert excess_error(np.arange(6.0).reshape(3, 2), np.full((3, 4), 2.5)) == 0


def test_one_prompt_says_nothing_of_the_spread_between_prompts() -> None:
    assert excess_error(np.zeros((1, 2)), np.arange(4.0)[None]) == math.inf


def test_rounds_cover_all_samples_once() -> None:
    for most in (4, 5, 8, 63, 64):
        samples = [sample for part in rounds(most) for sample in part]
        assert samples == list(range(most))


@pytest.mark.parametrize(("most", "expected"), [(64, 6), (5, 5)])
def test_a_judge_needs_those_that_it_is_shown(most: int, expected: int) -> None:
    from dpo_bench.rewards.judge import Judge

    judge: Any = Judge.__new__(Judge)
    options = Evaluation(reference_samples=most, samples_per_prompt=3, judge_opponents=2)
    assert opponents_needed(options, judge) == expected
    assert opponents_needed(options, None) == 4
