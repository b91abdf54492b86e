"""One axis: where to look next, and what is said where a KL is not to be had."""

from __future__ import annotations

import math

import pytest

from dpo_bench.search.along import Probe, next_round
from dpo_bench.search.axes import Axis
from tests.search.simulated import learning_rate, strength

AXIS = strength(low=1e-4, high=1e4, first=(0.1, 1.0))


def probes(axis: Axis, kls: dict[float, float | str]) -> list[Probe]:
    """Values with their KLs: a number; ``>20``: stopped there; ``diverged``; ``failed``."""
    found = []
    for value, kl in kls.items():
        if kl == "failed":
            probe = Probe(axis.place(value), math.nan)
        elif kl == "diverged":
            probe = Probe(axis.place(value), math.inf)
        elif isinstance(kl, str):
            probe = Probe(axis.place(value), math.log(float(kl[1:])), is_bound=True)
        else:
            probe = Probe(axis.place(value), math.log(kl))
        found.append(probe)
    return found


def proposed(kls: dict[float, float | str], wanted: list[float], axis: Axis = AXIS) -> list[float]:
    found = next_round(axis, probes(axis, kls), wanted)
    assert not found.reasons
    return [one.value for one in found.proposals]


def reason(kls: dict[float, float | str], wanted: float, axis: Axis = AXIS) -> str:
    found = next_round(axis, probes(axis, kls), [wanted])
    assert not found.proposals
    return found.reasons[wanted]


def test_a_kl_between_two_others_is_interpolated_in_logarithms() -> None:
    assert proposed({0.1: 8.0, 1.0: 2.0}, [4.0]) == [0.316]
    found = next_round(AXIS, probes(AXIS, {0.1: 8.0, 1.0: 2.0}), [4.0]).proposals
    assert found[0].is_safe


def test_several_kls_in_a_narrow_gap_are_asked_for_at_once_and_in_a_wide_one_the_middle() -> None:
    assert len(proposed({0.1: 4.5, 1.0: 1.8}, [2.0, 4.0])) == 2
    (middle,) = proposed({0.01: 32.0, 1.0: 0.3}, [0.5, 2.0, 8.0])
    assert 0.1 < middle < 0.5


def test_beyond_the_last_the_direction_that_was_seen_is_followed() -> None:
    (lower,) = proposed({0.1: 2.0, 1.0: 1.0}, [4.0])
    assert lower < 0.1
    (higher,) = proposed({0.1: 1.0, 1.0: 2.0}, [4.0])
    assert higher > 1.0
    assert not next_round(AXIS, probes(AXIS, {0.1: 1.0, 1.0: 2.0}), [4.0]).proposals[0].is_safe


def test_the_farthest_of_several_kls_beyond_an_end_is_looked_for_first() -> None:
    both = proposed({0.1: 2.0, 1.0: 1.0}, [4.0, 8.0])
    assert both == proposed({0.1: 2.0, 1.0: 1.0}, [8.0])


def test_a_stretch_that_hardly_moves_is_a_plateau_once_both_sides_were_looked_at() -> None:
    outside = proposed({0.1: 6.0, 1.0: 6.05}, [2.0])
    assert len(outside) == 1
    flat: dict[float, float | str] = {0.01: 5.9, 0.1: 6.0, 1.0: 6.05, 10.0: 6.1}
    assert reason(flat, 2.0) == "KL stays between 5.9 and 6.1 for beta from 0.01 to 10"
    assert reason(flat, 20.0) == "KL stays between 5.9 and 6.1 for beta from 0.01 to 10"


def test_a_curve_that_comes_to_a_floor_has_it_named() -> None:
    falling: dict[float, float | str] = {0.1: 8.0, 1.0: 1.2, 10.0: 0.61, 100.0: 0.6}
    assert reason(falling, 0.3) == "KL does not go below 0.6 by beta (tried 0.1 to 100)"


def test_a_jump_is_narrowed_down_and_named() -> None:
    kls: dict[float, float | str] = {0.1: 8.0, 1.0: 7.9, 1.01: 0.5, 10.0: 0.45}
    assert reason(kls, 2.0) == "KL jumps from 0.5 to 7.9 between beta 1 and 1.01"


def test_between_a_known_kl_and_one_that_is_only_large_the_middle_is_tried() -> None:
    for large in (">20", "diverged"):
        found = next_round(AXIS, probes(AXIS, {0.1: large, 1.0: 2.0}), [4.0]).proposals
        assert [one.value for one in found] == [0.316]
        assert not found[0].is_safe


def test_where_all_diverged_both_sides_are_looked_at() -> None:
    tried: dict[float, float | str] = {0.1: "diverged", 1.0: "diverged"}
    sides = set()
    for _ in range(4):
        (value,) = proposed(tried, [2.0])
        sides.add(value > 0.3)
        tried[value] = "diverged"
    assert sides == {False, True}
    assert "diverged or went far beyond" in reason(tried, 2.0)


def test_where_all_were_stopped_the_side_with_the_smaller_kl_is_taken() -> None:
    (lower,) = proposed({0.1: ">20", 1.0: ">40"}, [2.0])
    assert lower < 0.1
    (higher,) = proposed({0.1: ">40", 1.0: ">20"}, [2.0])
    assert higher > 1.0


def test_a_learning_rate_at_which_all_diverged_is_lowered() -> None:
    rate = learning_rate(1e-3)
    (lower,) = proposed({1e-3: "diverged", 3e-3: "diverged"}, [2.0], rate)
    assert lower < 5e-4


def test_the_second_learning_rate_is_on_the_side_where_the_kl_is_expected() -> None:
    rate = learning_rate(1e-3)
    (higher,) = proposed({1e-3: 2.0}, [8.0], rate)
    assert higher == pytest.approx(2e-3, rel=0.01)  # the KL rises about with the square
    (lower,) = proposed({1e-3: 2.0}, [0.5], rate)
    assert lower == pytest.approx(5e-4, rel=0.01)


def test_a_failed_trial_is_evaded_and_not_repeated() -> None:
    (value,) = proposed({0.1: 8.0, 1.0: 2.0, 0.316: "failed"}, [4.0])
    assert 0.1 < value < 1.0
    assert value != 0.316
    (outside,) = proposed({0.1: 2.0, 1.0: 1.0}, [4.0])
    tried: dict[float, float | str] = {0.1: 2.0, 1.0: 1.0, outside: "failed"}
    (other,) = proposed(tried, [4.0])
    assert other < 0.1
    assert other != outside


def test_where_every_trial_failed_a_few_more_are_tried_and_then_it_is_said() -> None:
    tried: dict[float, float | str] = {0.1: "failed", 1.0: "failed"}
    while not next_round(AXIS, probes(AXIS, tried), [2.0]).reasons:
        (value,) = proposed(tried, [2.0])
        assert value not in tried
        tried[value] = "failed"
    assert len(tried) < 12
    assert f"{len(tried)} failed" in reason(tried, 2.0)


def test_the_limits_of_an_axis_are_kept() -> None:
    narrow = strength(low=0.05, high=2.0, first=(0.1, 1.0))
    (last,) = proposed({0.1: 2.0, 1.0: 1.0}, [3.0], narrow)
    assert last == 0.05
    kls: dict[float, float | str] = {0.05: 2.4, 0.1: 2.0, 1.0: 1.0}
    assert "does not go above 2.4" in reason(kls, 3.0, narrow)
    # by its slope the KL would lie far beyond the limit
    assert "does not go above 2 " in reason({0.1: 2.0, 1.0: 1.0}, 8.0, narrow)


def test_two_alike_may_be_both_sides_of_a_hill() -> None:
    """Between them first, and of the two sides the one that the whole curve goes along."""
    axis = Axis("beta", 0.1, (0.1, 1.0), 1e-5, 1e3)
    ends = [Probe(axis.place(0.1), math.log(1.22)), Probe(axis.place(1.0), math.log(1.02))]
    (middle,) = next_round(axis, ends, [2.0, 4.0]).proposals
    assert middle.value == pytest.approx(0.316, abs=1e-3)
    hill = [*ends, Probe(axis.place(middle.value), math.log(6.0))]
    for proposal in next_round(axis, hill, [2.0]).proposals:
        assert 0.316 < proposal.value < 1.0


def test_from_the_end_of_a_bounded_range_it_goes_to_the_middle() -> None:
    """A smoothing of 0 is none at all: steps by a factor from there would change nothing."""
    axis = Axis("label_smoothing", 5e-5, (5e-5,), 5e-5, 0.49995, "odds", (0.0, 0.5))
    at_the_end = [Probe(axis.place(5e-5), math.log(0.7))]
    (proposal,) = next_round(axis, at_the_end, [0.5]).proposals
    assert proposal.value == pytest.approx(0.25)
    both = [*at_the_end, Probe(axis.place(0.25), math.log(0.1))]
    (proposal,) = next_round(axis, both, [0.5]).proposals
    assert 5e-5 < proposal.value < 0.25
