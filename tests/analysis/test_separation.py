from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpo_bench.analysis.bootstrap import Array, resample_weights
from dpo_bench.analysis.estimate import Estimate
from dpo_bench.analysis.separation import (
    LEVEL,
    Comparison,
    corrected,
    holm,
    prompts_to_separate,
    seeds_to_separate,
)
from dpo_bench.analysis.two_way import Spread, two_way

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=7)


def _pair(p_value: float, name: str = "b") -> Comparison:
    return Comparison("a", name, 1.0, Estimate(1, 0, 2, 9), p_value=p_value)


class TestHolm:
    @given(P_VALUES)
    @settings(max_examples=60, deadline=None)
    def test_rejects_what_the_closed_test_rejects(self, values: list[float]) -> None:
        # closed testing: a hypothesis falls if every set that holds it is refuted by Bonferroni
        adjusted, _ = holm(values)
        everyone = range(len(values))
        for index in everyone:
            sets = [
                part
                for size in range(1, len(values) + 1)
                for part in itertools.combinations(everyone, size)
                if index in part
            ]
            worst = max(min(len(part) * min(values[i] for i in part), 1.0) for part in sets)
            assert adjusted[index] == pytest.approx(worst, abs=1e-12)

    @given(P_VALUES)
    def test_is_never_smaller_than_the_p_value_nor_above_bonferroni(
        self, values: list[float]
    ) -> None:
        adjusted, _ = holm(values)
        assert (adjusted >= np.array(values)).all()
        assert (adjusted <= np.minimum(len(values) * np.array(values), 1) + 1e-12).all()

    def test_keeps_the_order(self) -> None:
        values = [0.04, 0.001, 0.03, 0.02]
        adjusted, threshold = holm(values)
        assert np.argsort(adjusted, kind="stable").tolist()[0] == 1
        assert threshold.tolist() == pytest.approx([0.05, 0.0125, 0.025, 0.05 / 3])

    def test_one_comparison_is_left_alone(self) -> None:
        assert holm([0.03])[0].tolist() == [0.03]

    @pytest.mark.parametrize("values", [[0.1, math.nan], [1.2], [-0.1]])
    def test_no_p_value_is_refused(self, values: list[float]) -> None:
        with pytest.raises(ValueError, match="between 0 and 1"):
            holm(values)


class TestCorrected:
    def test_larger_family_separates_less(self) -> None:
        alone = corrected([_pair(0.03)])
        among = corrected([_pair(0.03), *(_pair(0.9, str(index)) for index in range(5))])
        assert alone[0].separated
        assert not among[0].separated
        assert (alone[0].family, among[0].family) == (1, 6)

    def test_pairs_that_were_not_compared_do_not_count(self) -> None:
        missing = Comparison("a", "c", 1.0, Estimate.missing(), reason="no")
        found = corrected([missing, _pair(0.03)])
        assert not found[0].separated
        assert math.isnan(found[0].adjusted)
        assert found[1].family == 1
        assert found[1].adjusted == 0.03

    def test_nothing_is_separated_before_the_correction(self) -> None:
        assert not _pair(1e-9).separated


def _compared(cells: Array) -> Comparison:
    weights = resample_weights(cells.shape[1], 1000, seed=0)
    (one,) = two_way(lambda means: means, cells, weights)
    return corrected([Comparison("a", "b", 1.0, one.estimate, one.spread, one.p_value)])[0]


def _cells(prompts: int, seeds: int, shift: float) -> Array:
    """Cells whose mean is the shift and whose parts do not depend on luck."""
    generator = np.random.default_rng(0)
    ease = generator.normal(size=prompts)
    own = np.linspace(-1, 1, seeds) if seeds > 1 else np.zeros(1)
    table = 0.5 * (ease - ease.mean()) / ease.std() + 0.05 * own[:, None] + shift
    return np.asarray(table[:, :, None])


class TestPromptsToSeparate:
    def test_half_the_difference_takes_four_times_the_prompts(self) -> None:
        small, large = (
            prompts_to_separate(_compared(_cells(400, 1, shift))) for shift in (0.02, 0.04)
        )
        assert small is not None
        assert large is not None
        assert small == pytest.approx(4 * large, rel=0.01)

    def test_is_right(self) -> None:
        needed = prompts_to_separate(_compared(_cells(400, 1, 0.03)))
        assert needed is not None
        assert 400 < needed < 2000
        assert _compared(_cells(int(1.1 * needed), 1, 0.03)).separated
        assert not _compared(_cells(int(0.9 * needed), 1, 0.03)).separated

    @pytest.mark.parametrize("shift", [0.03, 0.049, 0.051, 0.1])
    def test_agrees_with_separated(self, shift: float) -> None:
        pair = _compared(_cells(400, 1, shift))
        needed = prompts_to_separate(pair)
        assert needed is not None
        assert needed <= 400 if pair.separated else needed >= 400

    def test_larger_family_takes_more(self) -> None:
        pair = _compared(_cells(400, 1, 0.03))
        family = corrected([pair, *(_pair(0.5, str(index)) for index in range(20))])
        assert (prompts_to_separate(family[0]) or 0) > 1.5 * (prompts_to_separate(pair) or 0)

    def test_no_number_helps_where_the_seeds_differ_too_much(self) -> None:
        pair = _compared(_cells(400, 3, 0.02))
        assert not pair.separated
        assert prompts_to_separate(pair) is None
        assert seeds_to_separate(pair) is None

    @pytest.mark.parametrize(
        "pair",
        [
            Comparison("a", "b", 1.0, Estimate.missing(), reason="no"),
            Comparison("a", "b", 1.0, Estimate(0, -1, 1, 9), Spread(1, 1, 1, 1, 1, 3), 1.0),
        ],
    )
    def test_without_a_difference_is_none(self, pair: Comparison) -> None:
        assert prompts_to_separate(pair) is None
        assert seeds_to_separate(pair) is None

    @pytest.mark.parametrize("seeds", [1, 3])
    def test_without_an_interval_is_none(self, seeds: int) -> None:
        """A single prompt has none, whatever is known of its seeds."""
        single = Estimate(0.5, math.nan, math.nan, 1)
        spread = Spread(0.1, 0.1, 0.1, 0.1, 0.1, seeds)
        assert prompts_to_separate(Comparison("a", "b", 1.0, single, spread)) is None

    @pytest.mark.parametrize("unit", [1.0, 2.0, 1e-3])
    def test_unit_of_the_reward_does_not_matter(self, unit: float) -> None:
        """A difference of 1 with a standard error of .8, 100 prompts: (.8 x 1.984)^2 as many."""
        spread = Spread(0.8 * unit, math.nan, math.nan, math.nan, 0.8 * unit, 1)
        pair = Comparison("a", "b", 1.0, Estimate(unit, -unit, 3 * unit, 100), spread, 0.2)
        assert prompts_to_separate(pair) == math.ceil(100 * (0.8 * stats.t.isf(0.025, 99)) ** 2)

    @pytest.mark.parametrize(("times", "is_named"), [(0.8e6, True), (1.3e6, False)])
    def test_more_than_a_million_times_as_many_are_not_named(
        self, times: float, is_named: bool
    ) -> None:
        distance = stats.t.isf(0.025, 999) / math.sqrt(times)
        spread = Spread(1.0, math.nan, math.nan, math.nan, 1.0, 1)
        needed = prompts_to_separate(
            Comparison("a", "b", 1.0, Estimate(distance, -2, 2, 1000), spread, 0.9)
        )
        assert (needed is not None) == is_named
        assert needed is None or needed == pytest.approx(1000 * times, rel=1e-3)


class TestSeedsToSeparate:
    def test_is_unknown_with_one_seed(self) -> None:
        assert seeds_to_separate(_compared(_cells(400, 1, 0.03))) is None

    def test_is_the_least_that_is_enough(self) -> None:
        spread = Spread(0.01, 0.05, 0.0, 0.05, 0.01, 3)
        pair = Comparison("a", "b", 1.0, Estimate(0.08, -0.1, 0.3, 256), spread, 0.2)
        needed = seeds_to_separate(pair)
        assert needed is not None
        assert needed > 3
        for seeds, enough in ((needed, True), (needed - 1, False)):
            error = 0.05 * math.sqrt(3 / seeds)
            generator = np.random.default_rng(1)
            sums = error * generator.standard_t(seeds - 1, 10**6)
            sums += 0.01 * generator.standard_t(255, 10**6)
            assert (float((np.abs(sums) > 0.08).mean()) < LEVEL) == enough
