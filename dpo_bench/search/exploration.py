"""The search for one loss's settings: along its axes, one after another, until every KL is met.

An exploration is replayed from its start each time: every round of trials follows from the results
of the rounds before it and from nothing else. So the same results give the same trials, whoever ran
them, in whatever order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, NamedTuple

from dpo_bench.search.along import Probe, Proposal, next_round
from dpo_bench.search.axes import Axis

Setting = tuple[tuple[str, float], ...]
"""Values by name of axis, in alphabetical order; an axis that is left out stands at its default."""


class Stage(NamedTuple):
    """What was sought in the same folder before.

    Attributes:
        kls: nats.
        within: share of a KL that a policy's own may differ by.
        known: identities of the trials whose results there were when something else was sought
            instead; None: of all, which is known only where that search had come to its end.
    """

    kls: tuple[float, ...]
    within: float
    known: frozenset[str] | None = None


FARTHEST = 2.0
"""a KL beyond so many times the largest that is sought matters to no reading"""
ALIKE = 0.15
"""of ln KL: what settings of a plateau may differ by"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is known of a trial.

    Attributes:
        status: ``done``; ``stopped`` early because its KL was far beyond; ``diverged``; ``failed``.
        kl: to the reference, nats; of a stopped trial where it was stopped; else NaN.
    """

    status: Literal["done", "stopped", "diverged", "failed"]
    kl: float = math.nan

    @property
    def log_kl(self) -> float:
        """Its ln KL, as `Probe` has it."""
        if self.status == "diverged":
            return math.inf
        return math.log(max(self.kl, 1e-9)) if self.status != "failed" else math.nan


@dataclass(frozen=True, slots=True)
class Explored:
    """A setting that was tried, or is to be.

    Attributes:
        setting: its values.
        by: the axis along which it was tried.
        leg: how many axes were given up before.
        is_safe: it lies between two whose KLs are known, so that it need not be watched.
        outcome: None while it is not known.
    """

    setting: Setting
    by: str
    leg: int
    is_safe: bool
    outcome: Outcome | None

    @property
    def is_done(self) -> bool:
        """Whether there is a policy."""
        return self.outcome is not None and self.outcome.status == "done"


@dataclass(frozen=True, slots=True)
class Exploration:
    """How far a search has come.

    Attributes:
        explored: every setting that was asked for, in order.
        met: by KL, the setting that leads there.
        reasons: by KL, why none was found; empty while it goes on.
        open: KLs that are still sought.
    """

    explored: tuple[Explored, ...]
    met: Mapping[float, Explored]
    reasons: Mapping[float, str]
    open: tuple[float, ...]

    @property
    def wanted(self) -> tuple[Explored, ...]:
        """Settings whose trials are still to be done."""
        return tuple(one for one in self.explored if one.outcome is None)


@dataclass(frozen=True, slots=True)
class Sought:
    """What is sought of a loss.

    Attributes:
        axes: in the order in which they are tried.
        kls: nats, ascending.
        within: share of a KL that a policy's own may differ by.
        trials: most that it may take.
        earlier: what was sought before. That search is replayed first, as far as it came: KLs that
            are added take what it found.
    """

    axes: tuple[Axis, ...]
    kls: tuple[float, ...]
    within: float
    trials: int
    earlier: tuple[Stage, ...] = ()

    def is_met(self, kl: float, found: float) -> bool:
        """Whether a policy's KL counts as a KL that is sought."""
        return abs(found - kl) <= self.within * kl


@dataclass
class _Replay:
    """The state of an exploration while it is replayed.

    Attributes:
        sought: what is sought now, or was at an earlier stage.
        look_up: gives outcomes.
        was_known: of an earlier stage, whether there was a result when it ended; nothing else is
            asked for. None: of the present one.
    """

    sought: Sought
    look_up: Callable[[Setting], Outcome | None]
    explored: list[Explored] = field(default_factory=list)
    reasons: dict[float, str] = field(default_factory=dict)
    was_known: Callable[[Setting], bool] | None = None

    def open(self) -> list[float]:
        """KLs that no setting leads to yet and no axis has been given up for."""
        met = self.met()
        return [kl for kl in self.sought.kls if kl not in met]

    def met(self) -> dict[float, Explored]:
        """By KL the setting that leads there: of the earliest axis, the nearest."""
        found = {}
        for kl in self.sought.kls:
            near = [
                one
                for one in self.explored
                if one.is_done and one.outcome and self.sought.is_met(kl, one.outcome.kl)
            ]
            if near:
                found[kl] = min(near, key=lambda one: (one.leg, _distance(one, kl)))
        return found

    def add(self, settings: Iterable[tuple[Setting, bool]], by: str, leg: int) -> bool:
        """Ask for settings; whether all of them are known."""
        complete = True
        for setting, is_safe in settings:
            if any(one.setting == setting for one in self.explored):
                continue
            if len(self.explored) >= self.sought.trials:
                break
            outcome = self.look_up(setting)
            if self.was_known and (outcome is None or not self.was_known(setting)):
                complete = False
                continue
            self.explored.append(Explored(setting, by, leg, is_safe, outcome))
            complete = complete and outcome is not None
        return complete

    @property
    def is_spent(self) -> bool:
        return len(self.explored) >= self.sought.trials


def explore(
    sought: Sought,
    look_up: Callable[[Setting], Outcome | None],
    identify: Callable[[Setting], str] = str,
) -> Exploration:
    """Replay a search as far as results are known.

    An earlier stage is replayed with what was known when it ended, not with what is known now: else
    it would go on as results of the present one come in, and these would depend on their order.

    Args:
        sought: what is sought.
        look_up: the outcome of a setting; None where its trial is still to be done.
        identify: the identity of a setting's trial, as `Stage` has it.
    """
    replay = _Replay(sought, look_up)
    for stage in sought.earlier:
        replay.sought = replace(sought, kls=stage.kls, within=stage.within)
        replay.was_known = partial(_was_known, stage, identify)
        replay.reasons = {}
        _replay(replay)
    replay.sought, replay.was_known, replay.reasons = sought, None, {}
    complete = _replay(replay)
    met = replay.met()
    left = [kl for kl in sought.kls if kl not in met]
    if not complete:
        return Exploration(tuple(replay.explored), met, {}, tuple(left))
    spent = f"{sought.trials} trials were not enough" if replay.is_spent else "not found"
    reasons = {kl: replay.reasons.get(kl) or spent for kl in left}
    return Exploration(tuple(replay.explored), met, reasons, ())


def _was_known(stage: Stage, identify: Callable[[Setting], str], setting: Setting) -> bool:
    return stage.known is None or identify(setting) in stage.known


def _replay(replay: _Replay) -> bool:
    """Go through all axes; whether it came to an end, instead of waiting for a trial."""
    axes = replay.sought.axes
    if not axes:
        return replay.add([((), False)], "", 0)
    if not _along_first(replay, axes[0]):
        return False
    for leg, axis in enumerate(axes[1:], start=1):
        for base, kls in _bases(replay):
            if not _along(replay, axis, base, kls, leg):
                return False
    return True


def _along_first(replay: _Replay, axis: Axis) -> bool:
    first = [(((axis.name, value),), False) for value in axis.first]
    return replay.add(first, axis.name, 0) and _along(replay, axis, (), list(replay.sought.kls), 0)


def _along(replay: _Replay, axis: Axis, base: Setting, kls: Sequence[float], leg: int) -> bool:
    """Rounds along one axis with all else held at a base, until its KLs are met or given up."""
    given_up: set[float] = set()
    while not replay.is_spent:
        left = [kl for kl in replay.open() if kl in kls and kl not in given_up]
        if not left:
            return True
        found = next_round(axis, list(probes_along(replay.explored, axis, base)), left)
        given_up |= found.reasons.keys()
        replay.reasons |= found.reasons
        if not found.proposals:
            continue
        if not replay.add(_settings(axis, base, found.proposals), axis.name, leg):
            return False
    return True


def _settings(
    axis: Axis, base: Setting, proposals: Sequence[Proposal]
) -> Iterator[tuple[Setting, bool]]:
    for one in proposals:
        yield with_value(base, axis.name, one.value), one.is_safe


def with_value(setting: Setting, name: str, value: float) -> Setting:
    """A setting with one value put in."""
    return tuple(sorted({**dict(setting), name: value}.items()))


def probes_along(explored: Iterable[Explored], axis: Axis, base: Setting) -> Iterator[Probe]:
    """What is known along an axis through a base."""
    rest = {name: value for name, value in base if name != axis.name}
    for one in explored:
        values = dict(one.setting)
        value = values.pop(axis.name, axis.start)
        if values == rest and one.outcome is not None:
            outcome = one.outcome
            yield Probe(axis.place(value), outcome.log_kl, outcome.status == "stopped")


def _bases(replay: _Replay) -> Iterator[tuple[Setting, list[float]]]:
    """Where to leave the earlier axes for a further one, and the KLs that are sought from there.

    That is the policy nearest to a KL; on a plateau, of all that are as near, the one nearest to
    the defaults: a strength of ten thousand that changes nothing is no place to start from.
    """
    groups: dict[Setting, list[float]] = {}
    for kl in replay.open():
        found = [one for one in replay.explored if one.is_done]
        found = found or [one for one in replay.explored if _distance(one, kl) < math.inf]
        if not found:
            continue
        nearest = min(_distance(one, kl) for one in found)
        alike = [one for one in found if _distance(one, kl) <= nearest + ALIKE]
        base = min(alike, key=lambda one: (_from_defaults(replay, one), one.setting))
        groups.setdefault(base.setting, []).append(kl)
    yield from groups.items()


def _from_defaults(replay: _Replay, one: Explored) -> float:
    axes = {axis.name: axis for axis in replay.sought.axes}
    return sum(
        abs(axes[name].place(value) - axes[name].place(axes[name].start))
        for name, value in one.setting
    )


def _distance(one: Explored, kl: float) -> float:
    """How far from a KL a setting's own is, of ln KL; infinite where it is not known."""
    if one.outcome is None or one.outcome.status == "failed":
        return math.inf
    return abs(one.outcome.log_kl - math.log(kl))
