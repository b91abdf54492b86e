"""A disk that is full or fails at one operation, or from one operation on; runs and cache.

The sweep must end by itself, with 0 or with 3 and one line that names the file, never with a
traceback; run again, it must come to the same results and leave nothing behind.
"""

from __future__ import annotations

import errno
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.reliability.compare import differences
from benchmarks.reliability.faults import arm, counted
from benchmarks.reliability.lab import QUICK, Lab, Outcome, leftovers

ERRORS = {
    "write": (errno.ENOSPC, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC),
    "rename": (errno.EACCES, errno.ENOSPC),
    "mkdir": (errno.ENOSPC, errno.EACCES),
    "link": (errno.EACCES,),
    "read": (errno.EIO, errno.EACCES),
}
"""How each operation fails, in turn."""
NEEDS_FAULTS = True
WHOLE = "whole"


@dataclass
class Operation:
    """What became of one operation's failures in one place.

    Attributes:
        points: how many such operations a sweep makes there.
        tried: how many were made to fail.
        ended: exit codes of the failing sweeps, with how often.
        resumed: the same command again had the same results.
        wrong: what was not as wished.
    """

    points: int
    tried: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    resumed: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fault:
    """One operation that fails.

    Attributes:
        place: ``runs`` or ``cache``.
        operation: what fails.
        nth: which of them, from 1.
        error: its number.
        sticky: all that follow fail, too.
    """

    place: str
    operation: str
    nth: int
    error: int
    sticky: bool

    @property
    def name(self) -> str:
        """In words."""
        since = " and all that follow" if self.sticky else ""
        code = errno.errorcode[self.error]
        return f"{self.operation} {self.nth} on {self.place}{since}: {code}"


def run(root: Path, seconds: float, count: int = 10_000, seed: int = 0) -> dict[str, Any]:
    """Let operations fail, at points that are spread over the sweep, until the time is up.

    Args:
        root: an empty folder to work in.
        seconds: at most; the fault that is under way ends.
        count: of faults, at most.
        seed: of their order.
    """
    started = time.monotonic()
    lab = Lab(root / "lab", QUICK)
    lab.whole_sweep(WHOLE)
    found = {
        (place, operation): Operation(_points(lab, place, operation))
        for place in ("runs", "cache")
        for operation in ERRORS
    }
    faults = _in_turn(_faults(found), random.Random(seed))
    tried = 0
    for fault in faults[:count]:
        if time.monotonic() > started + seconds:
            break
        _try(lab, fault, found[fault.place, fault.operation])
        tried += 1
    return {
        "points": sum(one.points for one in found.values()),
        "tried": tried,
        "resumed": sum(one.resumed for one in found.values()),
        "operations": {f"{place}: {name}": vars(one) for (place, name), one in found.items()},
        "seconds": time.monotonic() - started,
    }


def _faults(found: dict[tuple[str, str], Operation]) -> list[Fault]:
    """Each point once, its errors in turn, every third of them for good."""
    faults = []
    for (place, operation), one in found.items():
        errors = ERRORS[operation]
        for nth in range(1, one.points + 1):
            error = errors[nth % len(errors)]
            faults.append(Fault(place, operation, nth, error, nth % 3 == 0))
    return faults


def _in_turn(faults: list[Fault], draw: random.Random) -> list[Fault]:
    """In a random order that goes over the operations in turn, so that none is left out."""
    draw.shuffle(faults)
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for fault in faults:
        seen[fault.place, fault.operation] += 1
        ranked.append((seen[fault.place, fault.operation], fault))
    return [fault for _, fault in sorted(ranked, key=lambda one: one[0])]


def _folder(lab: Lab, place: str) -> Path:
    return lab.out if place == "runs" else lab.cache


def _points(lab: Lab, place: str, operation: str) -> int:
    shutil.rmtree(lab.root)
    lab.root.mkdir()
    file = lab.root.with_name("count")
    done = lab.sweep(counted(_folder(lab, place), operation, file))
    if done.code != 0:
        raise RuntimeError(done.said)
    return int(file.read_text())


def _try(lab: Lab, fault: Fault, operation: Operation) -> None:
    shutil.rmtree(lab.root, ignore_errors=True)
    lab.root.mkdir()
    folder = _folder(lab, fault.place)
    failing = lab.sweep(arm(folder, fault.operation, fault.nth, fault.error, sticky=fault.sticky))
    operation.tried += 1
    code = str(failing.code)
    operation.ended[code] = operation.ended.get(code, 0) + 1
    operation.wrong += [f"{fault.name}: {one}" for one in _wrong(failing, fault)]
    again = lab.sweep()
    after = [f"again: {again.code}: {again.said[-300:]}"] if again.code != 0 else []
    after += differences(lab.out, lab.saved(WHOLE) / "runs" / "small") + leftovers(lab.root)
    operation.resumed += not after
    operation.wrong += [f"{fault.name}: {one}" for one in after]


def _wrong(failing: Outcome, fault: Fault) -> list[str]:
    """What the failing sweep did wrong."""
    if failing.has_traceback:
        return [f"a traceback: {failing.said[-600:]}"]
    if failing.code == 0:
        return []
    if failing.code != 3:
        return [f"exit code {failing.code}: {failing.said[-400:]}"]
    lines = [line for line in failing.said.splitlines() if line.startswith("dpo-bench: ")]
    if len(lines) != 1:
        return [f"{len(lines)} lines of error: {failing.said[-400:]}"]
    is_of_cache = fault.place == "cache" and fault.operation != "read"
    wanted = "DPO_BENCH_CACHE" if is_of_cache else f"/{fault.place}/"
    return [] if wanted in lines[0] else [f"the file is not named: {lines[0]}"]
