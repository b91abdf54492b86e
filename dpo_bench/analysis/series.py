"""How a sweep's trials come to be curves: one of each loss, for what its hyperparameters are.

Where strengths were given, trials that differ in a further hyperparameter are variants, each with a
curve; trials that differ in a key of training (the learning rate, the steps) are what the loss is
tuned over, and those with the chosen values make its curve (`tuning`). Where strengths were
searched for, the search says which trials make a loss's curve, whatever they differ in, and which
learning rate it chose. What is no part of a curve is kept beside it as explored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dpo_bench.analysis.loss_curves import (
    GridPoint,
    LossCurve,
    Option,
    by_loss,
    grid_points,
    spelled,
    spelled_settings,
    variant_label,
    varying,
)
from dpo_bench.analysis.metrics import KL
from dpo_bench.analysis.results import SweepResults, Trial
from dpo_bench.analysis.tuning import choose_settings

RATE = "learning_rate"


def group_series(results: SweepResults) -> tuple[LossCurve, ...]:
    """The sweep's curves, in the order in which the results table or the search names them."""
    if results.search.get("series"):
        return tuple(_searched(results))
    groups = by_loss(results.trials)
    return tuple(
        _given(results, index, group, [other[0] for other in groups if _same_loss(other, group)])
        for index, group in enumerate(groups)
    )


def tuned_keys(results: SweepResults) -> set[str]:
    """The keys of training that losses were tuned over.

    A learning rate that a search moved only where strengths do not lead to a KL was not tuned.
    """
    searched = results.search.get("series") or ()
    if searched:
        return {RATE} if any(one.get(RATE) is not None for one in searched) else set()
    return set(varying([one.training for one in results.trials]))


def _same_loss(one: Sequence[Trial], other: Sequence[Trial]) -> bool:
    return one[0].loss == other[0].loss


def _given(
    results: SweepResults, index: int, trials: Sequence[Trial], siblings: Sequence[Trial]
) -> LossCurve:
    """A loss whose settings were given; tuned where keys of training have several values."""
    names = _tuned_keys(trials)
    options = _options(trials, names)
    chosen = choose_settings(results, [one.settings for one in options]).chosen if names else 0
    rest = [
        trial
        for place, one in enumerate(options)
        for setting in one.settings
        for trial in setting.trials
        if place != chosen
    ]
    return LossCurve(
        index=index,
        label=variant_label(trials[0], siblings),
        loss=trials[0].loss,
        strength_name=trials[0].strength_name,
        settings=options[chosen].settings,
        explored=grid_points(rest, names),
        varied=tuple(names),
        options=tuple(options) if names else (),
        chosen=chosen,
    )


def _tuned_keys(trials: Sequence[Trial]) -> list[str]:
    """The keys of training that have several values; what a trial does not record is none."""
    names = {name for trial in trials for name in trial.training}
    values = {
        name: {str(one.training[name]) for one in trials if name in one.training} for name in names
    }
    return sorted(name for name, found in values.items() if len(found) > 1)


def _options(trials: Sequence[Trial], names: Sequence[str]) -> list[Option]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(spelled_settings(trial, names), []).append(trial)
    return [
        Option({name: found[0].training.get(name) for name in names}, label, grid_points(found))
        for label, found in groups.items()
    ]


def entry_name(found: Mapping[str, Any]) -> str:
    """The key of a searched entry without the learning rate that it was tried at."""
    key = str(found["key"])
    return key.rpartition(f" {RATE}=")[0] if found.get(RATE) is not None else key


@dataclass(frozen=True)
class _Entry:
    """What the search says of one loss, at one learning rate where these are tuned.

    Attributes:
        found: its record.
        loss: the loss's name.
        fixed: values that tell it from other entries, the tuned learning rate among them.
        name: its key without that.
        path: ids of the trials that make its curve.
    """

    found: Mapping[str, Any]
    loss: str
    fixed: Mapping[str, str]
    name: str
    path: frozenset[str]

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> _Entry:
        key = str(found["key"])
        loss, *parts = key.split(" ")
        fixed = dict(part.split("=", 1) for part in parts if "=" in part)
        return cls(
            found, loss, fixed, entry_name(found), frozenset(map(str, found.get("path") or ()))
        )

    def has(self, trial: Trial) -> bool:
        """Whether the search for it asked for such a trial."""
        return trial.loss == self.loss and all(
            _is(trial.settings.get(name), value) for name, value in self.fixed.items()
        )


def _is(value: Any, said: str) -> bool:
    """Whether a value is the one that an entry's key says, which is rounded there."""
    try:
        return math.isclose(float(value), float(said), rel_tol=1e-4)
    except (TypeError, ValueError):
        return str(value) == said


def _searched(results: SweepResults) -> Iterator[LossCurve]:
    entries = [_Entry.of(one) for one in results.search["series"]]
    owned = _owned(results, entries)
    shown = [one for one in entries if one.found.get("chosen") is not False]
    groups = {one.name: [other for other in entries if other.name == one.name] for one in shown}
    index = 0
    for entry in shown:
        rates = groups[entry.name]
        settled = bool(entry.found.get("chosen"))
        members = rates if settled else [entry]
        trials = [trial for one in members for trial in owned[str(one.found["key"])]]
        if trials:
            siblings = [one for one in shown if one.loss == entry.loss]
            yield _searched_curve(index, entry, members, trials, siblings)
            index += 1


def _owned(results: SweepResults, entries: Sequence[_Entry]) -> dict[str, list[Trial]]:
    """By key the trials of each entry, its own path or whatever its values fit best."""
    owned: dict[str, list[Trial]] = {str(one.found["key"]): [] for one in entries}
    for trial in results.trials:
        fitting = [one for one in entries if trial.id in one.path]
        fitting = fitting or [one for one in entries if one.has(trial)]
        if fitting:
            best = max(fitting, key=lambda one: len(one.fixed))
            owned[str(best.found["key"])].append(trial)
    return owned


def _searched_curve(
    index: int,
    entry: _Entry,
    members: Sequence[_Entry],
    trials: Sequence[Trial],
    siblings: Sequence[_Entry],
) -> LossCurve:
    strength = trials[0].strength_name
    names = sorted(varying([one.settings for one in trials]) - {strength})
    on_path = [one for one in trials if one.id in entry.path]
    options = []
    for one in members if len(members) > 1 else ():
        own = [trial for trial in trials if trial.id in one.path]
        rate = one.found[RATE]
        options.append(Option({RATE: rate}, f"{RATE} {spelled(rate)}", grid_points(own, names)))
    return LossCurve(
        index=index,
        label=_searched_label(entry, siblings),
        loss=entry.loss,
        strength_name=strength,
        settings=_by_kl(grid_points(on_path, names), names),
        explored=grid_points([one for one in trials if one.id not in entry.path], names),
        varied=tuple(names),
        options=tuple(options),
        chosen=list(members).index(entry) if options else 0,
    )


def _by_kl(settings: tuple[GridPoint, ...], names: Sequence[str]) -> tuple[GridPoint, ...]:
    """In the order of their KLs where they differ in more than the strength."""
    given = [trial.settings for setting in settings for trial in setting.trials]
    if not varying([{name: one.get(name) for name in names} for one in given]):
        return settings

    def place(setting: GridPoint) -> float:
        mean = setting.mean(KL.name)
        return math.inf if mean is None else mean

    ordered = sorted(settings, key=place)
    return tuple(replace(one, rank=rank) for rank, one in enumerate(ordered))


def _searched_label(entry: _Entry, siblings: Sequence[_Entry]) -> str:
    """The loss's name, with the values that tell an entry from others of the same loss."""
    if len(siblings) == 1:
        return entry.loss
    names = varying([one.fixed for one in siblings])
    if len({one.name for one in siblings}) > 1 and entry.found.get("chosen"):
        names -= {RATE} if all(one.fixed.get(RATE) for one in siblings) else set()
    said = ", ".join(f"{name} {entry.fixed[name]}" for name in sorted(names) if name in entry.fixed)
    return f"{entry.loss} ({said})" if said else entry.loss
