"""The search for one loss, on simulated ones: what holds whatever the curve is."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.search.axes import Axis
from dpo_bench.search.exploration import Outcome, Setting, Sought, Stage, explore
from tests.search.simulated import (
    KLS,
    Formula,
    Simulated,
    cases,
    learning_rate,
    leveling,
    line,
    search,
    strength,
)

LIMIT = 16.0
"""KL beyond which trials are stopped"""
MOST_ON_A_LINE = 12
"""trials that five KLs take at most where ln KL is linear in a strength; 8 is the mean"""
MOST_WITH_A_LEVEL = 17
"""the same where the curve bends to a floor or ceiling"""


slopes = st.builds(
    lambda sign, size: sign * math.exp(size), st.sampled_from([-1, 1]), st.floats(-1.9, 1.1)
)
"""of ln KL by ln strength: .15 to 3, rising or falling"""
heights = st.floats(-3.0, 4.0)
"""ln KL at strength 1"""
lines = st.builds(line, slopes, heights)
levels = st.builds(
    leveling, slopes, heights, st.floats(0.2, 20.0), st.sampled_from(["floor", "ceiling"])
)


def _jump(slope: float, height: float, place: float, size: float) -> Formula:
    return lambda values: (
        height + slope * math.log(values["beta"]) + size * (math.log(values["beta"]) > place)
    )


def _hump(top: float, place: float, width: float, sign: int) -> Formula:
    return lambda values: top - sign * ((math.log(values["beta"]) - place) / width) ** 2


jumps = st.builds(_jump, slopes, heights, st.floats(-4.0, 4.0), st.floats(-4.0, 4.0))
humps = st.builds(
    _hump, st.floats(-1.0, 4.0), st.floats(-5.0, 5.0), st.floats(1.0, 7.0), st.sampled_from([-1, 1])
)
anything = st.builds(
    Simulated,
    st.one_of(lines, levels, jumps, humps),
    noise=st.sampled_from([0.0, 0.03, 0.1]),
    diverges=st.sampled_from([math.inf, math.log(40.0)]),
    stops=st.sampled_from([math.inf, LIMIT]),
    fails=st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]),
    world=st.integers(0, 10**6),
)


def _with_rate(formula: Formula) -> Formula:
    """KL rises besides with about the square of the learning rate."""
    return lambda values: formula(values) + 1.8 * math.log(values["learning_rate"] / 1e-3)


@cases(150)
@given(simulated=anything, budget=st.integers(1, 20))
def test_a_search_ends_within_its_budget_and_asks_for_nothing_twice(
    simulated: Simulated, budget: int
) -> None:
    axis = strength(low=1e-4, high=1e4)
    found = search(simulated, [axis], trials=budget)
    assert len(found.asked) <= budget
    assert len(set(found.asked)) == len(found.asked)
    assert all(axis.low <= value <= axis.high for one in found.asked for _, value in one)
    assert found.found.open == ()


@cases(75)
@given(simulated=anything, within=st.sampled_from([0.05, 0.1, 0.2]))
def test_what_counts_as_met_is_a_trained_policy_at_that_kl_and_the_rest_has_a_reason(
    simulated: Simulated, within: float
) -> None:
    found = search(simulated, [strength()], within=within).found
    assert set(found.met).isdisjoint(found.reasons)
    assert {*found.met, *found.reasons} == set(KLS)
    assert all(found.reasons.values())
    for kl, one in found.met.items():
        outcome = simulated.outcome(dict(one.setting))
        assert outcome.status == "done"
        assert abs(outcome.kl - kl) <= within * kl


def _reached(formula: Formula, axis: Axis) -> list[float]:
    """The KLs that a monotone curve goes through between the axis's limits."""
    low, high = sorted(formula({axis.name: value}) for value in (axis.low, axis.high))
    return [kl for kl in KLS if low <= math.log(kl) <= high]


@cases(150)
@given(formula=lines, noise=st.sampled_from([0.0, 0.0, 0.02]))
def test_a_curve_that_goes_through_the_kls_meets_all_of_them_in_few_trials(
    formula: Formula, noise: float
) -> None:
    axis = strength()
    found = search(Simulated(formula, noise=noise), [axis])
    if not noise:
        assert set(_reached(formula, axis)) <= set(found.found.met)
    elif len(_reached(formula, axis)) == len(KLS):
        assert len(found.found.met) >= len(KLS) - 1  # the outermost may lie at a limit
    assert len(found.asked) <= MOST_ON_A_LINE + (2 if noise else 0)


@cases(100)
@given(formula=lines, diverges=st.sampled_from([math.inf, math.log(40.0)]))
def test_stopped_and_diverging_trials_keep_no_kl_from_being_met(
    formula: Formula, diverges: float
) -> None:
    axis = strength()
    found = search(Simulated(formula, stops=LIMIT, diverges=diverges), [axis])
    assert set(_reached(formula, axis)) <= set(found.found.met)
    assert len(found.asked) <= MOST_ON_A_LINE + 4


@cases(75)
@given(formula=lines, world=st.integers(0, 10**6))
def test_a_failed_trial_here_and_there_keeps_no_kl_from_being_met(
    formula: Formula, world: int
) -> None:
    axis = strength()
    found = search(Simulated(formula, fails=0.1, world=world), [axis], trials=30)
    assert set(_reached(formula, axis)) <= set(found.found.met)


@cases(100)
@given(slope=slopes, height=heights, level=st.floats(0.2, 20.0), noise=st.sampled_from([0.0, 0.02]))
def test_a_floor_is_named_as_it_is(slope: float, height: float, level: float, noise: float) -> None:
    formula = leveling(slope, height, level, "floor")
    simulated = Simulated(formula, noise=noise)
    found = search(simulated, [strength()])
    assert len(found.asked) <= MOST_WITH_A_LEVEL
    for kl, why in found.found.reasons.items():
        if kl < level / 1.15:
            _is_true(why, simulated)


_NUMBER = r"([\d.e+-]+)"
_STAYS = re.compile(
    rf"^KL stays between {_NUMBER} and {_NUMBER} for beta from {_NUMBER} to {_NUMBER}$"
)
_GOES = re.compile(
    rf"^KL does not go (below|above) {_NUMBER} by beta \(tried {_NUMBER} to {_NUMBER}\)$"
)


def _is_true(why: str, simulated: Simulated) -> None:
    """Hold a sentence on a plateau to the formula, at 50 places of the stretch it speaks of."""
    if match := _STAYS.match(why):
        low, high, first, last = map(float, match.groups())
    else:
        match = _GOES.match(why)
        assert match, why
        bound, first, last = map(float, match.groups()[1:])
        low, high = (bound, math.inf) if match.group(1) == "below" else (0.0, bound)
    assert first < last
    slack = 1.01 * math.exp(4 * simulated.noise)
    for share in range(51):
        value = first * (last / first) ** (share / 50)
        assert low / slack <= math.exp(simulated.log_kl({"beta": value})) <= high * slack


@cases(50)
@given(kl=st.floats(0.2, 12.0), tilt=st.floats(-0.01, 0.01), noise=st.sampled_from([0.0, 0.01]))
def test_a_plateau_is_recognised_in_a_handful_of_trials(
    kl: float, tilt: float, noise: float
) -> None:
    simulated = Simulated(line(tilt, math.log(kl)), noise=noise)
    found = search(simulated, [strength()])
    assert len(found.asked) <= 5
    for why in found.found.reasons.values():
        assert _STAYS.match(why), why
        _is_true(why, simulated)


@cases(25)
@given(place=st.floats(-2.9, -0.1), slope=st.floats(0.3, 2.0), sign=st.sampled_from([-1, 1]))
def test_a_jump_is_found_where_it_is(place: float, slope: float, sign: int) -> None:
    # From well below 1 to well above 4 at one place: the KLs between are not to be had.
    def formula(values: Mapping[str, float]) -> float:
        off = sign * (math.log(values["beta"]) - place)
        return 0.2 * slope * math.tanh(off) + (1.8 if off > 0 else -0.8)

    found = search(Simulated(formula), [strength()], kls=(1.0, 2.0, 4.0), trials=60).found
    assert not found.met
    for why in found.reasons.values():
        match = re.match(
            rf"KL jumps from {_NUMBER} to {_NUMBER} between beta {_NUMBER} and {_NUMBER}", why
        )
        assert match, why
        low, high, first, last = map(float, match.groups())
        assert low < 1
        assert high > 4
        assert first * 0.99 <= math.exp(place) <= last * 1.01
        assert last / first < 1.05


@cases(75)
@given(slope=slopes, height=heights, stops=st.sampled_from([math.inf, LIMIT]))
def test_the_direction_is_learned(slope: float, height: float, stops: float) -> None:
    axis = strength(first=(0.25, 4.0), start=1.0)
    up, down = (
        search(Simulated(line(sign * slope, height), stops=stops), [axis]) for sign in (1, -1)
    )
    assert set(up.found.met) == set(down.found.met)
    # Values are rounded to three digits, which may put a KL just inside or outside of its share.
    assert abs(len(up.asked) - len(down.asked)) <= 2
    if len(up.asked) == len(down.asked):
        places = sorted(math.log(dict(one)["beta"]) for one in up.asked)
        mirrored = sorted(-math.log(dict(one)["beta"]) for one in down.asked)
        assert places == pytest.approx(mirrored, abs=0.06)


@cases(50)
@given(
    slope=slopes,
    height=heights,
    level=st.floats(0.3, 3.0),
    kind=st.sampled_from(["floor", "ceiling"]),
)
def test_what_strength_cannot_reach_the_learning_rate_does(
    slope: float, height: float, level: float, kind: str
) -> None:
    own = leveling(slope, height, level, kind)  # type: ignore[arg-type]
    simulated = Simulated(_with_rate(own), stops=LIMIT)
    found = search(simulated, [strength(), learning_rate()], trials=40).found
    assert set(found.met) == set(KLS), found.reasons
    by = {one.by for one in found.met.values()}
    assert by <= {"beta", "learning_rate"}
    for one in found.met.values():
        # a policy by the loss's own hyperparameter keeps the learning rate of the experiment
        assert ("learning_rate" in dict(one.setting)) == (one.by == "learning_rate")


def test_without_any_axis_the_default_is_all_there_is() -> None:
    found = search(Simulated(lambda _: math.log(2.0)), [])
    assert found.asked == [()]
    assert set(found.found.met) == {2.0}
    assert set(found.found.reasons) == {0.5, 1.0, 4.0, 8.0}


def test_a_loss_that_always_fails_ends_after_a_few_trials_and_says_so() -> None:
    found = search(Simulated(line(-1, 0), fails=1.0), [strength(), learning_rate()])
    assert len(found.asked) <= 12
    assert all("failed" in why for why in found.found.reasons.values())


@cases(25)
@given(simulated=anything, order=st.integers(0, 10**6))
def test_results_that_come_one_by_one_in_any_order_lead_to_the_same_settings(
    simulated: Simulated, order: int
) -> None:
    sought = Sought((strength(),), KLS, 0.1, 20)
    together = search(simulated, sought.axes)
    known: dict[Setting, Outcome] = {}
    shuffled = random.Random(order)
    while wanted := explore(sought, known.get).wanted:
        one = shuffled.choice(wanted)
        known[one.setting] = simulated.outcome({"beta": 0.1, **dict(one.setting)})
    assert set(known) == set(together.asked)
    found = explore(sought, known.get)
    assert found.met == together.found.met
    assert found.reasons == together.found.reasons


@cases(20)
@given(simulated=anything, kls=st.sets(st.sampled_from(KLS), min_size=1), tighter=st.booleans())
def test_further_kls_keep_what_was_found(
    simulated: Simulated, kls: set[float], tighter: bool
) -> None:
    axes = [strength()]
    stage = Stage(tuple(sorted(kls)), 0.2 if tighter else 0.1)
    before = search(simulated, axes, kls=stage.kls, within=stage.within)
    outcomes = {
        one.setting: one.outcome for one in before.found.explored if one.outcome is not None
    }
    after = search(simulated, axes, earlier=[stage], known=outcomes, trials=40)
    assert set(before.asked).isdisjoint(after.asked)
    explored = [one.setting for one in after.found.explored]
    assert explored[: len(before.asked)] == before.asked
    again = search(
        simulated,
        axes,
        earlier=[stage],
        known={one: outcomes[one] for one in before.asked},
        trials=40,
    )
    assert again.found == after.found


@cases(50)
@given(
    simulated=anything,
    kls=st.sets(st.sampled_from(KLS), min_size=1),
    came_to=st.floats(0, 1),
    order=st.integers(0, 10**6),
)
def test_kls_that_are_changed_midway_lead_to_the_same_settings_in_any_order(
    simulated: Simulated, kls: set[float], came_to: float, order: int
) -> None:
    shuffled = random.Random(order)
    before = search(simulated, [strength()], kls=tuple(sorted(kls)))
    kept = shuffled.sample(before.asked, round(came_to * len(before.asked)))
    stage = Stage(tuple(sorted(kls)), 0.1, frozenset(map(str, kept)))
    sought = Sought((strength(),), KLS, 0.1, 40, (stage,))

    def outcome(setting: Setting) -> Outcome:
        return simulated.outcome({"beta": 0.1, **dict(setting)})

    found = []
    for at_once in (True, False):
        known = {one: outcome(one) for one in kept}
        while wanted := explore(sought, known.get).wanted:
            done = wanted if at_once else [shuffled.choice(wanted)]
            known |= {one.setting: outcome(one.setting) for one in done}
        found.append((explore(sought, known.get), set(known)))
    assert found[0] == found[1]


def test_a_stage_before_that_was_not_finished_is_no_hindrance() -> None:
    simulated = Simulated(line(-1, 0))
    found = search(simulated, [strength()], earlier=[Stage((2.0, 16.0), 0.1, frozenset())])
    assert set(found.found.met) == set(KLS)
    assert all("beta" in dict(one) for one in found.asked)
