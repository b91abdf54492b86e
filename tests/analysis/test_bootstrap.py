from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats

from dpo_bench.analysis.bootstrap import (
    Array,
    bootstrap,
    bootstrap_each,
    bootstrap_mean,
    bootstrap_weighted,
    cluster_means,
    resample_weights,
    win_fraction,
)
from dpo_bench.analysis.estimate import Estimate

Sampler = Callable[[np.random.Generator, tuple[int, int]], ArrayLike]

REWARDS = st.integers(-3, 3).map(lambda number: number / 3)


@st.composite
def reward_tables(draw: st.DrawFn) -> tuple[Array, Array]:
    """Rewards [prompts, m] and [prompts, k], with many ties."""
    prompts, m, k = (draw(st.integers(1, 5)) for _ in range(3))
    numbers = st.lists(REWARDS, min_size=prompts * (m + k), max_size=prompts * (m + k))
    table = np.array(draw(numbers)).reshape(prompts, m + k)
    return table[:, :m], table[:, m:]


class TestEstimate:
    def test_missing_figure_is_null_in_json_and_never_zero(self) -> None:
        text = json.dumps(Estimate.missing(12).as_dict(), allow_nan=False)
        assert json.loads(text) == {"value": None, "low": None, "high": None, "n": 12}

    def test_figure_without_interval_keeps_its_value(self) -> None:
        assert Estimate(0.25, math.nan, math.nan, 1).as_dict() == {
            "value": 0.25,
            "low": None,
            "high": None,
            "n": 1,
        }

    def test_number_of_clusters_is_not_known_where_nobody_says_it(self) -> None:
        assert (Estimate(0.5).n, Estimate.missing().n) == (0, 0)
        assert not Estimate(0.5).has_interval

    def test_a_single_cluster_has_no_interval(self) -> None:
        assert not Estimate(5.0, math.nan, math.nan, 1).has_interval
        assert Estimate(5.0, 4.0, 6.0, 2).has_interval


class TestResampleWeights:
    def test_rows_are_shares_of_draws_that_sum_to_one(self) -> None:
        weights = resample_weights(7, 50, seed=3)
        assert weights.shape == (50, 7)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-15)
        np.testing.assert_allclose(weights * 7, np.round(weights * 7), atol=1e-12)

    def test_same_arguments_give_the_same_bytes(self) -> None:
        assert resample_weights(9, 20, 5).tobytes() == resample_weights(9, 20, 5).tobytes()

    def test_another_seed_gives_other_draws(self) -> None:
        assert resample_weights(9, 20, 5).tobytes() != resample_weights(9, 20, 6).tobytes()

    def test_draws_of_seed_zero_are_those_that_published_figures_used(self) -> None:
        counts = (resample_weights(4, 3, seed=0) * 4).astype(int).tolist()
        assert counts == [[0, 1, 2, 1], [3, 1, 0, 0], [1, 0, 1, 2]]

    def test_every_cluster_is_drawn_equally_often(self) -> None:
        mean = resample_weights(5, 20_000, seed=1).mean(axis=0)
        np.testing.assert_allclose(mean, 0.2, atol=0.005)

    @pytest.mark.parametrize(("clusters", "resamples"), [(0, 10), (10, 0)])
    def test_nothing_to_draw_is_refused(self, clusters: int, resamples: int) -> None:
        with pytest.raises(ValueError, match="cannot draw"):
            resample_weights(clusters, resamples, seed=0)


class TestInterval:
    def test_agrees_with_an_independent_bca_at_the_widened_level(self) -> None:
        values = np.random.default_rng(0).lognormal(size=60)
        ours = bootstrap_mean(values, resample_weights(60, 20_000, seed=0))
        theirs = stats.bootstrap(
            (values,),
            np.mean,
            method="BCa",
            confidence_level=2 * stats.norm.cdf(math.sqrt(60 / 59) * stats.t.ppf(0.975, 59)) - 1,
            n_resamples=20_000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert ours.value == pytest.approx(values.mean(), rel=1e-12)
        assert ours.low == pytest.approx(theirs.low, abs=0.02 * (theirs.high - theirs.low))
        assert ours.high == pytest.approx(theirs.high, abs=0.02 * (theirs.high - theirs.low))

    def test_corrects_the_bias_of_a_variance_as_an_independent_bca(self) -> None:
        values = np.random.default_rng(3).normal(size=30)
        table, weights = np.stack([values, values**2], axis=1), resample_weights(30, 20_000, seed=0)
        ours = bootstrap(lambda means: means[:, 1] - means[:, 0] ** 2, table, weights)
        theirs = stats.bootstrap(
            (values,),
            np.var,
            method="BCa",
            confidence_level=2 * stats.norm.cdf(math.sqrt(30 / 29) * stats.t.ppf(0.975, 29)) - 1,
            n_resamples=20_000,
            rng=np.random.default_rng(1),
        ).confidence_interval
        assert ours.low == pytest.approx(theirs.low, abs=0.02 * (theirs.high - theirs.low))
        assert ours.high == pytest.approx(theirs.high, abs=0.02 * (theirs.high - theirs.low))

    def test_is_as_wide_as_students_for_a_few_normal_values(self) -> None:
        values = stats.norm.ppf((np.arange(10) + 0.5) / 10)
        estimate = bootstrap_mean(values, resample_weights(10, 20_000, seed=0))
        half = stats.t.ppf(0.975, 9) * values.std(ddof=1) / math.sqrt(10)
        assert estimate.high - estimate.low == pytest.approx(2 * half, rel=0.05)

    def test_leans_towards_the_long_tail(self) -> None:
        values = np.random.default_rng(2).lognormal(size=100)
        estimate = bootstrap_mean(values, resample_weights(100, 2000, seed=0))
        assert estimate.high - estimate.value > 1.2 * (estimate.value - estimate.low)

    def test_of_shares_stays_between_zero_and_one(self) -> None:
        values = np.r_[np.ones(30), 0.0]
        estimate = bootstrap_mean(values, resample_weights(31, 2000, seed=0))
        assert 0 < estimate.low < estimate.value < estimate.high <= 1

    def test_higher_level_is_wider(self) -> None:
        values, weights = np.arange(40.0), resample_weights(40, 2000, seed=0)
        narrow, wide = (bootstrap_mean(values, weights, level) for level in (0.8, 0.99))
        assert wide.low < narrow.low < narrow.high < wide.high

    def test_single_cluster_has_a_value_and_no_interval(self) -> None:
        estimate = bootstrap_mean([2.5], resample_weights(1, 100, seed=0))
        assert (estimate.value, estimate.n) == (2.5, 1)
        assert math.isnan(estimate.low)
        assert math.isnan(estimate.high)

    def test_equal_values_give_an_interval_without_width(self) -> None:
        estimate = bootstrap_mean(np.full(20, 0.1), resample_weights(20, 100, seed=0))
        assert estimate.low == pytest.approx(0.1, abs=1e-15)
        assert estimate.high == pytest.approx(0.1, abs=1e-15)

    def test_same_inputs_give_the_same_bytes_in_any_memory_order(self) -> None:
        table, weights = np.random.default_rng(0).normal(size=(30, 3)), resample_weights(30, 500, 1)
        first = bootstrap_each(lambda means: means**2, table, weights)
        second = bootstrap_each(lambda means: means**2, np.asfortranarray(table), weights)
        assert first == second

    @given(st.permutations(range(12)))
    @settings(max_examples=20, deadline=None)
    def test_order_of_the_prompts_does_not_move_the_value(self, order: list[int]) -> None:
        values, weights = np.sqrt(np.arange(12.0)), resample_weights(12, 200, seed=0)
        shuffled = bootstrap_mean(values[order], weights)
        assert shuffled.value == pytest.approx(bootstrap_mean(values, weights).value, rel=1e-14)

    @pytest.mark.parametrize("hole", [math.nan, math.inf])
    def test_missing_value_is_refused_with_its_place(self, hole: float) -> None:
        with pytest.raises(ValueError, match=r"1 of 4 clusters .* number 3"):
            bootstrap_mean([1.0, 2.0, hole, 3.0], resample_weights(4, 100, seed=0))

    def test_weights_of_other_prompts_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[4, 1\] and weights \[100, 5\]"):
            bootstrap_mean([1.0, 2.0, 3.0, 4.0], resample_weights(5, 100, seed=0))

    def test_table_instead_of_a_column_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[clusters\], not \[4, 2\]"):
            bootstrap_mean(np.ones((4, 2)), resample_weights(4, 100, seed=0))


class TestStatisticOfMeans:
    def test_ratio_is_that_of_the_means(self) -> None:
        values = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 12.0]])
        estimate = bootstrap(lambda m: m[:, 0] / m[:, 1], values, resample_weights(3, 500, seed=0))
        assert estimate.value == pytest.approx(0.5)
        assert 5 / 12 <= estimate.low < 0.5 < estimate.high <= 3 / 4

    def test_difference_of_paired_columns_is_the_mean_difference(self) -> None:
        values = np.random.default_rng(0).normal(size=(50, 2))
        weights = resample_weights(50, 1000, seed=0)
        together = bootstrap(lambda means: means[:, 0] - means[:, 1], values, weights)
        apart = bootstrap_mean(values[:, 0] - values[:, 1], weights)
        assert together.low == pytest.approx(apart.low, abs=1e-12)
        assert together.high == pytest.approx(apart.high, abs=1e-12)

    def test_several_statistics_equal_each_by_itself(self) -> None:
        values, weights = (
            np.random.default_rng(0).normal(size=(20, 2)),
            resample_weights(20, 300, 0),
        )
        both = bootstrap_each(np.exp, values, weights)
        first = bootstrap(lambda means: np.exp(means[:, 0]), values, weights)
        second = bootstrap(lambda means: np.exp(means[:, 1]), values, weights)
        assert both == [first, second]

    def test_statistic_that_is_not_finite_is_refused(self) -> None:
        values = np.r_[np.zeros(3), 1.0][:, None]
        with np.errstate(divide="ignore"), pytest.raises(ValueError, match=r"in \d+ of 200 resa"):
            bootstrap(lambda means: 1 / means[:, 0], values, resample_weights(4, 200, seed=0))

    def test_resamples_without_a_figure_are_counted_once_whatever_is_missing(self) -> None:
        weights = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
        with np.errstate(divide="ignore"), pytest.raises(ValueError, match="in 2 of 4 resamples"):
            bootstrap_each(lambda m: np.hstack([1 / m, 2 / m]), [[0.0], [1.0]], weights)


class TestWeighted:
    def test_mean_by_its_weights_is_the_mean_with_its_interval(self) -> None:
        values, weights = np.random.default_rng(0).lognormal(size=25), resample_weights(25, 400, 0)
        (found,) = bootstrap_weighted(lambda rows: rows @ values[:, None], weights)
        plain = bootstrap_mean(values, weights)
        assert [found.value, found.low, found.high] == pytest.approx(
            [plain.value, plain.low, plain.high]
        )
        assert found.n == 25

    def test_single_cluster_has_a_value_and_no_interval(self) -> None:
        (found,) = bootstrap_weighted(lambda rows: 2.5 * rows, resample_weights(1, 10, 0))
        assert (found.value, found.n, found.has_interval) == (2.5, 1, False)


class TestClusterMeans:
    def test_rows_of_a_prompt_are_averaged_in_order_of_the_names(self) -> None:
        assert cluster_means([1.0, 10.0, 3.0], ["b", "a", "b"]).tolist() == [10.0, 2.0]

    def test_lengths_must_agree(self) -> None:
        with pytest.raises(ValueError, match="rows"):
            cluster_means([1.0, 2.0], [1])


class TestWinFraction:
    def test_counts_wins_and_half_the_ties(self) -> None:
        won = win_fraction([[1.0, 0.0], [2.0, 5.0]], [[0.0, 1.0], [3.0, 3.0]])
        assert won.tolist() == [[0.75, 0.25], [0.0, 1.0]]

    @given(reward_tables())
    @settings(max_examples=50, deadline=None)
    def test_shares_of_both_sides_add_to_one(self, tables: tuple[Array, Array]) -> None:
        ours, theirs = tables
        total = win_fraction(ours, theirs).mean(axis=1) + win_fraction(theirs, ours).mean(axis=1)
        np.testing.assert_allclose(total, 1, atol=1e-12)

    @given(reward_tables())
    @settings(max_examples=50, deadline=None)
    def test_only_the_order_of_rewards_counts(self, tables: tuple[Array, Array]) -> None:
        ours, theirs = tables
        won = win_fraction(ours, theirs)
        assert ((won >= 0) & (won <= 1)).all()
        np.testing.assert_array_equal(won, win_fraction(np.exp(ours), np.exp(theirs)))

    def test_missing_reward_is_refused_and_named(self) -> None:
        with pytest.raises(ValueError, match="1 opponent rewards are missing"):
            win_fraction([[1.0]], [[math.nan]])

    def test_other_prompts_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\[1, 1\] and \[2, 1\]"):
            win_fraction([[1.0]], [[1.0], [2.0]])

    @pytest.mark.parametrize(
        ("policy", "opponent"), [([[1.0]], [1.0]), ([1.0], [[1.0]]), ([[1.0]], [[[1.0]]])]
    )
    def test_rewards_that_are_no_table_are_refused(
        self, policy: ArrayLike, opponent: ArrayLike
    ) -> None:
        with pytest.raises(ValueError, match=r"must be \[prompts, m\] and \[prompts, k\]"):
            win_fraction(policy, opponent)

    def test_no_opponent_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no opponent"):
            win_fraction([[1.0]], np.empty((1, 0)))


def _coverage(sampler: Sampler, truth: float, prompts: int, rounds: int) -> float:
    """Share of simulated data sets (600 a round) whose 95% interval of the mean holds the truth."""
    generator = np.random.default_rng(prompts)
    held = 0
    for seed in range(rounds):
        weights = resample_weights(prompts, 1500, seed)
        tables = sampler(generator, (prompts, 600))
        held += sum(
            one.low <= truth <= one.high for one in bootstrap_each(lambda m: m, tables, weights)
        )
    return held / (600 * rounds)


SKEWED: tuple[Sampler, float] = (lambda generator, size: generator.exponential(size=size), 1.0)
SHARE: tuple[Sampler, float] = (lambda generator, size: generator.binomial(2, 0.8, size) / 2, 0.8)
RARE: tuple[Sampler, float] = (
    lambda generator, size: generator.binomial(1, 0.05, size) * 1.0,
    0.05,
)
NORMAL: tuple[Sampler, float] = (lambda generator, size: generator.normal(size=size), 0.0)
HEAVY: tuple[Sampler, float] = (lambda generator, size: generator.laplace(size=size), 0.0)


@pytest.mark.parametrize("case", [SKEWED, SHARE], ids=["skewed", "share"])
@pytest.mark.parametrize("prompts", [64, 256])
def test_interval_holds_the_truth_as_often_as_it_says(
    case: tuple[Sampler, float], prompts: int
) -> None:
    assert 0.93 <= _coverage(*case, prompts, rounds=3) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [SKEWED, SHARE, RARE, NORMAL, HEAVY], ids=["skewed", "share", "rare", "normal", "heavy"]
)
@pytest.mark.parametrize("prompts", [64, 256])
def test_interval_holds_the_truth_in_many_simulations(
    case: tuple[Sampler, float], prompts: int
) -> None:
    assert 0.93 <= _coverage(*case, prompts, rounds=20) <= 0.97
