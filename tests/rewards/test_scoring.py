"""Win fractions by rewards and by judges, and everyone against everyone."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from dpo_bench.analysis.bootstrap import Array
from dpo_bench.analysis.opponents import round_robin
from dpo_bench.evaluation.policy import make_scoring
from dpo_bench.evaluation.reference_evaluation import ReferenceEvaluation
from dpo_bench.experiment.config import Evaluation
from dpo_bench.progress import Tell
from dpo_bench.rewards.base import Prompt, Reward
from dpo_bench.rewards.judge import Cost, Judgement, find_judge
from dpo_bench.rewards.sanity_checks import Resampling, control_reward
from dpo_bench.rewards.scoring import JudgeScoring, NoScoring, RewardScoring
from tests.rewards.judge_server import asked, running

QUESTIONS = (Prompt.of("p"), Prompt.of("q"))


def length(_prompts: list[Prompt], responses: list[str]) -> list[float]:
    return [len(response) for response in responses]


def by_length(prompts: list[Prompt], responses: list[str], _tell: Tell) -> list[float]:
    return length(prompts, responses)


def table() -> pd.DataFrame:
    """Two prompts with two responses each."""
    return pd.DataFrame(
        {
            "prompt_id": [0, 0, 1, 1],
            "sample": [0, 1, 0, 1],
            "prompt": ["p", "p", "q", "q"],
            "response": ["a", "aaa", "bb", "bbbb"],
        }
    )


def reference(*, scored: bool) -> ReferenceEvaluation:
    return ReferenceEvaluation(
        rewards=np.array([[1.0, 2.0, 4.0], [2.0, 2.0, 5.0]]) if scored else None,
        chosen_rewards=np.array([2.0, 4.0]) if scored else None,
        responses=(("c", "cc", "cccc"), ("dd", "dd", "ddddd")),
        chosen=("cc", "dddd"),
        own=pd.DataFrame(),
    )


def test_a_reward_meets_every_opponent() -> None:
    samples = table()
    scoring = make_scoring(Reward("length", "1", by_length), QUESTIONS, reference(scored=True), 1)
    assert isinstance(scoring, RewardScoring)
    assert scoring.score(samples) == {"reward_truncated": 0}
    assert samples["reward"].tolist() == [1, 3, 2, 4]
    np.testing.assert_allclose(samples["win_reference"], [1 / 6, 2 / 3, 1 / 3, 2 / 3])
    assert samples["win_chosen"].tolist() == [0, 1, 0, 0.5]


def test_a_judge_meets_a_few_and_gives_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPO_BENCH_CACHE", str(tmp_path))
    samples = table()
    with running() as url:
        options = Evaluation(judge_base_url=url, judge_key_variable="")
        scoring = make_scoring(find_judge("rule", options), QUESTIONS, reference(scored=False), 2)
        assert isinstance(scoring, JudgeScoring)
        cost = scoring.score(samples)["judge"]
        # 4 responses, 2 opponents and the chosen one each, 2 orders; equal texts are one question
        assert cost["requests"] == len(asked(url)) == cost["asked"]
        assert cost["requests"] <= 4 * 3 * 2
    assert samples["reward"].isna().all()
    # sample 0 meets opponents 0 and 1, sample 1 meets 2 and 0
    assert samples["win_reference"].tolist() == [0.25, 0.5, 0.5, 0.5]
    assert samples["win_chosen"].tolist() == [0, 1, 0, 0.5]
    assert samples["judge_agreed"].tolist() == [1, 1, 1, 1]


class Forgetful:
    """A judge without a verdict on some pairs."""

    def __init__(self, silent: set[int]) -> None:
        self.silent = silent

    def compare(self, prompts: list[str], *_others: Any) -> Judgement:
        wins = np.array([np.nan if place in self.silent else 1.0 for place in range(len(prompts))])
        return Judgement(wins, wins, wins, Cost(0, 0, 0, 0, 0))


def test_lost_verdicts_are_counted_by_opponent_and_prompt() -> None:
    # pairs 0 to 7 meet the reference, two for each response; 8 to 11 the chosen
    silent = {0, 1, 2, 3, 4, 10}
    known = reference(scored=False)
    judge: Any = Forgetful(silent)
    scoring = JudgeScoring(judge, QUESTIONS, known.responses, known.chosen, 2)
    samples = table()
    found = scoring.score(samples)["lost_verdicts"]
    assert found == {
        "by_opponent": {
            "reference": {"pairs": 8, "lost": 5, "prompts": 2, "dropped": 1},
            "chosen": {"pairs": 4, "lost": 1, "prompts": 1, "dropped": 0},
        },
        "prompts": 2,
    }
    assert samples["win_reference"].isna().tolist() == [True, True, False, False]


def test_without_either_everything_is_missing() -> None:
    samples = table()
    assert isinstance(make_scoring(None, QUESTIONS, reference(scored=False), 1), NoScoring)
    NoScoring().score(samples)
    assert samples[["reward", "win_reference", "win_chosen"]].isna().all(axis=None)


def test_a_round_robin_is_all_pairs_of_responses() -> None:
    generator = np.random.default_rng(0)
    players = [generator.integers(0, 4, (5, samples)).astype(float) for samples in (2, 3, 1)]
    wins = round_robin(players)
    assert wins.shape == (3, 3, 5)
    for first, second in itertools.product(range(3), repeat=2):
        for prompt in range(5):
            pairs = list(itertools.product(players[first][prompt], players[second][prompt]))
            share = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
            assert wins[first, second, prompt] == pytest.approx(share)
    np.testing.assert_allclose(wins + wins.swapaxes(0, 1), 1)
    with pytest.raises(ValueError, match="same prompts"):
        round_robin([np.zeros((2, 1)), np.zeros((3, 1))])


TEXTS = ["a", "bb", "ccc", "dddd"]
OPPONENTS = np.array([[30.0, 1.0], [1.0, 1.0], [40.0, 40.0], [1.0, 19.0]])


def controls(
    function: Callable[[list[Prompt], list[str]], Any], opponents: Array = OPPONENTS
) -> dict[str, tuple[float, bool | None]]:
    found = control_reward(
        Reward("own", "1", lambda prompts, responses, _tell: function(prompts, responses)),
        [Prompt.of(text) for text in TEXTS],
        TEXTS,
        opponents,
        Resampling(100, 0),
    )
    return {one.name: (one.estimate.value, one.passed) for one in found}


def test_controls_of_a_reward_tell_one_that_depends_on_the_order() -> None:
    assert controls(length) == {
        "self": (0.5, True),
        "null": (2.25 / 4, None),
        "order": (1.0, True),
        "responses": (1.0, True),
    }
    assert controls(lambda _, responses: range(len(responses)))["order"] == (0.0, False)


def centered(values: Array) -> Array:
    return np.asarray(values - values.mean())


def whitened(values: Array) -> Array:
    return np.asarray(centered(values) / (values.std() + 1e-8))


def undefined_alone(values: Array) -> Array:
    deviation = values.std(ddof=1) if len(values) > 1 else np.nan  # what torch gives
    return np.asarray(centered(values) / (deviation + 1e-8))


def ranked(values: Array) -> Array:
    return values.argsort().argsort() / len(values)


def of_the_largest(values: Array) -> Array:
    return np.asarray(values / values.max())


def squeezed(values: Array) -> Array:
    return values.squeeze()  # of one text a number and no list


@pytest.mark.parametrize(
    "within", [centered, whitened, undefined_alone, ranked, of_the_largest, squeezed]
)
def test_a_reward_that_depends_on_what_else_is_scored_fails(
    within: Callable[[Array], Array],
) -> None:
    def function(prompts: list[Prompt], responses: list[str]) -> Array:
        return within(np.array(length(prompts, responses), dtype=float))

    value, passed = controls(function)["order"]
    assert value < 1
    assert passed is False


@pytest.mark.parametrize("bits", [torch.float32, torch.bfloat16])
def test_rounding_in_another_batch_is_no_dependence(bits: torch.dtype) -> None:
    """A value plus what bits lose of it when a batch has another size."""

    def function(prompts: list[Prompt], responses: list[str]) -> list[float]:
        size = float(torch.finfo(bits).eps) * (1 if len(responses) < len(TEXTS) else 0)
        return [value * (1 + size) for value in length(prompts, responses)]

    assert controls(function)["order"] == (1.0, True)


@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_a_reward_that_does_not_read_responses_fails(scale: float) -> None:
    """Such as one whose parameters are taken for each other, also when a model rounds it."""

    def of_prompts(prompts: list[Prompt], responses: list[str]) -> list[float]:
        noise = 1 + 1e-6 * len(responses[0])
        return [scale * len(prompt.text) * noise for prompt in prompts]

    own = np.repeat(scale * np.array([[1.0], [2.0], [3.0], [4.0]]), 2, axis=1)
    assert controls(of_prompts, own)["responses"] == (0.0, False)
    assert controls(lambda _, responses: [0.0] * len(responses), own * 0)["responses"][1] is False

    def of_both(prompts: list[Prompt], responses: list[str]) -> list[float]:
        return [
            scale * (100 * len(p.text) + len(r)) for p, r in zip(prompts, responses, strict=True)
        ]

    own = scale * np.array([[101, 102], [202, 201], [303, 303], [404, 404]])
    assert controls(of_both, own)["responses"] == (1.0, True)


def test_a_prompt_of_which_one_response_differs_is_enough() -> None:
    own = np.ones((4, 2))
    own[2, 1] = 2.0  # the reward of no other response to any prompt
    found = controls(lambda _, responses: [1.0] * len(responses), own)
    assert found["responses"] == (0.25, True)
