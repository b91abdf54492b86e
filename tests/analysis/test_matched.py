from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.curves import cells, nodes, outline, read
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.frontier import Frontier
from dpo_bench.analysis.matched import (
    Comparison,
    Point,
    areas,
    common_range,
    compare,
    compare_levels,
    default_levels,
    groups,
    interpolate_at,
    not_comparable,
    regret_at,
    rewards_at,
)

PROMPTS = 40
WEIGHTS = resample_weights(PROMPTS, 500, seed=0)


def _flat(kl: float, reward: float, step: int = 0) -> Point:
    """A policy that is the same on every prompt."""
    return Point(np.full(PROMPTS, kl), np.full(PROMPTS, reward), step=step)


def _noisy(kl: float, reward: float, seed: int, prompts: int = PROMPTS) -> Point:
    generator = np.random.default_rng(seed)
    spread = generator.lognormal(-0.08, 0.4, prompts)
    return Point(kl * spread, reward + generator.normal(0, 0.3, prompts))


def _value(points: list[Point], level: float) -> float:
    return rewards_at({"loss": points}, level, WEIGHTS)["loss"].value


class TestPoint:
    def test_one_seed_is_kept_as_a_table_of_one_row(self) -> None:
        point = Point([1.0, 2.0], [0.0, 1.0])
        assert point.kl.shape == (1, 2)
        assert point.seeds == 1
        assert point.mean_kl == 1.5

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(ValueError, match=r"not \[1, 2\] and \[1, 3\]"):
            Point([1.0, 2.0], [1.0, 2.0, 3.0])

    def test_missing_value_is_refused(self) -> None:
        with pytest.raises(ValueError, match="leave the point out"):
            Point([1.0, math.nan], [1.0, 2.0])


class TestCurve:
    def test_is_a_straight_line_in_the_root_of_kl(self) -> None:
        points = [_flat(1.0, 0.2), _flat(9.0, 0.8)]
        assert _value(points, 4.0) == pytest.approx(0.5)
        assert _value(points, 1.0) == pytest.approx(0.2)
        assert _value(points, 9.0) == pytest.approx(0.8)

    def test_goes_through_every_point_in_order_of_kl(self) -> None:
        points = [_flat(9.0, 0.4), _flat(1.0, 0.2), _flat(4.0, 0.8)]
        assert _value(points, 4.0) == pytest.approx(0.8)
        assert _value(points, 2.25) == pytest.approx(0.5)
        assert _value(points, 6.25) == pytest.approx(0.6)

    def test_is_exact_where_reward_grows_with_the_root_of_kl(self) -> None:
        points = [_flat(kl, 0.1 + 0.6 * math.sqrt(kl)) for kl in (0.3, 1.0, 3.0)]
        for level in np.linspace(0.3, 3.0, 11):
            assert _value(points, level) == pytest.approx(0.1 + 0.6 * math.sqrt(level))

    def test_takes_points_with_the_same_kl(self) -> None:
        points = [_flat(1.0, 0.2), _flat(1.0, 0.4), _flat(4.0, 0.6)]
        assert _value(points, 1.0) == pytest.approx(0.3)
        assert _value(points, 2.25) == pytest.approx(0.45)

    def test_averages_seeds_of_a_strength_first(self) -> None:
        both = Point([[1.0] * PROMPTS, [3.0] * PROMPTS], [[0.0] * PROMPTS, [0.4] * PROMPTS])
        assert _value([both, _flat(8.0, 0.6)], 2.0) == pytest.approx(0.2)

    @given(st.permutations(range(PROMPTS)))
    @settings(max_examples=10, deadline=None)
    def test_order_of_the_prompts_does_not_move_it(self, order: list[int]) -> None:
        points = [_noisy(1.0, 0.2, 0), _noisy(5.0, 0.6, 1)]
        shuffled = [Point(point.kl[:, order], point.reward[:, order]) for point in points]
        assert _value(shuffled, 2.0) == pytest.approx(_value(points, 2.0), rel=1e-12)

    def test_kl_moves_in_the_resamples(self) -> None:
        still = [_flat(1.0, 0.2), _flat(9.0, 0.8)]
        moving = [Point(_noisy(1.0, 0, 0).kl, still[0].reward), still[1]]
        level = 2.0
        assert rewards_at({"x": still}, level, WEIGHTS)["x"].low == pytest.approx(
            rewards_at({"x": still}, level, WEIGHTS)["x"].high
        )
        estimate = rewards_at({"x": moving}, level, WEIGHTS)["x"]
        assert estimate.high - estimate.low > 0.01

    def test_interval_at_an_end_reaches_to_both_sides(self) -> None:
        last = Point(_noisy(5.0, 0.0, 0).kl, np.full(PROMPTS, 0.8))
        estimate = rewards_at({"x": [_flat(1.0, 0.2), last]}, last.mean_kl, WEIGHTS)["x"]
        assert estimate.value == pytest.approx(0.8)
        assert estimate.low < 0.79
        assert estimate.high > 0.81

    def test_neighbors_of_almost_the_same_kl_do_not_blow_the_interval_up(self) -> None:
        points = [_noisy(1.0, 0.2, 0)]
        for kl, seed in ((5.0, 1), (5.01, 2)):
            noisy = _noisy(1.0, 0.5, seed)
            points.append(Point(kl * noisy.kl / noisy.mean_kl, noisy.reward))
        estimate = rewards_at({"x": points}, 4.995, WEIGHTS)["x"]
        assert estimate.high - estimate.low < 0.3


class TestRange:
    def test_is_what_all_curves_span(self) -> None:
        curves = {"a": [_flat(0.2, 0), _flat(5.0, 1)], "b": [_flat(8.0, 1), _flat(0.5, 0)]}
        assert common_range(curves) == (0.5, 5.0)

    def test_without_overlap_is_none(self) -> None:
        curves = {"a": [_flat(0.2, 0), _flat(1.0, 1)], "b": [_flat(2.0, 1), _flat(5.0, 0)]}
        assert common_range(curves) is None

    def test_lone_points_do_not_narrow_it(self) -> None:
        curves = {"a": [_flat(0.2, 0), _flat(1.0, 1)], "b": [_flat(2.0, 1)], "c": []}
        assert common_range(curves) == (0.2, 1.0)

    def test_of_lone_points_only_is_none(self) -> None:
        assert common_range({"a": [_flat(0.2, 0)]}) is None

    @given(st.floats(0, 5), st.floats(0.01, 5), st.integers(1, 6))
    def test_levels_lie_strictly_inside_and_rise(
        self, low: float, width: float, count: int
    ) -> None:
        levels = default_levels(low, low + width, count)
        assert len(levels) == count
        assert all(low < level < low + width for level in levels)
        assert levels == sorted(set(levels))

    def test_levels_are_even_in_the_root_of_kl(self) -> None:
        assert np.sqrt(default_levels(1.0, 9.0, 3)).tolist() == pytest.approx([1.5, 2.0, 2.5])

    def test_single_kl_is_its_own_level(self) -> None:
        assert default_levels(1.5, 1.5) == [1.5]

    def test_reversed_range_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no range"):
            default_levels(2.0, 1.0)


class TestNotComparable:
    def test_nothing_is_extrapolated(self) -> None:
        curves = {"a": [_flat(0.2, 0), _flat(1.0, 1)], "b": [_flat(0.5, 1), _flat(5.0, 0)]}
        assert set(rewards_at(curves, 2.0, WEIGHTS)) == {"b"}
        assert not_comparable(curves, 2.0) == {"a": "spans KL 0.2 to 1"}

    def test_lone_point_takes_part_at_its_own_kl_only(self) -> None:
        curves = {"a": [_flat(0.7, 0.3)], "b": [_flat(0.5, 0.1), _flat(5.0, 0.9)], "c": []}
        assert not_comparable(curves, 1.0) == {
            "a": "has one point only, at KL 0.7",
            "c": "has no point",
        }
        for level in (0.7, 0.7 * (1 + 1e-12)):
            assert rewards_at(curves, level, WEIGHTS)["a"].value == pytest.approx(0.3)

    def test_pair_says_why(self) -> None:
        curves = {"a": [_flat(0.7, 0.3)], "b": [_flat(0.5, 0.1), _flat(5.0, 0.9)], "c": []}
        pairs = {(one.first, one.second): one for one in compare(curves, 1.0, WEIGHTS)}
        assert pairs["a", "b"].reason == "a has one point only, at KL 0.7"
        assert pairs["a", "c"].reason == "a has one point only, at KL 0.7; c has no point"
        assert pairs["a", "b"].difference.is_missing
        assert not pairs["a", "b"].separated

    def test_level_that_nobody_covers_gives_no_rewards(self) -> None:
        assert rewards_at({"a": [_flat(0.7, 0.3)]}, 1.0, WEIGHTS) == {}


class TestComparison:
    def test_is_the_difference_of_the_curves(self) -> None:
        curves = {
            "a": [_noisy(0.5, 0.1, 0), _noisy(5.0, 0.7, 1)],
            "b": [_noisy(0.4, 0.2, 2), _noisy(6.0, 0.6, 3)],
        }
        (pair,) = compare(curves, 2.0, WEIGHTS)
        rewards = rewards_at(curves, 2.0, WEIGHTS)
        assert pair.difference.value == pytest.approx(rewards["a"].value - rewards["b"].value)
        assert pair.difference.n == PROMPTS
        assert pair.seeds == 1

    def test_all_pairs_are_compared_once(self) -> None:
        curves = {name: [_noisy(0.5, 0, 0), _noisy(5, 0.7, 1)] for name in "abcd"}
        pairs = [(one.first, one.second) for one in compare(curves, 2.0, WEIGHTS)]
        assert pairs == list(itertools.combinations("abcd", 2))

    def test_loss_equals_itself(self) -> None:
        points = [_noisy(0.5, 0.1, 0), _noisy(5.0, 0.7, 1)]
        (pair,) = compare({"a": points, "b": points[::-1]}, 2.0, WEIGHTS)
        assert (pair.difference.value, pair.difference.low, pair.difference.high) == (0, 0, 0)
        assert not pair.separated

    def test_swapped_losses_give_the_opposite(self) -> None:
        one, other = (
            [_noisy(0.5, 0.1, 0), _noisy(5, 0.7, 1)],
            [_noisy(0.4, 0.2, 2), _noisy(6, 0.6, 3)],
        )
        (pair,) = compare({"a": one, "b": other}, 2.0, WEIGHTS)
        (swapped,) = compare({"b": other, "a": one}, 2.0, WEIGHTS)
        assert swapped.difference.value == pytest.approx(-pair.difference.value)
        assert swapped.difference.low == pytest.approx(-pair.difference.high, abs=1e-9)

    def test_is_paired_over_prompts(self) -> None:
        ease = np.random.default_rng(0).normal(0, 1, PROMPTS)
        curves = {
            name: [Point(point.kl, point.reward + ease) for point in points]
            for name, points in {
                "a": [_flat(0.5, 0.10), _flat(5.0, 0.70)],
                "b": [_flat(0.5, 0.05), _flat(5.0, 0.65)],
            }.items()
        }
        (pair,) = compare(curves, 2.0, WEIGHTS)
        rewards = rewards_at(curves, 2.0, WEIGHTS)
        assert rewards["a"].low < rewards["b"].high
        assert pair.separated
        assert pair.difference.low == pytest.approx(0.05)

    def test_says_how_many_seeds_are_behind_it(self) -> None:
        many = Point(np.ones((3, PROMPTS)), np.ones((3, PROMPTS)))
        two = Point(np.full((2, PROMPTS), 4.0), np.ones((2, PROMPTS)))
        (pair,) = compare({"a": [many, two], "b": [many, two]}, 2.0, WEIGHTS)
        assert pair.seeds == 2

    def test_same_inputs_give_the_same_bytes(self) -> None:
        curves = {
            "a": [_noisy(0.5, 0, 0), _noisy(5, 0.7, 1)],
            "b": [_noisy(0.4, 0, 2), _noisy(6, 1, 3)],
        }
        assert compare(curves, 2.0, WEIGHTS) == compare(curves, 2.0, WEIGHTS)

    def test_points_with_other_prompts_are_refused(self) -> None:
        curves = {"a": [_noisy(0.5, 0.1, 0), _noisy(5.0, 0.7, 1, prompts=39)]}
        with pytest.raises(ValueError, match="cannot be paired"):
            rewards_at(curves, 2.0, WEIGHTS)


class TestKnots:
    def test_points_closer_than_a_tenth_in_root_kl_are_averaged(self) -> None:
        points = [_flat(kl, 0) for kl in (4.0, 1.0, 1.2, 1.1, 1.3)]
        assert nodes(points) == [[1, 3, 2], [4], [0]]

    def test_many_points_smooth_the_curve(self) -> None:
        generator = np.random.default_rng(0)
        many = [
            _flat(kl, math.sqrt(kl) + noise)
            for kl, noise in zip(
                np.linspace(3.9, 4.1, 40), generator.normal(0, 0.2, 40), strict=True
            )
        ]
        points = [_flat(1.0, 1.0), *many, _flat(9.0, 3.0)]
        assert _value(points, 4.0) == pytest.approx(2.0, abs=0.1)


class TestSteps:
    """Policies along training: one curve for each step, never one through all."""

    def test_points_of_different_steps_are_not_joined(self) -> None:
        end = [_flat(1.0, 0.4, 9), _flat(9.0, 0.8, 9)]
        half_way = [_flat(3.9, 0.1, 5), _flat(4.1, 0.1, 5)]
        assert _value([*half_way, *end], 2.0) == pytest.approx(_value(end, 2.0))
        assert outline([*half_way, *end]) == {
            5: [(pytest.approx(4.0), pytest.approx(0.1))],
            9: [(1.0, pytest.approx(0.4)), (9.0, pytest.approx(0.8))],
        }

    def test_value_is_the_mean_over_the_steps_that_span_the_kl(self) -> None:
        points = [
            *(_flat(1.0, 0.4, 9), _flat(9.0, 0.8, 9)),
            *(_flat(1.0, 0.2, 5), _flat(5.0, 0.2, 5)),
            *(_flat(0.1, 0.0, 1), _flat(0.3, 0.0, 1)),
        ]
        assert _value(points, 4.0) == pytest.approx((0.6 + 0.2) / 2)
        assert _value(points, 6.25) == pytest.approx(0.7)

    def test_steps_are_those_that_all_losses_share_at_the_kl(self) -> None:
        both = [_flat(1.0, 0.4, 9), _flat(9.0, 0.8, 9), _flat(1.0, 0.2, 5), _flat(9.0, 0.2, 5)]
        narrow = [_flat(1.0, 0.4, 9), _flat(9.0, 0.8, 9), _flat(1.0, 0.2, 5), _flat(2.0, 0.2, 5)]
        found = rewards_at({"both": both, "narrow": narrow}, 4.0, WEIGHTS)
        assert found["both"].value == pytest.approx(found["narrow"].value) == pytest.approx(0.6)
        assert common_range({"both": both, "narrow": narrow}) == (1.0, 9.0)

    def test_equal_losses_differ_nowhere_however_their_policies_are_spread(self) -> None:
        """Each step has a curve of its own, the same for both; a pooled curve would tell them
        apart."""

        def loss(*kls: float) -> list[Point]:
            return [
                _flat(kl * share, 0.3 * math.sqrt(kl * share) * height, step)
                for step, share, height in ((9, 1.0, 1.0), (5, 0.5, 0.7))
                for kl in kls
            ]

        curves = {"a": loss(0.5, 4.0, 9.0), "b": loss(0.5, 2.5, 9.0)}
        for level in (1.0, 2.0, 4.0):
            (one,) = compare(curves, level, WEIGHTS)
            assert one.difference.value == pytest.approx(0, abs=1e-9)

    def test_loss_without_the_shared_step_is_not_compared(self) -> None:
        end = [_flat(1.0, 0.4, 9), _flat(9.0, 0.8, 9)]
        early = [_flat(1.0, 0.4, 5), _flat(9.0, 0.8, 5)]
        curves = {"a": end, "b": end, "early": early}
        assert not_comparable(curves, 4.0) == {"early": "spans KL 1 to 9 at other steps"}
        means = cells(curves)[0].mean(axis=0, keepdims=True)
        with pytest.raises(ValueError, match="span KL 4 at the same step"):
            read(curves, means, 4.0)

    def test_ranges_that_do_not_meet_leave_the_wider(self) -> None:
        points = [_flat(0.1, 0, 1), _flat(0.2, 0, 1), _flat(1.0, 0, 2), _flat(4.0, 0, 2)]
        assert common_range({"a": points}) == (1.0, 4.0)
        assert common_range({"a": [*points, _flat(1.5, 0, 1)]}) == (0.1, 4.0)
        within = [_flat(3.0, 0, 3), _flat(3.5, 0, 3)]
        assert common_range({"a": [*points, *within]}) == (1.0, 4.0)


class TestSeeds:
    def test_same_seeds_are_paired_by_name(self) -> None:
        luck = np.array([[0.5], [-0.2], [-0.3]]) + np.zeros(PROMPTS)
        one = [Point(np.full_like(luck, kl), luck + kl, (7, 8, 9)) for kl in (1.0, 4.0)]
        other = [Point(np.full_like(luck, kl), luck[::-1] + kl, (9, 8, 7)) for kl in (1.0, 4.0)]
        (pair,) = compare({"a": one, "b": other}, 2.0, WEIGHTS)
        assert pair.spread is not None
        assert pair.spread.between == pytest.approx(0, abs=1e-9)
        assert interpolate_at({"a": one}, 2.0, WEIGHTS)["a"].spread.between > 0.2

    def test_one_seed_says_that_its_variance_is_unknown(self) -> None:
        curves = {"a": [_noisy(0.5, 0, 0), _noisy(5, 0.7, 1)]}
        assert not interpolate_at(curves, 2.0, WEIGHTS)["a"].spread.known

    def test_names_must_fit_the_rows(self) -> None:
        for names in ((1,), (1, 1)):
            with pytest.raises(ValueError, match="do not name"):
                Point(np.ones((2, 3)), np.ones((2, 3)), names)


class TestFamilies:
    def test_more_levels_are_a_larger_family(self) -> None:
        curves = {name: [_noisy(0.5, 0, ord(name)), _noisy(5, 0.7, 1)] for name in "abc"}
        alone, (first, second) = (
            compare(curves, 1.0, WEIGHTS),
            compare_levels(curves, [1.0, 2.0], WEIGHTS),
        )
        assert [one.family for one in alone] == [3] * 3
        assert [one.family for one in first + second] == [6] * 6
        for one, other in zip(alone, first, strict=True):
            assert one.p_value == other.p_value
            assert one.adjusted <= other.adjusted


class TestAreas:
    def test_is_the_integral_over_kl(self) -> None:
        curves = {
            "a": [_flat(1.0, 0.0), _flat(4.0, 0.5), _flat(9.0, 0.6)],
            "b": [_flat(0.25, 0.0), _flat(16.0, 0.0)],
        }
        (found,) = areas(curves, WEIGHTS)
        assert (found.low, found.high) == (1.0, 9.0)
        kl = np.linspace(1, 9, 200_001)
        gap = np.interp(np.sqrt(kl), [1, 2, 3], [0, 0.5, 0.6])
        assert found.area.value == pytest.approx(gap.mean() * 8, rel=2e-3)
        assert found.mean.value == pytest.approx(found.area.value / 8)

    def test_of_parallel_curves_is_their_distance_and_paired(self) -> None:
        points = [_noisy(0.5, 0.1, 0), _noisy(5.0, 0.7, 1)]
        lower = [Point(one.kl, one.reward - 0.2) for one in points]
        (found,) = areas({"a": points, "b": lower}, WEIGHTS)
        assert [found.mean.value, found.mean.low, found.mean.high] == pytest.approx([0.2] * 3)
        assert found.adjusted == pytest.approx(0)

    def test_without_common_range_there_is_none(self) -> None:
        curves = {"a": [_flat(0.2, 0), _flat(1.0, 1)], "b": [_flat(2.0, 1), _flat(5.0, 0)]}
        assert areas(curves, WEIGHTS) == []
        assert areas({"a": [_flat(0.2, 0)]}, WEIGHTS) == []

    def test_family_is_corrected(self) -> None:
        curves = {name: [_noisy(0.5, 0, ord(name)), _noisy(5, 0.7, 1)] for name in "abc"}
        found = areas(curves, WEIGHTS)
        assert len(found) == 3
        smallest = min(found, key=lambda one: one.p_value)
        assert smallest.adjusted == pytest.approx(min(1, 3 * smallest.p_value))


class TestGaps:
    def test_is_what_the_losses_lack(self) -> None:
        rewards = np.random.default_rng(0).normal(size=(PROMPTS, 32))
        frontier = Frontier(rewards)
        curves = {"a": [_flat(0.1, 0.0), _flat(1.0, 0.4)], "b": [_flat(0.5, 0.2)]}
        found = regret_at(curves, frontier, 0.4, WEIGHTS)
        assert list(found) == ["a"]
        reward = rewards_at(curves, 0.4, WEIGHTS)["a"].value
        assert found["a"].estimate.value == pytest.approx(frontier.reward_at(0.4) - reward)
        assert found["a"].estimate.low < found["a"].estimate.value < found["a"].estimate.high

    def test_beyond_the_frontier_there_is_none(self) -> None:
        frontier = Frontier(np.random.default_rng(0).normal(size=(PROMPTS, 32)))
        curves = {"a": [_flat(0.1, 0.0), _flat(9.0, 0.4)]}
        assert regret_at(curves, frontier, frontier.valid_kl + 0.01, WEIGHTS) == {}

    def test_other_prompts_are_refused(self) -> None:
        frontier = Frontier(np.random.default_rng(0).normal(size=(PROMPTS - 1, 32)))
        with pytest.raises(ValueError, match="39 prompts, the losses 40"):
            regret_at({"a": [_flat(0.1, 0.0), _flat(1.0, 0.4)]}, frontier, 0.4, WEIGHTS)


def _compared(rewards: dict[str, float], apart: set[frozenset[str]]) -> list[tuple[str, ...]]:
    estimates = {name: Estimate(value, value, value, 9) for name, value in rewards.items()}
    comparisons = []
    for first, second in itertools.combinations(rewards, 2):
        separated = frozenset((first, second)) in apart
        found = 0.001 if separated else 0.2
        comparisons.append(
            Comparison(first, second, 1.0, Estimate(1, 0, 2, 9), p_value=found, adjusted=found)
        )
    return groups(estimates, comparisons)


class TestGroups:
    def test_not_separated_does_not_carry_over(self) -> None:
        rewards = {"low": 0.1, "high": 0.9, "middle": 0.5}
        found = _compared(rewards, {frozenset(("low", "high"))})
        assert found == [("high", "middle"), ("middle", "low")]

    def test_all_alike_are_one_group(self) -> None:
        assert _compared({"a": 1, "b": 2, "c": 3}, set()) == [("c", "b", "a")]

    def test_all_apart_are_a_ranking(self) -> None:
        pairs = {frozenset(pair) for pair in itertools.combinations("abc", 2)}
        assert _compared({"a": 1, "b": 2, "c": 3}, pairs) == [("c",), ("b",), ("a",)]

    def test_of_nothing_are_none(self) -> None:
        assert groups({}, []) == []

    def test_pair_that_was_not_compared_is_refused(self) -> None:
        estimates = {name: Estimate(0, 0, 0, 9) for name in "ab"}
        with pytest.raises(ValueError, match="a and b were not compared"):
            groups(estimates, [])

    @given(st.sets(st.sampled_from(list(itertools.combinations("abcdef", 2)))))
    @settings(max_examples=50, deadline=None)
    def test_are_the_maximal_sets_without_a_separated_pair(
        self, pairs: set[tuple[str, str]]
    ) -> None:
        apart = {frozenset(pair) for pair in pairs}
        alike = [
            frozenset(names)
            for size in range(1, 7)
            for names in itertools.combinations("abcdef", size)
            if not any(frozenset(pair) in apart for pair in itertools.combinations(names, 2))
        ]
        maximal = {names for names in alike if not any(names < other for other in alike)}
        found = _compared({name: ord(name) for name in "abcdef"}, apart)
        assert {frozenset(names) for names in found} == maximal
        assert len(found) == len(maximal)


def _drawn(generator: np.random.Generator, ease: Array) -> list[Point]:
    """One loss's grid where reward is .1 + .28 sqrt(KL), squashed, and prompts differ."""
    points = []
    for kl in (0.38, 0.95, 2.9, 5.2, 8.6):
        spread = np.exp(0.5 * ease + 0.4 * generator.normal(size=len(ease)) - 0.205)
        score = 0.1 + 0.28 * math.sqrt(kl) + 0.3 * ease
        noise = 0.5 * generator.normal(size=(2, len(ease)))
        points.append(Point(kl * spread, np.tanh(score + noise).mean(axis=0)))
    return points


@pytest.mark.slow
def test_equal_losses_are_separated_as_rarely_as_the_level_says() -> None:
    generator, rounds = np.random.default_rng(0), 1500
    wrong = np.zeros(3)
    for seed in range(rounds):
        ease = generator.normal(size=256)
        curves = {name: _drawn(generator, ease) for name in "ab"}
        weights = resample_weights(256, 1000, seed)
        wrong += [compare(curves, level, weights)[0].separated for level in (1.5, 3.5, 7.0)]
    assert (wrong / rounds >= 0.03).all()
    assert (wrong / rounds <= 0.07).all()


def test_equal_losses_are_rarely_separated() -> None:
    generator, rounds = np.random.default_rng(1), 200
    wrong = 0
    for seed in range(rounds):
        ease = generator.normal(size=128)
        curves = {name: _drawn(generator, ease) for name in "ab"}
        wrong += compare(curves, 3.5, resample_weights(128, 500, seed))[0].separated
    assert 0.02 <= wrong / rounds <= 0.09
