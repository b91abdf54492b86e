"""Hundreds of trials in one sweep: memory and open files stay as they are."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.reliability.lab import QUICK, Lab, Running, leftovers, without
from dpo_bench.storage import read_parquet

NEEDS_FAULTS = False
SECONDS_BETWEEN = 1.0
MOST_GROWTH = 40 * 2**20
"""Bytes by which a process may be larger in the last quarter of the trials than in the second."""
MOST_MORE_FILES = 5
"""Files that are open for a moment."""


def run(root: Path, seconds: float, count: int = 500, seed: int = 0) -> dict[str, Any]:
    """Run a sweep of so many trials and watch its processes.

    Args:
        root: an empty folder to work in.
        seconds: after which it is ended.
        count: of trials.
        seed: is not needed: nothing is drawn.
    """
    started = time.monotonic()
    betas = ",".join(f"{0.1 + number / 1000:.3f}" for number in range(count))
    plan = (*without(QUICK, "--losses", "--beta"), "--losses", "dpo", "--beta", betas)
    lab = Lab(root / "lab", (*plan, "--set=evaluation.every=0"))
    sweep = lab.begin()
    seen = _watch(sweep, lab.out / "trials", count, started + seconds)
    outcome = sweep.wait(max(1.0, started + seconds - time.monotonic()))
    wrong = [] if outcome.code == 0 else [f"exit code {outcome.code}: {outcome.said[-400:]}"]
    done = 0
    if outcome.code == 0:
        done = int((read_parquet(lab.out / "results.parquet")["status"] == "done").sum())
        wrong += [] if done == count else [f"{done} of {count} trials are done"]
    processes = {name: _quarters(rows) for name, rows in seen.items()}
    for name, one in processes.items():
        if one["last"]["bytes"] - one["second"]["bytes"] > MOST_GROWTH:
            wrong.append(f"the {name} grew: {one}")
        if one["last"]["files"] > one["second"]["files"] + MOST_MORE_FILES:
            wrong.append(f"the {name} has more open files: {one}")
    return {
        "trials": count,
        "done": done,
        "processes": processes,
        "wrong": wrong + leftovers(lab.root),
        "seconds": time.monotonic() - started,
    }


def _watch(
    sweep: Running, trials: Path, count: int, deadline: float
) -> dict[str, list[tuple[int, int, int]]]:
    """Of the sweep and its worker, while trials are done: trials, bytes resident, open files."""
    seen: dict[str, list[tuple[int, int, int]]] = {"sweep": [], "worker": []}
    while sweep.is_alive() and time.monotonic() < deadline:
        ended = len(list(trials.glob("[0-9a-f]*"))) if trials.is_dir() else 0
        if 0 < ended < count:
            for name, pid in (("sweep", sweep.pid), ("worker", _child(sweep.pid))):
                if pid and (row := _row(pid)):
                    seen[name].append((ended, *row))
        time.sleep(SECONDS_BETWEEN)
    return seen


def _child(pid: int) -> int | None:
    """The worker: the child that takes most memory."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    sizes = {int(one): row[0] for one in children if (row := _row(int(one)))}
    return max(sizes, key=lambda one: sizes[one], default=None)


def _row(pid: int) -> tuple[int, int] | None:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone
    except (OSError, IndexError):
        return None


def _quarters(rows: list[tuple[int, int, int]]) -> dict[str, dict[str, float]]:
    """Medians of the second and of the last quarter of what was seen."""
    quarter = max(1, len(rows) // 4)
    parts = {"second": rows[quarter : 2 * quarter] or rows, "last": rows[-quarter:]}
    return {
        name: {
            "trials": statistics.median(one[0] for one in part),
            "bytes": statistics.median(one[1] for one in part),
            "files": statistics.median(one[2] for one in part),
        }
        for name, part in parts.items()
        if part
    }
