"""Everything that a GPU has to show, in nine minutes, as JSON lines and a page from them.

python -m benchmarks.gpu --out gpu               # on a machine with a GPU
python -m benchmarks.gpu --out gpu --only gates  # only what has this word in its name
python -m benchmarks.gpu --page gpu              # the page again, on any machine
python -m benchmarks.gpu --out dry --dry         # two layers on a CPU: does everything run?

Each contender has a process and a time limit of its own, and its figures are appended to
``lines.jsonl`` as they come: a run that is cut short still counts. When all had their turn and time
is left, those that train take another, in the opposite order.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.children import LINES, append, context, run_job
from benchmarks.gpu.jobs import JOBS
from benchmarks.gpu.page import write_page
from benchmarks.versus_trl.machine import processor

PACKAGES = ("torch", "transformers", "trl", "peft", "liger-kernel", "flash-attn", "triton")
LEAST_SECONDS = 10.0
"""Time that a contender is not started with."""


def measure(bench: Bench, folder: Path, minutes: float, only: str) -> None:
    """Give every contender its turn, and those that train a second one if there is time."""
    end = time.monotonic() + 60 * minutes
    processes = context()
    chosen = [number for number, job in enumerate(JOBS) if only in job.name]
    took = dict.fromkeys(chosen, 0.0)
    for number in chosen:
        job = JOBS[number]
        left = end - time.monotonic()
        reason = job.missing() or ("no time was left" if left < LEAST_SECONDS else "")
        if reason:
            append(folder, {"job": job.name, "turn": 0, "status": f"not run: {reason}"})
            continue
        took[number] = run_job(number, bench, folder, 0, min(job.seconds, left), processes)
        print(f"{job.name}: {took[number]:.0f} s", flush=True)
    for number in () if bench.dry else _again(chosen, took):
        if end - time.monotonic() > 1.2 * took[number] + LEAST_SECONDS:
            run_job(number, bench, folder, 1, end - time.monotonic(), processes)


def _again(chosen: Sequence[int], took: dict[int, float]) -> Iterator[int]:
    """Those that trained and had not to be ended, from the last to the first."""
    for number in reversed(chosen):
        if JOBS[number].part == "training" and 0 < took[number] < JOBS[number].seconds:
            yield number


def machine(bench: Bench) -> dict[str, Any]:
    """What it is measured on."""
    return {
        "dry": bench.dry,
        "gpu": _gpu() if bench.device == "cuda" else None,
        "cpu": processor(),
        "python": platform.python_version(),
        "versions": dict(_versions(PACKAGES)),
        "pairs_per_step": bench.pairs_per_step,
        "timed": bench.timed,
    }


def _versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write the page; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=9.0, help="after which all is over")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder of lines and page")
    parser.add_argument("--only", default="", help="a word in the names of what is measured")
    parser.add_argument("--dry", action="store_true", help="tiny, on a CPU: does everything run?")
    parser.add_argument("--page", type=Path, help="only write the page of this folder")
    options = parser.parse_args(arguments)
    if options.page and not (options.page / LINES).is_file():
        print(f"{options.page} has no {LINES}: give the --out of a run", file=sys.stderr)
        return 2
    if options.page:
        write_page(options.page, LINES)
        return 0
    import torch

    if not options.dry and not torch.cuda.is_available():
        print(
            "torch finds no GPU here: run this where there is one, or --dry to see that it runs",
            file=sys.stderr,
        )
        return 3
    bench = Bench("cpu" if options.dry else "cuda", options.dry)
    (options.out / "logs").mkdir(parents=True, exist_ok=True)
    (options.out / LINES).unlink(missing_ok=True)
    append(options.out, {"machine": machine(bench)})
    measure(bench, options.out, options.minutes, options.only)
    write_page(options.out, LINES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
