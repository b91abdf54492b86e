"""For how long a worker may say nothing before it is taken to hang, and a trial may take.

A loss, a reward, a tokenizer or a driver can wait for ever; nothing can be seen of that from
outside but the silence. Time is counted while the sweep itself runs: a machine that slept, or a
sweep that was stopped and continued (SIGSTOP), has heard nothing because nothing happened.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from dpo_bench.errors import ConfigurationError
from dpo_bench.sweep.executors.base import WorkerDiedError

SECONDS_AT_LEAST = 600.0
"""The shortest limit that is chosen: a large model's first step, or its compilation, takes long."""
TIMES_LONGEST = 20
"""The limit is so many times the longest silence after which a worker of this sweep went on."""
SECONDS_UNTIL_NOTE = 60.0
LONGEST_TICK = 2.0
"""Seconds that count at most between two looks at the clock: the sweep looks every second."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """After how long a trial is given up.

    Attributes:
        stall: seconds without progress; None: chosen, see `Silence.limit`; infinite: never.
        trial: seconds in all since a worker took it; infinite: as long as it takes.
    """

    stall: float | None = None
    trial: float = math.inf

    def __post_init__(self) -> None:
        for name, value in (("--stall-timeout", self.stall), ("--trial-timeout", self.trial)):
            if value is not None and not value > 0:
                raise ConfigurationError(f"{name} {value:g}: give seconds above 0.")


class StalledError(WorkerDiedError):
    """A worker was given up because nothing was heard of it.

    Args:
        where: what it was at when it was last heard.
        seconds: that have passed since.
        place: the line of code that it is at, where that could be had.
    """

    def __init__(self, where: str, seconds: float, place: str = "") -> None:
        at = f", at {place}" if place else ""
        super().__init__(
            f"no progress for {seconds:.0f} s ({where}{at}): it was given up. --stall-timeout sets "
            "how long is waited."
        )


class TooLongError(WorkerDiedError):
    """A trial was given up because it took longer than it may.

    Args:
        where: what its worker was at when it was last heard.
        seconds: that it took.
    """

    def __init__(self, where: str, seconds: float) -> None:
        super().__init__(f"not done after {seconds:.0f} s ({where}), which --trial-timeout allows.")


class Silence:
    """The clock by which workers are watched, and what it has shown.

    Args:
        limits: as asked for.
        clock: seconds.

    Attributes:
        now: seconds that the sweep has been watching.
        longest: seconds of the longest silence that a worker has broken.
    """

    def __init__(
        self, limits: TimeLimits | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits = limits or TimeLimits()
        self.clock = clock
        self.now = self.longest = 0.0
        self._last = clock()

    def tick(self) -> float:
        """Look at the clock; returns the seconds that the sweep has been watching."""
        time_now = self.clock()
        self.now += min(max(0.0, time_now - self._last), LONGEST_TICK)
        self._last = time_now
        return self.now

    def broken(self, since: float) -> float:
        """A worker that had said nothing since then has said something; returns for how long."""
        self.longest = max(self.longest, self.now - since)
        return self.now - since

    @property
    def limit(self) -> float:
        """Seconds of silence after which a worker is given up."""
        if self.limits.stall is not None:
            return self.limits.stall
        return max(SECONDS_AT_LEAST, TIMES_LONGEST * self.longest)
