"""Many sweeps at once: in one folder, where one may work; and apart, on one cold cache."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.reliability.compare import differences
from benchmarks.reliability.lab import QUICK, Lab, Running, leftovers

WHOLE = "whole"
NEEDS_FAULTS = False


def run(root: Path, seconds: float, count: int = 16, seed: int = 0) -> dict[str, Any]:
    """Start so many sweeps at once.

    Args:
        root: an empty folder to work in.
        seconds: after which no more settings are tried.
        count: of sweeps at once.
        seed: is not needed: nothing is drawn.
    """
    started = time.monotonic()
    lab = Lab(root / "lab", QUICK)
    lab.whole_sweep(WHOLE)
    expected = lab.saved(WHOLE) / "runs" / "small"
    settings = {"one folder": True, "one cold cache": False}
    found: dict[str, Any] = {}
    for name, is_shared in settings.items():
        if time.monotonic() < started + seconds:
            shutil.rmtree(lab.root)
            lab.root.mkdir()
            found[name] = _at_once(lab, count, expected, is_shared=is_shared)
    return {"at once": count, "settings": found, "seconds": time.monotonic() - started}


def _at_once(lab: Lab, count: int, expected: Path, *, is_shared: bool) -> dict[str, Any]:
    folders = [lab.out if is_shared else lab.root / f"apart-{at}" / "out" for at in range(count)]
    running: list[Running] = [lab.start(*lab.plan, "--out", str(one)) for one in folders]
    outcomes = [one.wait(1800) for one in running]
    codes: dict[str, int] = {}
    wrong: list[str] = []
    for outcome in outcomes:
        codes[str(outcome.code)] = codes.get(str(outcome.code), 0) + 1
        is_fine = outcome.code == 0 or (is_shared and outcome.code == 5)
        if not is_fine or outcome.has_traceback:
            wrong.append(f"{outcome.code}: {outcome.said[-400:]}")
        lines = [line for line in outcome.said.splitlines() if line.startswith("dpo-bench: ")]
        if outcome.code == 5 and (len(lines) != 1 or "in use by another process" not in lines[0]):
            wrong.append(f"5 without its line: {outcome.said[-400:]}")
    for folder in dict.fromkeys(folders):
        wrong += [f"{folder.parent.name}: {one}" for one in differences(folder, expected)]
    return {"codes": codes, "folders": len(set(folders)), "wrong": wrong + leftovers(lab.root)}
