"""Win rates near 0 and 1: Wilson's interval by its definition, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.calibration.win_rates import win_rates_near_the_ends
from dpo_bench.analysis.bootstrap import bootstrap_mean, resample_weights
from dpo_bench.analysis.win_rates import effective_n, wilson, win_rate


@pytest.mark.parametrize(("won", "of"), [(0, 10), (1, 32), (16, 32), (63, 64), (7, 7)])
def test_wilsons_interval_is_that_of_scipy(won: int, of: int) -> None:
    expected = stats.binomtest(won, of).proportion_ci(0.9, method="wilson")
    assert wilson(won / of, of, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_its_ends_solve_the_score_equation() -> None:
    """An end is where the observed share is 1.96 standard errors away: also for no whole n."""
    share, draws = 0.03, 41.7
    for end in wilson(share, draws):
        assert abs(share - end) / np.sqrt(end * (1 - end) / draws) == pytest.approx(1.959964)


@pytest.mark.parametrize(("share", "draws"), [(-0.1, 5.0), (1.1, 5.0), (0.5, 0.0), (0.5, np.nan)])
def test_no_share_and_no_draws_are_refused(share: float, draws: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson(share, draws)


def test_alike_responses_count_once_and_unlike_ones_each() -> None:
    generator = np.random.default_rng(0)
    alike = (generator.random(4000) < 0.3).astype(float)
    assert effective_n(alike) == pytest.approx(4000, rel=0.01)
    unlike = (generator.random((4000, 4)) < 0.3).mean(axis=1)
    assert effective_n(unlike) == pytest.approx(4 * 4000, rel=0.06)


def test_without_spread_the_prompts_are_counted() -> None:
    for value in (0.0, 0.5, 1.0):
        assert effective_n(np.full(20, value)) == 20


def test_few_wins_prove_little_independence() -> None:
    values = np.zeros(32)
    values[:2] = 0.25  # two of 128 responses won, to two prompts
    assert 32 < effective_n(values) < 128 / 2


@pytest.mark.parametrize("values", [[], [0.5, 1.2], [np.nan, 0.5], [[0.5]]])
def test_what_is_no_win_rate_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        effective_n(values)


def test_in_the_middle_it_is_the_bootstraps() -> None:
    values = np.random.default_rng(1).choice([0.0, 0.5, 1.0], 60)
    weights = resample_weights(60, 500, 0)
    assert win_rate(values, weights) == bootstrap_mean(values, weights)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_where_all_prompts_agree_the_interval_has_a_width(value: float) -> None:
    found = win_rate(np.full(64, value), resample_weights(64, 500, 0))
    assert found.value == value
    assert found.n == 64
    assert 0.05 < found.high - found.low < 0.27
    assert found.low <= value <= found.high
    assert found.low >= 0
    assert found.high <= 1


def test_wins_and_losses_mirror_each_other() -> None:
    values = np.zeros(50)
    values[:3] = (0.5, 1.0, 0.25)
    weights = resample_weights(50, 500, 0)
    low, high = win_rate(values, weights), win_rate(1 - values, weights)
    assert (1 - high.high, 1 - high.low) == pytest.approx((low.low, low.high))


def test_a_single_prompt_has_no_interval() -> None:
    assert not win_rate([1.0], resample_weights(1, 10, 0)).has_interval


@pytest.mark.parametrize(
    ("rate", "prompts", "responses"), [(0.02, 32, 1), (0.98, 32, 4), (0.95, 128, 2), (0.5, 64, 2)]
)
def test_intervals_hold_the_truth(rate: float, prompts: int, responses: int) -> None:
    found = win_rates_near_the_ends(rate, prompts, responses, 200)
    assert found.holds, found


def test_the_bootstrap_alone_does_not() -> None:
    found = win_rates_near_the_ends(0.02, 32, 1, 200)
    assert found.plain is not None
    assert found.plain < 0.7
