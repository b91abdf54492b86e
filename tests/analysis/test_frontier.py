from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.calibration.enumerable import EnumerableWorld, NormalWorld
from dpo_bench.analysis.bootstrap import Array, bootstrap_mean, resample_weights
from dpo_bench.analysis.frontier import (
    MARGIN,
    POINTS,
    TOLERANCE,
    Frontier,
    best_of_n,
)
from dpo_bench.analysis.tilting import PolicySamples, Tilting


def _rewards(seed: int, prompts: int = 20, samples: int = 16) -> Array:
    return np.random.default_rng(seed).normal(size=(prompts, samples))


class TestCurve:
    def test_begins_at_the_reference(self) -> None:
        rewards, weights = _rewards(0), resample_weights(20, 500, seed=0)
        first = Frontier(rewards).table(weights).iloc[0]
        mean = bootstrap_mean(rewards.mean(axis=1), weights)
        assert first["kl"] == 0
        assert math.isinf(first["temperature"])
        found = [first["reward"], first["reward_low"], first["reward_high"]]
        assert found == pytest.approx([mean.value, mean.low, mean.high], abs=1e-12)

    def test_kl_that_rounding_took_below_zero_is_the_references(self) -> None:
        frontier = Frontier(_rewards(0))
        assert frontier.reward_at(-1e-10) == frontier.reward_at(0.0)
        assert frontier.reward_at(0.0) == pytest.approx(_rewards(0).mean(), abs=1e-12)
        assert math.isnan(frontier.reward_at(-0.1))

    def test_ends_at_the_largest_kl_that_the_samples_can_show(self) -> None:
        world = EnumerableWorld.of("saturating", prompts=64)
        frontier = Frontier(world.sample(256, seed=0))
        table = frontier.table(resample_weights(64, 200, seed=0))
        assert frontier.valid_kl == pytest.approx(math.log(256) - MARGIN, abs=1e-9)
        assert table["kl"].iloc[-1] == pytest.approx(frontier.valid_kl, rel=1e-12)
        assert len(table) == POINTS

    def test_ends_before_where_the_correction_grows_too_large(self) -> None:
        rewards = _rewards(0, prompts=64, samples=64)
        frontier = Frontier(rewards)
        assert 1 < frontier.valid_kl < math.log(64) - MARGIN
        top, scale = rewards.max(axis=1, keepdims=True), math.sqrt(rewards.var(axis=1).mean())
        inverse = scale / frontier.temperatures[POINTS - 1]
        end = Tilting((rewards - top) / scale).at(inverse)
        assert end.gain / inverse == pytest.approx(TOLERANCE, rel=1e-6)

    def test_is_dense_in_kl(self) -> None:
        table = Frontier(_rewards(0)).table(resample_weights(20, 200, seed=0))
        steps = np.diff(np.sqrt(table["kl"]))
        np.testing.assert_allclose(steps, steps.mean(), rtol=0.05)

    def test_intervals_surround_the_curve(self) -> None:
        table = Frontier(_rewards(0)).table(resample_weights(20, 500, seed=0))
        assert (table["reward_low"] < table["reward"]).all()
        assert (table["reward"] < table["reward_high"]).all()

    @given(st.integers(0, 10**6), st.integers(2, 30), st.integers(4, 40))
    @settings(max_examples=30, deadline=None)
    def test_rises_and_is_concave(self, seed: int, prompts: int, samples: int) -> None:
        frontier = Frontier(_rewards(seed, prompts, samples))
        kl, reward = frontier.kl.mean(axis=0), frontier.reward.mean(axis=0)
        slopes = np.diff(reward) / np.diff(kl)
        assert (np.diff(kl) > 0).all()
        assert (slopes > 0).all()
        assert (np.diff(slopes) < 0).all()

    def test_slope_is_the_temperature(self) -> None:
        frontier = Frontier(_rewards(0))
        slopes = np.diff(frontier.reward.mean(axis=0)) / np.diff(frontier.kl.mean(axis=0))
        # a chord's slope lies between the temperatures at its two ends
        assert (slopes < frontier.temperatures[:-1]).all()
        assert (slopes > frontier.temperatures[1:]).all()

    def test_follows_the_units_of_the_reward(self) -> None:
        one, other = Frontier(_rewards(0)), Frontier(1000 * _rewards(0) - 7)
        np.testing.assert_allclose(other.kl, one.kl, atol=1e-9)
        np.testing.assert_allclose(other.reward, 1000 * one.reward - 7, atol=1e-6)
        np.testing.assert_allclose(other.temperatures[1:], 1000 * one.temperatures[1:], rtol=1e-9)

    def test_order_of_prompts_and_samples_does_not_matter(self) -> None:
        rewards, generator = _rewards(0), np.random.default_rng(1)
        shuffled = generator.permuted(rewards, axis=1)[generator.permutation(20)]
        for kl in (0.1, 0.5):
            same = Frontier(rewards).reward_at(kl)
            assert Frontier(shuffled).reward_at(kl) == pytest.approx(same, abs=1e-10)

    def test_same_rewards_give_the_same_bytes(self) -> None:
        weights = resample_weights(20, 200, seed=0)
        first, second = (
            Frontier(order(_rewards(0))).table(weights)
            for order in (np.ascontiguousarray, np.asfortranarray)
        )
        assert first.to_csv() == second.to_csv()


class TestNothingToTilt:
    @pytest.mark.parametrize(
        "rewards", [np.full((6, 8), 0.1), np.arange(6.0)[:, None] + np.zeros(8)]
    )
    def test_constant_rewards_leave_the_reference_alone(self, rewards: Array) -> None:
        frontier = Frontier(rewards)
        table = frontier.table(resample_weights(6, 200, seed=0))
        assert frontier.valid_kl == 0
        assert table["kl"].tolist() == [0]
        assert table["reward"].tolist() == pytest.approx([rewards.mean()])
        assert frontier.gap(rewards[:, 0], np.full(6, 0.5), resample_weights(6, 200, 0)) is None

    @pytest.mark.parametrize("samples", [1, 3])
    def test_too_few_samples_leave_the_reference_alone(self, samples: int) -> None:
        frontier = Frontier(_rewards(0, samples=samples))
        assert frontier.valid_kl == 0
        assert frontier.reward_at(0.0) == pytest.approx(_rewards(0, samples=samples).mean())

    def test_one_varying_prompt_among_constant_ones_makes_a_curve(self) -> None:
        rewards = np.zeros((10, 16))
        rewards[3] = np.arange(16)
        frontier = Frontier(rewards)
        assert frontier.valid_kl > 0
        assert frontier.reward_at(frontier.valid_kl) > rewards.mean()

    def test_few_distinct_rewards_end_the_curve_where_only_the_best_are_left(self) -> None:
        rewards = np.tile(np.r_[np.zeros(128), np.ones(128)], (10, 1))
        frontier = Frontier(rewards)
        assert frontier.valid_kl == pytest.approx(math.log(2), abs=0.02)
        assert frontier.reward_at(frontier.valid_kl) == pytest.approx(1, abs=0.01)

    def test_missing_reward_is_refused(self) -> None:
        rewards = _rewards(0)
        rewards[2, 3] = math.nan
        with pytest.raises(ValueError, match="1 of 320 reference rewards are missing"):
            Frontier(rewards)


class TestAgainstTheExactFrontier:
    def test_saturating_reward_is_unbiased_up_to_the_end(self) -> None:
        world = EnumerableWorld.of("saturating", prompts=128)
        levels = np.array([0.0, 0.5, 1.0, 2.0])
        frontiers = [Frontier(world.sample(64, seed)) for seed in range(40)]
        found = np.array([[one.reward_at(kl) for kl in levels] for one in frontiers])
        assert np.abs(found.mean(axis=0) - world.exact(levels)).max() < 0.003
        ends = np.array([one.valid_kl for one in frontiers])
        last = np.array([one.reward_at(one.valid_kl) for one in frontiers])
        assert ends.mean() > 2.8
        assert abs((last - world.exact(ends)).mean()) < 0.006

    def test_plain_tilt_is_biased_there(self) -> None:
        world = EnumerableWorld.of("saturating", prompts=128)
        found = []
        for seed in range(10):
            rewards = world.sample(64, seed)
            grid = np.geomspace(0.05, 40, 200)
            lifted = np.exp(grid[:, None, None] * (rewards - rewards.max()))
            share = lifted / lifted.sum(axis=2, keepdims=True)
            entropy = -(share * np.log(share.clip(1e-300))).sum(axis=2)
            kl, reward = (
                (math.log(64) - entropy).mean(axis=1),
                (share * rewards).sum(axis=2).mean(1),
            )
            found.append(np.interp(2.0, kl, reward))
        assert np.mean(found) - float(world.exact(np.array([2.0]))[0]) < -0.006

    def test_unbounded_reward_ends_before_it_is_biased(self) -> None:
        world = EnumerableWorld.of("normal", prompts=128)
        frontiers = [Frontier(world.sample(64, seed)) for seed in range(20)]
        ends = np.array([frontier.valid_kl for frontier in frontiers])
        rewards = np.array([frontier.reward_at(frontier.valid_kl) for frontier in frontiers])
        assert ends.max() < 2.5
        assert abs((rewards - world.exact(ends)).mean()) < 0.03 * world.deviation

    @pytest.mark.slow
    def test_interval_holds_the_exact_reward_as_often_as_it_says(self) -> None:
        world = EnumerableWorld.of("saturating", prompts=4000, responses=200)
        levels = np.array([0.0, 0.5, 1.0, 2.0])
        exact, generator = world.exact(levels), np.random.default_rng(0)
        held, rounds = np.zeros(len(levels)), 400
        for seed in range(rounds):
            chosen = generator.choice(4000, 128, replace=False)
            part = EnumerableWorld(world.probabilities[chosen], world.rewards[chosen])
            table = Frontier(part.sample(64, seed)).table(resample_weights(128, 1000, seed))
            for index, kl in enumerate(levels):
                ends = [
                    np.interp(kl, table["kl"], table[f"reward_{end}"]) for end in ("low", "high")
                ]
                held[index] += ends[0] <= exact[index] <= ends[1]
        assert (held / rounds >= 0.93).all()
        assert (held / rounds <= 0.97).all()


WORLD = NormalWorld(prompts=128)
KLS = (0.25, 0.5, 1.0, 2.0, 3.0)


def _policies(world: NormalWorld, seed: int, accuracy: float = 0.9) -> PolicySamples:
    """Two responses to each prompt, of policies at `KLS` that reach this part of the best gain."""
    drawn = [world.draw(accuracy, kl, 2, 1000 * (j + 1) + seed) for j, kl in enumerate(KLS)]
    return PolicySamples(*(np.stack(one) for one in zip(*drawn, strict=True)))


def _collapsed(prompts: int, seed: int) -> PolicySamples:
    """Policies that answer within .01 of one point, a normal at reward 1."""
    close = np.random.default_rng(seed).normal(size=(3, prompts, 2))
    rewards = 1 + 0.01 * close
    return PolicySamples(rewards, rewards**2 / 2 - close**2 / 2 - math.log(0.01))


class TestPolicies:
    def test_carry_the_curve_on_without_bias(self) -> None:
        seeds = range(12)
        alone = [Frontier(WORLD.sample(16, seed)) for seed in seeds]
        found = [Frontier(WORLD.sample(16, seed), _policies(WORLD, seed)) for seed in seeds]
        carried = [one for one in found if one.policies]
        assert len(carried) >= 9
        assert max(one.valid_kl for one in alone) < 0.8
        assert min(one.valid_kl for one in carried) > 1.2
        for kl in (0.5, 1.0, 1.2):
            # the optimal reward at a KL is sqrt(2 KL) in this world
            misses = [one.reward_at(kl) - math.sqrt(2 * kl) for one in carried]
            assert abs(np.mean(misses)) < 0.03
        ends = [one.reward_at(one.valid_kl) - math.sqrt(2 * one.valid_kl) for one in carried]
        assert abs(np.mean(ends)) < TOLERANCE

    def test_saturating_rewards_are_carried_on_too(self) -> None:
        world = EnumerableWorld.of("saturating", prompts=128)
        trained = [world.trained(0.8, kl, seed) for seed, kl in enumerate(KLS)]
        misses, ends = [], []
        for seed in range(8):
            drawn = [world.draw(one, 2, 100 * (j + 1) + seed) for j, one in enumerate(trained)]
            pooled = PolicySamples(*(np.stack(one) for one in zip(*drawn, strict=True)))
            frontier = Frontier(world.sample(16, seed), pooled)
            ends.append(frontier.valid_kl)
            misses.append(frontier.reward_at(ends[-1]) - float(world.exact(np.array(ends[-1:]))[0]))
        assert np.mean(ends) > 1.2
        assert abs(np.mean(misses)) < TOLERANCE * world.deviation

    def test_say_how_many_and_how_much_they_are_worth(self) -> None:
        found = Frontier(WORLD.sample(16, 0), _policies(WORLD, 0))
        assert 1 <= found.policies <= len(KLS)
        assert 1 < found.effective < 16 + 2
        assert Frontier(WORLD.sample(16, 0)).policies == 0

    def test_interval_holds_the_exact_reward(self) -> None:
        weights, held = resample_weights(128, 400, 0), []
        for seed in range(12):
            frontier = Frontier(WORLD.sample(16, seed), _policies(WORLD, seed))
            if frontier.covers(1.0):
                table = frontier.table(weights)
                low, high = (
                    np.interp(1.0, table["kl"], table[f"reward_{end}"]) for end in ("low", "high")
                )
                held.append(low <= math.sqrt(2) <= high)
                assert high - low < 0.3
        assert len(held) >= 8
        assert sum(held) >= len(held) - 2

    @pytest.mark.parametrize("samples", [16, 64])
    def test_that_collapsed_change_nothing(self, samples: int) -> None:
        rewards = WORLD.sample(samples, 0)
        found, alone = Frontier(rewards, _collapsed(128, 1)), Frontier(rewards)
        assert found.policies == 0
        np.testing.assert_array_equal(found.columns, alone.columns)

    @pytest.mark.parametrize("shift", [1.0, -1.0])
    def test_with_wrong_log_ratios_change_nothing(self, shift: float) -> None:
        rewards, right = WORLD.sample(64, 0), _policies(WORLD, 0)
        wrong = Frontier(rewards, PolicySamples(right.rewards, right.logratio + shift))
        assert Frontier(rewards, right).policies > 0
        assert wrong.policies == 0
        assert wrong.valid_kl == Frontier(rewards).valid_kl

    def test_that_say_the_same_count_once(self) -> None:
        rewards, one = WORLD.sample(16, 0), _policies(WORLD, 0)
        often = PolicySamples(*(np.repeat(part, 5, axis=0) for part in (one.rewards, one.logratio)))
        assert Frontier(rewards, often).valid_kl == pytest.approx(Frontier(rewards, one).valid_kl)

    def test_order_of_policies_and_unit_of_the_reward_do_not_matter(self) -> None:
        rewards, policies = WORLD.sample(16, 0), _policies(WORLD, 0)
        found = Frontier(rewards, policies)
        other = Frontier(
            100 * rewards - 7,
            PolicySamples(100 * policies.rewards[::-1] - 7, policies.logratio[::-1]),
        )
        assert other.valid_kl == pytest.approx(found.valid_kl)
        assert other.reward_at(1.0) == pytest.approx(100 * found.reward_at(1.0) - 7)

    def test_of_few_prompts_change_nothing(self) -> None:
        world = NormalWorld(prompts=7)
        assert Frontier(world.sample(16, 0), _policies(world, 0)).policies == 0

    def test_leave_a_constant_reward_alone(self) -> None:
        assert Frontier(np.ones((128, 16)), _policies(WORLD, 0)).valid_kl == 0

    def test_of_other_prompts_are_refused(self) -> None:
        with pytest.raises(ValueError, match="127 prompts, the policies 128"):
            Frontier(WORLD.sample(16, 0)[1:], _policies(WORLD, 0))


class TestGap:
    def test_of_an_optimal_policy_is_zero(self) -> None:
        world = EnumerableWorld.of("saturating", prompts=128)
        kl, reward = world.tilted(1.5)
        gap = Frontier(world.sample(256, 0)).gap(reward, kl, resample_weights(128, 1000, 0))
        assert gap is not None
        assert gap.low <= 0 <= gap.high
        assert gap.value == pytest.approx(0, abs=0.02)

    def test_of_a_worse_policy_is_what_it_lacks(self) -> None:
        frontier, weights = Frontier(_rewards(0)), resample_weights(20, 1000, seed=0)
        kl, reward = np.full(20, 0.3), np.full(20, -0.2)
        gap = frontier.gap(reward, kl, weights)
        assert gap is not None
        assert gap.value == pytest.approx(frontier.reward_at(0.3) + 0.2, abs=1e-9)
        assert gap.low < gap.value < gap.high

    def test_is_paired_over_prompts(self) -> None:
        rewards = _rewards(0) + 10 * _rewards(1, samples=1)
        gap = Frontier(rewards).gap(
            rewards.mean(axis=1) - 0.5, np.zeros(20), resample_weights(20, 500, seed=0)
        )
        assert gap is not None
        assert [gap.value, gap.low, gap.high] == pytest.approx([0.5] * 3, abs=1e-9)

    def test_follows_the_kl_of_each_resample(self) -> None:
        frontier, weights = Frontier(_rewards(0)), resample_weights(20, 500, seed=0)
        reward, spread = np.zeros(20), np.linspace(0, 0.6, 20)
        fixed = frontier.gap(reward, np.full(20, 0.3), weights)
        moving = frontier.gap(reward, spread, weights)
        assert fixed is not None
        assert moving is not None
        assert moving.value == pytest.approx(fixed.value, abs=1e-9)
        assert moving.high - moving.low > 1.1 * (fixed.high - fixed.low)

    def test_interval_at_the_end_reaches_to_both_sides(self) -> None:
        frontier = Frontier(np.tile(_rewards(0, prompts=1, samples=64), (20, 1)))
        kl = frontier.valid_kl * np.linspace(0.8, 1.2, 20)
        gap = frontier.gap(np.zeros(20), kl, resample_weights(20, 500, seed=0))
        assert gap is not None
        assert gap.high - gap.value > 0.5 * (gap.value - gap.low) > 0

    def test_is_missing_beyond_the_valid_range(self) -> None:
        frontier, weights = Frontier(_rewards(0)), resample_weights(20, 200, seed=0)
        assert frontier.gap(np.zeros(20), np.full(20, frontier.valid_kl), weights) is not None
        assert frontier.gap(np.zeros(20), np.full(20, frontier.valid_kl + 0.01), weights) is None
        assert math.isnan(frontier.reward_at(frontier.valid_kl + 0.01))
        assert math.isnan(frontier.reward_at(-0.01))

    def test_other_prompts_are_refused(self) -> None:
        with pytest.raises(ValueError, match="20 prompts, the policy 19"):
            Frontier(_rewards(0)).gap(np.zeros(19), np.zeros(19), resample_weights(19, 100, 0))

    def test_missing_reward_is_refused(self) -> None:
        with pytest.raises(ValueError, match="missing or infinite"):
            Frontier(_rewards(0)).gap(
                np.full(20, math.nan), np.zeros(20), resample_weights(20, 100, 0)
            )


class TestBestOfN:
    def test_equals_the_mean_over_all_subsets(self) -> None:
        rewards = _rewards(0, prompts=5, samples=8)
        table = best_of_n(rewards, resample_weights(5, 200, seed=0))
        for n, reward in zip(table["n"], table["reward"], strict=True):
            best = [
                rewards[:, subset].max(axis=1) for subset in itertools.combinations(range(8), n)
            ]
            assert reward == pytest.approx(np.mean(best), abs=1e-12)

    @pytest.mark.parametrize(
        ("samples", "sizes"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
    )
    def test_sizes_double_up_to_all_samples(self, samples: int, sizes: list[int]) -> None:
        table = best_of_n(_rewards(0, samples=samples), resample_weights(20, 100, seed=0))
        assert table["n"].tolist() == sizes

    def test_kl_is_that_of_continuous_rewards(self) -> None:
        table = best_of_n(_rewards(0), resample_weights(20, 100, seed=0))
        # the best of n has density n u^(n - 1) in the reference's quantile u
        u = (np.arange(200_000) + 0.5) / 200_000
        for n, kl in zip(table["n"], table["kl"], strict=True):
            density = n * u ** (n - 1)
            assert kl == pytest.approx(np.mean(density * np.log(density)), abs=1e-3)

    def test_ties_and_constants_are_no_problem(self) -> None:
        table = best_of_n(np.full((4, 4), 2.0), resample_weights(4, 100, seed=0))
        assert table["reward"].tolist() == [2, 2, 2]

    def test_many_samples_do_not_overflow(self) -> None:
        rewards = np.arange(2048.0)[None, :].repeat(2, axis=0)
        table = best_of_n(rewards, resample_weights(2, 100, seed=0)).set_index("n")
        assert table.loc[1, "reward"] == pytest.approx(1023.5)
        assert table.loc[1024, "reward"] == pytest.approx(2049 * 1024 / 1025 - 1)  # n(K+1)/(n+1)
        assert table.loc[2048, "reward"] == 2047

    def test_lies_below_the_frontier(self) -> None:
        rewards = EnumerableWorld.of("saturating", prompts=128).sample(64, seed=0)
        frontier = Frontier(rewards)
        table = best_of_n(rewards, resample_weights(128, 100, seed=0)).query("kl < 2.5 and n > 1")
        optimal = [frontier.reward_at(kl) for kl in table["kl"]]
        assert len(table) == 5
        assert (table["reward"] < np.array(optimal)).all()

    def test_missing_reward_is_refused(self) -> None:
        with pytest.raises(ValueError, match="missing"):
            best_of_n([[1.0, math.nan]], resample_weights(1, 100, seed=0))
