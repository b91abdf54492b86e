"""The whole search as a state machine, on simulated losses and with a judge whose word is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import Experiment, PlannedTrial, validate
from dpo_bench.search.exploration import Outcome, Stage
from dpo_bench.search.plan import Look, SearchPlan, Series, Step, looks_of, seeds_of, trial_range
from dpo_bench.search.record import record_of
from tests.search.simulated import Simulated, cases, drawn, leveling, line

LOSSES = ("dpo", "ipo", "hinge")
KLS = (1.0, 4.0)
STRENGTHS = {"dpo": "beta", "ipo": "beta", "hinge": "beta", "cdpo": "beta", "simpo": "beta"}


def experiment(
    losses: Sequence[str] = LOSSES, training: Mapping[str, Any] | None = None, **search: Any
) -> Experiment:
    given = {"kl": KLS, "extend": [], "trials_per_loss": 12} | search
    if "learning_rates" in search:
        del given["extend"]
    return validate(
        {
            "name": "simulated",
            "policy": "world:reviews",
            "preferences": "world:reviews",
            "losses": list(losses),
            "training": {"learning_rate": 1e-3, "seeds": [0]} | dict(training or {}),
            "search": given,
        },
        "simulated",
    )


@dataclass
class World:
    """Trials of all losses.

    Attributes:
        number: another number gives other curves.
        noise: standard deviation of ln KL between settings and seeds.
        fails: share of settings whose trials fail.
    """

    number: int
    noise: float = 0.03
    fails: float = 0.0

    def outcome(self, trial: PlannedTrial) -> Outcome:
        values = {name: float(value) for name, value in trial.hyperparameters}
        own = {name: float(value) for name, value in trial.training}
        (strength,) = [one for one in values if one in ("beta", "tau")]
        height = 4 * drawn("height", {trial.loss: 0}, self.number) - 2
        slope = -math.exp(2 * drawn("slope", {trial.loss: 0}, self.number) - 1.5)
        formula = line(slope, height, strength)
        if drawn("floor", {trial.loss: 0}, self.number) < 0.3:
            formula = leveling(slope, height, 2.0, "floor", strength)
        simulated = Simulated(
            lambda found: formula(found) + 1.8 * math.log(found["learning_rate"] / 1e-3),
            noise=self.noise,
            stops=2 * KLS[-1] if trial.seed == 0 else math.inf,
            fails=self.fails,
            world=self.number,
        )
        return simulated.outcome({"learning_rate": 1e-3, **values, **own}, trial.seed)


@dataclass
class Script:
    """A judge who says what stands in its script.

    Attributes:
        open_after: by number of seeds, the losses that are open then; all but the baseline where a
            number is left out.
        asked: what it was asked: seeds of looks, and rates.
    """

    open_after: Mapping[int, Sequence[str]] = field(default_factory=dict)
    asked: list[tuple[int, ...]] = field(default_factory=list)

    def choose(self, rates: Sequence[Series]) -> int:
        assert not any(one.exploration.wanted for one in rates)
        return len(rates[0].entry.loss) % len(rates)

    def open_losses(self, step: Step, look: Look) -> Mapping[str, float]:
        self.asked.append(look.seeds)
        losses = [one.entry.loss for one in step.series]
        found = self.open_after.get(len(look.seeds), losses[1:])
        return dict.fromkeys(found, 0.5)


@dataclass
class Ran:
    """A sweep that came to its end.

    Attributes:
        plan: of it.
        step: the last.
        outcomes: of all trials that were done.
        done: trials in the order in which they ended, repetitions included.
    """

    plan: SearchPlan
    step: Step
    outcomes: dict[PlannedTrial, Outcome]
    done: list[PlannedTrial]

    @property
    def record(self) -> str:
        return json.dumps(record_of(self.plan, self.step, lambda trial: trial.label))


def run(
    wanted: Experiment,
    world: World,
    script: Script | None = None,
    *,
    workers: int = 1,
    order: int = 0,
    interruptions: float = 0.0,
    earlier: Sequence[Stage] = (),
    known: Mapping[PlannedTrial, Outcome] | None = None,
) -> Ran:
    """Carry a sweep to its end.

    Args:
        wanted: the experiment.
        world: gives outcomes.
        script: the judge.
        workers: trials at once.
        order: of completion: another number, another order.
        interruptions: chance, after each trial, that all that runs is lost and a new plan is made.
        earlier: what was sought before.
        known: results that are there already.
    """
    chance, script = random.Random(order), script or Script()
    plan, outcomes = SearchPlan(wanted, earlier), dict(known or {})
    done: list[PlannedTrial] = []
    running: list[PlannedTrial] = []
    while True:
        step = plan.next_step(outcomes.get, script)
        asked = [one.trial for one in step.wanted]
        assert len(set(asked)) == len(asked)
        assert not any(one in outcomes for one in asked)
        assert bool(asked) == (step.end == ""), "nothing is wanted, and yet it has no end"
        assert set(asked) <= set(step.asked)
        assert set(running) <= set(asked), "what is being done is not wanted any more"
        if not asked:
            return Ran(plan, step, outcomes, done)
        for one in asked:
            if one not in running and len(running) < workers:
                running.append(one)
        finished = running.pop(chance.randrange(len(running)))
        outcomes[finished] = world.outcome(finished)
        done.append(finished)
        if chance.random() < interruptions:
            running, plan = [], SearchPlan(wanted, earlier)


worlds = st.builds(
    World,
    st.integers(0, 10**6),
    noise=st.sampled_from([0.0, 0.03, 0.1]),
    fails=st.sampled_from([0.0, 0.0, 0.15]),
)
searches = st.sampled_from(
    [
        {"seeds": [3, 3]},
        {"seeds": [2, 8]},
        {"seeds": [1, 1]},
        {"seeds": [2, 4], "extend": ["learning_rate"]},
        {"seeds": [2, 4], "learning_rates": [5e-4, 1e-3]},
        {"seeds": [2, 8], "trials": 30},
    ]
)
scripts = st.sampled_from([{}, {2: ["ipo"]}, {2: ["ipo", "hinge"], 4: []}, {2: []}, {3: ["ipo"]}])


@cases(30)
@given(
    world=worlds,
    search=searches,
    script=scripts,
    workers=st.integers(1, 16),
    order=st.integers(0, 10**6),
    interruptions=st.sampled_from([0.0, 0.1, 0.5]),
)
def test_any_order_workers_and_interruptions_lead_to_the_same_trials(
    world: World,
    search: dict[str, Any],
    script: dict[int, list[str]],
    workers: int,
    order: int,
    interruptions: float,
) -> None:
    wanted = experiment(**search)
    plain = run(wanted, world, Script(script))
    other = run(
        wanted,
        world,
        Script(script),
        workers=workers,
        order=order,
        interruptions=interruptions,
    )
    assert list(other.step.asked) == list(plain.step.asked)
    assert other.record == plain.record
    assert set(plain.outcomes) == set(plain.step.asked)
    assert len(plain.done) == len(set(plain.done))
    assert set(other.outcomes) == set(plain.outcomes)


@cases(30)
@given(world=worlds, search=searches, script=scripts)
def test_the_range_of_trials_holds(
    world: World, search: dict[str, Any], script: dict[int, list[str]]
) -> None:
    wanted = experiment(**search)
    found = run(wanted, world, Script(script))
    least, most = trial_range(wanted)
    assert len(found.step.asked) <= most
    if all(set(one.exploration.met) == set(KLS) for one in found.step.series):
        assert least <= len(found.step.asked)


@cases(40)
@given(world=worlds, more=st.sampled_from(["seeds", "losses"]))
def test_what_is_added_to_the_file_keeps_every_earlier_trial(world: World, more: str) -> None:
    before = run(experiment(LOSSES[:2], seeds=[2, 2]), world)
    larger = experiment(LOSSES[:2], seeds=[4, 4]) if more == "seeds" else experiment(seeds=[2, 2])
    after = run(larger, world, known=before.outcomes)
    assert set(before.step.asked) <= set(after.step.asked)
    assert set(after.done).isdisjoint(before.outcomes)
    assert set(after.done) == set(after.step.asked) - set(before.step.asked)
    assert after.record == run(larger, world).record


@cases(40)
@given(world=worlds)
def test_further_kls_keep_every_earlier_trial_of_the_search(world: World) -> None:
    before = run(experiment(seeds=[2, 2], trials_per_loss=20), world)
    larger = experiment(seeds=[2, 2], kl=[0.5, *KLS, 8.0], trials_per_loss=20)
    stages = [Stage(KLS, 0.1)]
    after = run(larger, world, known=before.outcomes, earlier=stages)
    assert set(after.done).isdisjoint(before.outcomes)
    first = {one for one in before.step.asked if one.seed == 0}
    explored = {
        after.plan.trial(one.entry, tried.setting, 0)
        for one in before.step.series
        for tried in one.exploration.explored
    }
    assert explored <= first
    assert explored <= set(after.step.asked)
    again = run(
        larger,
        world,
        known=before.outcomes,
        earlier=stages,
        workers=5,
        order=3,
        interruptions=0.2,
    )
    assert again.record == after.record


@cases(20)
@given(world=worlds, seeds=st.sampled_from([[1, 1], [3, 3]]))
def test_learning_rates_have_equal_budgets_and_only_the_chosen_one_is_repeated(
    world: World, seeds: list[int]
) -> None:
    rates = (5e-4, 1e-3, 2e-3)
    found = run(experiment(learning_rates=rates, seeds=seeds, trials_per_loss=6), world)
    for loss in LOSSES:
        series = [one for one in found.step.series if one.entry.loss == loss]
        assert [one.entry.rate for one in series] == list(rates)
        assert {one.entry.sought.trials for one in series} == {6}
        assert [one.chosen for one in series].count(True) == 1
        (chosen,) = (one for one in series if one.chosen)
        assert chosen.entry.rate == rates[len(loss) % 3]
        repeated = [one for one in found.step.asked if one.loss == loss and one.seed > 0]
        assert all(
            dict(one.training).get("learning_rate", 1e-3) == chosen.entry.rate for one in repeated
        )
        assert bool(repeated) == (seeds == [3, 3] and bool(chosen.exploration.met))


def _seeds(trials: Iterable[PlannedTrial], loss: str) -> set[int]:
    return {one.seed for one in trials if one.loss == loss}


def test_losses_of_which_nothing_is_open_drop_out_and_the_baseline_stays() -> None:
    world = World(5, noise=0.0)
    script = Script({2: ["ipo", "hinge"], 4: ["hinge"], 8: ["hinge"]})
    found = run(experiment(seeds=[2, 8]), world, script)
    assert _seeds(found.step.asked, "dpo") == set(range(8))
    assert _seeds(found.step.asked, "ipo") == set(range(4))
    assert _seeds(found.step.asked, "hinge") == set(range(8))
    assert [len(one.seeds) for one in found.step.looks] == [2, 4, 8]
    assert [sorted(one.open) for one in found.step.looks] == [
        ["hinge", "ipo"],
        ["hinge"],
        ["hinge"],
    ]
    assert sum(one.level for one in found.step.looks) == pytest.approx(0.05)
    assert found.step.end == "seeds"


def test_it_ends_when_nothing_is_open() -> None:
    found = run(experiment(seeds=[2, 8]), World(5), Script({2: ["ipo"], 4: []}))
    assert found.step.end == "decided"
    assert found.step.seeds == (0, 1, 2, 3)
    assert _seeds(found.step.asked, "hinge") == {0, 1}


def test_no_seeds_are_added_beyond_the_budget_of_trials() -> None:
    plenty = run(experiment(seeds=[2, 8]), World(5))
    by_look = [sum(one.seed < count for one in plenty.step.asked) for count in (2, 4, 8)]
    # A budget that the second look exhausts; the searches fit into it.
    found = run(experiment(seeds=[2, 8], trials=by_look[1] - 1), World(5))
    assert found.step.end == "trials"
    assert len(found.step.asked) == by_look[1]
    few = run(experiment(seeds=[2, 2], trials=9), World(5))
    assert all(len(one.exploration.explored) <= 3 for one in few.step.series)


def test_one_seed_alone_is_not_looked_at() -> None:
    script = Script()
    found = run(experiment(seeds=[1, 4]), World(5), script)
    assert {len(one) for one in script.asked} == {2, 4}
    assert found.step.end == "seeds"


def test_the_judge_is_asked_of_complete_rounds_alone() -> None:
    world, script = World(7), Script()
    outcomes: dict[PlannedTrial, Outcome] = {}
    plan = SearchPlan(experiment(seeds=[2, 2]))
    while (step := plan.next_step(outcomes.get, script)).wanted:
        assert not script.asked
        trial = step.wanted[0].trial
        outcomes[trial] = world.outcome(trial)
    assert script.asked == [(0, 1)]


def test_trials_outside_of_what_is_known_are_watched_and_repeats_are_not() -> None:
    plan = SearchPlan(experiment(seeds=[2, 2]))
    first = plan.next_step(lambda _: None, Script())
    assert {one.kl_limit for one in first.wanted} == {2 * KLS[-1]}
    unwatched = SearchPlan(experiment(seeds=[2, 2], stop_early=False))
    assert {one.kl_limit for one in unwatched.next_step(lambda _: None, Script()).wanted} == {None}
    world = World(3)
    outcomes: dict[PlannedTrial, Outcome] = {}
    while (step := plan.next_step(outcomes.get, Script())).wanted:
        for one in step.wanted:
            assert one.kl_limit is None or one.trial.seed == 0
            outcomes[one.trial] = world.outcome(one.trial)


def test_the_baseline_comes_first() -> None:
    step = SearchPlan(experiment(("hinge", "ipo", "dpo"))).next_step(lambda _: None, Script())
    assert step.wanted[0].trial.loss == "dpo"
    worths = [one.worth for one in step.wanted]
    assert worths == sorted(worths, reverse=True)


def test_seeds_and_looks() -> None:
    assert seeds_of(experiment(seeds=[3, 5])) == [0, 1, 2, 3, 4]
    assert seeds_of(experiment(training={"seeds": [7, 3]}, seeds=[3, 4])) == [7, 3, 8, 9]
    assert seeds_of(experiment(training={"seeds": [7, 3]})) == [7, 3]
    search = experiment(seeds=[2, 9]).search
    assert search is not None
    assert looks_of(search, 9) == [2, 4, 8, 9]
    assert looks_of(search, 2) == [2]


def test_a_loss_that_is_asked_for_twice_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        SearchPlan(experiment(("dpo", "dpo")))


def test_a_baseline_that_is_not_among_the_losses_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not among the losses"):
        SearchPlan(experiment(("dpo", "ipo"), baseline="hinge"))
