"""Finding KLs along one axis: where to look next, or why a KL is not to be had there.

What is known are probes: places on the axis with the logarithm of the KL that training there led
to. Nothing is assumed of the curve, not even its direction. Between two neighbors on both sides of
a KL it is sought by interpolation, so that a continuous curve is sure to give it, monotone or not;
beyond the outermost probes by going on in the direction that comes nearer. A curve that hardly
moves over a wide stretch is a plateau, and one that turns before it gets there has a floor or a
ceiling: then this axis does not lead to the KL.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dpo_bench.search.axes import Axis

NARROWEST = 0.02
"""distance of two probes below which a KL between theirs is jumped over"""
LONGEST, SHORTEST = math.log(10), math.log(1.1)
"""of a step beyond the outermost probe"""
WIDE = math.log(3)
"""stretch from which a slope says something of what lies beyond"""
ALIKE = 0.3
"""of ln KL: two probes that differ by less may lie on both sides of a hill or a valley"""
FLAT = 0.05
"""of ln KL per unit of the axis: a slope below it is none"""
TRIES = 5
"""trials that diverge or are stopped early before an axis is given up for it"""


@dataclass(frozen=True, slots=True)
class Probe:
    """A trial of the search, as seen along an axis.

    Attributes:
        place: on the axis.
        log_kl: ln of the policy's KL (nats); inf where training diverged, NaN where it failed.
        is_bound: training was stopped early: the KL would have been larger.
    """

    place: float
    log_kl: float
    is_bound: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether its KL is known, and not only that it is large."""
        return math.isfinite(self.log_kl) and not self.is_bound


@dataclass(frozen=True, slots=True)
class Proposal:
    """Where to look next.

    Attributes:
        value: of the axis.
        is_safe: it lies between two probes whose KLs are known.
    """

    value: float
    is_safe: bool


@dataclass(frozen=True, slots=True)
class Round:
    """What to do for several KLs at once.

    Attributes:
        proposals: where to look; may be fewer than KLs, the others wait for what these tell.
        reasons: by KL (nats), why this axis does not lead there.
    """

    proposals: tuple[Proposal, ...]
    reasons: dict[float, str]


@dataclass(frozen=True, slots=True)
class _Step:
    """A place to look at for one KL: between two probes (by index), or beyond an end."""

    kl: float
    place: float
    gap: tuple[int, int] | None
    is_safe: bool


def next_round(axis: Axis, probes: Sequence[Probe], kls: Sequence[float]) -> Round:
    """Where to look next for KLs (nats) that no probe has.

    Args:
        axis: the axis.
        probes: what is known along it, in any order.
        kls: that are sought.
    """
    known = sorted((one for one in probes if not math.isnan(one.log_kl)), key=lambda one: one.place)
    reasons: dict[float, str] = {}
    steps: list[_Step] = []
    for kl in kls:
        found = _step(axis, known, kl)
        if isinstance(found, str):
            reasons[kl] = found
        else:
            steps.append(found)
    taken = [one.place for one in probes]
    failed = sum(math.isnan(one.log_kl) for one in probes)
    proposals: dict[float, Proposal] = {}
    for step in _most_telling(steps, known):
        value = _free_value(axis, step, known, taken, failed)
        if value is None:
            reasons[step.kl] = _nearest(axis, known, step.kl, _nothing_left(failed))
            continue
        proposals.setdefault(value, Proposal(value, step.is_safe))
    return Round(tuple(proposals.values()), reasons)


def _free_value(
    axis: Axis, step: _Step, known: Sequence[Probe], taken: Sequence[float], failed: int
) -> float | None:
    """The value at a place, or near it where a trial has failed there; None: there is none."""
    for place in (step.place, *(_evasions(step, known) if failed else ())):
        value = axis.value(place)
        if all(abs(axis.place(value) - one) >= NARROWEST / 4 for one in taken):
            return value
    return None


def _evasions(step: _Step, known: Sequence[Probe]) -> Iterator[float]:
    """Places around one at which a trial has failed: ever nearer, or ever farther out."""
    if step.gap is not None:
        ends = [known[index].place for index in step.gap]
        for share in (1 / 3, 2 / 3, 1 / 6):
            yield from sorted(
                (step.place + share * (end - step.place) for end in ends),
                key=lambda place: -abs(place - step.place),
            )
        return
    nearest = min((abs(step.place - one.place) for one in known), default=LONGEST)
    for share in (1 / 2, 1, 3 / 4):
        for side in (-1, 1):
            yield step.place + side * share * max(nearest, SHORTEST)


def _nothing_left(failed: int) -> str:
    also = f", {failed} failed" if failed else ""
    return f"no further value of it is left{also}"


def _most_telling(steps: Sequence[_Step], known: Sequence[Probe]) -> list[_Step]:
    """Of the steps beyond one end the farthest; of those in a wide gap the one in its middle."""
    groups: dict[tuple[int, int] | bool, list[_Step]] = {}
    middle = (known[0].place + known[-1].place) / 2 if known else 0.0
    for step in steps:
        groups.setdefault(step.gap or step.place > middle, []).append(step)
    kept: list[_Step] = []
    for group, members in groups.items():
        if isinstance(group, bool):
            kept.append(max(members, key=lambda one: abs(one.place - middle)))
            continue
        first, second = (known[index] for index in group)
        is_wide = not abs(first.log_kl - second.log_kl) < WIDE
        kept += [members[len(members) // 2]] if is_wide else members
    return kept


def _step(axis: Axis, known: Sequence[Probe], kl: float) -> _Step | str:
    wanted = math.log(kl)
    gap = _gap(known, wanted)
    if gap is not None:
        return _between(axis, known, gap, kl)
    return _beyond(axis, known, kl)


def _gap(known: Sequence[Probe], wanted: float) -> tuple[int, int] | None:
    """Neighbors on both sides of a KL: of several those along the whole curve's direction."""
    found = [
        (index, index + 1)
        for index, (first, second) in enumerate(itertools.pairwise(known))
        if min(first.log_kl, second.log_kl) < wanted < max(first.log_kl, second.log_kl)
    ]
    if not found:
        return None
    rising = known[-1].log_kl > known[0].log_kl

    def order(gap: tuple[int, int]) -> tuple[bool, float, float]:
        first, second = known[gap[0]], known[gap[1]]
        against = (second.log_kl > first.log_kl) != rising
        return against, abs(second.log_kl - first.log_kl), first.place

    return min(found, key=order)


def _between(axis: Axis, known: Sequence[Probe], gap: tuple[int, int], kl: float) -> _Step | str:
    first, second = known[gap[0]], known[gap[1]]
    width = second.place - first.place
    if width < NARROWEST:
        low, high = sorted((first.log_kl, second.log_kl))
        return (
            f"KL jumps from {math.exp(low):.3g} to {math.exp(high):.3g} between {axis.name}"
            f" {axis.value(first.place):g} and {axis.value(second.place):g}"
        )
    if not (first.is_exact and second.is_exact):
        return _Step(kl, first.place + width / 2, gap, is_safe=False)
    place = _interpolated(known, gap, math.log(kl))
    margin = 0.08 * width
    place = min(max(place, first.place + margin), second.place - margin)
    return _Step(kl, place, gap, is_safe=True)


def _interpolated(known: Sequence[Probe], gap: tuple[int, int], wanted: float) -> float:
    """The place of a ln KL on a smooth curve through the monotone stretch around a gap."""
    import numpy as np
    from scipy.interpolate import PchipInterpolator
    from scipy.optimize import brentq

    start, end = gap
    rises = known[end].log_kl > known[start].log_kl
    while start > 0 and _goes_on(known[start - 1], known[start], rises=rises):
        start -= 1
    while end < len(known) - 1 and _goes_on(known[end], known[end + 1], rises=rises):
        end += 1
    stretch = known[start : end + 1]
    curve = PchipInterpolator(
        np.array([one.place for one in stretch]), np.array([one.log_kl for one in stretch])
    )
    ends = known[gap[0]].place, known[gap[1]].place
    return float(brentq(lambda place: float(curve(place)) - wanted, *ends))


def _goes_on(first: Probe, second: Probe, *, rises: bool) -> bool:
    return (
        first.is_exact
        and second.is_exact
        and first.log_kl != second.log_kl
        and (second.log_kl > first.log_kl) == rises
    )


def _beyond(axis: Axis, known: Sequence[Probe], kl: float) -> _Step | str:
    """A step out from one end, towards a KL that lies beyond all that is known."""
    exact = [one for one in known if one.is_exact]
    if not exact:
        return _without_any(axis, known, kl)
    wanted = math.log(kl)
    if len(known) == 1:
        return _second(axis, known[0], kl)
    if len(known) == 2 and _is_alike(*known):
        # A plateau, or the two sides of a hill or a valley: the middle tells.
        return _Step(kl, (known[0].place + known[1].place) / 2, (0, 1), is_safe=False)
    nearest = min(exact, key=lambda one: abs(one.log_kl - wanted))
    steps = [
        step for outward in (-1, 1) if (step := _outward(axis, known, outward, kl)) is not None
    ]
    if steps:
        return min(steps, key=lambda one: (abs(one.log_kl - wanted), one.step.place)).step
    return _plateau(axis, exact, nearest, kl)


def _is_alike(first: Probe, second: Probe) -> bool:
    """Whether two probes far apart have nearly the same KL."""
    is_far = second.place - first.place >= WIDE
    return is_far and first.is_exact and abs(first.log_kl - second.log_kl) < ALIKE


@dataclass(frozen=True, slots=True)
class _Outward:
    log_kl: float
    step: _Step


def _outward(axis: Axis, known: Sequence[Probe], outward: int, kl: float) -> _Outward | None:
    """The step out from one end, if going there comes nearer to the KL within the limits."""
    ordered = known if outward < 0 else known[::-1]
    end, limit = ordered[0], axis.place(axis.low if outward < 0 else axis.high)
    room = abs(limit - end.place)
    if not end.is_exact or room < NARROWEST:
        return None
    distance = _distance_outward(ordered, kl, room, is_new=_is_first(axis, end, outward))
    if not distance:
        return None
    return _Outward(end.log_kl, _Step(kl, end.place + outward * distance, None, is_safe=False))


def _distance_outward(ordered: Sequence[Probe], kl: float, room: float, *, is_new: bool) -> float:
    """How far to step out; 0: not at all.

    Args:
        ordered: what is known, from the end inwards.
        kl: that is sought, nats.
        room: up to the limit.
        is_new: nothing was tried beyond where the search began.
    """
    end = ordered[0]
    missing = math.log(kl) - end.log_kl
    inner = next((one for one in ordered[1:] if abs(one.place - end.place) >= WIDE), ordered[-1])
    inner = inner if inner.is_exact else ordered[1]
    if not inner.is_exact:
        # Inwards the KL is far larger, by nobody knows how much: so away from there it falls.
        return min(LONGEST / 2, room) if missing < 0 else 0.0
    away = abs(end.place - inner.place)
    slope = (end.log_kl - inner.log_kl) / away
    if abs(slope) < FLAT and away >= WIDE:
        # Flat as far as is known: on a side that was never looked at, one look tells.
        return min(LONGEST, room) if is_new else 0.0
    if slope * missing <= 0:
        return 0.0
    distance = missing / slope
    if distance > 2 * room and away >= WIDE and room < LONGEST:
        return 0.0  # what is left up to the limit would not do
    return min(max(distance, SHORTEST), max(LONGEST, away), room)


def _is_first(axis: Axis, end: Probe, outward: int) -> bool:
    """Whether nothing was tried beyond where the search along the axis began, on this side."""
    begun = [axis.place(one) for one in (*axis.first, axis.start)]
    return end.place >= min(begun) if outward < 0 else end.place <= max(begun)


def _second(axis: Axis, only: Probe, kl: float) -> _Step:
    """A step from the one place that is known; a key of training is known to raise the KL."""
    middle = (axis.place(axis.low) + axis.place(axis.high)) / 2
    if axis.scale == "odds" and abs(middle - only.place) >= WIDE:
        # Near an end of its range a value often means: not used. The middle tells more than a step.
        return _Step(kl, middle, None, is_safe=False)
    up = math.log(kl) > only.log_kl
    direction = 1 if up and axis.of_training else -1
    if axis.of_training:
        # KL rises about with the square of the rate, and with the steps.
        distance = min(max(abs(math.log(kl) - only.log_kl) / 2, SHORTEST), LONGEST)
    else:
        distance = math.log(4)
    limit = axis.place(axis.high if direction > 0 else axis.low)
    if abs(limit - only.place) < NARROWEST:
        direction = -direction
    return _Step(kl, only.place + direction * distance, None, is_safe=False)


def _without_any(axis: Axis, known: Sequence[Probe], kl: float) -> _Step | str:
    """All that was tried diverged or was stopped: from there towards what is known to be safe."""
    if not known:
        return _Step(kl, axis.place(axis.start), None, is_safe=False)  # all of them failed
    least, most = axis.place(axis.low), axis.place(axis.high)
    down, up = known[0].place - LONGEST, known[-1].place + LONGEST
    sides = {-1: down} if axis.of_training else {-1: down, 1: up}
    sides = {side: place for side, place in sides.items() if least <= place <= most}
    if len(known) > TRIES or not sides:
        return f"every trial by {axis.name} diverged or went far beyond"
    first, last = known[0].log_kl, known[-1].log_kl
    falling = (last < first) - (last > first)
    if falling in sides:
        return _Step(kl, sides[falling], None, is_safe=False)
    # Nobody knows on which side the KL falls: on the one of which less was seen, ever farther.
    start = axis.place(axis.start)
    seen = {-1: start - known[0].place, 1: known[-1].place - start}
    side = min(sides, key=lambda one: (seen[one], one))
    place = sides[side] + side * LONGEST * (len(known) // 4)
    return _Step(kl, min(max(place, least), most), None, is_safe=False)


def _plateau(axis: Axis, exact: Sequence[Probe], nearest: Probe, kl: float) -> str:
    values = sorted(axis.value(one.place) for one in exact)
    kls = sorted(math.exp(one.log_kl) for one in exact)
    if kls[-1] < 1.2 * kls[0]:
        where = f"{axis.name} from {values[0]:g} to {values[-1]:g}"
        return f"KL stays between {kls[0]:.3g} and {kls[-1]:.3g} for {where}"
    side = "below" if math.log(kl) < nearest.log_kl else "above"
    return (
        f"KL does not go {side} {math.exp(nearest.log_kl):.3g} by {axis.name} (tried"
        f" {values[0]:g} to {values[-1]:g})"
    )


def _nearest(axis: Axis, known: Sequence[Probe], kl: float, why: str) -> str:
    exact = [one for one in known if one.is_exact]
    if not exact:
        return f"{axis.name}: {why}"
    nearest = min(exact, key=lambda one: abs(one.log_kl - math.log(kl)))
    return f"{axis.name}: {why}; the nearest KL is {math.exp(nearest.log_kl):.3g}"
