"""``python -m benchmarks.calibration [SIMULATIONS]``: run all cases, write the table."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import scipy

from benchmarks.calibration.cases import policy_rows
from benchmarks.calibration.frontier_cases import Bias, bias, frontier_rows
from benchmarks.calibration.planned_looks import look_rows
from benchmarks.calibration.rows import Row
from benchmarks.calibration.verdicts import verdict_rows
from benchmarks.calibration.win_rates import win_rate_rows

SIMULATIONS = 400
CORES = 2
REPORT = Path(__file__).parents[2] / "reports" / "calibration" / "README.md"

_BIAS = """## Bias of the estimated optimal frontier

Against an enumerable world where it is exact (128 prompts with 400 responses each), in standard
deviations of the reward within a prompt. Blank: beyond the range in which the estimate is given.

| rewards | samples per prompt | KL .5 | KL 1 | KL 2 | end | bias there | standard error | n |
|---|---|---|---|---|---|---|---|---|"""

_OPENING = """# Do verdicts and intervals hold?

Written by `{command}` in {minutes:.0f} minutes on {cores} cores ({machine}, numpy {numpy}, scipy
{scipy}). Every line draws experiments in which the truth is known from a formula, never from what
an estimate reads off, and counts. Accepted is what the column says, give or take two standard
errors of the simulation; these go by independent experiments, since intervals of one are alike.

An experiment has three or more losses with five strengths each. A run's KL scatters (by 15%, where
losses are equal by 30%), its reward is tanh(.1 + .28 sqrt(KL)) plus what loss, prompt (deviation
.5), prompt and loss (.25), training run and response (.4) add, and every other loss has its
strengths between those of the others ("staggered"), or all have policies within 10% of the compared
KLs ("targets", as a search finds them). Losses are compared at KL 1.2, 3 and 6. With one seed runs
do not differ here: no interval can hold what was not measured, and no verdict on losses is given.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; 1 when a line is outside its range."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("simulations", nargs="?", type=int, default=SIMULATIONS)
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    work = list(all_rows(options.simulations))
    kinds = [("saturating", 16), ("saturating", 64), ("normal", 16), ("normal", 64)]
    rows: list[Row] = []
    with ProcessPoolExecutor(CORES) as pool:
        frontiers = max(options.simulations // 12, 4)
        found = [pool.submit(bias, *kind, frontiers) for kind in kinds]
        for part in pool.map(_done, work):
            rows += part
            print("\n".join(map(_line, part)), flush=True)
        biases = [one.result() for one in found]
    minutes = (time.perf_counter() - start) / 60
    command = "python -m benchmarks.calibration"
    if options.simulations != SIMULATIONS:
        command += f" {options.simulations}"
    text = _document(rows, biases, command, minutes)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(row.holds for row in rows) else 1


def all_rows(simulations: int) -> Iterator[Callable[[], list[Row]]]:
    """Every row of the table, as pieces of work."""
    yield from verdict_rows(simulations)
    yield from look_rows(simulations)
    yield from policy_rows(simulations)
    yield from win_rate_rows(simulations)
    yield from frontier_rows(simulations // 3)


def _done(work: Callable[[], list[Row]]) -> list[Row]:
    return work()


def _document(rows: Sequence[Row], biases: Sequence[Bias], command: str, minutes: float) -> str:
    opening = _OPENING.format(
        command=command,
        minutes=minutes,
        cores=CORES,
        machine=platform.machine(),
        numpy=np.__version__,
        scipy=scipy.__version__,
    )
    covered = [row for row in rows if row.low == 0.93]
    rest = [row for row in rows if row.low != 0.93]
    return "\n".join(
        [
            opening,
            "## Verdicts",
            "",
            *_table("experiments", "share", rest),
            "",
            "## Coverage of 95% intervals",
            "",
            *_table("intervals", "hold the truth", covered),
            "",
            *_bias_table(biases),
        ]
    )


def _table(count: str, share: str, rows: Sequence[Row]) -> list[str]:
    return [
        f"| figure | setting | {count} | {share} | standard error | accepted | | seen besides |",
        "|---|---|---|---|---|---|---|---|",
        *map(_line, rows),
    ]


def _line(row: Row) -> str:
    held = "holds" if row.holds else "**outside**"
    accepted = f"{100 * row.low:.0f} to {100 * row.high:.0f}%"
    return (
        f"| {row.figure} | {row.setting} | {row.count:,} | {100 * row.share:.1f}% |"
        f" {100 * row.error:.1f} | {accepted} | {held} | {row.about} |"
    )


def _bias_table(biases: Sequence[Bias]) -> list[str]:
    lines = [_BIAS]
    for one in biases:
        levels = " | ".join("" if miss is None else f"{miss:+.3f}" for miss in one.levels)
        lines.append(
            f"| {one.rewards} | {one.samples} | {levels} | {one.end:.1f} | {one.at_end:+.3f} |"
            f" {one.error:.3f} | {one.frontiers} |"
        )
    return [*lines, ""]


if __name__ == "__main__":
    raise SystemExit(main())
