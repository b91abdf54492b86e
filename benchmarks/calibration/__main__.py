"""``python -m benchmarks.calibration [SIMULATIONS]``: run all cases, write the table."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy

from benchmarks.calibration.cases import all_cases
from benchmarks.calibration.frontier_cases import Bias, bias, frontier_rows
from benchmarks.calibration.rows import Row

SIMULATIONS = 1000
REPORT = Path(__file__).parents[2] / "reports" / "calibration" / "README.md"

_BIAS = """## Bias of the estimated optimal frontier

Against an enumerable world where it is exact (128 prompts with 400 responses each), in standard
deviations of the reward within a prompt. Blank: beyond the range in which the estimate is given.

| rewards | samples per prompt | KL .5 | KL 1 | KL 2 | end | bias there | standard error | n |
|---|---|---|---|---|---|---|---|---|"""

_OPENING = """# Do the intervals hold the truth as often as they say?

Written by `{command}` in {seconds:.0f} s on one core ({machine}, numpy {numpy}, scipy {scipy}).
Every line draws experiments in which the truth is known and counts how many of the 95% intervals
hold it. Accepted is 93 to 97%, or at most 5% for false separations, give or take two standard
errors of the simulation. "Resampled" are the shares of the plain two-way bootstrap, which draws
prompts and seeds anew: with few seeds it understates their spread, which is why it is not used (see
`dpo_bench/analysis/two_way.py`). Deviations between seeds are in units of reward; to the error
of a matched difference prompts add about .03, sampled responses .04/sqrt(seeds), and seeds with a
deviation of .03 or .1 about .015 and .05 (3 seeds). With one seed the seeds do not differ here: no
interval can hold what was not measured. "Three steps" are policies that were also measured at a
third and two thirds of their training, where they have 35 and 90% of their final KL and .1 and .03
less reward at the same KL; the strengths of every other loss lie between those of the others. "One
curve" is what pooling the policies of all steps would do there. The five strengths of one round
robin are not independent.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; 1 when a line is outside its range."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibration", description=__doc__)
    parser.add_argument("simulations", nargs="?", type=int, default=SIMULATIONS)
    parser.add_argument("--out", type=Path, default=REPORT)
    options = parser.parse_args(arguments)
    start = time.perf_counter()
    rows = []
    for row in all_cases(options.simulations):
        rows.append(row)
        print(_line(row), flush=True)
    rows += frontier_rows(options.simulations // 3)
    kinds = [("saturating", 16), ("saturating", 64), ("normal", 16), ("normal", 64)]
    biases = [bias(*kind, max(options.simulations // 12, 4)) for kind in kinds]
    seconds = time.perf_counter() - start
    command = "python -m benchmarks.calibration"
    if options.simulations != SIMULATIONS:
        command += f" {options.simulations}"
    text = _document(rows, biases, command, seconds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(text)
    return 0 if all(row.holds for row in rows) else 1


def _document(rows: Sequence[Row], biases: Sequence[Bias], command: str, seconds: float) -> str:
    opening = _OPENING.format(
        command=command,
        seconds=seconds,
        machine=platform.machine(),
        numpy=np.__version__,
        scipy=scipy.__version__,
    )
    covered = [row for row in rows if row.low > 0]
    separated = [row for row in rows if row.low == 0]
    return "\n".join(
        [
            opening,
            "## Coverage of 95% intervals",
            "",
            "| figure | setting | intervals | hold the truth | standard error | resampled | |",
            "|---|---|---|---|---|---|---|",
            *map(_line, covered),
            "",
            "## Equal losses that are called separated, after Holm's correction",
            "",
            "| figure | setting | experiments | any separated | standard error | one curve | |",
            "|---|---|---|---|---|---|---|",
            *map(_line, separated),
            "",
            *_bias_table(biases),
        ]
    )


def _line(row: Row) -> str:
    plain = "" if row.plain is None else f"{100 * row.plain:.1f}%"
    return (
        f"| {row.figure} | {row.setting} | {row.simulations:,} | {100 * row.share:.1f}% |"
        f" {100 * row.error:.1f} | {plain} | {'holds' if row.holds else '**outside**'} |"
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
