"""Planned looks share the 5%; each comparison has the verdict of the first that decided it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.calibration.simulate import Losses
from dpo_bench.analysis.comparisons import LEVEL, Comparison, Family, compare_losses
from dpo_bench.analysis.looks import (
    WAITS,
    compare_in_looks,
    levels_of_looks,
    nearness,
    open_losses,
    with_seeds,
    without_verdicts,
)
from dpo_bench.analysis.points import Curves, Point
from dpo_bench.analysis.readings import curves_in_common

KLS = (2.0, 4.0)


def test_looks_spend_all_of_it_and_no_more() -> None:
    for seeds in ([3, 10], [2, 3, 4, 5], [5]):
        levels = levels_of_looks(seeds)
        assert sum(levels) == pytest.approx(0.05)
        assert min(levels) > 0


@pytest.mark.parametrize("seeds", [[], [3, 3], [5, 3], [0, 2]])
def test_looks_must_rise(seeds: list[int]) -> None:
    with pytest.raises(ValueError, match="do not rise"):
        levels_of_looks(seeds)


def drawn(heights: tuple[float, ...], seeds: int = 6, seed: int = 3) -> Curves:
    return Losses(heights, prompts=64, seeds=seeds, grid="targets").draw(
        np.random.default_rng(seed)
    )


def looks(*counts: int) -> list[tuple[tuple[int, ...], float]]:
    levels = levels_of_looks(counts)
    return [(tuple(range(count)), level) for count, level in zip(counts, levels, strict=True)]


def of(family: Family, loss: str) -> list[Comparison]:
    return [one for one in family.all if one.first == loss]


def same(one: Family, other: Family) -> None:
    assert one.critical == other.critical
    assert [(c.p_value, c.verdict, c.band) for c in one.all] == [
        (c.p_value, c.verdict, c.band) for c in other.all
    ]
    assert one.values == other.values


def test_one_look_at_all_of_the_level_is_the_plain_comparison() -> None:
    curves = drawn((0.0, 0.1, 0.0))
    plain = compare_losses(curves_in_common(curves), KLS, baseline="0", same_within=0.05)
    for given in (looks(6), []):
        found = compare_in_looks(curves, KLS, given, baseline="0", same_within=0.05)
        same(found, plain)


def test_a_look_reads_its_own_seeds_at_its_own_level() -> None:
    curves = drawn((0.0, 0.02, 0.01))
    (first, level), _ = looks(3, 6)
    found = compare_in_looks(curves, KLS, [(first, level)], baseline="0")
    three = {
        name: [Point(one.kl[:3], one.reward[:3], (0, 1, 2)) for one in points]
        for name, points in curves.items()
    }
    plain = compare_losses(curves_in_common(three), KLS, baseline="0", level=level)
    assert found.critical == plain.critical
    for one, other in zip(found.all, plain.all, strict=True):
        assert one.band == other.band
        assert one.p_value == pytest.approx(min(1.0, other.p_value * 0.05 / level))


def test_a_verdict_stays_that_of_the_look_that_decided_it() -> None:
    """Loss 1 is far above at three seeds; its further seeds, far below, change nothing."""
    curves = dict(drawn((0.0, 0.4, 0.0)))
    first, second = looks(3, 6)
    curves["1"] = [
        Point(one.kl, np.concatenate([one.reward[:3], one.reward[3:] - 5.0])) for one in curves["1"]
    ]
    early = compare_in_looks(curves, KLS, [first], baseline="0")
    late = compare_in_looks(curves, KLS, [first, second], baseline="0")
    assert [one.verdict for one in of(early, "1")] == ["better", "better"]
    for one, other in zip(of(late, "1"), of(early, "1"), strict=True):
        assert one == other, "verdict, band and p are those of the first look"
    for one, other in zip(of(late, "2"), of(early, "2"), strict=True):
        assert other.verdict == "open"
        assert one.band != other.band, "what was open is read anew"


def test_a_decided_loss_needs_no_further_seeds() -> None:
    curves = dict(drawn((0.0, 0.4, 0.0)))
    curves["1"] = with_seeds(curves, range(3))["1"]
    found = compare_in_looks(curves, KLS, looks(3, 6), baseline="0")
    assert [one.verdict for one in of(found, "1")] == ["better", "better"]
    assert {one.spread.seeds for one in of(found, "2") if one.spread} == {6}
    assert "1" not in open_losses(found)


def test_p_is_below_five_percent_exactly_where_it_is_decided() -> None:
    for seed in range(12):
        curves = drawn((0.0, 0.03, 0.05, -0.04), seed=seed)
        found = compare_in_looks(curves, KLS, looks(3, 6), baseline="0")
        for one in found.all:
            if not one.reason:
                assert (one.p_value < LEVEL) == one.decided
                assert one.decided == (one.band.low > 0 or one.band.high < 0)


def test_losses_with_an_open_comparison_and_how_near_they_are() -> None:
    found = compare_in_looks(drawn((0.0, 0.4, 0.01)), KLS, looks(3, 6)[:1], baseline="0")
    assert open_losses(found) == set(nearness(found)) == {"2"}
    assert 0 <= nearness(found)["2"] <= 1


def test_what_is_not_compared_is_not_open() -> None:
    curves = dict(drawn((0.0, 0.0)))
    curves["1"] = curves["1"][:1]
    found = compare_in_looks(curves, (40.0,), looks(3, 6), baseline="0")
    assert open_losses(found) == set()


def test_before_the_first_look_nothing_is_said() -> None:
    found = without_verdicts(compare_in_looks(drawn((0.0, 0.4)), KLS, [], baseline="0"))
    assert {(one.verdict, one.reason) for one in found.all} == {("open", WAITS)}


def test_under_the_null_looks_give_few_false_verdicts() -> None:
    """At most 5%: of 60 sweeps more than 7 would be found with a chance of 1%."""
    false = [
        any(
            one.decided
            for one in compare_in_looks(
                drawn((0.0, 0.0, 0.0, 0.0), seed=100 + seed), KLS, looks(2, 4, 6), baseline="0"
            ).all
        )
        for seed in range(60)
    ]
    assert sum(false) <= 7
