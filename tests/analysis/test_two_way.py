from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dpo_bench.analysis.bootstrap import Array, bootstrap_mean, resample_weights
from dpo_bench.analysis.two_way import Clustered, degrees_of_freedom, two_way

PROMPTS = 60
WEIGHTS = resample_weights(PROMPTS, 2000, seed=0)


def _cells(prompts: float, seeds: float, responses: float, count: int = 3, seed: int = 0) -> Array:
    """Cells [seeds, prompts, 1] with effects of these standard deviations."""
    generator = np.random.default_rng(seed)
    table = (
        prompts * generator.normal(size=(1, PROMPTS))
        + seeds * generator.normal(size=(count, 1))
        + responses * generator.normal(size=(count, PROMPTS))
    )
    return np.asarray(table[:, :, None])


def _mean(cells: Array) -> Clustered:
    (found,) = two_way(lambda means: means, cells, WEIGHTS)
    return found


class TestSpread:
    def test_parts_are_those_of_the_analysis_of_variance(self) -> None:
        table = _cells(1.0, 0.5, 0.8, count=4)[:, :, 0]
        seeds, prompts, whole = table.mean(axis=1), table.mean(axis=0), table.mean()
        rest = table - seeds[:, None] - prompts + whole
        square_seeds = PROMPTS * ((seeds - whole) ** 2).sum() / 3
        square_rest = (rest**2).sum() / (3 * (PROMPTS - 1))
        spread = _mean(table[:, :, None]).spread
        cells = 4 * PROMPTS
        assert spread.total**2 == pytest.approx(square_seeds / cells)
        assert spread.between**2 == pytest.approx((square_seeds - square_rest) / cells)
        assert spread.count == 4

    def test_finds_what_was_put_in(self) -> None:
        found = [_mean(_cells(1.0, 0.3, 2.0, count=5, seed=seed)).spread for seed in range(300)]
        total = np.mean([one.total**2 for one in found])
        assert total == pytest.approx(0.09 / 5 + 4 / (5 * PROMPTS), rel=0.1)

    def test_with_one_seed_the_variance_between_seeds_is_unknown(self) -> None:
        spread = _mean(_cells(1.0, 0.5, 0.8, count=1)).spread
        assert spread.count == 1
        assert math.isnan(spread.total)
        assert math.isnan(spread.between)

    def test_seeds_in_common_cancel_in_a_difference(self) -> None:
        one = _cells(1.0, 0.5, 0.1, seed=1)
        both = np.concatenate([one, one + _cells(0.0, 0.0, 0.1, seed=2)], axis=2)
        (paired,) = two_way(lambda means: means[:, :1] - means[:, 1:], both, WEIGHTS)
        assert paired.spread.total < 0.1 * _mean(one).spread.total

    def test_column_that_lacks_a_seed_counts_its_own(self) -> None:
        both = np.concatenate([_cells(1, 0.5, 0.5, count=4), _cells(1, 0.5, 0.5, 4, 1)], axis=2)
        both[3, :, 1] = np.nan
        (first, second, difference) = two_way(
            lambda means: np.column_stack([means, means[:, 0] - means[:, 1]]), both, WEIGHTS
        )
        assert [one.spread.count for one in (first, second, difference)] == [4, 3, 3]
        assert second.estimate.value == pytest.approx(both[:3, :, 1].mean())
        alone = _mean(both[:3, :, 1:])
        assert second.spread.total == pytest.approx(alone.spread.total)

    def test_column_with_one_seed_makes_the_seeds_unknown(self) -> None:
        both = np.concatenate([_cells(1, 0.5, 0.5), _cells(1, 0.5, 0.5, seed=1)], axis=2)
        both[1:, :, 1] = np.nan
        (found,) = two_way(lambda means: means[:, :1] - means[:, 1:], both, WEIGHTS)
        assert found.spread.count == 1

    @pytest.mark.parametrize("hole", [(slice(1), 3), (slice(None), slice(None))])
    def test_half_a_seed_or_none_is_refused(self, hole: tuple[slice, slice | int]) -> None:
        cells = _cells(1, 1, 1)
        cells[hole] = np.nan
        with pytest.raises(ValueError, match="lacks"):
            _mean(cells)


class TestInterval:
    def test_with_one_seed_is_the_one_over_prompts(self) -> None:
        cells = _cells(1, 0.5, 0.5, count=1)
        assert _mean(cells).estimate == bootstrap_mean(cells[0, :, 0], WEIGHTS)

    def test_of_seeds_that_are_all_is_students(self) -> None:
        cells = _cells(0.0, 1.0, 0.0, count=4)
        seeds = cells[:, 0, 0]
        half = stats.t.ppf(0.975, 3) * seeds.std(ddof=1) / 2
        found = _mean(cells).estimate
        assert found.high - found.value == pytest.approx(half, rel=1e-9)
        assert found.value - found.low == pytest.approx(half, rel=1e-9)

    def test_of_prompts_that_are_all_is_that_over_prompts(self) -> None:
        cells = np.repeat(_cells(1.0, 0.0, 0.0, count=1), 3, axis=0)
        found, alone = _mean(cells).estimate, bootstrap_mean(cells[0, :, 0], WEIGHTS)
        assert [found.low, found.high] == pytest.approx([alone.low, alone.high], rel=1e-9)

    def test_seeds_that_agree_by_luck_do_not_narrow_it(self) -> None:
        """Never below what prompts and responses alone give."""
        for seed in range(40):
            cells = _cells(0.2, 0.0, 1.0, count=3, seed=seed)
            alone = bootstrap_mean(cells[:, :, 0].mean(axis=0), WEIGHTS)
            assert _width(cells) >= 0.999 * (alone.high - alone.low)

    def test_more_seeds_narrow_it(self) -> None:
        widths = [
            np.mean([_width(_cells(0.5, 0.5, 0.5, count, seed)) for seed in range(20)])
            for count in (2, 3, 5, 10)
        ]
        assert widths == sorted(widths, reverse=True)

    def test_same_inputs_give_the_same_bytes(self) -> None:
        cells = _cells(1, 1, 1)
        assert _mean(cells) == _mean(cells.copy())

    def test_single_prompt_has_no_interval(self) -> None:
        (found,) = two_way(lambda m: m, np.ones((3, 1, 1)), resample_weights(1, 10, 0))
        assert found.estimate.value == 1
        assert math.isnan(found.estimate.low)


def _width(cells: Array) -> float:
    estimate = _mean(cells).estimate
    return estimate.high - estimate.low


@pytest.mark.parametrize(
    ("seeds", "low", "high"),
    [(2, 0.944, 0.971), (3, 0.95, 0.961), (5, 0.95, 0.957), (10, 0.95, 0.955)],
)
def test_coverage_is_the_one_that_is_stated(seeds: int, low: float, high: float) -> None:
    # given the seeds' mean square, a chi-square, the interval holds a normal error or not
    log = np.linspace(-40, 5, 2001)
    chi = np.exp(log)
    density = np.exp((seeds - 1) / 2 * log - chi / 2)
    density /= density.sum()
    held = []
    for true in (0.0, 0.01, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 0.9, 0.95, 0.99):
        total = true * chi / (seeds - 1) + 1 - true
        freedom = np.array(
            [degrees_of_freedom(one, seeds, 10**6) for one in 1 - (1 - true) / total]
        )
        half = stats.t.ppf(0.975, freedom) * np.sqrt(total)
        held.append(float(((2 * stats.norm.cdf(half) - 1) * density).sum()))
    assert min(held) == pytest.approx(low, abs=0.001)
    assert max(held) == pytest.approx(high, abs=0.001)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_interval_holds_the_truth_for_few_seeds(seeds: int, share: float) -> None:
    prompts = 40
    generator = np.random.default_rng(seeds)
    columns = 600
    table = math.sqrt((1 - share) * prompts) * generator.normal(size=(1, prompts, columns))
    table = table + math.sqrt(share * seeds) * generator.normal(size=(seeds, 1, columns))
    found = two_way(lambda means: means, table, resample_weights(prompts, 600, seed=1))
    held = sum(one.estimate.low <= 0 <= one.estimate.high for one in found)
    assert 0.915 <= held / columns <= 0.985
