"""The machine that is measured on, and who else worked on it meanwhile."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

STAT = Path("/proc/stat")
IDLE = (3, 4)
"""Places of idle and of waiting for a disk among the counts of a line ``cpu``."""
STOLEN = 7
"""Place of what the host gave to other machines."""


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _busy_seconds() -> float:
    """Seconds that all processors have worked, for whomever; what the host took is among them."""
    if not STAT.is_file():
        return 0.0
    counts = [int(count) for count in STAT.read_text().splitlines()[0].split()[1 : STOLEN + 2]]
    busy = sum(count for place, count in enumerate(counts) if place not in IDLE)
    return busy / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@dataclass(slots=True)
class Bystanders:
    """What share of the processors others used since this was made.

    Two threads that wait for each other suffer far more from a third than two processes do, so
    ratios mean little where this is not nearly zero.
    """

    started: float = field(default_factory=time.perf_counter)
    busy: float = field(default_factory=_busy_seconds)
    own: float = field(default_factory=_own_seconds)

    def share(self) -> float | None:
        """Their share so far, from 0 to 1; None where the system does not tell.

        Of this process's children those count as its own that have ended.
        """
        if not STAT.is_file():
            return None
        available = (time.perf_counter() - self.started) * (os.cpu_count() or 1)
        others = _busy_seconds() - self.busy - (_own_seconds() - self.own)
        return min(1.0, max(0.0, others / available))
