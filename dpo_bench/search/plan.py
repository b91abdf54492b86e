"""The whole search as a state machine: from the results so far to the trials that come next.

For every loss settings are explored with the first seed (`exploration`), at each learning rate if
these are tuned, of which one is chosen then; the settings found are repeated with further seeds;
and at planned looks the losses of which nothing is open any more drop out. `next_step` replays all
of this from the results: a sweep that was killed, more workers or another machine come to the same
trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dpo_bench.analysis.compare import USUAL_BASELINE
from dpo_bench.analysis.looks import levels_of_looks
from dpo_bench.analysis.readings import WITHIN
from dpo_bench.contract import get_loss
from dpo_bench.errors import ConfigurationError
from dpo_bench.experiment import Experiment, PlannedTrial
from dpo_bench.experiment.config import Search
from dpo_bench.experiment.contract_check import require_contract
from dpo_bench.experiment.identity import planned
from dpo_bench.search.along import next_round
from dpo_bench.search.axes import LEARNING_RATE, axes_of
from dpo_bench.search.exploration import (
    FARTHEST,
    Exploration,
    Outcome,
    Setting,
    Sought,
    Stage,
    explore,
    probes_along,
    with_value,
)

OUTER = 1.3
"""how far outside the KLs that are sought a further policy is put where a seed leaves one out"""

USUAL_MISSES = 3
"""Trials that a search usually spends besides one for each KL: for a forecast, nothing else."""

LookUp = Callable[[PlannedTrial], Outcome | None]
"""The outcome of a trial; None while it is not known."""


@dataclass(frozen=True)
class Entry:
    """One ``[[losses]]`` table, at one learning rate where these are tuned.

    Attributes:
        loss: canonical name.
        name: what tells its table from others.
        key: what tells it from other entries: the name, and the learning rate that is tried.
        fixed: values that the table gives, and the learning rate.
        rate: the learning rate that is tried; None where it is not tuned.
        sought: what is sought.
    """

    loss: str
    name: str
    key: str
    fixed: Mapping[str, Any]
    rate: float | None
    sought: Sought


@dataclass(frozen=True)
class Wanted:
    """A trial that is to be done.

    Attributes:
        trial: the trial.
        kl_limit: stop it early where its KL is beyond this; None: never.
        worth: how much it tells of open comparisons; the largest comes first.
    """

    trial: PlannedTrial
    kl_limit: float | None
    worth: float


@dataclass
class Series:
    """How far one entry has come.

    Attributes:
        entry: the entry.
        exploration: its search with the first seed.
        chosen: whether its learning rate was chosen; None while that is not known.
        paths: by seed, the trials that make its curve.
    """

    entry: Entry
    exploration: Exploration
    chosen: bool | None = True
    paths: dict[int, list[PlannedTrial]] = field(default_factory=dict)

    @property
    def path(self) -> list[PlannedTrial]:
        """The trials that make its curve, all seeds."""
        return [trial for seed in sorted(self.paths) for trial in self.paths[seed]]


@dataclass(frozen=True)
class Look:
    """A planned look at the results.

    Attributes:
        seeds: that it has.
        level: chance of a false verdict that it may spend.
        open: losses of which something was open then, with how near they were to a decision.
    """

    seeds: tuple[int, ...]
    level: float
    open: Mapping[str, float]


@dataclass
class Step:
    """What the results so far come to.

    Attributes:
        series: by entry.
        asked: all trials so far, done or not, in an order that does not depend on when.
        wanted: those that can be done now, the most telling first.
        looks: that were made.
        seeds: in use.
        end: why nothing more is wanted: decided, seeds or trials; empty while it goes on.
    """

    series: list[Series]
    asked: dict[PlannedTrial, None] = field(default_factory=dict)
    wanted: list[Wanted] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    seeds: tuple[int, ...] = ()
    end: str = ""


class Judge(Protocol):
    """What results say, once they are complete enough to be asked."""

    def choose(self, rates: Sequence[Series]) -> int:
        """Which of a loss's learning rates is best, from all that was explored at them."""

    def open_losses(self, step: Step, look: Look) -> Mapping[str, float]:
        """Losses with an open comparison, by how near it is to a decision (1: there)."""


class SearchPlan:
    """The state machine of one experiment.

    Args:
        experiment: with a ``[search]``.
        earlier: what was sought in the same folder before; see `Sought`.
        identify: gives a trial's identity, by which ``earlier`` says what was known.

    Raises:
        ConfigurationError: a loss or a value that cannot be meant.
    """

    def __init__(
        self,
        experiment: Experiment,
        earlier: Sequence[Stage] = (),
        identify: Callable[[PlannedTrial], str] = str,
    ) -> None:
        if experiment.search is None:
            raise ConfigurationError("there is no [search] in this experiment.")
        self.training = experiment.training
        self.search = experiment.search
        self.entries = list(_entries(experiment, tuple(earlier)))
        self.seeds = seeds_of(experiment)
        counts = looks_of(self.search, len(self.seeds))
        self.looks = list(zip(counts, levels_of_looks(counts), strict=True))
        self.baseline = baseline_of(experiment)
        self._rates = max(1, len(self.search.learning_rates))
        self._comparisons = max(1, len({one.loss for one in self.entries}) - 1)
        self._explorations: dict[str, Exploration] = {}
        self._identify = identify

    @property
    def kl_limit(self) -> float | None:
        """Beyond which trials of the search matter to nothing, nats."""
        return FARTHEST * self.search.kl[-1] if self.search.stop_early else None

    def next_step(self, look_up: LookUp, judge: Judge) -> Step:
        """What comes next.

        Args:
            look_up: gives outcomes.
            judge: says what results come to; asked of complete rounds alone.
        """
        step = Step([Series(one, self._explored(one, look_up)) for one in self.entries])
        for series in step.series:
            self._ask_explored(step, series)
        self._choose(step, judge)
        self._repeat(step, look_up, judge)
        step.wanted.sort(key=lambda one: -one.worth)
        return step

    def foreseen(self, step: Step) -> int:
        """About how many trials there will have been by the next look, done ones included."""
        kls = len(self.search.kl)
        searched = repeated = 0
        for series in step.series:
            found = series.exploration
            usual = kls + USUAL_MISSES if found.wanted else 0
            searched += max(len(found.explored), min(usual, series.entry.sought.trials))
            met = kls if found.wanted else len(found.met)
            share = 1 if series.chosen else 0 if series.chosen is False else 1 / self._rates
            repeated += round(met * share) * (len(step.seeds) - 1)
        return max(searched + repeated, len(step.asked))

    def trial(self, entry: Entry, setting: Setting, seed: int) -> PlannedTrial:
        """The trial of an entry at a setting."""
        values = {**entry.fixed, **dict(setting)}
        return planned(get_loss(entry.loss), values, seed, self.training)

    def _explored(self, entry: Entry, look_up: LookUp) -> Exploration:
        """Its exploration, replayed only where a result has come that it waits for."""
        seed = self.seeds[0]

        def of_setting(setting: Setting) -> Outcome | None:
            return look_up(self.trial(entry, setting, seed))

        known = self._explorations.get(entry.key)
        if known is None or any(of_setting(one.setting) for one in known.wanted):
            known = self._explorations[entry.key] = explore(
                entry.sought, of_setting, lambda one: self._identify(self.trial(entry, one, seed))
            )
        return known

    def _ask_explored(self, step: Step, series: Series) -> None:
        left = max(1, len(series.exploration.wanted))
        for one in series.exploration.explored:
            trial = self.trial(series.entry, one.setting, self.seeds[0])
            step.asked[trial] = None
            if one.outcome is None:
                # All that is open of this loss waits for the trials of this round and its repeats.
                worth = len(series.exploration.open) / (left + self.looks[0][0])
                limit = None if one.is_safe else self.kl_limit
                step.wanted.append(Wanted(trial, limit, worth * self._weight(series.entry)))

    def _weight(self, entry: Entry) -> float:
        """In how many comparisons a loss stands: the baseline in all of them."""
        return float(self._comparisons) if entry.loss == self.baseline else 1.0

    def _choose(self, step: Step, judge: Judge) -> None:
        """Choose a learning rate for each loss that has been explored at all of them."""
        groups: dict[str, list[Series]] = {}
        for series in step.series:
            if series.entry.rate is not None:
                groups.setdefault(series.entry.name, []).append(series)
        for rates in groups.values():
            for one in rates:
                one.chosen = None
            if any(one.exploration.wanted for one in rates):
                continue
            for one in rates:
                self._lay_path(one, self.seeds[0], None)
            best = judge.choose(rates)
            for place, one in enumerate(rates):
                one.chosen = place == best

    def _repeat(self, step: Step, look_up: LookUp, judge: Judge) -> None:
        """Repeat what was found with further seeds, look by look."""
        active = {one.entry.loss for one in step.series}
        for count, level in self.looks:
            step.seeds = tuple(self.seeds[:count])
            before = len(step.wanted)
            for series in step.series:
                if series.chosen and not series.exploration.wanted and series.entry.loss in active:
                    self._ask_repeats(step, series, look_up)
            waits = len(step.wanted) > before or any(s.exploration.wanted for s in step.series)
            if waits:
                step.end = ""
                return
            step.end = "seeds"
            if count == 1:
                continue
            look = Look(step.seeds, level, {})
            found = dict(judge.open_losses(step, look))
            step.looks.append(Look(step.seeds, level, found))
            if not found:
                step.end = "decided"
                return
            active = {*found, self.baseline}
            if self.search.trials and len(step.asked) >= self.search.trials:
                step.end = "trials"
                return

    def _ask_repeats(self, step: Step, series: Series, look_up: LookUp) -> None:
        closeness = step.looks[-1].open.get(series.entry.loss, 0.5) if step.looks else 1.0
        for seed in step.seeds:
            trials = self._lay_path(series, seed, look_up)
            missing = [trial for trial in trials if look_up(trial) is None]
            for trial in trials:
                step.asked[trial] = None
            worth = closeness * self._weight(series.entry) / max(1, len(step.seeds) - 1)
            step.wanted += [Wanted(trial, None, worth) for trial in missing]

    def _lay_path(self, series: Series, seed: int, look_up: LookUp | None) -> list[PlannedTrial]:
        """The trials of a seed that make a loss's curve: one at each KL, and beyond if need be."""
        entry, met = series.entry, series.exploration.met
        settings = list(dict.fromkeys(met[kl].setting for kl in sorted(met)))
        trials = [self.trial(entry, one, seed) for one in settings]
        if look_up is not None and met:
            found = [look_up(trial) for trial in trials]
            if all(found):
                kls = [one.kl for one in found if one and one.status == "done"]
                outer = _outer_settings(series, kls)
                trials += [self.trial(entry, one, seed) for one in outer]
        series.paths[seed] = list(dict.fromkeys(trials))
        return series.paths[seed]


def _outer_settings(series: Series, kls: Sequence[float]) -> Iterator[Setting]:
    """Settings beyond the outermost KLs where a seed's own policies leave these out."""
    if not kls:
        return
    lowest, highest = min(series.exploration.met), max(series.exploration.met)
    if min(kls) > lowest * (1 + WITHIN):
        yield from _outer(series, lowest, lowest / OUTER)
    if max(kls) < highest * (1 - WITHIN):
        yield from _outer(series, highest, highest * OUTER)


def _outer(series: Series, kl: float, beyond: float) -> Iterator[Setting]:
    """The setting explored whose KL lies best beyond, else one that should."""
    near = [
        one
        for one in series.exploration.explored
        if one.is_done and one.outcome and 0 < _ahead(one.outcome.kl, kl, beyond) < 3.5
    ]
    if near:
        best = min(near, key=lambda one: abs(_ahead(one.outcome.kl, kl, beyond) - 1))  # type: ignore[union-attr]  # done ones have one
        yield best.setting
        return
    found = series.exploration.met[kl]
    axis = next((one for one in series.entry.sought.axes if one.name == found.by), None)
    if axis is not None:
        probes = probes_along(series.exploration.explored, axis, found.setting)
        for proposal in next_round(axis, list(probes), [beyond]).proposals:
            yield with_value(found.setting, axis.name, proposal.value)


def _ahead(found: float, kl: float, beyond: float) -> float:
    """How far a KL lies beyond another, on the scale of ln KL; 1 is where it is wanted."""
    return math.log(max(found, 1e-9) / (kl + WITHIN * (beyond - kl))) / math.log(beyond / kl)


def _entries(experiment: Experiment, earlier: tuple[Stage, ...]) -> Iterator[Entry]:
    search, training = experiment.search, experiment.training
    if search is None:
        return
    require_contract(get_loss(grid.name) for grid in experiment.losses)
    seen: set[str] = set()
    for grid in experiment.losses:
        loss = get_loss(grid.name)
        if grid.zip:
            raise ConfigurationError(f"{loss.name}: zip is for given values, not for a search.")
        axes = axes_of(grid, search, training)
        fixed = {name: values[0] for name, values in grid.values.items()}
        planned(loss, fixed, 0, training)  # says what is wrong with them
        key = " ".join([loss.name, *(f"{name}={value}" for name, value in sorted(fixed.items()))])
        if key in seen:
            raise ConfigurationError(f"{key} is asked for twice.")
        seen.add(key)
        limit = _limit(experiment, search)
        sought = Sought(tuple(axes), search.kl, search.within, limit, earlier)
        if any(axis.name == LEARNING_RATE for axis in axes) or LEARNING_RATE in fixed:
            yield Entry(loss.name, key, key, fixed, None, sought)
            continue
        for rate in search.learning_rates or (None,):
            own = fixed if rate is None else {**fixed, LEARNING_RATE: rate}
            full = key if rate is None else f"{key} {LEARNING_RATE}={rate:g}"
            yield Entry(loss.name, key, full, own, rate, sought)


def _limit(experiment: Experiment, search: Search) -> int:
    """Trials of one exploration: equally many for all, within the limit of the whole sweep."""
    if not search.trials:
        return search.trials_per_loss
    parts = len(experiment.losses) * max(1, len(search.learning_rates))
    return max(1, min(search.trials_per_loss, search.trials // parts))


def seeds_of(experiment: Experiment) -> list[int]:
    """All seeds that may be used: those of ``[training]`` first, then the numbers that follow."""
    given = list(experiment.training.seeds)
    search = experiment.search
    most = search.seeds[-1] if search and search.seeds else len(given)
    following = range(max(given) + 1, max(given) + 1 + max(0, most - len(given)))
    return [*given, *following][:most]


def looks_of(search: Search, seeds: int) -> list[int]:
    """Numbers of seeds at which it is looked whether anything is open: the least, doubled, ...

    >>> looks_of(Search(seeds=(3, 10)), 10)
    [3, 6, 10]
    """
    least = search.seeds[0] if search.seeds else seeds
    counts = []
    while least < seeds:
        counts.append(least)
        least *= 2
    return [*counts, seeds]


def baseline_of(experiment: Experiment) -> str:
    """The loss that others are compared with, as the comparison chooses it."""
    losses = [get_loss(grid.name).name for grid in experiment.losses]
    stated = experiment.comparison.baseline
    if stated:
        found = get_loss(stated.split(" (")[0]).name
        if found not in losses:
            raise ConfigurationError(f"search.baseline: {stated} is not among the losses.")
        return found
    return USUAL_BASELINE if USUAL_BASELINE in losses else losses[0]


def trial_range(experiment: Experiment) -> tuple[int, int]:
    """The least and the most trials that a searched sweep takes.

    The least: every KL is met at once, and all is decided at the first look.
    """
    plan = SearchPlan(experiment)
    kls = len(plan.search.kl)
    searched = [max(1, min(kls, one.sought.trials)) for one in plan.entries]
    losses = len({one.name for one in plan.entries})
    least = sum(searched) + losses * kls * (plan.looks[0][0] - 1)
    spent = sum(one.sought.trials for one in plan.entries)
    most = spent + losses * (kls + 2) * (len(plan.seeds) - 1) + 2 * losses
    return least, most
