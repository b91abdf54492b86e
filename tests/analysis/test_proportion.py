"""Wilson's interval at an effective size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dpo_bench.analysis.proportion import wilson


@pytest.mark.parametrize(("wins", "count"), [(3, 40), (20, 40), (39, 40)])
def test_independent_answers_give_scipys_interval(wins: int, count: int) -> None:
    share = wins / count
    found = wilson(share, share * (1 - share) / count, count)
    expected = stats.binomtest(wins, count).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def test_answers_that_are_all_the_same_leave_room() -> None:
    for share in (0.0, 1.0):
        found = wilson(share, 0.0, 100)
        expected = stats.binomtest(round(100 * share), 100).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-5)


def test_alike_answers_count_for_less() -> None:
    """Two answers to each of 100 prompts that always agree are 100 answers, not 200."""
    generator = np.random.default_rng(0)
    once = generator.random(100) < 0.9
    share = float(once.mean())
    found = wilson(share, float(once.var(ddof=1)) / 100, 100)
    alone = stats.binomtest(int(once.sum()), 100).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high), abs=2e-3)
