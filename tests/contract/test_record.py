"""The record that a loss reads."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest
import torch

from dpo_bench import PairLogps


@pytest.fixture
def pairs() -> PairLogps:
    columns = [[-10.0, -4.0], [-20.0, -6.0], [-12.0, -4.0], [-18.0, -9.0], [4.0, 1.0], [8.0, 3.0]]
    return PairLogps(*map(torch.tensor, columns))


def test_logratios_are_policy_minus_reference(pairs: PairLogps) -> None:
    assert pairs.chosen_logratio.tolist() == [2.0, 0.0]
    assert pairs.rejected_logratio.tolist() == [-2.0, 3.0]


def test_margin_is_chosen_minus_rejected(pairs: PairLogps) -> None:
    assert pairs.margin.tolist() == [4.0, -3.0]


def test_margin_per_token_divides_each_side_by_its_tokens(pairs: PairLogps) -> None:
    assert pairs.margin_per_token.tolist() == [2 / 4 + 2 / 8, -1.0]


def test_at_reference_the_margin_is_exactly_zero(pairs: PairLogps) -> None:
    start = pairs.at_reference()
    assert start.margin.tolist() == start.margin_per_token.tolist() == [0.0, 0.0]
    assert start.reference_chosen is pairs.reference_chosen
    assert start.chosen_tokens is pairs.chosen_tokens


def test_record_is_frozen(pairs: PairLogps) -> None:
    with pytest.raises(FrozenInstanceError):
        pairs.policy_chosen = torch.zeros(2)  # type: ignore[misc]
