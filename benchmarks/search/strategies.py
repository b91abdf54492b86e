"""Ways to come to a comparison: grids of given strengths, and the search as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.search.worlds import BASELINE, RATE, World, curves, spread
from dpo_bench.analysis.comparisons import Family
from dpo_bench.analysis.looks import Look as MadeLook
from dpo_bench.analysis.looks import compare_in_looks, nearness
from dpo_bench.analysis.points import Curves
from dpo_bench.contract import get_loss
from dpo_bench.experiment import Experiment, PlannedTrial, validate
from dpo_bench.search.exploration import Outcome
from dpo_bench.search.plan import Look, SearchPlan, Series, Step
from dpo_bench.sweep.early_stop import SHARES

KLS = (0.5, 1.0, 2.0, 4.0, 8.0)
DRAWS = 1000
"""of each family's simulation; the program takes more"""
ABOVE = 1.2
"""An estimate along training is sure to be beyond the limit when the KL is so many times that."""

Cell = tuple[str, float]
"""A loss and a KL, compared with the baseline"""


@dataclass(frozen=True)
class Found:
    """What a strategy came to in one world.

    Attributes:
        trials: that it took; one that was stopped early counts by its share of the steps.
        compared: cells that have a difference.
        right: cells with a true difference that are called better or worse, rightly.
        wrong: cells that are called better or worse and are not.
    """

    trials: float
    compared: frozenset[Cell]
    right: frozenset[Cell]
    wrong: frozenset[Cell]


def grid(world: World, strengths: int, seeds: int, wider: float = 1.0) -> Found:
    """Every loss at so many strengths over the range of its own grid; 5: at these themselves."""
    policies: Curves = {
        loss: [
            world.point(loss, dict.fromkeys(range(seeds), (strength, RATE)))
            for strength in _strengths(loss, strengths, wider)
        ]
        for loss in world.heights
    }
    trials = float(sum(len(points) for points in policies.values()) * seeds)
    return _found(world, _compared(policies, ()), trials)


def _strengths(loss: str, count: int, wider: float) -> Sequence[float]:
    own = curves()[loss].strengths
    return own if count == len(own) and wider == 1 else spread(own, count, wider)


def searched(world: World, seeds: tuple[int, int], *, by_rate: bool) -> Found:
    """The search, by the losses' strengths alone or by the learning rate as well."""
    plan = SearchPlan(_experiment(world, seeds, by_rate=by_rate))
    trainer = _Trainer(world, plan.kl_limit or math.inf)
    judge = _Judge(world)
    while (step := plan.next_step(trainer.look_up, judge)).wanted:
        for one in step.wanted:
            trainer.train(one.trial, one.kl_limit)
    looks = [(one.seeds, one.level) for one in step.looks]
    return _found(world, _compared(_policies(world, step, trainer), looks), trainer.spent)


def _experiment(world: World, seeds: tuple[int, int], *, by_rate: bool) -> Experiment:
    tables = []
    for name in world.heights:
        loss = get_loss(name)
        # Only of strengths it is known what they lead to.
        fixed = {one: loss.hyperparameters[one] for one in loss.kl_by if one != loss.strength}
        tables.append({"name": name} | fixed)
    search = {"kl": KLS, "seeds": seeds, "baseline": BASELINE}
    return validate(
        {
            "name": "simulated",
            "policy": "world:reviews",
            "preferences": "world:reviews",
            "losses": tables,
            "training": {"learning_rate": RATE, "seeds": [0]},
            "search": search if by_rate else search | {"extend": []},
        },
        "simulated",
    )


class _Trainer:
    """Gives every trial that is asked for its outcome, and counts."""

    def __init__(self, world: World, limit: float) -> None:
        self.world, self.limit = world, limit
        self.spent = 0.0
        self.outcomes: dict[PlannedTrial, Outcome] = {}

    def look_up(self, trial: PlannedTrial) -> Outcome | None:
        return self.outcomes.get(trial)

    def train(self, trial: PlannedTrial, limit: float | None) -> None:
        kl = float(self.world.run(trial.loss, *setting_of(trial))[0].mean())
        for share in SHARES if limit else ():
            # Along training the KL rises about in proportion to the steps.
            if share * kl > ABOVE * (limit or math.inf):
                self.outcomes[trial] = Outcome("stopped", share * kl)
                self.spent += share
                return
        self.outcomes[trial] = Outcome("done", kl)
        self.spent += 1


def setting_of(trial: PlannedTrial) -> tuple[float, int, float]:
    """A trial's strength, seed and learning rate."""
    rate = float(dict(trial.training).get("learning_rate", RATE))
    return float(trial.strength or math.nan), trial.seed, rate


class _Judge:
    """Looks at the results as the program does."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._known: dict[int, Mapping[str, float]] = {}

    def choose(self, rates: Sequence[Series]) -> int:
        raise NotImplementedError("no learning rate is tuned here")

    def open_losses(self, step: Step, look: Look) -> Mapping[str, float]:
        count = len(look.seeds)
        if count not in self._known:
            looks = [(one.seeds, one.level) for one in (*step.looks, look)]
            self._known[count] = nearness(_compared(_policies(self.world, step), looks))
        return self._known[count]


def _policies(world: World, step: Step, trainer: _Trainer | None = None) -> Curves:
    """The policies that make the losses' curves, those of one setting in one point."""
    found: dict[str, dict[str, dict[int, tuple[float, float]]]] = {}
    for series in step.series:
        for trial in series.path:
            if trainer and trainer.outcomes[trial].status != "done":
                continue
            strength, seed, rate = setting_of(trial)
            by_setting = found.setdefault(trial.loss, {})
            by_setting.setdefault(trial.setting_label, {})[seed] = (strength, rate)
    return {
        loss: [world.point(loss, one) for one in by_setting.values()]
        for loss, by_setting in found.items()
    }


def _compared(policies: Curves, looks: Sequence[MadeLook]) -> Family:
    return compare_in_looks(policies, KLS, looks, baseline=BASELINE, draws=DRAWS)


def _found(world: World, family: Family, trials: float) -> Found:
    compared = [one for one in family.all if one.compared]
    right: set[Cell] = set()
    wrong: set[Cell] = set()
    for one in compared:
        truth = world.heights[one.first]
        if one.decided:
            is_right = truth != 0 and (truth > 0) == (one.verdict == "better")
            (right if is_right else wrong).add((one.first, one.kl))
    cells = frozenset((one.first, one.kl) for one in compared)
    return Found(trials, cells, frozenset(right), frozenset(wrong))
