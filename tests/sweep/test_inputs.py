"""What the trials of a sweep are given, and how it is described, on pairs that can be counted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpo_bench.data.tokenized import Ragged, TokenizedPairs
from dpo_bench.evaluation.prompts import EvaluationPrompts
from dpo_bench.experiment import Experiment
from dpo_bench.model.load import load_tokenizer
from dpo_bench.rewards.base import Prompt
from dpo_bench.sweep.inputs import Inputs, describe

COUNTS: dict[str, Any] = {
    "dropped": {},
    "truncated_prompts": 0,
    "truncated_responses": 0,
    "shared_prompts": 0,
}


def pairs(*rows: tuple[Sequence[int], Sequence[int], Sequence[int]]) -> TokenizedPairs:
    prompt, chosen, rejected = (
        Ragged.of([np.array(row[side], np.int32) for row in rows]) for side in range(3)
    )
    return TokenizedPairs(prompt, chosen, rejected)


TRAINING = pairs(
    ([5], [6, 7], [8]),
    ([5, 5, 5], [6, 7, 8, 9], [8, 8]),
    ([5], [6, 7], [8]),
    ([5, 5, 5], [6], [8, 8, 8]),
    ([5], [6, 7], [8]),
)
HELDOUT = pairs(([5, 5], [6, 7], [8]), ([11] * 7, [6], [12]))


@pytest.fixture(scope="module")
def tokenizer(llama_folder: Path) -> Any:
    return load_tokenizer(llama_folder)


def inputs(tokenizer: Any, reading: str = "", **counts: Any) -> Inputs:
    prompts = tuple(tuple(int(token) for token in HELDOUT.prompt[row]) for row in range(2))
    return Inputs(
        tokenizer=tokenizer,
        end_tokens=frozenset({2}),
        pairs=TRAINING,
        prompts=EvaluationPrompts(
            prompts, (Prompt.of("a", None),) * 2, ("x", "y"), HELDOUT, np.array([0, 1])
        ),
        counts=COUNTS | counts,
        new_tokens=4,
        reading=reading,
    )


def described(found: Inputs, prompts: int = 2, **training: Any) -> list[str]:
    experiment = Experiment.model_validate(
        {
            "name": "e",
            "policy": "p",
            "preferences": "d",
            "losses": ["dpo"],
            "evaluation": {"prompts": prompts},
            "training": training,
        }
    )
    return describe(found, experiment)


def test_longest_text_is_a_pair_or_a_prompt_with_all_that_may_be_sampled(tokenizer: Any) -> None:
    found = inputs(tokenizer)
    assert found.longest_pair == 8  # the held-out prompt of 7 with 1; in training 3 with 4
    assert found.longest_prompt == 7
    assert found.longest == 7 + 4


def test_resampling_is_told(tokenizer: Any) -> None:
    (told,) = [
        line for line in described(inputs(tokenizer), resample="bootstrap") if "seed" in line
    ]
    assert "the same 5 draws" in told
    assert not [line for line in described(inputs(tokenizer)) if "seed" in line]


def test_used_tokens_are_those_of_all_pairs_and_the_ends(tokenizer: Any) -> None:
    assert inputs(tokenizer).used_tokens == {2, 5, 6, 7, 8, 9, 11, 12}


def test_lengths_are_means_and_what_is_repeated_is_counted(tokenizer: Any) -> None:
    (size, repeated, evaluation, ends) = described(inputs(tokenizer))
    assert size == (
        "Training pairs: 5. Mean tokens: prompt 2 (at most 3), chosen 2 (at most 4), "
        "rejected 2 (at most 3). The chosen response is the longer one in 80%."
    )
    assert repeated == "Repeated training pairs: 2 occur earlier, word for word."
    assert evaluation == (
        "Evaluation: 2 held-out prompts, 2 held-out pairs; the longest prompt has 7 tokens, a "
        "response at most 4."
    )
    assert ends == f"A response ends with {tokenizer.convert_ids_to_tokens(2)!r}."


def test_what_became_of_rows_is_said_where_something_did(tokenizer: Any) -> None:
    found = inputs(
        tokenizer,
        "two columns",
        dropped={"identical pair": 2, "too long": 1},
        truncated_responses=3,
        shared_prompts=5,
    )
    lines = described(found, prompts=9)
    assert lines[0] == "Data: two columns."
    assert "Rows left out: identical pair 2, too long 1." in lines
    assert "Cut at the limits: 0 prompts, 3 responses." in lines
    assert "Held-out prompts that are also trained on: 5." in lines
    assert any("2 held-out prompts of the 9 that were asked for, 2" in line for line in lines)
    assert any(
        "Cut at the limits: 1 prompts" in line
        for line in described(inputs(tokenizer, truncated_prompts=1))
    )
