"""SIGKILL, at random times and at named operations, to the whole sweep or to its first process.

A sweep is killed a few times in a row, each time started again by the same command, and then left
to end: no trial may be lost or done twice, and the results must be those of a sweep that was never
killed.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.reliability.compare import differences
from benchmarks.reliability.faults import arm
from benchmarks.reliability.lab import QUICK, Lab, leftovers
from dpo_bench.cache import DAY

NEEDS_FAULTS = True
WHOLE = "whole"
KILLS = 5
"""In a row, of one sweep."""
OPERATIONS = ("write", "fsync", "rename", "lock", "mkdir")


def run(root: Path, seconds: float, count: int = 200, seed: int = 0) -> dict[str, Any]:
    """Kill until so many died or the time is up.

    Args:
        root: an empty folder to work in.
        seconds: at most; the sweep that is under way ends.
        count: of kills.
        seed: of the random times and places.
    """
    started, draw = time.monotonic(), random.Random(seed)
    lab = Lab(root / "lab", QUICK)
    whole = lab.whole_sweep(WHOLE)
    how: Counter[str] = Counter()
    phases: Counter[str] = Counter()
    wrong: list[str] = []
    sweeps = equal = 0
    while how.total() < count and time.monotonic() < started + seconds:
        shutil.rmtree(lab.root, ignore_errors=True)
        lab.root.mkdir()
        found = _kill_in_a_row(lab, draw, whole.seconds, how, phases)
        sweeps += 1
        equal += not found
        wrong += found
    return {
        "kills": how.total(),
        "how": dict(sorted(how.items())),
        "phases": dict(sorted(phases.items())),
        "sweeps": sweeps,
        "equal": equal,
        "wrong": wrong,
        "seconds": time.monotonic() - started,
    }


def _kill_in_a_row(
    lab: Lab, draw: random.Random, usual: float, how: Counter[str], phases: Counter[str]
) -> list[str]:
    """What is wrong with a sweep that was killed so often."""
    wrong: list[str] = []
    done: dict[str, int] = {}
    for _ in range(KILLS):
        name = draw.choice(["at random", "at random, the first process alone", *OPERATIONS])
        if name.startswith("at random"):
            code, said = _at_random(lab, draw.uniform(0.05, usual), group=name == "at random")
        else:
            place, points = draw.choice([(lab.out, 80), (lab.cache, 20)])
            outcome = lab.sweep(arm(place, name, draw.randint(1, points)))
            code, said = outcome.code, outcome.said
        if code == -9:
            how[name] += 1
            phases[_phase(lab)] += 1
        elif code != 0:
            wrong.append(f"{name}: exit code {code}: {said[-400:]}")
        wrong += _done_again(lab, done)
    last = lab.sweep()
    if last.code != 0:
        wrong.append(f"in the end: {last.code}: {last.said[-400:]}")
    wrong += _done_again(lab, done)
    wrong += differences(lab.out, lab.saved(WHOLE) / "runs" / "small")
    return wrong + leftovers(lab.out) + _left_for_good(lab)


def _left_for_good(lab: Lab) -> list[str]:
    """What stays in the cache for over a day: another sweep may be writing what is younger."""
    for path in lab.cache.glob("*/.*"):
        os.utime(path, (time.time() - 2 * DAY,) * 2)
    lab.sweep()
    return leftovers(lab.cache)


def _at_random(lab: Lab, after: float, *, group: bool) -> tuple[int | None, str]:
    running = lab.begin()
    deadline = time.monotonic() + after
    while time.monotonic() < deadline and running.is_alive():
        time.sleep(0.005)
    running.kill(group=group)
    outcome = running.wait()
    return outcome.code, outcome.said


def _done_again(lab: Lab, done: dict[str, int]) -> list[str]:
    """Trials that were whole before and are others now, or are gone; remembers all."""
    now = {
        path.parent.name: path.stat().st_ino for path in lab.out.glob("trials/[!.]*/manifest.json")
    }
    wrong = [f"trial {one} was lost or done again" for one in done if now.get(one) != done[one]]
    done |= now
    return wrong


def _phase(lab: Lab) -> str:
    """How far a killed sweep had come, by what it left."""
    if (lab.out / "report.html").exists():
        return "after the report"
    if (lab.out / "results.parquet").exists():
        return "report"
    if any(lab.out.glob("trials/[!.]*")) or any(lab.out.glob("checkpoints/*.state")):
        return "trials"
    if any(lab.cache.glob("reference-evaluations/[!.]*")):
        return "worker is ready"
    if any(lab.cache.glob("pairs/[!.]*")):
        return "reference"
    return "world and pairs"
