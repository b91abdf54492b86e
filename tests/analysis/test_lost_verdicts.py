"""Verdicts that are missing, counted; and when a policy loses others than its rivals."""

from __future__ import annotations

import numpy as np
import pytest

from dpo_bench.analysis.lost_verdicts import (
    LOST_COLUMNS,
    LostVerdicts,
    count_lost,
    is_too_large,
    lost_columns,
    unlike_the_others,
)


def test_nothing_lost_is_counted_as_nothing() -> None:
    assert count_lost(["a", "a", "b"], [0.0, 1.0, 0.5]) == LostVerdicts(3, 0, 0, 0)


def test_columns_are_empty_without_a_judge() -> None:
    assert lost_columns({}) == dict.fromkeys(LOST_COLUMNS)


def test_a_policy_that_loses_more_stands_out() -> None:
    assert unlike_the_others([3, 30, 4, 2], 100) == [False, True, False, False]
    assert unlike_the_others([30, 31, 29, 2], 100) == [False, False, False, True]


def test_a_single_policy_has_no_others() -> None:
    assert unlike_the_others([50], 100) == [False]
    assert unlike_the_others([], 0) == []


def test_equal_policies_rarely_stand_out() -> None:
    generator = np.random.default_rng(0)
    wrong = [any(unlike_the_others(list(generator.binomial(128, 0.1, 6)), 128)) for _ in range(200)]
    assert np.mean(wrong) <= 0.08


@pytest.mark.parametrize(
    ("share", "large"), [(0.051, True), (0.05, False), (None, False), (float("nan"), False)]
)
def test_a_share_over_the_limit_is_too_large(share: float | None, large: bool) -> None:
    assert is_too_large(share) is large
