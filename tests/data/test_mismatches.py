"""Responses to other prompts."""

from __future__ import annotations

import numpy as np
import pytest

from dpo_bench.data.mismatches import Mismatches
from dpo_bench.data.tokenized import Ragged, TokenizedPairs


def pairs_with_prompts(*prompts: int) -> TokenizedPairs:
    """Pairs whose prompts are single tokens and whose responses name their pair."""

    def side(first: int) -> Ragged:
        return Ragged.of([np.array([first + i], np.int32) for i in range(len(prompts))])

    return TokenizedPairs(
        Ragged.of([np.array([token], np.int32) for token in prompts]), side(100), side(200)
    )


@pytest.mark.parametrize(
    ("prompts", "partners"),
    [
        ((1, 2, 3, 4), [1, 2, 3, 0]),
        ((1, 1, 2, 2), [2, 2, 0, 0]),
        ((1, 1, 1, 2), [3, 3, 3, 0]),
        ((1, 2, 1), [1, 2, 1]),
        ((1, 1, 1), [1, 2, 0]),
        ((1,), [0]),
    ],
)
def test_partner_is_the_next_pair_with_another_prompt(
    prompts: tuple[int, ...], partners: list[int]
) -> None:
    assert Mismatches(pairs_with_prompts(*prompts)).partners.tolist() == partners


def test_chosen_and_rejected_responses_take_turns() -> None:
    mismatches = Mismatches(pairs_with_prompts(1, 2, 3))
    assert [mismatches.response(index).tolist() for index in range(3)] == [[101], [202], [100]]
