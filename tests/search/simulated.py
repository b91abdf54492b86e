"""Losses whose KL is a formula of their settings, for the search to find its way on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import HealthCheck, settings

from dpo_bench.search.axes import Axis
from dpo_bench.search.exploration import Exploration, Outcome, Setting, Sought, Stage, explore

KLS = (0.5, 1.0, 2.0, 4.0, 8.0)
Formula = Callable[[Mapping[str, float]], float]
"""ln KL of a policy that was trained with these values"""


def cases(count: int) -> settings:
    """So many examples, the same ones every time."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )


@dataclass(frozen=True)
class Simulated:
    """Training as a formula.

    Attributes:
        log_kl: the formula.
        noise: standard deviation of ln KL; the same for the same values and seed.
        diverges: training diverges where the formula is beyond this ln KL.
        stops: a trial is stopped where its KL is beyond this, as early stopping does it.
        fails: share of settings whose trial fails, whatever the seed.
        world: another number gives another noise, and other settings that fail.
    """

    log_kl: Formula
    noise: float = 0.0
    diverges: float = math.inf
    stops: float = math.inf
    fails: float = 0.0
    world: int = 0

    def outcome(self, values: Mapping[str, float], seed: int = 0) -> Outcome:
        """What comes of a trial."""
        if drawn(f"fails {self.world}", values, 0) < self.fails:
            return Outcome("failed")
        log_kl = self.log_kl(values) + self.noise * standard_normal(values, seed, self.world)
        if log_kl > self.diverges:
            return Outcome("diverged")
        kl = math.exp(min(log_kl, 50.0))
        if kl > self.stops:  # half-way, where the KL is less than at the end but beyond the limit
            return Outcome("stopped", max(self.stops, 0.6 * kl))
        return Outcome("done", kl)


def drawn(purpose: str, values: Mapping[str, float], seed: int) -> float:
    """A number between 0 and 1 that these values and this seed always give."""
    text = f"{purpose} {sorted(values.items())} {seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def standard_normal(values: Mapping[str, float], seed: int, world: int = 0) -> float:
    """A standard normal number, likewise."""
    first, second = (
        max(drawn(f"{one} {world}", values, seed), 1e-15) for one in ("radius", "angle")
    )
    return math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)


@dataclass
class Searched:
    """A search that was carried to its end.

    Attributes:
        found: what it came to.
        asked: settings, in the order in which they were asked for.
        rounds: how often it had to wait for all that it had asked for.
    """

    found: Exploration
    asked: list[Setting] = field(default_factory=list)
    rounds: int = 0


def search(
    simulated: Simulated,
    axes: Sequence[Axis],
    *,
    kls: Sequence[float] = KLS,
    within: float = 0.1,
    trials: int = 20,
    earlier: Sequence[Stage] = (),
    known: Mapping[Setting, Outcome] | None = None,
) -> Searched:
    """Search with all trials of a round done at once, until nothing is wanted."""
    sought = Sought(tuple(axes), tuple(kls), within, trials, tuple(earlier))
    outcomes = dict(known or {})
    starts = {axis.name: axis.start for axis in axes}
    asked: list[Setting] = []
    for rounds in range(trials + 1):
        found = explore(sought, outcomes.get)
        if not found.wanted:
            return Searched(found, asked, rounds)
        for one in found.wanted:
            asked.append(one.setting)
            outcomes[one.setting] = simulated.outcome({**starts, **dict(one.setting)})
    raise AssertionError("the search goes on beyond its budget")


def strength(
    *,
    low: float = 1e-6,
    high: float = 1e6,
    first: tuple[float, ...] = (0.05, 1.0),
    name: str = "beta",
    start: float = 0.1,
) -> Axis:
    """A hyperparameter on a logarithmic scale."""
    return Axis(name, start, first, low, high)


def learning_rate(peak: float = 1e-3) -> Axis:
    """The learning rate, as a search takes it."""
    return Axis("learning_rate", peak, (peak, 3 * peak), peak / 300, peak * 30, of_training=True)


def line(slope: float, at_one: float, name: str = "beta") -> Formula:
    """ln KL is linear in the logarithm of a strength, and ``at_one`` where that is 1."""
    return lambda values: at_one + slope * math.log(values[name])


Kind = Literal["floor", "ceiling"]


def leveling(slope: float, at_one: float, level: float, kind: Kind, name: str = "beta") -> Formula:
    """A line that comes to a level (nats) gradually: from above, or from below."""

    def formula(values: Mapping[str, float]) -> float:
        free = at_one + slope * math.log(values[name])
        if kind == "floor":
            return math.log(math.exp(min(free, 50.0)) + level)
        return -math.log(math.exp(min(-free, 50.0)) + 1 / level)

    return formula
